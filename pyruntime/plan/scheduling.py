"""process.scheduler, ioPriority, execCPUAffinity, linux.personality and linux.memoryPolicy → steps.

Loaded only for a container that asks for one of them. All need privileges that are dropped later, or are meant to
cover the waiting process too, so they come before the start.
"""

from __future__ import annotations

from errno import EINVAL, EPERM

from pyruntime.errors import SpecError
from pyruntime.kernel.scheduling import (
    IOPRIO_CLASS_SHIFT,
    mask_of,
    pack_attributes,
    set_affinity,
    set_io_priority,
    set_memory_policy,
    set_personality,
    set_scheduler,
)
from pyruntime.plan.step import Place, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# include/uapi/linux/sched.h. SCHED_ISO has a number but no implementation; the kernel answers EINVAL.
POLICIES = {
    "SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_ISO": 4, "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}  # fmt: skip
SCHEDULER_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01, "SCHED_FLAG_RECLAIM": 0x02, "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08, "SCHED_FLAG_KEEP_PARAMS": 0x10, "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}  # fmt: skip
IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
# include/uapi/linux/personality.h
PERSONALITIES = {"LINUX": 0x0000, "LINUX32": 0x0008}
# include/uapi/linux/mempolicy.h
MEMORY_MODES = {
    "MPOL_DEFAULT": 0, "MPOL_PREFERRED": 1, "MPOL_BIND": 2, "MPOL_INTERLEAVE": 3, "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5, "MPOL_WEIGHTED_INTERLEAVE": 6,
}  # fmt: skip
MEMORY_FLAGS = {"MPOL_F_STATIC_NODES": 1 << 15, "MPOL_F_RELATIVE_NODES": 1 << 14, "MPOL_F_NUMA_BALANCING": 1 << 13}
_WITHOUT_NODES = ("MPOL_DEFAULT", "MPOL_LOCAL")
_WITH_NODES = ("MPOL_BIND", "MPOL_INTERLEAVE", "MPOL_WEIGHTED_INTERLEAVE", "MPOL_PREFERRED_MANY")


def _looked_up(table: dict[str, int], name: str, path: str) -> int:
    if name not in table:
        raise SpecError(path, f"{name!r} is not one of {', '.join(table)}")
    return table[name]


class SetScheduler(Step):
    """Scheduling policy and its parameters, sched_setattr(2)."""

    __slots__ = ("_attributes", "_text")

    def __init__(self, scheduler: dict[str, Any]) -> None:
        policy = scheduler["policy"]
        flags = 0
        for index, name in enumerate(scheduler.get("flags") or ()):
            flags |= _looked_up(SCHEDULER_FLAGS, name, f"process.scheduler.flags[{index}]")
        self._attributes = pack_attributes(
            _looked_up(POLICIES, policy, "process.scheduler.policy"),
            flags,
            scheduler.get("nice") or 0,
            scheduler.get("priority") or 0,
            scheduler.get("runtime") or 0,
            scheduler.get("deadline") or 0,
            scheduler.get("period") or 0,
        )
        self._text = f"schedule as {policy}"

    def describe(self) -> str:
        return self._text

    def explain(self, errno: int) -> str:
        if errno == EPERM:
            # Two refusals look the same: RT_GROUP_SCHED without a budget, and DEADLINE inside a cpuset.
            return (
                "it needs CAP_SYS_NICE; a real-time policy needs cpu.rt_runtime_us of the cgroup above 0 where the "
                "kernel groups real-time tasks; when it is SCHED_DEADLINE the process scheduler can't be used together "
                "with AllowedCPUs (linux.resources.cpu.cpus)"
            )
        return "the kernel does not take this combination of values, see sched_setattr(2)" if errno == EINVAL else ""

    def apply(self, place: Place) -> None:
        set_scheduler(self._attributes)


