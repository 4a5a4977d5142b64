"""cgroup v1: a directory per hierarchy, and in a hybrid set-up one in the empty cgroup2 beside them.

See the kernel's Documentation/admin-guide/cgroup-v1/ and cgroups(7).
"""

from __future__ import annotations

import posix
from errno import EBUSY, EINVAL, ENOENT
from time import sleep

from pyruntime.cgroups.frozen import is_frozen
from pyruntime.cgroups.manager import FORBIDDEN, Manager
from pyruntime.errors import RuntimeFailure
from pyruntime.kernel import cgroupfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.cgroups.limits import Group, Write
    from pyruntime.cgroups.limits_v1 import Limits


HINTS = {
    "memory.use_hierarchy": "; since Linux 5.11 the only value is true",
    "memory.memsw.limit_in_bytes": "; memory plus swap cannot be limited below memory alone",
    "memory.limit_in_bytes": "; memory alone cannot be limited above memory plus swap",
    "cpu.rt_runtime_us": "; the cgroups above must have as much realtime to give",
    "cpu.rt_period_us": "; the cgroups above must have as much realtime to give",
    "cpu.cfs_quota_us": "; at least 1000 microseconds, and no larger share than the cgroup above has",
    "cpu.cfs_period_us": "; from 1000 to 1000000 microseconds, and no larger share than the cgroup above has",
    "cpu.cfs_burst_us": "; a burst is at most the quota",
    "devices.deny": "; a cgroup that has others inside cannot change what holds by default",
    "devices.allow": "; a cgroup that has others inside cannot change what holds by default",
    "cpu.shares": "; an idle cgroup (cpu.idle 1) has no shares",
    "cpuset.cpus": "; only cpus that the cgroup above has",
    "cpuset.mems": "; only memory nodes that the cgroup above has",
}
"""What EINVAL means for a file."""

SETTLING = 200
"""Milliseconds, about, that FREEZING gets to become something else."""


