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

    from pyruntime.plan.command import Command
    from pyruntime.spec.types import Spec


class RunStartHooks(Step):
    """Run the list; the first failure ends the container."""

    __slots__ = ("attributes", "command", "hooks", "inheriting", "state_after", "state_before")

    def __init__(self, container_id: str, bundle: str, spec: Spec) -> None:
        from pyruntime.spec.jsontext import dumps

        lists: Any = spec.get("hooks") or {}
        self.hooks = [Hook("startContainer", number, entry) for number, entry in enumerate(lists["startContainer"])]
        # Without variables of their own they have those of the program, HOME among them, as with runc.
        self.inheriting = [hook for hook, entry in zip(self.hooks, lists["startContainer"], strict=True)
                           if entry.get("env") is None]  # fmt: skip
        self.command: Command | None = None
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
        if self.command is not None:
            for hook in self.inheriting:
                hook.environment = self.command.environment

        def become() -> None:
            for step in self.attributes:
                step.apply(place)

        for hook in self.hooks:
            failure = run_hook(hook, state, directory, None, become)
            if failure:
                error = FilesystemError(0, "hook failed")  # not a failure of the kernel: the detail says all
                error.detail = b"error running startContainer hook #%d: " % hook.number + failure.encode(
                    "utf-8", "replace"
                )
                raise error
