"""The systemd driver: the container is a transient scope of systemd, which makes and removes its cgroup.

systemd owns the cgroup tree of its host, so whoever wants a part of it asks for a unit. A scope starts with a process
in it; therefore nothing exists before the first `add()`. The limits go to systemd as properties and into the cgroup
files, which know more. See systemd's CGROUP_DELEGATION.md and org.freedesktop.systemd1(5).
"""

from __future__ import annotations

import posix

from pyruntime.cgroups import devices
from pyruntime.cgroups import systemd_unit as unit_of
from pyruntime.cgroups.dbus import BUS, CallFailed, Connection
from pyruntime.cgroups.manager import FORBIDDEN
from pyruntime.cgroups.v1 import V1
from pyruntime.cgroups.v2 import V2
from pyruntime.errors import RuntimeFailure
from pyruntime.kernel import cgroupfs
from pyruntime.kernel.cgroupfs import UNIFIED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.cgroups.host import Host
    from pyruntime.cgroups.manager import Manager
    from pyruntime.cgroups.systemd_unit import Properties

SERVICE, PATH, MANAGER = "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"
JOB_SECONDS = 30
BOOTED = "/run/systemd/system"  # see sd_booted(3)


def plan_systemd(
    container_id: str,
    cgroups_path: str | None,
    resources: dict[str, Any],
    *,
    rootless: bool,
    annotations: dict[str, str],
    host: Host,
    owner: int | None,
) -> Manager:
    """`manager.plan` for `--systemd-cgroup`."""
    name, slice_name = unit_of.names(container_id, cgroups_path, rootless)
    unit = Unit(name, slice_name, rootless, unit_of.annotated(annotations))
    if host.layout == "none":
        raise RuntimeFailure("no cgroup mount found in mountinfo: mount /sys/fs/cgroup")
    inside = unit_of.expand(slice_name) + "/" + name
    if host.unified:
        # The services of a user's own systemd lie below its own cgroup, which only it can tell: see create().
        paths = {UNIFIED: host.mount(UNIFIED) + ("/(user manager)" if rootless else "") + inside}
        manager: SystemdV2 | SystemdV1 = SystemdV2(
            paths, resources, rootless, True, mount=host.mount(UNIFIED), owner=owner
        )
        unit_of.limits(resources, unit_of.OOM_POLICY, True)
    else:
        if rootless:
            raise RuntimeFailure("cannot use rootless systemd cgroups manager on cgroup v1")
        manager = SystemdV1({key: host.mount(key) + inside for key in host.mounts}, resources, rootless, True)
        unit_of.limits(resources, unit_of.OOM_POLICY, False)
    manager.unit = unit
    manager.prepare()
    return manager


def load_systemd(saved: dict[str, Any]) -> Manager:
    """`manager.load` for what was saved by one of these drivers."""
    common = (saved["paths"], saved["resources"], saved["rootless"], saved["explicit"])
    manager = SystemdV2(*common, mount=saved["mount"]) if saved["version"] == 2 else SystemdV1(*common)
    manager.unit = Unit(saved["unit"], saved["slice"], saved["rootless"], [])
    manager.unit.started = saved["started"]
    return manager


