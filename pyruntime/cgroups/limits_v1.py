"""`linux.resources` as writes to the control files of cgroup v1.

Pure: nothing here touches a file. What depends on the kernel (a file that has two names, values that must be written
in an order that depends on the old ones) is left to the driver by the form of a write.
"""

from __future__ import annotations

from pyruntime.cgroups import devices
from pyruntime.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

FIELD = "linux.resources."

MUST = 0
OPTIONAL = 1  # a missing file is fine
ADVICE = 2  # any refusal is only worth a warning


class Write:
    """One value for one control file."""

    __slots__ = ("controller", "field", "files", "need", "value")

    def __init__(self, controller: str, files: tuple[str, ...], value: bytes, field: str, need: int = MUST) -> None:
        self.controller = controller
        self.files = files  # the names that the file has in one kernel or another, the usual one first
        self.value = value
        self.field = field
        self.need = need

    def describe(self) -> str:
        return f"write {self.value.decode('utf-8', 'replace')} to {self.files[0]} ({self.field})"


# Values in one group depend on each other (a limit of memory plus swap is never below the one of memory): whichever
# the kernel refuses with EINVAL is tried again after the others, so raising and lowering both work.
Group = list[Write]


def number(value: int) -> bytes:
    return b"%d" % value


class Limits:
    """The writes, in two parts: `early` ones must be in force before the first process enters."""

    __slots__ = ("early", "late")

    def __init__(self, resources: dict[str, Any], with_devices: bool = True) -> None:
        self.early: list[Group] = []
        self.late: list[Group] = []
        if resources.get("unified"):
            raise SpecError(
                FIELD + "unified",
                "is for cgroup v2, and this host runs its controllers on cgroup v1; "
                "use memory, cpu, pids, blockIO instead",
            )
        cpu = resources.get("cpu") or {}
        self._cpuset(cpu)
        self._realtime(cpu)
        self._memory(resources.get("memory") or {})
        self._cpu(cpu)
        limit = (resources.get("pids") or {}).get("limit")
        if limit is not None:
            value = b"max" if limit < 0 else number(limit)
            self.late.append([Write("pids", ("pids.max",), value, FIELD + "pids.limit")])
        self._block_io(resources.get("blockIO") or {})
        self._hugepages(resources.get("hugepageLimits") or ())
        self._network(resources.get("network") or {})
        for write in rdma(resources.get("rdma") or {}):
            self.late.append([write])
        if with_devices:
            for rule in devices.rules(resources):
                file = "devices.allow" if rule[0] else "devices.deny"
                self.late.append([Write("devices", (file,), devices.line(rule), devices.FIELD)])

    def _cpuset(self, cpu: dict[str, Any]) -> None:
        for key in ("cpus", "mems"):
            if cpu.get(key):
                # A cpuset mounted with `noprefix` (Android) calls its files `cpus` and `mems`.
                files = (f"cpuset.{key}", key)
                self.early.append([Write("cpuset", files, cpu[key].encode(), f"{FIELD}cpu.{key}")])

    def _realtime(self, cpu: dict[str, Any]) -> None:
        group = []
        if cpu.get("realtimePeriod"):
            group.append(
                Write("cpu", ("cpu.rt_period_us",), number(cpu["realtimePeriod"]), FIELD + "cpu.realtimePeriod")
            )
        if cpu.get("realtimeRuntime"):
            group.append(
                Write("cpu", ("cpu.rt_runtime_us",), number(cpu["realtimeRuntime"]), FIELD + "cpu.realtimeRuntime")
            )
        if group:
            self.early.append(group)

    def _memory(self, memory: dict[str, Any]) -> None:
        def write(file: str, value: int, key: str, need: int = MUST) -> Write:
            return Write("memory", ("memory." + file,), number(value), f"{FIELD}memory.{key}", need)

        if memory.get("useHierarchy") is not None:
            # Only an empty cgroup without children can change it, and since Linux 5.11 the only value is 1.
            self.early.append([write("use_hierarchy", int(memory["useHierarchy"]), "useHierarchy")])
        if memory.get("kernel"):
            # Worked before Linux 5.16, is refused by 6.1, and is taken without effect by later ones.
            self.early.append([write("kmem.limit_in_bytes", memory["kernel"], "kernel", ADVICE)])
        limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
        group = []
        if limit == -1 and not swap:
            # "No memory limit" cannot hold while memory plus swap is limited.
            group.append(write("memsw.limit_in_bytes", -1, "swap", OPTIONAL))
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
            self.late.append([write("oom_control", int(oom), "disableOOMKiller", MUST if oom else OPTIONAL)])
        swappiness = memory.get("swappiness")
        if swappiness is not None and swappiness != -1:
            if not 0 <= swappiness <= 100:
                raise SpecError(FIELD + "memory.swappiness", f"must be from 0 to 100, got {swappiness}")
            self.late.append([write("swappiness", swappiness, "swappiness")])

    def _cpu(self, cpu: dict[str, Any]) -> None:
        def write(file: str, key: str, need: int = MUST) -> Write:
            return Write("cpu", ("cpu." + file,), number(cpu[key]), f"{FIELD}cpu.{key}", need)

        shares = cpu.get("shares")
        if shares:
            # The kernel would quietly use the nearest value that it likes.
            if shares < 2:
                raise SpecError(FIELD + "cpu.shares", f"the minimum allowed cpu-shares is 2, got {shares}")
            if shares > 262144:
                raise SpecError(FIELD + "cpu.shares", f"the maximum allowed cpu-shares is 262144, got {shares}")
            self.late.append([write("shares", "shares")])
        check_burst(cpu)
        group = []
        if cpu.get("period"):
            group.append(write("cfs_period_us", "period"))
        if cpu.get("burst") is not None:
            # Linux 5.14; a burst of 0 asks for what older kernels do anyway.
            group.append(write("cfs_burst_us", "burst", MUST if cpu["burst"] else OPTIONAL))
        if cpu.get("quota"):
            group.append(write("cfs_quota_us", "quota"))
        if group:
            self.late.append(group)
        if cpu.get("idle") is not None:
            self.late.append([write("idle", "idle")])

    def _block_io(self, block: dict[str, Any]) -> None:
        field = FIELD + "blockIO."
        check_weights(block)
        if block.get("weight"):
            # CFQ had blkio.weight; it went in Linux 5.0, and BFQ calls its own one so.
            files = ("blkio.weight", "blkio.bfq.weight")
            self.late.append([Write("blkio", files, number(block["weight"]), field + "weight")])
        if block.get("leafWeight"):
            write = Write("blkio", ("blkio.leaf_weight",), number(block["leafWeight"]), field + "leafWeight")
            self.late.append([write])
        for index, entry in enumerate(block.get("weightDevice") or ()):
            where = f"{field}weightDevice[{index}]."
            for key, file in (("weight", "weight_device"), ("leafWeight", "leaf_weight_device")):
                if entry.get(key):
                    value = b"%d:%d %d" % (entry["major"], entry["minor"], entry[key])
                    self.late.append([Write("blkio", ("blkio." + file, "blkio.bfq." + file), value, where + key)])
        for key, file in THROTTLES:
            for index, entry in enumerate(block.get(key) or ()):
                value = b"%d:%d %d" % (entry["major"], entry["minor"], entry["rate"])
                self.late.append([Write("blkio", ("blkio.throttle." + file,), value, f"{field}{key}[{index}]")])

    def _hugepages(self, limits: Sequence[dict[str, Any]]) -> None:
        for index, entry in enumerate(limits):
            field = f"{FIELD}hugepageLimits[{index}]"
            size = page_size(entry["pageSize"], field)
            value = number(entry["limit"])
            self.late.append([Write("hugetlb", (f"hugetlb.{size}.limit_in_bytes",), value, field)])
            # Accounting of reservations came with Linux 5.7.
            self.late.append([Write("hugetlb", (f"hugetlb.{size}.rsvd.limit_in_bytes",), value, field, OPTIONAL)])

    def _network(self, network: dict[str, Any]) -> None:
        field = FIELD + "network."
        if network.get("classID"):
            write = Write("net_cls", ("net_cls.classid",), number(network["classID"]), field + "classID")
            self.late.append([write])
        for index, entry in enumerate(network.get("priorities") or ()):
            value = entry["name"].encode("utf-8", "surrogateescape") + b" %d" % entry["priority"]
            self.late.append([Write("net_prio", ("net_prio.ifpriomap",), value, f"{field}priorities[{index}]")])