class V1(Manager):
    """The driver of v1 and hybrid hosts."""

    __slots__ = ("limits",)

    driver = "v1"
    version = 1

    def __init__(self, paths: dict[str, str], resources: dict[str, Any], rootless: bool, explicit: bool) -> None:
        super().__init__(paths, resources, rootless, explicit)
        self.limits: Limits | None = None

    def prepare(self) -> V1:
        """Turn the resources into writes."""
        from pyruntime.cgroups.limits_v1 import Limits

        self.limits = Limits(self.resources)
        return self

    def _limits(self) -> Limits:
        if self.limits is None:
            self.prepare()
        assert self.limits is not None
        return self.limits

    def describe(self) -> list[str]:
        names: dict[str, list[str]] = {}
        for name, path in self.paths.items():
            names.setdefault(path, []).append(name or "cgroup2")
        lines = [f"make cgroup {path} ({','.join(who)})" for path, who in names.items()]
        if "cpuset" in self.paths:
            lines.append("cgroup cpuset: take cpus and mems over from the parent where none are set")
        limits = self._limits()
        lines += [
            f"cgroup {write.controller}: {write.describe()}" for group in limits.early + limits.late for write in group
        ]
        return lines

    # Making and removing

    def create(self) -> None:
        self._make()

    def _make(self, unused: bool = True) -> None:
        """Make the directories; with `unused` there must be no process in them."""
        made: list[str] = []
        cpuset = self.paths.get("cpuset")
        try:
            for directory in self.directories():
                try:
                    new = cgroupfs.make(directory)
                    made += new
                    if unused and directory not in new:
                        self._refuse_used(directory)
                    if directory == cpuset:
                        self._fill_cpuset(directory)
                except OSError as error:
                    if error.errno in FORBIDDEN and self.rootless and not self.explicit:
                        self._drop(directory)
                        continue
                    raise RuntimeFailure(
                        f"unable to apply cgroup configuration: cannot make cgroup {directory}: "
                        f"{(error.strerror or '').lower()}{_why(error)}"
                    ) from error
            if "freezer" in self.paths:
                self._refuse_frozen(self.paths["freezer"])
            self._write(self._limits().early)
        except BaseException:
            cgroupfs.remove_empty(made)
            raise
        self.made = made

    def _refuse_used(self, directory: str) -> None:
        count = len(cgroupfs.processes(directory))
        if count:
            raise RuntimeFailure(f"container's cgroup is not empty: {count} process(es) found in {directory}")

    def _refuse_frozen(self, directory: str) -> None:
        # In a frozen cgroup the init would stop before its first instruction, and create would wait for ever.
        try:
            state = cgroupfs.read(None, directory + "/freezer.state")
        except OSError:
            return  # the root of the hierarchy, or a kernel without the file
        if state != b"THAWED\n":
            raise RuntimeFailure(f"container's cgroup unexpectedly frozen: {directory} or one above it; thaw it first")

    def _fill_cpuset(self, directory: str) -> None:
        """A new v1 cpuset has no cpus and no memory nodes, and takes no process until it has. They come from its
        parent, which may be just as empty if it is new too."""
        prefix = "cpuset."
        todo = []
        current = directory
        have: dict[str, bytes] = {}
        while not have:
            values = {}
            for key in ("cpus", "mems"):
                try:
                    values[key] = cgroupfs.read(None, f"{current}/{prefix}{key}").strip()
                except OSError as error:
                    if error.errno != ENOENT or not prefix:
                        raise
                    prefix = ""  # mounted with `noprefix`
                    values[key] = cgroupfs.read(None, f"{current}/{key}").strip()
            if all(values.values()):
                have = values
            else:
                todo.append((current, values))
                current = current.rpartition("/")[0]
        for current, values in reversed(todo):
            for key in ("cpus", "mems"):
                if not values[key]:
                    cgroupfs.write(None, f"{current}/{prefix}{key}", have[key])
                else:
                    have[key] = values[key]

    # Limits

    def apply(self) -> None:
        self._write(self._limits().late)

    def update(self, resources: dict[str, Any]) -> None:
        from pyruntime.cgroups.limits_v1 import Limits
        from pyruntime.cgroups.merge import changes, merge

        merged = merge(self.resources, resources)
        limits = Limits(changes(resources, merged), with_devices=False)
        self._write(limits.early + limits.late)
        self.resources = merged

    def _write(self, groups: list[Group]) -> None:
        opened: dict[str, int] = {}  # each directory is opened once, however many files are written
        try:
            for group in groups:
                controller = group[0].controller
                directory = self.paths.get(controller)
                if directory is None:
                    self._without(group)
                    continue
                if directory not in opened:
                    opened[directory] = posix.open(directory, cgroupfs.DIRECTORY)
                if controller == "cpu" and group[0].file.startswith("cpu.rt_"):
                    self._realtime_above(directory, group)
                self._settle(opened[directory], directory, group)
        finally:
            for descriptor in opened.values():
                posix.close(descriptor)

    def _without(self, group: Group) -> None:
        """A group for a controller that we have no cgroup of."""
        from pyruntime.cgroups.limits import MUST

        for write in group:
            if write.need == MUST and not (write.controller == "devices" and self.rootless):
                if self.rootless:
                    raise RuntimeFailure(
                        f"{write.field}: cannot set {write.controller} limit: container could not join "
                        f"or create cgroup; run without limits or delegate a cgroup to this user"
                    )
                raise RuntimeFailure(
                    f"{write.field}: the {write.controller} controller is not mounted on this host "
                    f"(it would have {write.file}); mount it or leave the limit out"
                )

    def _settle(self, opened: int, directory: str, group: Group) -> None:
        from pyruntime.cgroups.limits import settle

        settle(opened, group, lambda write, error: self._refused(directory, write, error), self.warnings)

    def _refused(self, directory: str, write: Write, error: OSError) -> RuntimeFailure | None:
        value = write.value.decode("utf-8", "replace")
        if error.errno in FORBIDDEN and self.rootless and write.controller == "devices":
            return None  # needs privileges over the host's devices; an unprivileged user has no device nodes
        if error.errno == ENOENT:
            files = write.file + (" or " + write.other[0] if write.other else "")
            return RuntimeFailure(f"{write.field}: cannot set {value}: this kernel has no {files} in {directory}")
        if error.errno == EBUSY and write.controller == "memory":
            usage = _number(directory, "memory.usage_in_bytes")
            peak = _number(directory, "memory.max_usage_in_bytes")
            return RuntimeFailure(
                f"{write.field}: unable to set memory limit to {value} (current usage: {usage}, peak usage: {peak})"
            )
        hint = HINTS.get(write.file, "") if error.errno == EINVAL else ""
        return RuntimeFailure(
            f"{write.field}: cannot write {value!r} to {directory}/{write.file}: {error.strerror}{hint}"
        )

    def _realtime_above(self, directory: str, group: Group) -> None:
        """Realtime is handed down: a cgroup can have none while the ones above it have none. Set it along the path,
        from the top, where there is none yet."""
        above = []
        current = directory.rpartition("/")[0]
        while True:
            try:
                if _number(current, "cpu.rt_runtime_us") > 0:
                    break
                above.append(current)
                current = current.rpartition("/")[0]
            except OSError:
                break  # above the mount point, or a kernel without CONFIG_RT_GROUP_SCHED: the write will say so
        for parent in reversed(above):
            opened = posix.open(parent, cgroupfs.DIRECTORY)
            try:
                self._settle(opened, parent, group)
            finally:
                posix.close(opened)

    # Freezing and killing

    def freeze(self) -> None:
        directory = self.paths.get("freezer")
        if directory is None:
            raise RuntimeFailure("cannot freeze: the container has no freezer cgroup")
        file = directory + "/freezer.state"
        try:
            # While processes keep appearing in the cgroup (forks, or exec moving one in) the state can hang at
            # FREEZING for ever; asking again helps, and so does thawing them for a moment.
            for attempt in range(1000):
                if attempt % 50 == 49:
                    cgroupfs.write(None, file, b"THAWED")
                    sleep(0.01)
                cgroupfs.write(None, file, b"FROZEN")
                if attempt % 25 == 24:
                    sleep(0.0001)
                state = cgroupfs.read(None, file)
                if state == b"FROZEN\n":
                    return
                if attempt > 100:
                    sleep(0.001)
        except OSError as error:
            raise RuntimeFailure(f"cannot freeze {directory}: {error.strerror}") from error
        self.thaw()  # never leave it half frozen
        raise RuntimeFailure(
            f"unable to freeze {directory}: still FREEZING; a process does not get to a stopping point"
        )

    def thaw(self) -> None:
        directory = self.paths.get("freezer")
        if directory is None:
            raise RuntimeFailure("cannot thaw: the container has no freezer cgroup")
        try:
            cgroupfs.write(None, directory + "/freezer.state", b"THAWED")
        except OSError as error:
            raise RuntimeFailure(f"cannot thaw {directory}: {error.strerror}") from error

    def frozen(self) -> bool:
        return is_frozen(self.paths)

    def kill(self, signal: int) -> None:
        self._signal_each(signal)

    # Looking

    def stats(self) -> dict[str, Any]:
        from pyruntime.cgroups.stats_v1 import collect

        return collect(self.paths)

    def oom_event_fd(self) -> int:
        from pyruntime.cgroups.oom import open_v1

        return open_v1(self.paths.get("memory"))


def _number(directory: str, file: str) -> int:
    return int(cgroupfs.read(None, f"{directory}/{file}"))


def _why(error: OSError) -> str:
    return {
        20: "; the name is that of a control file",  # ENOTDIR
        28: "; the cgroup limits of the host are reached",  # ENOSPC
        EINVAL: "; the kernel does not take this name",
    }.get(error.errno or 0, "")
