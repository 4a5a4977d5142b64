"""Limits of memory, CPU, pids, huge pages and network: config-linux.md, section Control groups."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from conformance import cgroups, process
from conformance.outcome import equal, require, skip
from conformance.registry import case, each
from conformance.runtime import read
from conformance.stage import Stage, wait_for

MEGABYTE = 1 << 20
UNLIMITED_V1 = str(0x7FFFFFFFFFFFF000)


def up_with(stage: Stage, section: str, value: dict[str, Any], controller: str) -> Path:
    """Start a container with these resources and return the directory of its cgroup.

    The case is skipped before anything is started if the host lacks the controller.
    """
    points = cgroups.mount_points()
    if controller not in points and "" not in points:
        skip(f"the {controller} cgroup controller is not mounted on this host")
    if controller not in points and controller not in (points[""] / "cgroup.controllers").read_text().split():
        skip(f"the {controller} cgroup controller is not available on this host")
    if controller not in points and not cgroups.v2_only():
        skip(f"the {controller} cgroup controller is not mounted on this host (cgroup v1)")
    stage.resources[section] = value
    stage.up()
    return stage.cgroup(controller)


def expect(folder: Path, v1: tuple[str, str], v2: tuple[str, str] | None) -> None:
    """The control file of this host's cgroup version must hold the value: (file, value) for each version."""
    if cgroups.v2_only():
        if v2 is None:
            skip(f"cgroup v2 has nothing like {v1[0]}")
        cgroups.expect(folder, *v2)
    else:
        cgroups.expect(folder, *v1)


# property -> (value, v1 file and value, v2 file and value)
MEMORY: dict[str, tuple[dict[str, Any], tuple[str, str], tuple[str, str] | None]] = {
    "limit": (
        {"limit": 64 * MEGABYTE},
        ("memory.limit_in_bytes", str(64 * MEGABYTE)),
        ("memory.max", str(64 * MEGABYTE)),
    ),
    "reservation": (
        {"reservation": 32 * MEGABYTE},
        ("memory.soft_limit_in_bytes", str(32 * MEGABYTE)),
        ("memory.low", str(32 * MEGABYTE)),
    ),
    "swap": (
        {"limit": 64 * MEGABYTE, "swap": 96 * MEGABYTE},
        ("memory.memsw.limit_in_bytes", str(96 * MEGABYTE)),
        ("memory.swap.max", str(32 * MEGABYTE)),
    ),
    "unlimited": ({"limit": -1, "swap": -1}, ("memory.limit_in_bytes", UNLIMITED_V1), ("memory.max", "max")),
    "kernelTCP": ({"kernelTCP": 16 * MEGABYTE}, ("memory.kmem.tcp.limit_in_bytes", str(16 * MEGABYTE)), None),
    "swappiness": ({"swappiness": 17}, ("memory.swappiness", "17"), None),
    "useHierarchy": ({"useHierarchy": True}, ("memory.use_hierarchy", "1"), None),
}


@each({f"res.memory.{name}": row for name, row in MEMORY.items()}, "res.memory")
def memory_setting_is_written(
    stage: Stage, value: dict[str, Any], v1: tuple[str, str], v2: tuple[str, str] | None
) -> None:
    """The control file of the memory controller holds the configured value."""
    if v2 is None:
        cgroups.need_v1(f"{v1[0]} belongs to cgroup v1")
    expect(up_with(stage, "memory", value, "memory"), v1, v2)


@case("res.memory.kernel")
def kernel_memory_is_written(stage: Stage) -> None:
    """The kernel memory limit is set where the kernel still has one."""
    cgroups.need_v1("kernel memory limits belong to cgroup v1")
    point = cgroups.mount_points().get("memory")
    trial = f"/{stage.id}-trial"
    stage.undo.callback(cgroups.remove, trial)
    if point is None:
        skip("the memory controller is not mounted on this host")
    (point / trial.lstrip("/")).mkdir()
    file = point / trial.lstrip("/") / "memory.kmem.limit_in_bytes"
    try:
        file.write_text(str(32 * MEGABYTE))
    except OSError as error:
        skip(f"this kernel has no kernel memory limit any more: {error}")
    if file.read_text().strip() != str(32 * MEGABYTE):
        skip("this kernel accepts a kernel memory limit and ignores it (Linux 5.16 and newer)")
    folder = up_with(stage, "memory", {"kernel": 32 * MEGABYTE}, "memory")
    cgroups.expect(folder, "memory.kmem.limit_in_bytes", str(32 * MEGABYTE))


@case("res.memory.disableOOMKiller")
def oom_killer_is_switched_off(stage: Stage) -> None:
    """disableOOMKiller switches the OOM killer of the cgroup off."""
    cgroups.need_v1("the switch belongs to cgroup v1")
    folder = up_with(stage, "memory", {"limit": 64 * MEGABYTE, "disableOOMKiller": True}, "memory")
    cgroups.expect_line(folder, "memory.oom_control", "oom_kill_disable 1")


