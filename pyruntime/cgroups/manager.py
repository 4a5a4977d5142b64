"""The cgroup of a container: one interface, whatever the host has.

`plan()` decides the driver, the directories and every write without touching anything; the manager it returns then
makes the cgroup, puts processes into it, limits, freezes, counts, kills and removes it. `save()` and `load()` carry
it from verb to verb: which cgroup a container is in is decided once, at create (the engines do not repeat their
`--systemd-cgroup` with later verbs).

    manager = plan(...);  manager.create();  manager.add(pid);  manager.apply();  state["cgroup"] = manager.save()
    manager = load(state["cgroup"]);  manager.kill(9);  manager.destroy()
"""

from __future__ import annotations

import posix
from errno import EACCES, EBUSY, EINVAL, ENODEV, ENOENT, ENOSPC, EOPNOTSUPP, EPERM, EROFS, ESRCH
from time import sleep

from pyruntime.errors import RuntimeFailure
from pyruntime.kernel import cgroupfs
from pyruntime.kernel.cgroupfs import UNIFIED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pyruntime.cgroups.host import Host
    from pyruntime.cgroups.joined import Joined

SIGKILL = 9
FORBIDDEN = (EACCES, EPERM, EROFS)


def plan(
    container_id: str,
    cgroups_path: str | None,
    resources: dict[str, Any] | None,
    *,
    systemd: bool,
    rootless: bool,
    host: Host,
    disabled: bool = False,
    annotations: dict[str, str] | None = None,
    userns_owner: int | None = None,
) -> Manager:
    """The manager for a new container. Pure: makes no system call.

    `cgroups_path` and `resources` are linux.cgroupsPath and linux.resources; `userns_owner` is the host uid that shall
    own the cgroup on v2 (runtime spec, "Cgroup ownership"), or None. Raises SpecError for values that cannot hold and
    RuntimeFailure for a host that has no such cgroups.
    """
    resources = resources or {}
    if disabled:
        from pyruntime.cgroups.disabled import Disabled

        return Disabled(resources)
    if systemd:
        from pyruntime.cgroups.systemd import plan_systemd

        return plan_systemd(
            container_id,
            cgroups_path,
            resources,
            rootless=rootless,
            annotations=annotations or {},
            host=host,
            owner=userns_owner,
        )
    from pyruntime.cgroups.host import inner, place

    path = inner(container_id, cgroups_path)
    if not host.mounts:
        if rootless and not cgroups_path and not resources:
            from pyruntime.cgroups.disabled import Disabled

            return Disabled(resources, "no cgroup file system is mounted: the container gets no cgroup")
        raise RuntimeFailure(
            "no cgroup mount found in mountinfo: mount /sys/fs/cgroup, or use --cgroup-manager=disabled"
        )
    paths = {name: place(host, name, path) for name in host.mounts}
    if host.unified:
        from pyruntime.cgroups.v2 import V2

        mount = host.mount(UNIFIED)
        return V2(paths, resources, rootless, bool(cgroups_path), mount=mount, owner=userns_owner).prepare()
    from pyruntime.cgroups.v1 import V1

    if "devices" not in paths:
        raise RuntimeFailure(
            "mountpoint for devices not found: without the devices controller a container could open "
            "every device; mount it at /sys/fs/cgroup/devices"
        )
    return V1(paths, resources, rootless, bool(cgroups_path)).prepare()


def load(saved: dict[str, Any]) -> Manager:
    """The manager that `save()` described."""
    driver = saved["driver"]
    if driver == "disabled":
        from pyruntime.cgroups.disabled import Disabled

        return Disabled(saved["resources"])
    manager: Manager
    if driver == "v1":
        from pyruntime.cgroups.v1 import V1

        manager = V1(saved["paths"], saved["resources"], saved["rootless"], saved["explicit"])
    elif driver == "v2":
        from pyruntime.cgroups.v2 import V2

        manager = V2(saved["paths"], saved["resources"], saved["rootless"], saved["explicit"], mount=saved["mount"])
    else:
        from pyruntime.cgroups.systemd import load_systemd

        manager = load_systemd(saved)
    manager.made = saved["made"]
    return manager


