"""cgroup v2: one directory in one tree, controllers handed down from cgroup to cgroup.

See the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroups(7).
"""

from __future__ import annotations

import posix
import select
from errno import EBUSY, ENOENT

from pyruntime.cgroups.frozen import is_frozen
from pyruntime.cgroups.manager import FORBIDDEN, SIGKILL, Manager
from pyruntime.errors import RuntimeFailure
from pyruntime.kernel import cgroupfs
from pyruntime.kernel.cgroupfs import UNIFIED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.cgroups.devices import Rule
    from pyruntime.cgroups.limits import Write
    from pyruntime.cgroups.limits_v2 import Limits

DELEGATE = "/sys/kernel/cgroup/delegate"
DELEGATED = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")

FREEZE_SECONDS = 10


class V2(Manager):
    """The driver of hosts with a unified hierarchy."""

    __slots__ = ("limits", "mount", "owner", "rules")

    driver = "v2"
    version = 2

    def __init__(
        self,
        paths: dict[str, str],
        resources: dict[str, Any],
        rootless: bool,
        explicit: bool,
        *,
        mount: str,
        owner: int | None = None,
    ) -> None:
        super().__init__(paths, resources, rootless, explicit)
        self.mount = mount
        self.owner = owner
        self.limits: Limits | None = None
        self.rules: list[Rule] = []

    @property
    def path(self) -> str:
        """The directory; empty for a rootless container that could not have one."""
        return self.paths.get(UNIFIED, "")

    def prepare(self) -> V2:
        """Turn the resources into writes."""
        from pyruntime.cgroups import devices
        from pyruntime.cgroups.limits_v2 import Limits

        self.limits = Limits(self.resources)
        self.warnings += self.limits.warnings
        self.rules = devices.rules(self.resources)
        return self

    def _limits(self) -> Limits:
        if self.limits is None:
            self.prepare()
        assert self.limits is not None
        return self.limits

    def describe(self) -> list[str]:
        limits = self._limits()
        lines = [f"make cgroup {self.path}, with every controller of {self.mount} enabled down the path"]
        if self.owner is not None:
            lines.append(f"give cgroup {self.path} and the files of {DELEGATE} to uid {self.owner}")
        lines += [f"cgroup: {write.describe()}" for group in limits.groups for write in group]
        from pyruntime.cgroups.devices import line

        rules = ", ".join(f"{'allow' if rule[0] else 'deny'} {line(rule).decode()}" for rule in self.rules)
        lines.append(f"cgroup: attach a device program: {rules}")
        return lines

    def save(self) -> dict[str, Any]:
        return {**super().save(), "mount": self.mount}

    def _mount(self) -> str:
        return self.mount

    # Making

    def create(self) -> None:
        path = self.path
        made: list[str] = []
        try:
            try:
                made = cgroupfs.make(path)
                if path not in made:
                    count = len(cgroupfs.processes(path))
                    if count:
                        raise RuntimeFailure(f"container's cgroup is not empty: {count} process(es) found in {path}")
                self._refuse_frozen(path)
                self._enable(path, made)
            except OSError as error:
                if error.errno not in FORBIDDEN or not self.rootless or self.explicit:
                    raise RuntimeFailure(
                        f"unable to apply cgroup configuration: cannot make cgroup {path}: "
                        f"{(error.strerror or '').lower()}"
                    ) from error
                needed = self._limits().controllers()
                if needed:
                    raise RuntimeFailure(
                        "rootless needs no limits + no cgrouppath when no permission is granted for cgroups: "
                        f"cannot make {path} for the limits of {', '.join(sorted(needed))}: {error.strerror}; "
                        "delegate a cgroup to this user (systemd: Delegate=yes)"
                    ) from error
                cgroupfs.remove_empty(made)
                self.paths, self.made = {}, []
                return
            if self.owner is not None:
                self._delegate(path, self.owner)
        except BaseException:
            cgroupfs.remove_empty(made)
            raise
        self.made = made

    def _refuse_frozen(self, path: str) -> None:
        # A new cgroup below a frozen one is frozen as well: the init would stop before its first instruction.
        try:
            events = cgroupfs.read(None, path + "/cgroup.events")
        except OSError:
            return  # the root, or a kernel before 5.2
        if b"frozen 1" in events:
            raise RuntimeFailure(f"container's cgroup unexpectedly frozen: {path} or one above it; thaw it first")

    def _enable(self, path: str, made: list[str]) -> None:
        """Have every controller that the host has in `path`: each is to be enabled in all cgroups above.

        A controller that cannot be is no failure here. If a limit needs it, that write fails and says why.
        """
        wanted = cgroupfs.read(None, self.mount + "/cgroup.controllers").split()
        if not set(wanted) <= set(cgroupfs.read(None, path + "/cgroup.controllers").split()):
            current = self.mount
            for name in path[len(self.mount) :].strip("/").split("/"):
                self._enable_in(current, wanted)
                current += "/" + name
        if cgroupfs.read(None, path + "/cgroup.type") != b"domain\n":
            self._threaded(path, made)

    def _enable_in(self, directory: str, wanted: list[bytes]) -> None:
        file = directory + "/cgroup.subtree_control"
        try:
            cgroupfs.write(None, file, b" ".join(b"+" + name for name in wanted))
        except OSError as error:
            if error.errno == EBUSY and cgroupfs.processes(directory, recursive=False):
                # A cgroup with processes of its own hands nothing on. Some controllers could be enabled one by one, but
                # that would turn it, which is not ours, into the head of threaded cgroups for good.
                return
            # One that is refused (cpu while realtime processes live outside of the root, what a rootless cgroup was
            # not given) takes the whole write with it: the others one by one.
            for name in wanted:
                try:
                    cgroupfs.write(None, file, b"+" + name)
                except OSError:
                    pass

    def _threaded(self, path: str, made: list[str]) -> None:
        """Below a threaded cgroup a new one is an invalid domain: it takes no process until it is threaded as well,
        and then it has only controllers that work for threads."""
        from pyruntime.cgroups.limits_v2 import DOMAIN

        needed = sorted(set(DOMAIN) & self._limits().controllers())
        kind = cgroupfs.read(None, path + "/cgroup.type").strip().decode()
        if needed:
            state = "it is in an invalid state" if kind == "domain invalid" else f"it is in {kind} mode"
            raise RuntimeFailure(
                f"cannot enter cgroupv2 {path!r} with domain controllers -- {state}: a cgroup above it has threaded "
                f"children, so {', '.join(needed)} cannot be limited below it; choose another linux.cgroupsPath"
            )
        for directory in made or [path]:
            if cgroupfs.read(None, directory + "/cgroup.type") == b"domain invalid\n":
                cgroupfs.write(None, directory + "/cgroup.type", b"threaded")

    def _delegate(self, path: str, owner: int) -> None:
        """Hand the cgroup to the container's root: the directory and the files that the kernel names, no other."""
        try:
            names = cgroupfs.read(None, DELEGATE).decode().split()
        except OSError:
            names = list(DELEGATED)
        try:
            posix.chown(path, owner, -1)
            for name in names:
                try:
                    posix.chown(f"{path}/{name}", owner, -1)
                except FileNotFoundError:
                    pass  # of a controller that this cgroup does not have
        except OSError as error:
            if not self.rootless:
                raise RuntimeFailure(f"cannot give cgroup {path} to uid {owner}: {error.strerror}") from error

    # Limits

    def apply(self) -> None:
        if not self.path:
            return
        self._write(self._limits())
        self._attach()

    def update(self, resources: dict[str, Any]) -> None:
        from pyruntime.cgroups.limits_v2 import Limits
        from pyruntime.cgroups.merge import changes, merge

        merged = merge(self.resources, resources)
        limits = Limits(changes(resources, merged), self.resources)
        self._check_usage(resources, merged)
        self._write(limits)
        self.warnings += limits.warnings
        self.resources = merged

    def _write(self, limits: Limits) -> None:
        from pyruntime.cgroups.limits import settle

        if not limits.groups:
            return
        try:
            opened = posix.open(self.path, cgroupfs.DIRECTORY)
        except OSError as error:
            raise RuntimeFailure(f"cannot open cgroup {self.path}: {error.strerror}") from error
        try:
            for group in limits.groups:
                settle(opened, group, self._refused, self.warnings)
        finally:
            posix.close(opened)

    def _refused(self, write: Write, error: OSError) -> RuntimeFailure:
        value = write.value.decode("utf-8", "replace")
        what = f"{write.field}: cannot write {value!r} to {self.path}/{write.file}: {error.strerror}"
        if error.errno in (ENOENT, *FORBIDDEN):
            have = cgroupfs.read(None, self.path + "/cgroup.controllers").decode().split()
            if write.controller not in have and write.controller not in ("cgroup", "memory.pressure"):
                if write.field.startswith("linux.resources.unified."):
                    what = (
                        f"unified resource {write.file!r} can't be set: controller {write.controller!r} not available"
                    )
                return RuntimeFailure(f"{what}; {self._why_not(write.controller)}")
        return RuntimeFailure(what)

    def _why_not(self, controller: str) -> str:
        """The cgroup on the way down that does not hand `controller` on."""
        current = self.mount
        name = controller.encode()
        for part in [*self.path[len(self.mount) :].strip("/").split("/"), ""]:
            if name not in cgroupfs.read(None, current + "/cgroup.controllers").split():
                where = (
                    "this kernel or boot does not have it" if current == self.mount else f"{current} does not get it"
                )
                return f"the {controller} controller is not there: {where}"
            if name not in cgroupfs.read(None, current + "/cgroup.subtree_control").split() and part:
                busy = current != self.mount and cgroupfs.processes(current, recursive=False)
                why = ": it has processes of its own, which excludes that" if busy else ""
                return f"the {controller} controller is not enabled in {current}/cgroup.subtree_control{why}"
            current += "/" + part
        return f"the {controller} controller is not there"

    def _check_usage(self, new: dict[str, Any], merged: dict[str, Any]) -> None:
        """memory.checkBeforeUpdate: a limit below what is in use would have the kernel kill at once."""
        memory = new.get("memory") or {}
        if not (merged.get("memory") or {}).get("checkBeforeUpdate"):
            return
        try:
            usage = int(cgroupfs.read(None, self.path + "/memory.current"))
        except OSError:
            return
        for key, what in (("swap", "memory+swap"), ("limit", "memory")):
            limit = memory.get(key) or 0
            if 0 < limit <= usage:
                raise RuntimeFailure(f"linux.resources.memory.{key}: rejecting {what} limit {limit} <= usage {usage}")

    def _attach(self) -> None:
        from pyruntime.cgroups import devices_bpf

        directory = posix.open(self.path, cgroupfs.DIRECTORY)
        try:
            devices_bpf.attach(directory, devices_bpf.program(self.rules))
        except OSError as error:
            if self.rootless and error.errno in FORBIDDEN:
                return  # needs privileges over the host's devices; an unprivileged user has no device nodes
            raise RuntimeFailure(
                f"linux.resources.devices: cannot attach the device program to {self.path}: {error.strerror}"
                f"{'; this kernel has no CONFIG_CGROUP_BPF' if error.errno == 22 else ''}"
            ) from error
        finally:
            posix.close(directory)

    # Freezing and killing

    def freeze(self) -> None:
        self._set_frozen(True)

    def thaw(self) -> None:
        self._set_frozen(False)

    def _set_frozen(self, frozen: bool) -> None:
        verb = "freeze" if frozen else "thaw"
        if not self.path:
            raise RuntimeFailure(f"cannot {verb}: the container has no cgroup")
        wanted = b"frozen 1" if frozen else b"frozen 0"
        try:
            cgroupfs.write(None, self.path + "/cgroup.freeze", b"1" if frozen else b"0")
            events = posix.open(self.path + "/cgroup.events", cgroupfs.READ)
            try:
                # The kernel marks the file with POLLPRI when it changes; a read takes the mark away.
                poll = select.poll()
                poll.register(events, select.POLLPRI)
                for _ in range(FREEZE_SECONDS):
                    posix.lseek(events, 0, 0)
                    if wanted in posix.read(events, 4096):
                        return
                    if not frozen and not self.frozen():
                        return  # a cgroup above is frozen: this one is not any more
                    poll.poll(1000)
            finally:
                posix.close(events)
            if frozen:  # never leave it half frozen
                cgroupfs.write(None, self.path + "/cgroup.freeze", b"0")
        except OSError as error:
            hint = "; Linux before 5.2 has no freezer for cgroup v2" if error.errno == ENOENT and self.exists() else ""
            raise RuntimeFailure(f"cannot {verb} {self.path}: {error.strerror}{hint}") from error
        raise RuntimeFailure(f"unable to {verb} {self.path} within {FREEZE_SECONDS} s")

    def frozen(self) -> bool:
        return is_frozen({UNIFIED: self.path})

    def kill(self, signal: int) -> None:
        if not self.path:
            raise RuntimeFailure("cannot signal all processes: the container has no cgroup")
        if signal == SIGKILL:
            try:
                cgroupfs.write(None, self.path + "/cgroup.kill", b"1")
                if self.frozen():
                    self.thaw()
                return
            except OSError as error:
                if error.errno != ENOENT:
                    raise RuntimeFailure(f"cannot kill the processes in {self.path}: {error.strerror}") from error
                if not self.exists():
                    return
        self._signal_each(signal)

    # Looking

    def populated(self) -> bool:
        try:
            return bool(self.path) and b"populated 1" in cgroupfs.read(None, self.path + "/cgroup.events")
        except OSError:
            return False

    def stats(self) -> dict[str, Any]:
        from pyruntime.cgroups.stats_v2 import collect

        return collect(self.path)

    def oom_event_fd(self) -> int:
        from pyruntime.cgroups.oom import open_v2

        return open_v2(self.path)