@case("res.memory.limit")
def memory_limit_is_enforced(stage: Stage) -> None:
    """A program that needs more than the limit is killed."""
    stage.resources["memory"] = {"limit": 16 * MEGABYTE, "swap": 16 * MEGABYTE}
    stage.script("head -c 64m /dev/zero | tail -c 64m | wc -c")
    stage.create()
    stage.start()
    output = stage.finish(status=None)
    require(output.strip() != str(64 * MEGABYTE), "the program got 64 MiB under a limit of 16 MiB")


@each(
    {"res.memory.swappiness@101": ({"swappiness": 101},), "res.memory.useHierarchy@false": ({"useHierarchy": False},)}
)
def impossible_memory_value_is_an_error(stage: Stage, value: dict[str, Any]) -> None:
    """A value out of range, or one the kernel refuses, is an error."""
    if "useHierarchy" in value:
        cgroups.need_v1("hierarchical accounting can be switched on cgroup v1 only")
        root = cgroups.mount_points()["memory"] / "memory.use_hierarchy"
        if not root.exists():
            skip("this kernel has no memory.use_hierarchy")
    stage.resources["memory"] = value
    stage.refused(f"{value} is impossible")


@case("res.memory.checkBeforeUpdate")
def limit_below_use_is_refused(stage: Stage) -> None:
    """With checkBeforeUpdate an update to a limit below current use fails instead of killing."""
    cgroups.need_v2("the check is about cgroup v2")
    stage.resources["memory"] = {"limit": 64 * MEGABYTE, "checkBeforeUpdate": True}
    stage.script("head -c 20m /dev/zero > /dev/shm/x; echo ready; exec sleep 300")
    stage.create()
    stage.start()
    resources = stage.dir / "resources.json"
    resources.write_text('{"memory": {"limit": 1048576, "checkBeforeUpdate": true}}')
    result = stage.runtime.call("update", "--resources", str(resources), stage.id)
    if not result.ok and "update" in result.message and "unknown" in result.message:
        skip("this runtime has no `update` verb")
    require(not result.ok and process.alive(stage.pid), "the limit was lowered below current use")


CPU: dict[str, tuple[dict[str, Any], tuple[str, str], tuple[str, str] | None]] = {
    "shares": ({"shares": 1024}, ("cpu.shares", "1024"), ("cpu.weight", "100")),
    "quota": ({"quota": 40000, "period": 100000}, ("cpu.cfs_quota_us", "40000"), ("cpu.max", "40000 100000")),
    "quota@none": ({"quota": -1, "period": 100000}, ("cpu.cfs_quota_us", "-1"), ("cpu.max", "max 100000")),
    "period": ({"period": 50000}, ("cpu.cfs_period_us", "50000"), ("cpu.max", "max 50000")),
    "burst": (
        {"quota": 40000, "period": 100000, "burst": 20000},
        ("cpu.cfs_burst_us", "20000"),
        ("cpu.max.burst", "20000"),
    ),
    "realtimeRuntime": ({"realtimeRuntime": 5000, "realtimePeriod": 1000000}, ("cpu.rt_runtime_us", "5000"), None),
    "realtimePeriod": ({"realtimeRuntime": 5000, "realtimePeriod": 500000}, ("cpu.rt_period_us", "500000"), None),
    "idle": ({"idle": 1}, ("cpu.idle", "1"), ("cpu.idle", "1")),
}


@each({f"res.cpu.{name}": row for name, row in CPU.items()}, "res.cpu")
def cpu_setting_is_written(
    stage: Stage, value: dict[str, Any], v1: tuple[str, str], v2: tuple[str, str] | None
) -> None:
    """The control file of the cpu controller holds the configured value."""
    if v2 is None:
        cgroups.need_v1(f"{v1[0]} belongs to cgroup v1")
        if not (cgroups.mount_points().get("cpu", Path("/nowhere")) / v1[0]).exists():
            skip(f"this kernel offers no {v1[0]}")
    expect(up_with(stage, "cpu", value, "cpu"), v1, v2)


@each({"res.cpu.quota.ge-burst": (10000, 20000), "res.cpu.burst.le-quota": (30000, 40000)})
def burst_above_quota_is_an_error(stage: Stage, quota: int, burst: int) -> None:
    """A burst above the quota is an error."""
    stage.resources["cpu"] = {"quota": quota, "period": 100000, "burst": burst}
    stage.refused(f"burst {burst} is above quota {quota}")


