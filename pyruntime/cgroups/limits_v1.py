"""`linux.resources` as writes to the control files of cgroup v1. Pure: nothing here touches a file.

A value of 0 stands for "unset" where 0 makes no sense as a limit, as in runc: engines fill their structures so.
"""

from __future__ import annotations

from pyruntime.cgroups import devices
from pyruntime.cgroups.limits import (
    ADVICE,
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
    from collections.abc import Sequence
    from typing import Any


class Limits:
    """The writes, in two parts: `early` ones must be in force before the first process enters."""

    __slots__ = ("early", "late")

    def __init__(self, resources: dict[str, Any], with_devices: bool = True) -> None:
        self.early: list[Group] = []
        self.late: list[Group] = []
        if resources.get("unified"):
            raise SpecError(
                FIELD + "unified",
                "invalid configuration: it is for cgroup v2, and this host runs its controllers on cgroup v1; "
                "use memory, cpu, pids, blockIO instead",
            )
        cpu = resources.get("cpu") or {}
        self._cpuset(cpu)
        self._realtime(cpu)
        self._memory(resources.get("memory") or {})
        self._cpu(cpu)
        limit = (resources.get("pids") or {}).get("limit")
        if limit is not None:
            value = b"max" if limit < 0 else number(limit or 1)  # see limits_v2: nobody can live with 0
            self.late.append([Write("pids", "pids.max", value, FIELD + "pids.limit")])
        self._block_io(resources.get("blockIO") or {})
        self._hugepages(resources.get("hugepageLimits") or ())
        self._network(resources.get("network") or {})
        for write in rdma(resources.get("rdma") or {}):
            self.late.append([write])
        if with_devices:
            for rule in devices.rules(resources):
                file = "devices.allow" if rule[0] else "devices.deny"
                self.late.append([Write("devices", file, devices.line(rule), devices.FIELD)])

    def _cpuset(self, cpu: dict[str, Any]) -> None:
        for key in ("cpus", "mems"):
            if cpu.get(key):
                value = cpu[key].encode()
                # A cpuset mounted with `noprefix` (Android) calls its files `cpus` and `mems`.
                write = Write("cpuset", f"cpuset.{key}", value, f"{FIELD}cpu.{key}", other=(key, value))
                self.early.append([write])

    def _realtime(self, cpu: dict[str, Any]) -> None:
        group = [
            Write("cpu", file, number(cpu[key]), f"{FIELD}cpu.{key}")
            for key, file in (("realtimePeriod", "cpu.rt_period_us"), ("realtimeRuntime", "cpu.rt_runtime_us"))
            if cpu.get(key)
        ]
        if group:
            self.early.append(group)

    def _memory(self, memory: dict[str, Any]) -> None:
        def write(file: str, value: int, key: str, *, need: int = MUST) -> Write:
            return Write("memory", "memory." + file, number(value), f"{FIELD}memory.{key}", need=need)

        check_swap(memory)
        if memory.get("useHierarchy") is not None:
            # Only an empty cgroup without children can change it, and since Linux 5.11 the only value is 1.
            self.early.append([write("use_hierarchy", int(memory["useHierarchy"]), "useHierarchy")])
        if memory.get("kernel"):
            # Worked before Linux 5.16, is refused by 6.1, and is taken without effect by later ones.
            self.early.append([write("kmem.limit_in_bytes", memory["kernel"], "kernel", need=ADVICE)])
        limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
        group = []
        if limit == -1 and not swap:
            # "No memory limit" cannot hold while memory plus swap is limited.
            group.append(write("memsw.limit_in_bytes", -1, "swap", need=OPTIONAL))
        if limit:
            group.append(write("limit_in_bytes", limit, "limit"))
        if swap:
            group.append(write("memsw.limit_in_bytes", swap, "swap"))
        if group:
            self.late.append(group)
        if memory.get("reservation"):
            self.late.append([write("soft_limit_in_bytes", memory["reservation"], "reservation")])
        if memory.get("kernelTCP"):
            self.late.append([write("kmem.tcp.limit_in_bytes", memory["kernelTCP"], "kernelTCP")])
        oom = memory.get("disableOOMKiller")
        if oom is not None:
            # Inherited from the cgroup above, so false is worth writing; but nobody asks for anything with it.
            self.late.append([write("oom_control", int(oom), "disableOOMKiller", need=MUST if oom else OPTIONAL)])
        swappiness = check_swappiness(memory)
        if swappiness is not None:
            self.late.append([write("swappiness", swappiness, "swappiness")])

    def _cpu(self, cpu: dict[str, Any]) -> None:
        def write(file: str, key: str, *, need: int = MUST) -> Write:
            return Write("cpu", "cpu." + file, number(cpu[key]), f"{FIELD}cpu.{key}", need=need)

        shares = cpu.get("shares")
        group = []
        if shares:
            # The kernel would quietly use the nearest value that it likes.
            if shares < 2:
                raise SpecError(FIELD + "cpu.shares", f"the minimum allowed cpu-shares is 2, got {shares}")
            if shares > 262144:
                raise SpecError(FIELD + "cpu.shares", f"the maximum allowed cpu-shares is 262144, got {shares}")
            group.append(write("shares", "shares"))
        if cpu.get("idle") is not None:
            group.append(write("idle", "idle"))  # an idle group refuses shares
        if group:
            self.late.append(group)
        check_burst(cpu)
        group = []
        if cpu.get("period"):
            group.append(write("cfs_period_us", "period"))
        if cpu.get("burst") is not None:
            # Linux 5.14; a burst of 0 asks for what older kernels do anyway.
            group.append(write("cfs_burst_us", "burst", need=MUST if cpu["burst"] else OPTIONAL))
        if cpu.get("quota"):
            group.append(write("cfs_quota_us", "quota"))
        if group:
            self.late.append(group)

    def _block_io(self, block: dict[str, Any]) -> None:
        def write(file: str, other: str, value: bytes, where: str) -> None:
            instead = (other, value) if other else None
            self.late.append([Write("blkio", "blkio." + file, value, field + where, other=instead)])

        field = FIELD + "blockIO."
        check_weights(block)
        if block.get("weight"):
            # CFQ had blkio.weight; it went in Linux 5.0, and BFQ calls its own one so.
            write("weight", "blkio.bfq.weight", number(block["weight"]), "weight")
        if block.get("leafWeight"):
            write("leaf_weight", "", number(block["leafWeight"]), "leafWeight")
        for index, entry in enumerate(block.get("weightDevice") or ()):
            for key, file in (("weight", "weight_device"), ("leafWeight", "leaf_weight_device")):
                if entry.get(key):
                    value = b"%d:%d %d" % (entry["major"], entry["minor"], entry[key])
                    write(file, "blkio.bfq." + file, value, f"weightDevice[{index}].{key}")
        for key, file in THROTTLES:
            for index, entry in enumerate(block.get(key) or ()):
                value = b"%d:%d %d" % (entry["major"], entry["minor"], entry["rate"])
                write("throttle." + file, "", value, f"{key}[{index}]")

    def _hugepages(self, limits: Sequence[dict[str, Any]]) -> None:
        for index, entry in enumerate(limits):
            field = f"{FIELD}hugepageLimits[{index}]"
            size = page_size(entry["pageSize"], field)
            value = number(entry["limit"])
            self.late.append([Write("hugetlb", f"hugetlb.{size}.limit_in_bytes", value, field)])
            # Accounting of reservations came with Linux 5.7.
            self.late.append([Write("hugetlb", f"hugetlb.{size}.rsvd.limit_in_bytes", value, field, need=OPTIONAL)])

    def _network(self, network: dict[str, Any]) -> None:
        field = FIELD + "network."
        if network.get("classID"):
            self.late.append([Write("net_cls", "net_cls.classid", number(network["classID"]), field + "classID")])
        for index, entry in enumerate(network.get("priorities") or ()):
            value = entry["name"].encode("utf-8", "surrogateescape") + b" %d" % entry["priority"]
            self.late.append([Write("net_prio", "net_prio.ifpriomap", value, f"{field}priorities[{index}]")])


THROTTLES = (
    ("throttleReadBpsDevice", "read_bps_device"),
    ("throttleWriteBpsDevice", "write_bps_device"),
    ("throttleReadIOPSDevice", "read_iops_device"),
    ("throttleWriteIOPSDevice", "write_iops_device"),
)
