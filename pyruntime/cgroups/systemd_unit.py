"""What a container is to systemd: the names of its unit and slice, and its limits as unit properties. Pure.

systemd applies what it knows of to the cgroup itself, again and again (at every daemon-reload), so it must know the
limits: it would write its own defaults over those that only the cgroup files have. See org.freedesktop.systemd1(5),
systemd.resource-control(5).
"""

from __future__ import annotations

from pyruntime.cgroups.dbus_wire import Variant
from pyruntime.cgroups.limits import FIELD
from pyruntime.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

Properties = list[tuple[str, Variant]]

INFINITY = (1 << 64) - 1
DEFAULT_PERIOD = 100_000  # microseconds, of the kernel's cpu controller
ANNOTATION = "org.systemd.property."

# The systemd versions that brought a property.
CPU_QUOTA_PERIOD, ALLOWED_CPUS, CPU_IDLE, OOM_POLICY = 242, 244, 252, 253


def names(container_id: str, cgroups_path: str | None, rootless: bool) -> tuple[str, str]:
    """The unit and its slice, from linux.cgroupsPath in the form `slice:prefix:name`. Raises SpecError."""
    slice_name, prefix, name = "", "runc", container_id
    if cgroups_path:
        parts = cgroups_path.split(":")
        if len(parts) != 3:
            raise SpecError(
                "",
                'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, '
                f'got "{cgroups_path}" instead',
            )
        slice_name, prefix, name = parts
        if not name:
            raise SpecError("linux.cgroupsPath", f"{cgroups_path!r} has no name after the last colon")
    slice_name = slice_name or ("user.slice" if rootless else "system.slice")
    unit = name if name.endswith(".slice") else f"{prefix}-{name}.scope"
    if len(unit) > 255 or not all(c.isascii() and (c.isalnum() or c in ":-_.\\@") for c in unit):
        raise SpecError("linux.cgroupsPath", f"{unit!r} cannot be the name of a systemd unit")
    expand(slice_name)
    return unit, slice_name


def expand(slice_name: str) -> str:
    """The cgroup of a slice: `a-b.slice` lies in `/a.slice/a-b.slice`, and `-.slice` is the root, an empty path."""
    stem = slice_name.removesuffix(".slice")
    if stem == slice_name or "/" in slice_name:
        raise SpecError("linux.cgroupsPath", f"invalid slice name: {slice_name}")
    if stem == "-":
        return ""
    path, prefix = "", ""
    for part in stem.split("-"):
        if not part:
            raise SpecError("linux.cgroupsPath", f"invalid slice name: {slice_name}")
        path += f"/{prefix}{part}.slice"
        prefix += part + "-"
    return path


def annotated(annotations: dict[str, str]) -> Properties:
    """The properties that `org.systemd.property.*` annotations add. Raises SpecError."""
    result: Properties = []
    for key, text in annotations.items():
        if not key.startswith(ANNOTATION):
            continue
        name = key.removeprefix(ANNOTATION)
        if len(name) < 3 or not (name.isascii() and name.isalpha()):
            raise SpecError(f"annotations[{key!r}]", "a property name is made of letters, three at least")
        from pyruntime.cgroups.gvariant import parse

        try:
            value = parse(text)
        except ValueError as error:
            raise SpecError(f"annotations[{key!r}]", f"is no value in GVariant text form: {error}") from error
        if len(name) > 3 and name.endswith("Sec") and name[-4].islower():
            # Unit files have TimeoutStopSec, the bus has TimeoutStopUSec.
            if value.signature not in "ynqiuxtd" or value.value < 0:
                raise SpecError(f"annotations[{key!r}]", f"must be a number of seconds, got {text!r}")
            name = name.removesuffix("Sec") + "USec"
            value = Variant("t", int(value.value * 1_000_000))
        result.append((name, value))
    return result


