"""`mounts add` and `mounts remove`: mounts of a container that is there already, as crun has them.

A process of ours joins the user and the mount namespace of the container, no other, and does there what the container's
init did for the mounts of its configuration: the same steps, by the same rules for paths that the container may change
meanwhile. Sources are opened before, where the host's files are.
"""

from __future__ import annotations

import posix

from pyruntime.container import init, setup, store
from pyruntime.container.child import PREFIX, Child, InitFailed
from pyruntime.container.execute import EnterContainer
from pyruntime.errors import RuntimeFailure, SpecError
from pyruntime.kernel import mounts as m
from pyruntime.kernel import processes as p
from pyruntime.kernel.facts import read_facts
from pyruntime.kernel.paths import clean, open_in_root
from pyruntime.plan import build
from pyruntime.plan import lifecycle as life
from pyruntime.plan.mounts import mount_steps
from pyruntime.plan.options import Options
from pyruntime.plan.step import Place, Step
from pyruntime.spec import jsontext, load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.container.context import Context


class Unmount(Step):
    """Take away what is mounted at a path of the container; a link at its end is not followed."""

    __slots__ = ("destination", "name", "parent")

    def __init__(self, destination: str) -> None:
        self.destination = destination
        path = clean(destination.encode("utf-8", "surrogateescape"))
        self.parent, _, self.name = path.rpartition(b"/")

    def describe(self) -> str:
        return f"unmount {self.destination}"

    def explain(self, errno: int) -> str:
        return "nothing is mounted there" if errno == 22 else ""

    def apply(self, place: Place) -> None:
        parent = open_in_root(place.rootfs, self.parent or b"/", posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
        posix.fchdir(parent)
        m.umount(self.name, m.MNT_DETACH | UMOUNT_NOFOLLOW)
        posix.close(parent)


class Leave(Step):
    """The end of the process: all is done."""

    __slots__ = ()

    def describe(self) -> str:
        return "leave the container"

    def apply(self, place: Place) -> None:
        posix._exit(0)


UMOUNT_NOFOLLOW = 8


def add(context: Context, container_id: str, file: str) -> None:
    """Mount what `file` lists, in its order. Raises RuntimeFailure; what was mounted before the failure stays."""
    record = store.open_container(context.root, container_id)
    config = record.config()
    linux = config.get("linux") or {}
    entries = _read(file, config)
    settings = build.Settings(record.data["bundle"], container_id, read_facts(True))
    settings.userns_for = setup.userns_for
    child = _Child(record)
    host, steps = mount_steps(
        entries,
        record.data["bundle"],
        record.data["rootfs"],
        build.source_propagation(linux.get("rootfsPropagation", "")) or m.MS_SLAVE,
        lambda number, entry, options: build.id_mapping(number, entry, options, linux, settings),
        _no_cgroup_mount,
        True,
        child.userns,
    )
    if linux.get("mountLabel") and settings.facts.selinux:
        build.label_mounts(steps, linux["mountLabel"])
    for step in host:
        try:
            step.apply(child.place)
        except OSError as error:
            raise RuntimeFailure(f"{step.describe()}: {(error.strerror or '').lower()}") from None
    child.carry_out(steps)


def remove(context: Context, container_id: str, file: str) -> None:
    """Unmount the destinations that `file` lists, the last first. Raises RuntimeFailure."""
    record = store.open_container(context.root, container_id)
    entries = _read(file, record.config())
    for number, entry in enumerate(entries):
        if not entry["destination"].strip("/"):
            raise SpecError(f"mounts[{number}].destination", "the root of the container cannot be unmounted")
    _Child(record).carry_out([Unmount(entry["destination"]) for entry in reversed(entries)])


def _read(file: str, config: dict[str, Any]) -> list[Any]:
    """The checked entries of a file: a list like `mounts` of config.json, or an object with such a list."""
    try:
        data = jsontext.read_file(file, pipe=True)
    except (OSError, ValueError) as error:
        raise RuntimeFailure(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from None
    entries: Any = jsontext.loads(data, file)
    if isinstance(entries, dict):
        entries = entries.get("mounts")
    kept: dict[str, Any] = {name: config[name] for name in ("ociVersion", "root", "process", "linux") if name in config}
    load.check({**kept, "mounts": entries})
    for number, entry in enumerate(entries):
        if Options(entry.get("options") or []).remount:
            raise SpecError(f"mounts[{number}].options", "remount changes a mount that is there; it cannot be added")
    return list(entries)


def _no_cgroup_mount(destination: str, options: Options) -> Step:
    raise RuntimeFailure(f"mounting cgroups at {destination}: only the configuration of a new container can ask for it")


class _Child(Child):
    """The process in the container's mount namespace."""

    __slots__ = ("init", "lock", "userns")

    def __init__(self, record: store.Record) -> None:
        super().__init__()
        self.lock = record.lock()
        status, pid = record.status()
        if status in (store.STOPPED, store.CREATING):
            raise RuntimeFailure("container not running")
        namespaces = [entry["type"] for entry in (record.config().get("linux") or {}).get("namespaces") or ()]
        if "mount" not in namespaces or _same_namespace(pid, "mnt"):
            raise RuntimeFailure("the container has no mount namespace of its own: its mounts would be the host's")
        self.userns = "user" in namespaces and not _same_namespace(pid, "user")
        self.init = p.pidfd_open(pid)
        if record.pid() != pid:
            raise RuntimeFailure("container not running")

    def carry_out(self, steps: list[Step]) -> None:
        """Apply the steps in the container. Raises RuntimeFailure when one fails."""
        kinds = p.CLONE_NEWNS | (p.CLONE_NEWUSER if self.userns else 0)
        self.steps = [EnterContainer(self.init, kinds)]
        if self.userns:
            self.steps.append(life.BecomeRoot(True))
        self.steps += [*steps, Leave()]
        if posix.geteuid() == 0:
            p.prctl(p.PR_SET_DUMPABLE, 0)  # the container must not look into us once we are in its namespace
        ours, theirs = self.pair()
        init.freeze_memory()
        pid = posix.fork()
        if pid == 0:
            self.begin(theirs, ours)
        self.adopt(pid, theirs, ours)
        try:
            self.await_program()
        except InitFailed as error:
            reason = str(error).removeprefix(PREFIX).removeprefix("error during container init: ")
            raise RuntimeFailure(reason) from None
        else:
            _, status = posix.waitpid(pid, 0)
            self.pid = 0
            if status:
                raise RuntimeFailure(
                    f"the helper in the container died (wait status {status}): not all mounts are done"
                )
        finally:
            self.end()
            posix.close(self.lock)


def _same_namespace(pid: int, name: str) -> bool:
    return posix.readlink(f"/proc/{pid}/ns/{name}") == posix.readlink(f"/proc/self/ns/{name}")