class Unit:
    """The unit of one container, and the connection to the systemd that has it."""

    __slots__ = ("_connection", "_version", "extra", "name", "rootless", "slice", "started")

    def __init__(self, name: str, slice_name: str, rootless: bool, extra: Properties) -> None:
        self.name = name
        self.slice = slice_name
        self.rootless = rootless
        self.extra = extra  # properties of annotations
        self.started = False
        self._connection: Connection | None = None
        self._version = 0

    def check(self) -> None:
        """Raises RuntimeFailure on a host whose init is not systemd."""
        try:
            posix.stat(BOOTED)
        except OSError:
            raise RuntimeFailure("systemd not running on this host, cannot use systemd cgroups manager") from None

    def start(self, properties: Properties) -> None:
        """Start the unit and wait until systemd has made its cgroup. Raises RuntimeFailure."""
        for attempt in range(2):
            try:
                job = self._call("StartTransientUnit", "ssa(sv)a(sa(sv))", self.name, "replace", properties, [])[0]
                break
            except CallFailed as error:
                if attempt or not error.name.endswith(".UnitExists"):
                    raise self._failed("start", error) from error
                self._reset()  # a failed unit of this name that systemd still remembers
        result = self._finished(job)
        if result != "done":
            self._reset()
            raise RuntimeFailure(f"cannot start systemd unit {self.name}: {result}")
        self.started = True

    def set(self, properties: Properties) -> None:
        """Change properties until the unit ends."""
        if properties:
            try:
                self._call("SetUnitProperties", "sba(sv)", self.name, True, properties)
            except CallFailed as error:
                raise self._failed("set properties of", error) from error

    def attach(self, pid: int) -> None:
        """Have systemd move a process in, which an ordinary user may not do itself from another unit."""
        try:
            self._call("AttachProcessesToUnit", "ssau", self.name, "", [pid])
        except CallFailed as error:
            raise self._failed(f"add process {pid} to", error) from error

    def stop(self) -> None:
        """Stop the unit; gone already is fine. A slice is left to systemd's own garbage collection if it is in use."""
        try:
            job = self._call("StopUnit", "ss", self.name, "replace")[0]
        except CallFailed as error:
            if not error.name.endswith(".NoSuchUnit"):
                raise self._failed("stop", error) from error
            return
        self._finished(job)
        self._reset()

    def control_group(self) -> str:
        """The cgroup of the systemd that we talk to, which its units lie below."""
        return str(self._property("ControlGroup")).rstrip("/")

    def version(self) -> int:
        """The version of that systemd: 252 for `252.22-1~deb12u1` and for `v252-3`."""
        if not self._version:
            digits = ""
            for character in str(self._property("Version")).lstrip("v"):
                if not character.isdigit():
                    break
                digits += character
            self._version = int(digits or 0)
        return self._version

    def _property(self, name: str) -> Any:
        try:
            return self._call("Get", "ss", MANAGER, name, interface="org.freedesktop.DBus.Properties")[0].value
        except CallFailed as error:
            raise RuntimeFailure(f"cannot ask systemd for its {name}: {error}") from error

    def _finished(self, job: str) -> str:
        """Wait for the end of a job; how it ended."""
        assert self._connection is not None
        while True:
            signal = self._connection.wait("JobRemoved", JOB_SECONDS)
            if signal is None:
                return f"systemd did not answer for {JOB_SECONDS} seconds"
            if signal[1] == job:
                return str(signal[3])

    def _reset(self) -> None:
        try:
            self._call("ResetFailedUnit", "s", self.name)
        except CallFailed:
            pass  # it has not failed, or is gone

    def _failed(self, verb: str, error: CallFailed) -> RuntimeFailure:
        return RuntimeFailure(f"cannot {verb} systemd unit {self.name}: {error} ({error.name})")

    def _call(self, member: str, signature: str, *values: Any, interface: str = MANAGER) -> list[Any]:
        if self._connection is None:
            self._connection = self._connect()
        return self._connection.call(SERVICE, PATH, interface, member, signature, *values)

    def close(self) -> None:
        """Give the connection up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> Connection:
        tried = []
        for address, direct in addresses(self.rootless):
            try:
                connection = Connection(address, direct, JOB_SECONDS)
                if not direct:
                    rule = f"type='signal',interface='{MANAGER}',member='JobRemoved',path='{PATH}'"
                    connection.call(*BUS, "AddMatch", "s", rule)
                    connection.call(SERVICE, PATH, MANAGER, "Subscribe")
                return connection
            except (OSError, RuntimeFailure) as error:
                tried.append(f"{address}: {error.strerror if isinstance(error, OSError) else error}")
        hint = "; is the package dbus-user-session installed, and is XDG_RUNTIME_DIR set?" if self.rootless else ""
        raise RuntimeFailure(f"cannot connect to systemd ({'; '.join(tried) or 'no address known'}){hint}")


def addresses(rootless: bool) -> list[tuple[str, bool]]:
    """Where systemd answers, best first: what the environment names, its own socket (no bus in between), the bus."""

    def variable(name: str) -> str:
        return posix.environ.get(name.encode(), b"").decode("utf-8", "surrogateescape")

    runtime = variable("XDG_RUNTIME_DIR")
    if rootless:
        named = variable("DBUS_SESSION_BUS_ADDRESS")
        result = [(f"unix:path={runtime}/systemd/private", True)] if runtime else []
        bus = named or (f"unix:path={runtime}/bus" if runtime else "")
        return [*result, (bus, False)] if bus else result
    named = variable("DBUS_SYSTEM_BUS_ADDRESS")
    if named:
        return [(named, False)]
    return [("unix:path=/run/systemd/private", True), ("unix:path=/run/dbus/system_bus_socket", False)]


class SystemdV2(V2):
    """A scope on a unified hierarchy."""

    __slots__ = ("unit",)

    driver = "systemd"
    unit: Unit

    def describe(self) -> list[str]:
        first = f"start systemd unit {self.unit.name} in {self.unit.slice} with the init in it, and wait for its cgroup"
        return [first, *super().describe()]

    def save(self) -> dict[str, Any]:
        return {**super().save(), **_saved(self.unit, 2)}

    def create(self) -> None:
        """Only check: systemd makes the cgroup when the first process is there to be put into it."""
        self.unit.check()
        if self.rootless:
            inside = unit_of.expand(self.unit.slice) + "/" + self.unit.name
            self.paths = {UNIFIED: self.mount + self.unit.control_group() + inside}
        path = self.path
        count = len(cgroupfs.processes(path))
        if count:
            raise RuntimeFailure(f"container's cgroup is not empty: {count} process(es) found in {path}")
        self._refuse_frozen(path)

    def add(self, pid: int, like: int = 0) -> None:
        if not self.unit.started:
            return self._start(pid)
        try:
            cgroupfs.enter(None, self.path + "/cgroup.procs", pid)
        except OSError as error:
            if error.errno in FORBIDDEN:
                return self.unit.attach(pid)
            self._enter(self.path, pid, like)  # with its answers to everything else
        return None

    def _start(self, pid: int) -> None:
        unit = self.unit
        properties = unit_of.identity(unit.name, unit.slice, pid, "IO")
        properties += unit_of.limits(self.resources, unit.version(), True)
        properties += unit_of.oom_policy(self.resources, unit.version())
        unit.start(properties + unit.extra)
        self.made = [self.path]
        try:
            cgroupfs.make(self.path)
            self._enable(self.path, [])
        except OSError as error:
            raise RuntimeFailure(f"cannot use cgroup {self.path}: {error.strerror}") from error
        if unit.name.endswith(".slice"):
            self._enter(self.path, pid, 0)  # slices take no process from systemd
        if self.owner is not None:
            self._delegate(self.path, self.owner)

    def update(self, resources: dict[str, Any]) -> None:
        from pyruntime.cgroups.merge import changes, merge

        resources, warning = unit_of.without_weight(resources, self.unit.version())
        if warning:
            self.warnings.append(warning)
        merged = merge(self.resources, resources)
        self._check_usage(resources, merged)
        self.unit.set(_changed(changes(resources, merged), merged, self.unit.version(), True))
        super().update(resources)

    def destroy(self) -> None:
        _stop(self.unit)
        super().destroy()


class SystemdV1(V1):
    """A scope on v1: systemd has its own controllers, the others get a directory of the same name from us."""

    __slots__ = ("unit",)

    driver = "systemd"
    unit: Unit

    def describe(self) -> list[str]:
        first = f"start systemd unit {self.unit.name} in {self.unit.slice} with the init in it, wait for its cgroups"
        return [first, *super().describe()]

    def save(self) -> dict[str, Any]:
        return {**super().save(), **_saved(self.unit, 1)}

    def create(self) -> None:
        """Only check: systemd makes the cgroups when the first process is there to be put into them."""
        self.unit.check()
        for directory in self.directories():
            self._refuse_used(directory)
        if "freezer" in self.paths:
            self._refuse_frozen(self.paths["freezer"])

    def add(self, pid: int, like: int = 0) -> None:
        if not self.unit.started:
            unit = self.unit
            properties = unit_of.identity(unit.name, unit.slice, pid, "BlockIO")
            properties += unit_of.limits(self.resources, unit.version(), False)
            properties += unit_of.device_policy(devices.rules(self.resources))
            unit.start(properties + unit.extra)
            self._make(unused=False)
            self.made = self.directories()
        super().add(pid, like)

    def update(self, resources: dict[str, Any]) -> None:
        from pyruntime.cgroups.merge import changes, merge

        merged = merge(self.resources, resources)
        # systemd writes the device rules anew for any change, and for a moment everything or nothing is allowed: the
        # container must not run meanwhile.
        was_frozen = self.frozen()
        if not was_frozen:
            self.freeze()
        try:
            self.unit.set(_changed(changes(resources, merged), merged, self.unit.version(), False))
        finally:
            if not was_frozen:
                self.thaw()
        super().update(resources)

    def destroy(self) -> None:
        _stop(self.unit)
        super().destroy()


def _saved(unit: Unit, version: int) -> dict[str, Any]:
    return {"version": version, "unit": unit.name, "slice": unit.slice, "started": unit.started}


def _changed(new: dict[str, Any], merged: dict[str, Any], version: int, unified: bool) -> Properties:
    """The properties for an update; systemd takes quota and period together."""
    cpu = new.get("cpu") or {}
    if cpu.get("quota") or cpu.get("period"):
        both = merged.get("cpu") or {}
        new = {**new, "cpu": {**cpu, **{key: both[key] for key in ("quota", "period") if key in both}}}
    return unit_of.limits(new, version, unified)


def _stop(unit: Unit) -> None:
    """Stop a unit. If systemd cannot be asked, removing the cgroup tells it: an empty scope ends by itself."""
    try:
        unit.stop()
    except RuntimeFailure:
        pass
    finally:
        unit.close()