class SetIoPriority(Step):
    """I/O scheduling class and level, ioprio_set(2)."""

    __slots__ = ("_text", "_value")

    def __init__(self, io_priority: dict[str, Any]) -> None:
        name, level = io_priority["class"], io_priority.get("priority") or 0
        kind = _looked_up(IO_CLASSES, name, "process.ioPriority.class")
        if not 0 <= level <= 7:
            raise SpecError("process.ioPriority.priority", f"{level} is not between 0 (first) and 7 (last)")
        self._value = kind << IOPRIO_CLASS_SHIFT | level
        self._text = f"I/O priority {name} {level}"

    def describe(self) -> str:
        return self._text

    def explain(self, errno: int) -> str:
        return "IOPRIO_CLASS_RT needs CAP_SYS_ADMIN or CAP_SYS_NICE" if errno == EPERM else ""

    def apply(self, place: Place) -> None:
        set_io_priority(self._value)


class SetPersonality(Step):
    """Execution domain, personality(2): what uname(2) says and how 32-bit programs see addresses."""

    __slots__ = ("_domain", "_value")

    def __init__(self, personality: dict[str, Any]) -> None:
        self._domain = personality["domain"]
        self._value = _looked_up(PERSONALITIES, self._domain, "linux.personality.domain")

    def describe(self) -> str:
        return f"personality {self._domain}"

    def apply(self, place: Place) -> None:
        set_personality(self._value)


class SetMemoryPolicy(Step):
    """Where memory comes from on a NUMA machine, set_mempolicy(2)."""

    __slots__ = ("_mode", "_nodes", "_text")

    def __init__(self, policy: dict[str, Any]) -> None:
        mode, nodes = policy["mode"], policy.get("nodes") or ""
        self._mode = _looked_up(MEMORY_MODES, mode, "linux.memoryPolicy.mode")
        for index, name in enumerate(policy.get("flags") or ()):
            self._mode |= _looked_up(MEMORY_FLAGS, name, f"linux.memoryPolicy.flags[{index}]")
        if nodes and mode in _WITHOUT_NODES:
            raise SpecError("linux.memoryPolicy.nodes", f"{mode} takes no nodes")
        if not nodes and mode in _WITH_NODES:
            raise SpecError("linux.memoryPolicy.nodes", f"{mode} needs at least one node")
        try:
            self._nodes = mask_of(nodes) if nodes else b""
        except ValueError as error:
            raise SpecError("linux.memoryPolicy.nodes", str(error)) from None
        self._text = f"memory policy {mode}" + (f" on nodes {nodes}" if nodes else "")

    def describe(self) -> str:
        return self._text

    def explain(self, errno: int) -> str:
        return "the kernel does not have this mode, or a node is not there" if errno == EINVAL else ""

    def apply(self, place: Place) -> None:
        set_memory_policy(self._mode, self._nodes)


def scheduling_steps(process: dict[str, Any], linux: dict[str, Any]) -> list[Step]:
    """The steps that the two sections ask for, in the order of the kernel's dependencies."""
    steps: list[Step] = []
    if process.get("scheduler"):
        steps.append(SetScheduler(process["scheduler"]))
    if process.get("ioPriority"):
        steps.append(SetIoPriority(process["ioPriority"]))
    if linux.get("personality"):
        steps.append(SetPersonality(linux["personality"]))
    if linux.get("memoryPolicy"):
        steps.append(SetMemoryPolicy(linux["memoryPolicy"]))
    return steps


class SetAffinity(Step):
    """process.execCPUAffinity: the CPUs that a process added by exec runs on.

    `initial` is applied by the runtime process to itself, for the new process to inherit; `final` by the new process,
    once it is in the container's cgroup.
    """

    __slots__ = ("_cpus", "_mask", "_path")

    def __init__(self, cpus: str, path: str) -> None:
        try:
            self._mask = mask_of(cpus)
        except ValueError as error:
            raise SpecError(path, str(error)) from None
        self._cpus = cpus
        self._path = path

    def describe(self) -> str:
        return f"run on CPUs {self._cpus} ({self._path})"

    def explain(self, errno: int) -> str:
        return "none of these CPUs is usable here, see the cpuset of the cgroup" if errno == EINVAL else ""

    def apply(self, place: Place) -> None:
        set_affinity(0, self._mask)