def identity(unit: str, slice_name: str, pid: int, accounting: str) -> Properties:
    """What makes the unit what it is. `accounting` is "IO" on cgroup v2 and "BlockIO" on v1."""
    result: Properties = [("Description", Variant("s", f"container {unit.rpartition('.')[0]}"))]
    if unit.endswith(".slice"):
        result.append(("Wants", Variant("as", [slice_name])))
    else:
        result += [
            ("Slice", Variant("s", slice_name)),
            ("Delegate", Variant("b", True)),
            ("PIDs", Variant("au", [pid])),
        ]
    result += [(f"{name}Accounting", Variant("b", True)) for name in ("Memory", "CPU", accounting, "Tasks")]
    result.append(("DefaultDependencies", Variant("b", False)))
    return result


def without_weight(resources: dict[str, Any], version: int) -> tuple[dict[str, Any], str]:
    """`resources` without a weight that goes with cpu.idle, and what to say about it ("" when there is none).

    systemd has one property for both, and the kernel refuses a weight for a group that is idle. cgroup v2 only.
    """
    if version < CPU_IDLE:
        return resources, ""
    warning = ""
    cpu = resources.get("cpu") or {}
    if cpu.get("idle") == 1 and cpu.get("shares"):
        resources = {**resources, "cpu": {key: value for key, value in cpu.items() if key != "shares"}}
        warning = "unable to apply both cpu.shares and cpu.idle to systemd, ignoring cpu.shares"
    files = resources.get("unified") or {}
    if files.get("cpu.idle", "").strip() == "1" and "cpu.weight" in files:
        resources = {**resources, "unified": {key: value for key, value in files.items() if key != "cpu.weight"}}
        warning = "unable to apply both cpu.weight and cpu.idle to systemd, ignoring cpu.weight"
    return resources, warning


def limits(resources: dict[str, Any], version: int, unified: bool) -> Properties:
    """The limits that systemd knows of. `version` is systemd's; `unified` says cgroup v2."""
    cpu, memory = resources.get("cpu") or {}, resources.get("memory") or {}
    result: Properties = []
    result += _memory_v2(memory) if unified else _number("MemoryLimit", memory.get("limit") or None)
    idle = unified and cpu.get("idle") == 1 and version >= CPU_IDLE
    if idle:
        result += _number("CPUWeight", 0)
    elif cpu.get("shares"):
        from pyruntime.cgroups.limits_v2 import weight

        result += _number("CPUWeight", weight(cpu["shares"])) if unified else _number("CPUShares", cpu["shares"])
    result += quota(cpu.get("quota") or 0, cpu.get("period") or 0, version)
    blkio = (resources.get("blockIO") or {}).get("weight")
    if blkio:
        from pyruntime.cgroups.limits_v2 import io_weight

        result += _number("IOWeight", io_weight(blkio)) if unified else _number("BlockIOWeight", blkio)
    pids = (resources.get("pids") or {}).get("limit")
    if pids is not None:
        result += _number("TasksMax", pids or 1)  # systemd takes no 0
    if version >= ALLOWED_CPUS:
        for key, name in (("cpus", "AllowedCPUs"), ("mems", "AllowedMemoryNodes")):
            if cpu.get(key):
                result.append((name, Variant("ay", list(bits(cpu[key], f"{FIELD}cpu.{key}")))))
    for name, content in (resources.get("unified") or {}).items():
        result += _unified(name, content.strip(), version)
    return result


def _number(name: str, value: int | None) -> Properties:
    """An unsigned 64-bit property; -1 stands for no limit."""
    return [] if value is None else [(name, Variant("t", INFINITY if value < 0 else value))]


def _memory_v2(memory: dict[str, Any]) -> Properties:
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    result = _number("MemoryMax", limit or None) + _number("MemoryLow", memory.get("reservation") or None)
    if swap == -1 or (limit == -1 and not swap):
        result += _number("MemorySwapMax", -1)
    elif swap > 0:
        result += _number("MemorySwapMax", swap if limit < 0 else swap - limit)
    return result