class Manager:
    """The cgroup of one container. Subclasses are the drivers; each method says what all of them promise."""

    __slots__ = ("explicit", "made", "paths", "resources", "rootless", "warnings")

    driver = ""
    version = 0

    def __init__(self, paths: dict[str, str], resources: dict[str, Any], rootless: bool, explicit: bool) -> None:
        self.paths = paths  # controller -> absolute directory; UNIFIED ("") for cgroup2
        self.resources = resources  # linux.resources as now in force
        self.rootless = rootless
        self.explicit = explicit  # the configuration names the path: failing to use it is an error even for rootless
        # The cgroups that create() made, outermost first. None: create() has not finished, so whatever is there at our
        # path may be ours; `save()` before `create()` thus lets a later destroy() clean up after a killed runtime.
        self.made: list[str] | None = None
        self.warnings: list[str] = []  # lines for the log: what was asked for and has no effect here

    def describe(self) -> list[str]:
        """What create() and apply() will do, one line an act."""
        raise NotImplementedError

    def create(self) -> None:
        """Make the cgroups. Raises RuntimeFailure if one is there with processes in it, or frozen; leaves nothing
        behind then."""
        raise NotImplementedError

    def add(self, pid: int, like: int = 0) -> None:
        """Move the process `pid` into the cgroup, in every hierarchy.

        `like` is the container's init for a process that joins later: on v2 a cgroup whose children have controllers
        takes no process itself (systemd as init makes it so), and the new process goes where `like` is.
        """
        for directory in self.directories():
            self._enter(directory, pid, like)

    def apply(self) -> None:
        """Write the limits and device rules of the plan. Before or after add(): what must be there before the first
        process is written by create()."""
        raise NotImplementedError

    def update(self, resources: dict[str, Any]) -> None:
        """Change the limits that `resources` names and keep the others; device rules are never touched."""
        raise NotImplementedError

    def pids(self, recursive: bool = True) -> list[int]:
        """The processes in the cgroup, by their ids in our pid namespace."""
        directory = self._main()
        return cgroupfs.processes(directory, recursive) if directory else []

    def freeze(self) -> None:
        """Stop every process; returns when all of them are stopped. Raises RuntimeFailure if they cannot be."""
        raise NotImplementedError

    def thaw(self) -> None:
        """Let them run again."""
        raise NotImplementedError

    def frozen(self) -> bool:
        """Whether the cgroup itself is frozen (not only one above it)."""
        raise NotImplementedError

    def kill(self, signal: int) -> None:
        """Send `signal` to every process in the cgroup and below. With SIGKILL none survives and a frozen cgroup is
        thawed, so that they can die."""
        raise NotImplementedError

    def exists(self) -> bool:
        """Whether the cgroup is there."""
        directory = self._main()
        if not directory:
            return False
        try:
            posix.lstat(directory)
        except OSError:
            return False
        return True

    def populated(self) -> bool:
        """Whether any process is in the cgroup or below."""
        return bool(self.pids())

    def destroy(self) -> None:
        """Remove what create() made, with the cgroups that the container made inside. Repeating it is fine."""
        made = self.made
        leaves = list(self.directories())
        for directory in leaves:
            if made is None or directory in made:
                try:
                    cgroupfs.remove(directory)
                except OSError as error:
                    if self.rootless and error.errno in FORBIDDEN and not self.explicit:
                        continue
                    left = len(cgroupfs.processes(directory))
                    detail = f", {left} process(es) still in it" if left else ""
                    raise RuntimeFailure(f"cannot remove cgroup {directory}: {error.strerror}{detail}") from error
        for directory in reversed(made or ()):
            if directory not in leaves:
                cgroupfs.remove_empty([directory])  # a parent: others may have moved in

    def stats(self) -> dict[str, Any]:
        """The `data` of a stats event, in runc's form."""
        raise NotImplementedError

    def oom_event_fd(self) -> int:
        """A descriptor that polls readable on OOM events and when the cgroup goes away; see `wait_oom`. -1: none."""
        return -1

    def wait_oom(self, timeout: float | None = None) -> Iterator[None]:
        """Yield once for every time a process of the cgroup was killed for lack of memory, until the cgroup is gone
        (or `timeout` seconds passed without an event)."""
        from pyruntime.cgroups.oom import watch

        return watch(self, timeout)

    def save(self) -> dict[str, Any]:
        """Everything `load()` needs, ready for JSON."""
        return {
            "driver": self.driver,
            "paths": self.paths,
            "made": self.made,
            "resources": self.resources,
            "rootless": self.rootless,
            "explicit": self.explicit,
        }

    def join_path(self, sub: str) -> Joined:
        """Where `exec --cgroup [CONTROLLER[,CONTROLLER]:]PATH` puts a process: a cgroup inside the container's."""
        from pyruntime.cgroups.joined import Joined

        return Joined(self).join(sub)

    def directories(self) -> list[str]:
        """The directories, each once: co-mounted controllers (cpu,cpuacct) share one."""
        return list(dict.fromkeys(self.paths.values()))

    def _signal_each(self, signal: int) -> None:
        """Signal one process after the other, held still meanwhile: without that a fork bomb outruns us, each round
        killing those it saw while their children live on."""
        was_frozen = self.frozen()
        for _ in range(100):
            stopped = was_frozen
            if not was_frozen:
                try:
                    self.freeze()
                    stopped = True
                except RuntimeFailure:
                    stopped = False  # no freezer, or one that does not get there
            found = []
            try:
                found = self.pids()
                for pid in found:
                    try:
                        posix.kill(pid, signal)
                    except OSError as error:
                        if error.errno != ESRCH:
                            what = f"cannot send signal {signal} to process {pid}: {error.strerror}"
                            raise RuntimeFailure(what) from error
            finally:
                if stopped and (signal == SIGKILL or not was_frozen):
                    self.thaw()
            if signal != SIGKILL or stopped or not found:
                return
            sleep(0.005)

    def _main(self) -> str:
        """The directory whose hierarchy is asked for processes."""
        for name in ("devices", "freezer", "pids", "memory") if self.version == 1 else (UNIFIED,):
            if name in self.paths:
                return self.paths[name]
        return next(iter(self.paths.values()), "")

    def _enter(self, directory: str, pid: int, like: int) -> None:
        try:
            return cgroupfs.enter(None, directory + "/cgroup.procs", pid)
        except OSError as error:
            if error.errno in FORBIDDEN and self.rootless and not self.explicit:
                return self._drop(directory)
            gone = error.errno in (ENOENT, ENODEV)
            if (gone or error.errno == EBUSY) and like and self.version == 2:
                return self._enter_beside(directory, pid, like, gone)
            raise cannot_enter(directory, pid, error) from error

    def _enter_beside(self, directory: str, pid: int, like: int, gone: bool) -> None:
        """Put `pid` into the cgroup of `like`, which must lie below `directory`; anywhere if that is `gone`.

        A container that may write to the host's cgroups can move itself elsewhere and leave its own to be removed.
        """
        for line in cgroupfs.read(None, f"/proc/{like}/cgroup").split(b"\n"):
            if line.startswith(b"0::"):
                path = line[3:].decode("utf-8", "surrogateescape")
                mount = self._mount()
                there = mount + path
                if (gone or there.startswith(directory + "/")) and "/../" not in there + "/":
                    return cgroupfs.enter(None, there + "/cgroup.procs", pid)
        if gone:
            raise RuntimeFailure(f"error adding pid {pid} to cgroups: {directory}: no such file or directory")
        raise RuntimeFailure(
            f"error adding pid {pid} to cgroups: {directory}: device or resource busy: its sub-cgroups have "
            "controllers, so it takes no process itself; name one of them with --cgroup"
        )

    def _mount(self) -> str:
        return ""

    def _drop(self, directory: str) -> None:
        """Do without a hierarchy that a rootless runtime may not write to."""
        self.paths = {name: path for name, path in self.paths.items() if path != directory}


def cannot_enter(directory: str, pid: int, error: OSError) -> RuntimeFailure:
    """Why a process did not get into a cgroup."""
    hint = {
        ENOENT: "; the cgroup is not there",
        ENODEV: "; the cgroup was removed",
        ESRCH: "; the process is gone",
        EBUSY: "; on cgroup v2 a cgroup whose children have controllers takes no process itself",
        EINVAL: "; a realtime process needs linux.resources.cpu.realtimeRuntime",
        ENOSPC: "; its cpuset has no cpus or no memory nodes",
        EOPNOTSUPP: "; the cgroup is in an invalid domain: a cgroup above it is threaded",
    }.get(error.errno or 0, "")
    return RuntimeFailure(f"error adding pid {pid} to cgroups: {directory}: {(error.strerror or '').lower()}{hint}")