THROTTLES = (
    ("throttleReadBpsDevice", "read_bps_device"),
    ("throttleWriteBpsDevice", "write_bps_device"),
    ("throttleReadIOPSDevice", "read_iops_device"),
    ("throttleWriteIOPSDevice", "write_iops_device"),
)


def check_burst(cpu: dict[str, Any]) -> None:
    """A burst is time saved from the quota, so it cannot be more than that (runtime spec, linux.resources.cpu)."""
    quota, burst = cpu.get("quota") or 0, cpu.get("burst") or 0
    if quota > 0 and burst > quota:
        raise SpecError(FIELD + "cpu.burst", f"{burst} is above cpu.quota, which is {quota}")


def check_weights(block: dict[str, Any]) -> None:
    """Weights are 10 to 1000 (0 stands for unset); a weightDevice has at least one."""
    field = FIELD + "blockIO."
    found = [(field + key, block.get(key)) for key in ("weight", "leafWeight")]
    for index, entry in enumerate(block.get("weightDevice") or ()):
        where = f"{field}weightDevice[{index}]"
        if entry.get("weight") is None and entry.get("leafWeight") is None:
            raise SpecError(where, "has neither weight nor leafWeight; give at least one")
        found += [(f"{where}.{key}", entry.get(key)) for key in ("weight", "leafWeight")]
    for where, value in found:
        if value and not 10 <= value <= 1000:
            raise SpecError(where, f"must be from 10 to 1000, got {value}")


def page_size(size: str, field: str) -> str:
    """`size` if it can be one of the kernel's names of huge page sizes: 64KB, 2MB, 1GB."""
    count = size[:-2]
    if size[-2:] not in ("KB", "MB", "GB") or not (count.isascii() and count.isdigit()) or count[0] == "0":
        raise SpecError(field + ".pageSize", f"must be a number and KB, MB or GB, such as 2MB, got {size!r}")
    if int(count) & (int(count) - 1):
        raise SpecError(field + ".pageSize", f"{size} is no page size of any machine: not a power of two")
    return size


def rdma(devices: dict[str, Any]) -> list[Write]:
    """linux.resources.rdma, the same in v1 and v2."""
    writes = []
    for name, limits in devices.items():
        field = f"{FIELD}rdma.{name}"
        value = name.encode("utf-8", "surrogateescape")
        if b" " in value or b"\n" in value:
            raise SpecError(field, "is no name of an RDMA device")
        given = [(key, word) for key, word in (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object"))
                 if limits.get(key) is not None]  # fmt: skip
        if not given:
            raise SpecError(field, "has neither hcaHandles nor hcaObjects; give at least one")
        for key, word in given:
            value += f" {word}={limits[key]}".encode()
        writes.append(Write("rdma", ("rdma.max",), value, field))
    return writes
