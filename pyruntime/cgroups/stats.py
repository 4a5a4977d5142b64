"""What the `stats` collectors of both versions share: reading numbers, and runc's JSON in which zeros are left out."""

from __future__ import annotations

from pyruntime.kernel import cgroupfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

UNLIMITED = (1 << 64) - 1
"""How "max" is shown: the largest unsigned number."""


def text(directory: str, name: str) -> str:
    """The content of a control file; empty if it is not there (a controller, a kernel option, or the cgroup)."""
    try:
        return cgroupfs.read(None, f"{directory}/{name}").decode("utf-8", "replace")
    except OSError:
        return ""


def number(directory: str, name: str) -> int:
    """A file with one number, or "max"; 0 if it is not there."""
    word = text(directory, name).strip()
    return UNLIMITED if word == "max" else int(word or 0)


def table(directory: str, name: str) -> dict[str, int]:
    """A file of `key value` lines."""
    result = {}
    for line in text(directory, name).split("\n"):
        key, _, value = line.partition(" ")
        if value.isdigit():
            result[key] = int(value)
    return result


def cpu_list(words: str) -> list[int]:
    """A list such as 0-3,7 as numbers."""
    result: list[int] = []
    for part in words.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            result += range(int(first), int(last or first) + 1)
    return result


def filled(**values: Any) -> dict[str, Any]:
    """The values that are not zero or empty: those that `omitempty` leaves in."""
    return {key: value for key, value in values.items() if value}


def memory_entry(limit: int = 0, usage: int = 0, max: int = 0, failcnt: int = 0) -> dict[str, int]:
    """One of memory.usage, swap, kernel, kernelTCP."""
    return {"limit": limit, **filled(usage=usage, max=max), "failcnt": failcnt}


def io_entry(major: int, minor: int, operation: str, value: int) -> dict[str, Any]:
    """One line of a blkio table."""
    return filled(major=major, minor=minor, op=operation, value=value)


def pressure(directory: str, name: str) -> dict[str, Any] | None:
    """Pressure stall information (PSI): the share of time in percent, the total in microseconds. None without it."""
    result: dict[str, Any] = {}
    for line in text(directory, name).split("\n"):
        words = line.split()
        if not words:
            continue
        pairs = dict(word.split("=", 1) for word in words[1:])
        result[words[0]] = {
            **{key: float(pairs.get(key, 0)) for key in ("avg10", "avg60", "avg300")},
            "total": int(pairs.get("total", 0)),
        }
    return result or None


def huge_page_sizes() -> list[str]:
    """The huge page sizes of this machine as control files are named: 2MB, 1GB."""
    sizes = []
    for name in cgroupfs.children("/sys/kernel/mm/hugepages"):
        kilobytes = name.removeprefix("hugepages-").removesuffix("kB")
        if kilobytes.isdigit():
            size = int(kilobytes)
            for unit, factor in (("GB", 1 << 20), ("MB", 1 << 10), ("KB", 1)):
                if size >= factor:
                    sizes.append((size, f"{size // factor}{unit}"))
                    break
    return [name for _, name in sorted(sizes)]


def empty() -> dict[str, Any]:
    """A stats object in which nothing was counted."""
    nothing = memory_entry()
    return {
        "cpu": {"usage": {"kernel": 0, "user": 0}, "throttling": {}},
        "cpuset": dict.fromkeys(
            (
                "cpu_exclusive",
                "mem_hardwall",
                "mem_exclusive",
                "memory_migrate",
                "memory_spread_page",
                "memory_spread_slab",
                "memory_pressure",
                "sched_load_balance",
                "sched_relax_domain_level",
            ),
            0,
        ),
        "memory": {"usage": nothing, "swap": nothing, "kernel": nothing, "kernelTCP": nothing},
        "pids": {},
        "blkio": {},
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": None,
    }
