"""startContainer hooks: programs of the container, run in the container, before its own program.

They come from the image, so they run with what the image's program will have (user, capabilities, limits), in a child
of the init; the init itself keeps its privileges until they are done.
"""

from __future__ import annotations

import posix

from pyruntime.container.hooks import Hook, run_hook
from pyruntime.kernel.mounts import FilesystemError
from pyruntime.plan.step import Place, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.spec.types import Spec

EIO = 5


class RunStartHooks(Step):
    """Run the list; the first failure ends the container."""

    __slots__ = ("attributes", "hooks", "state_after", "state_before")

    def __init__(self, container_id: str, bundle: str, spec: Spec) -> None:
        from pyruntime.spec.jsontext import dumps

        lists: Any = spec.get("hooks") or {}
        process: Any = spec.get("process") or {}
        environment = process.get("env") or []
        self.hooks = [
            Hook("startContainer", number, entry, environment) for number, entry in enumerate(lists["startContainer"])
        ]
        document: dict[str, object] = {
            "ociVersion": spec["ociVersion"], "id": container_id, "pid": 0, "status": "created", "bundle": bundle,
        }  # fmt: skip
        if annotations := spec.get("annotations"):
            document["annotations"] = annotations
        # The pid is the one thing that is not known before: it goes between two ready halves.
        before, _, after = dumps(document).encode("utf-8", "surrogatepass").partition(b'"pid":0')
        self.state_before = before + b'"pid":'
        self.state_after = after
        self.attributes: list[Step] = []  # process attributes, for each hook's process

    def describe(self) -> str:
        return "run the startContainer hooks"

    def apply(self, place: Place) -> None:
        state = self.state_before + b"%d" % posix.getpid() + self.state_after
        directory = posix.getcwdb()

        def become() -> None:
            for step in self.attributes:
                step.apply(place)

        for hook in self.hooks:
            failure = run_hook(hook, state, directory, None, become)
            if failure:
                error = FilesystemError(EIO, "hook failed")
                error.detail = b"error running startContainer hook: " + failure.encode("utf-8", "replace")
                raise error