def quota(quota: int, period: int, version: int) -> Properties:
    """cpu.max in systemd's terms: microseconds of processor time per second.

    A unit file keeps the value in whole percent, so it is rounded up to one: a container below may then still have
    what it was promised.
    """
    result: Properties = []
    if period and version >= CPU_QUOTA_PERIOD:
        result += _number("CPUQuotaPeriodUSec", period)
    if quota > 0:
        per_second = quota * 1_000_000 // (period or DEFAULT_PERIOD)
        result += _number("CPUQuotaPerSecUSec", -(-per_second // 10_000) * 10_000)
    elif quota or period:
        result += _number("CPUQuotaPerSecUSec", -1)
    return result


def bits(text: str, field: str) -> bytes:
    """A list such as 0-3,7 as a bit mask, the least byte first."""
    mask = 0
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first and not dash:
            continue  # the kernel takes empty elements too
        try:
            low, high = int(first), int(last if dash else first)
        except ValueError:
            raise SpecError(field, f"{part!r} is no number and no range such as 0-3") from None
        if not 0 <= low <= high < 1 << 16:
            raise SpecError(field, f"{part!r} is no range of processors or memory nodes")
        mask |= ((1 << (high - low + 1)) - 1) << low
    if not mask:
        raise SpecError(field, "names no processor or memory node")
    return mask.to_bytes((mask.bit_length() + 7) // 8, "little")


_UNIFIED = {
    "memory.high": "MemoryHigh",
    "memory.low": "MemoryLow",
    "memory.min": "MemoryMin",
    "memory.max": "MemoryMax",
    "memory.swap.max": "MemorySwapMax",
    "pids.max": "TasksMax",
    "cpu.weight": "CPUWeight",
    "io.weight": "IOWeight",
}


def _unified(name: str, content: str, version: int) -> Properties:
    """A cgroup file of linux.resources.unified as a property, if systemd has one for it.

    Whatever is no plain number is left to the cgroup file, where the kernel judges it.
    """
    words = content.split()
    if name in _UNIFIED and len(words) == 1 and (words[0] == "max" or words[0].isdigit()):
        value = -1 if words[0] == "max" else int(words[0])
        return _number(_UNIFIED[name], 1 if name == "pids.max" and value == 0 else value)
    if name == "cpu.idle" and content == "1" and version >= CPU_IDLE:
        return _number("CPUWeight", 0)
    if name == "cpu.max" and words and all(word == "max" or word.isdigit() for word in words[:2]):
        limit = -1 if words[0] == "max" else int(words[0])
        return quota(limit, int(words[1]) if len(words) > 1 and words[1].isdigit() else 0, version)
    if name in ("cpuset.cpus", "cpuset.mems") and content and version >= ALLOWED_CPUS:
        kind = "AllowedCPUs" if name == "cpuset.cpus" else "AllowedMemoryNodes"
        return [(kind, Variant("ay", list(bits(content, f"{FIELD}unified.{name}"))))]
    return []


def oom_policy(resources: dict[str, Any], version: int) -> Properties:
    """memory.oom.group, which systemd takes only when the unit starts."""
    group = (resources.get("unified") or {}).get("memory.oom.group", "").strip()
    if group in ("0", "1") and version >= OOM_POLICY:
        return [("OOMPolicy", Variant("s", "kill" if group == "1" else "continue"))]
    return []


def device_policy(rules: list[tuple[bool, str, int, int, str]]) -> Properties:
    """The device rules for cgroup v1, where systemd would allow everything again at its next reload.

    systemd has a list of allowed devices only. What it cannot say (a list of denied ones, any major with one minor) is
    in the cgroup files all the same, until that reload.
    """
    from pyruntime.cgroups.devices import ANY, DeviceList

    devices = DeviceList(rules)
    allowed: list[tuple[str, str]] = []
    if devices.allow:
        policy = "strict" if devices.exceptions else "auto"
    else:
        policy = "strict"
        for (kind, major, minor), access in devices.exceptions.items():
            group = "block" if kind == "b" else "char"
            if major == ANY and minor == ANY:
                allowed.append((group + "-*", access))
            elif major != ANY:
                allowed.append((f"{group}-{major}" if minor == ANY else f"/dev/{group}/{major}:{minor}", access))
    empty: Properties = [("DeviceAllow", Variant("a(ss)", []))]  # takes away what the unit may have had
    result = [*empty, ("DevicePolicy", Variant("s", policy))]
    return [*result, ("DeviceAllow", Variant("a(ss)", allowed))] if allowed else result