@each(
    {
        "res.cpu.cpus": ("cpus", "cpuset.cpus", "Cpus_allowed_list"),
        "res.cpu.mems": ("mems", "cpuset.mems", "Mems_allowed_list"),
    }
)
def cpuset_is_written(stage: Stage, name: str, file: str, field: str) -> None:
    """The program may use the configured CPUs, and memory nodes, only."""
    folder = up_with(stage, "cpu", {name: "0"}, "cpuset")
    cgroups.expect(folder, file, "0")
    equal(process.status(stage.pid, field), "0", field)


@case("res.pids.limit.zero", "res.pids")
def pids_limit_of_zero_is_a_limit(stage: Stage) -> None:
    """0 leaves no room for another process. 1 means the same to whoever is in the cgroup, and systemd knows no 0."""
    stage.resources["pids"] = {"limit": 0}
    stage.process["args"] = ["/bin/sleep", "300"]
    result = stage.create(ok=False)
    if not result.ok:  # as it may: there is no room for the first process either
        require("fork" in result.message or "unavailable" in result.message or "pids" in result.message, result.message)
        return
    found = (stage.cgroup("pids") / "pids.max").read_text().strip()
    require(found in ("0", "1"), f"pids.max is {found}")


@each({"res.pids.limit@20": (20, "20"), "res.pids.limit@-1": (-1, "max")}, "res.pids")
def pids_limit_is_written(stage: Stage, limit: int, wanted: str) -> None:
    """pids.max holds the limit; -1 is none."""
    cgroups.expect(up_with(stage, "pids", {"limit": limit}, "pids"), "pids.max", wanted)


@case("res.pids.limit")
def pids_limit_is_enforced(stage: Stage) -> None:
    """A program cannot have more processes than the limit."""
    stage.resources["pids"] = {"limit": 8}
    stage.script("i=0; while [ $i -lt 20 ]; do sleep 300 & i=$((i+1)); done; sleep 300")
    stage.create()
    folder = stage.cgroup("pids")
    stage.start()
    wait_for(lambda: "can't fork" in read(stage.err))
    require("can't fork" in read(stage.err), "20 processes could be made under a limit of 8")
    require(int((folder / "pids.current").read_text() or 0) <= 8, "more processes than the limit")


@each({"res.hugepageLimits@plain": ("limit_in_bytes", "max"),
       "res.hugepageLimits.rsvd": ("rsvd.limit_in_bytes", "rsvd.max")},
      "res.hugepageLimits.limit", "res.hugepageLimits.pageSize")  # fmt: skip
def hugepage_limit_is_written(stage: Stage, v1: str, v2: str) -> None:
    """The limit per page size is written, for use and for reservations."""
    value = [{"pageSize": "2MB", "limit": 4 * MEGABYTE}]
    folder = up_with(stage, "hugepageLimits", value, "hugetlb")  # type: ignore[arg-type]
    expect(folder, (f"hugetlb.2MB.{v1}", str(4 * MEGABYTE)), (f"hugetlb.2MB.{v2}", str(4 * MEGABYTE)))


@case("res.hugepageLimits.pageSize")
def unknown_page_size_is_an_error(stage: Stage) -> None:
    """A page size the kernel does not have is an error."""
    stage.resources["hugepageLimits"] = [{"pageSize": "3MB", "limit": 0}]
    stage.refused("there are no pages of 3 MB")


@case("res.network", "res.network.classID")
def class_id_is_written(stage: Stage) -> None:
    """net_cls.classid holds the class."""
    folder = up_with(stage, "network", {"classID": 1048577}, "net_cls")
    cgroups.expect(folder, "net_cls.classid", "1048577")


@case("res.network.priorities", "res.network.priorities.name", "res.network.priorities.priority")
def interface_priority_is_written(stage: Stage) -> None:
    """net_prio.ifpriomap holds the priority of the interface."""
    folder = up_with(stage, "network", {"priorities": [{"name": "lo", "priority": 7}]}, "net_prio")
    cgroups.expect_line(folder, "net_prio.ifpriomap", "lo 7")


@case("res.network.priorities.name")
def unknown_interface_is_an_error(stage: Stage) -> None:
    """A priority for an interface that does not exist is an error."""
    if "net_prio" not in cgroups.mount_points():
        skip("the net_prio cgroup controller is not mounted on this host")
    stage.resources["network"] = {"priorities": [{"name": "no-such-if", "priority": 7}]}
    stage.refused("there is no interface no-such-if")


@each({"res.memory.limit@kill": (signal.SIGKILL,)})
def killed_program_is_told_apart(stage: Stage, number: int) -> None:
    """The first process itself is killed by SIGKILL if it needs more memory than the limit."""
    stage.resources["memory"] = {"limit": 16 * MEGABYTE, "swap": 16 * MEGABYTE}
    stage.process["args"] = ["/bin/tail", "-c", "200m", "/dev/zero"]
    stage.create()
    stage.start()
    equal(stage.wait() & 0x7F, number, "signal that ended the program")
