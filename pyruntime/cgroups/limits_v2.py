"""`linux.resources` as writes to the control files of cgroup v2. Pure: nothing here touches a file.

The runtime spec describes v1. What means the same on v2 is converted; what has no counterpart there is an error
(runtime spec, linux.resources.unified), except memory.kernel, which no kernel of today honours on v1 either.
A value of 0 stands for "unset" where 0 makes no sense as a limit, as in runc.
"""

from __future__ import annotations

from pyruntime.cgroups.limits import (
    FIELD,
    MUST,
    OPTIONAL,
    Group,
    Write,
    check_burst,
    check_swap,
    check_swappiness,
    check_weights,
    number,
    page_size,
    rdma,
)
from pyruntime.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DOMAIN = ("memory", "io", "hugetlb", "rdma", "misc", "dmem")
"""Controllers that a threaded cgroup cannot have: they account for processes, not for threads."""


class Limits:
    """The writes, all into one directory."""

    __slots__ = ("groups", "warnings")

    def __init__(self, resources: dict[str, Any], current: dict[str, Any] | None = None) -> None:
        """`current` is what was in force before, for an update that gives one half of a value only."""
        self.groups: list[Group] = []
        self.warnings: list[str] = []
        self._pids(resources.get("pids") or {})
        self._memory(resources.get("memory") or {})
        self._io(resources.get("blockIO") or {})
        self._cpu(resources.get("cpu") or {}, (current or {}).get("cpu") or {})
        for index, entry in enumerate(resources.get("hugepageLimits") or ()):
            field = f"{FIELD}hugepageLimits[{index}]"
            size = page_size(entry["pageSize"], field)
            value = number(entry["limit"])
            self._add(Write("hugetlb", f"hugetlb.{size}.max", value, field))
            self._add(Write("hugetlb", f"hugetlb.{size}.rsvd.max", value, field, need=OPTIONAL))
        for write in rdma(resources.get("rdma") or {}):
            self._add(write)
        network = resources.get("network") or {}
        if network.get("classID") or network.get("priorities"):
            raise _no_counterpart(
                "network", "match the cgroup in nftables (socket cgroupv2) or in a BPF program instead"
            )
        self._unified(resources.get("unified") or {})

    def _add(self, *writes: Write) -> None:
        self.groups.append(list(writes))

    def controllers(self) -> set[str]:
        """The controllers that the writes need."""
        return {write.controller for group in self.groups for write in group if write.controller != "cgroup"}

    def _pids(self, pids: dict[str, Any]) -> None:
        limit = pids.get("limit")
        if limit is not None:
            # systemd does not take 0, so every driver makes it 1: the container's first process, and no other.
            self._add(Write("pids", "pids.max", b"max" if limit < 0 else number(limit or 1), FIELD + "pids.limit"))

    def _memory(self, memory: dict[str, Any]) -> None:
        def write(file: str, value: int, key: str, need: int = MUST) -> Write:
            text = b"max" if value < 0 else number(value)
            return Write("memory", "memory." + file, text, f"{FIELD}memory.{key}", need=need)

        if check_swappiness(memory) is not None:
            raise _no_counterpart("memory.swappiness", "limit swap with memory.swap instead")
        if memory.get("disableOOMKiller"):
            raise _no_counterpart(
                "memory.disableOOMKiller", "limit with memory.high in linux.resources.unified instead"
            )
        if memory.get("useHierarchy") is False:
            raise _no_counterpart("memory.useHierarchy", "accounting is always hierarchical there")
        if (memory.get("kernelTCP") or 0) > 0:
            raise _no_counterpart("memory.kernelTCP", "memory.limit counts socket buffers there")
        if (memory.get("kernel") or 0) > 0:
            self.warnings.append(FIELD + "memory.kernel has no effect: on cgroup v2 memory.limit counts kernel memory")
        check_swap(memory)
        limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
        group = []
        if swap == -1 or (limit == -1 and not swap):
            group.append(write("swap.max", -1, "swap", OPTIONAL))  # no swap accounting: nothing is limited anyway
        elif swap > 0 and limit == -1:
            group.append(write("swap.max", swap, "swap"))
        elif swap > 0:
            if not limit:
                raise SpecError(
                    FIELD + "memory.swap", "needs memory.limit: it counts memory plus swap, cgroup v2 swap alone"
                )
            # Without swap accounting (no CONFIG_SWAP or swapaccount=0) "no swap at all" still holds mostly.
            group.append(write("swap.max", swap - limit, "swap", MUST if swap > limit else OPTIONAL))
        if limit:
            group.append(write("max", limit, "limit"))
        if group:
            self._add(*group)
        if memory.get("reservation"):
            self._add(write("low", memory["reservation"], "reservation"))

    def _cpu(self, cpu: dict[str, Any], current: dict[str, Any]) -> None:
        for key in ("realtimeRuntime", "realtimePeriod"):
            if cpu.get(key):
                raise _no_counterpart(
                    "cpu." + key, "realtime is not divided among cgroups there; use process.scheduler"
                )
        group = []
        if cpu.get("shares"):
            group.append(Write("cpu", "cpu.weight", number(weight(cpu["shares"])), FIELD + "cpu.shares"))
        if cpu.get("idle") is not None:
            group.append(Write("cpu", "cpu.idle", number(cpu["idle"]), FIELD + "cpu.idle"))  # idle ones refuse a weight
        if group:
            self._add(*group)
        check_burst(cpu)
        group = []
        if cpu.get("burst") is not None:
            need = MUST if cpu["burst"] else OPTIONAL
            group.append(Write("cpu", "cpu.max.burst", number(cpu["burst"]), FIELD + "cpu.burst", need=need))
        quota, period = cpu.get("quota") or 0, cpu.get("period") or 0
        if quota or period:
            # A quota alone keeps the period; but there is no way to write the period alone.
            quota = quota or current.get("quota") or -1
            value = b"max" if quota < 0 else number(quota)
            if period:
                value += b" %d" % period
            group.append(Write("cpu", "cpu.max", value, FIELD + ("cpu.quota" if cpu.get("quota") else "cpu.period")))
        if group:
            self._add(*group)
        for key in ("cpus", "mems"):
            if cpu.get(key):
                self._add(Write("cpuset", "cpuset." + key, cpu[key].encode(), f"{FIELD}cpu.{key}"))

    def _io(self, block: dict[str, Any]) -> None:
        field = FIELD + "blockIO."
        check_weights(block)

        def weigh(value: int, prefix: bytes, where: str) -> None:
            # BFQ keeps the numbers of v1; io.weight is the one of iocost, from 1 to 10000.
            other = ("io.weight", (prefix or b"default ") + number(io_weight(value)))
            self._add(Write("io", "io.bfq.weight", prefix + number(value), field + where, other=other))

        if block.get("leafWeight"):
            raise _no_counterpart("blockIO.leafWeight", "leave it out")
        if block.get("weight"):
            weigh(block["weight"], b"", "weight")
        for index, entry in enumerate(block.get("weightDevice") or ()):
            if entry.get("leafWeight"):
                raise _no_counterpart(f"blockIO.weightDevice[{index}].leafWeight", "leave it out")
            if entry.get("weight"):
                weigh(entry["weight"], b"%d:%d " % (entry["major"], entry["minor"]), f"weightDevice[{index}].weight")
        for key, word in THROTTLES:
            for index, entry in enumerate(block.get(key) or ()):
                rate = number(entry["rate"]) if entry["rate"] else b"max"  # v1 takes the limit away with 0
                value = b"%d:%d %s=%s" % (entry["major"], entry["minor"], word, rate)
                self._add(Write("io", "io.max", value, f"{field}{key}[{index}]"))

    def _unified(self, unified: dict[str, str]) -> None:
        for name, content in unified.items():
            field = f"{FIELD}unified.{name}"
            if "/" in name or "\0" in name:
                raise SpecError(field, f"unified resource {name!r} must be a file name (no slashes)")
            controller, dot, _ = name.partition(".")
            if not dot or not controller:
                raise SpecError(field, f"unified resource {name!r} must be in the form CONTROLLER.PARAMETER")
            # One line is one value: io.max takes a line for each device.
            for line in content.split("\n") if content else [""]:
                if line or not content:
                    self._add(Write(controller, name, line.encode("utf-8", "surrogateescape"), field))


THROTTLES = (
    ("throttleReadBpsDevice", b"rbps"),
    ("throttleWriteBpsDevice", b"wbps"),
    ("throttleReadIOPSDevice", b"riops"),
    ("throttleWriteIOPSDevice", b"wiops"),
)


def weight(shares: int) -> int:
    """cpu.shares as a cpu.weight: 2, 1024 and 262144 become 1, 100 and 10000, the least, usual and most of both.

    The exponent is the parabola through these three points. (The straight line of older runtimes gave 39 for 1024, less
    than every process outside of containers has.)
    """
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    from math import ceil, log2

    power = log2(shares)
    return ceil(10 ** ((power * power + 125 * power) / 612.0 - 7.0 / 34.0))


def io_weight(blkio: int) -> int:
    """A v1 weight (10 to 1000) on the scale of io.weight (1 to 10000)."""
    return 1 + (blkio - 10) * 9999 // 990


def _no_counterpart(name: str, instead: str) -> SpecError:
    return SpecError(FIELD + name, f"cannot be set on cgroup v2, which has nothing like it; {instead}")
