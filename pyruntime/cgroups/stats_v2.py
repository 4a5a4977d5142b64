"""The numbers of a container's cgroup on v2, in the v1 terms of `events --stats`."""

from __future__ import annotations

from pyruntime.cgroups.stats import (
    UNLIMITED,
    empty,
    filled,
    huge_page_sizes,
    io_entry,
    memory_entry,
    number,
    pressure,
    table,
    text,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NANOSECONDS = 1000  # v2 counts processor time in microseconds


def collect(directory: str) -> dict[str, Any]:
    """The `data` of a stats event."""
    result = empty()
    cpu = table(directory, "cpu.stat")
    result["cpu"] = {
        "usage": {
            **filled(total=cpu.get("usage_usec", 0) * NANOSECONDS),
            "kernel": cpu.get("system_usec", 0) * NANOSECONDS,
            "user": cpu.get("user_usec", 0) * NANOSECONDS,
        },
        "throttling": filled(
            periods=cpu.get("nr_periods"),
            throttledPeriods=cpu.get("nr_throttled"),
            throttledTime=cpu.get("throttled_usec", 0) * NANOSECONDS,
        ),
        **filled(psi=pressure(directory, "cpu.pressure")),
    }
    result["memory"] = {**_memory(directory), **filled(psi=pressure(directory, "memory.pressure"))}
    result["pids"] = _pids(directory)
    result["blkio"] = {**_io(directory), **filled(psi=pressure(directory, "io.pressure"))}
    result["hugetlb"] = _hugetlb(directory)
    return result


def _memory(directory: str) -> dict[str, Any]:
    raw = table(directory, "memory.stat")
    usage, limit = number(directory, "memory.current"), number(directory, "memory.max")
    swap, swap_limit = number(directory, "memory.swap.current"), number(directory, "memory.swap.max")
    return {
        **filled(cache=raw.get("file")),
        "usage": memory_entry(limit, usage, number(directory, "memory.peak")),
        # v1 counts memory and swap together; a peak of both together cannot be told from the two peaks.
        "swap": memory_entry(min(limit + swap_limit, UNLIMITED), usage + swap),
        "kernel": memory_entry(),
        "kernelTCP": memory_entry(),
        **filled(raw=raw),
    }


def _pids(directory: str) -> dict[str, Any]:
    current = text(directory, "pids.current").strip()
    if not current:  # without the controller, count what is in the cgroup itself
        words = text(directory, "cgroup.procs") or text(directory, "cgroup.threads")
        return filled(current=len(words.split()))
    limit = number(directory, "pids.max")
    return filled(current=int(current), limit=0 if limit == UNLIMITED else limit)


_TABLES = {
    "rbytes": ("ioServiceBytesRecursive", "Read"),
    "wbytes": ("ioServiceBytesRecursive", "Write"),
    "rios": ("ioServicedRecursive", "Read"),
    "wios": ("ioServicedRecursive", "Write"),
}


def _io(directory: str) -> dict[str, Any]:
    """io.stat has lines of `MAJOR:MINOR key=value ...`."""
    result: dict[str, Any] = {}
    for line in text(directory, "io.stat").split("\n"):
        device, _, rest = line.partition(" ")
        major, _, minor = device.partition(":")
        if not (major.isdigit() and minor.isdigit()):
            continue
        for word in rest.split():
            key, _, value = word.partition("=")
            if key in _TABLES and value.isdigit():
                name, operation = _TABLES[key]
                result.setdefault(name, []).append(io_entry(int(major), int(minor), operation, int(value)))
    return result


def _hugetlb(directory: str) -> dict[str, Any]:
    result = {}
    for size in huge_page_sizes():
        prefix = f"hugetlb.{size}"
        if not text(directory, prefix + ".max"):
            continue
        usage = number(directory, prefix + ".rsvd.current") or number(directory, prefix + ".current")
        result[size] = {**filled(usage=usage), "failcnt": table(directory, prefix + ".events").get("max", 0)}
    return result
