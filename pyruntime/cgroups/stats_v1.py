"""The numbers of a container's cgroups on v1, as `events --stats` prints them."""

from __future__ import annotations

from pyruntime.cgroups.stats import (
    UNLIMITED,
    cpu_list,
    empty,
    filled,
    huge_page_sizes,
    io_entry,
    memory_entry,
    number,
    table,
    text,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NANOSECONDS_PER_TICK = 10_000_000  # cpuacct.stat counts in USER_HZ, which is 100 on every Linux


def collect(paths: dict[str, str]) -> dict[str, Any]:
    """The `data` of a stats event. `paths` are those of Manager.paths."""
    result = empty()
    if "cpuacct" in paths:
        result["cpu"]["usage"] = _usage(paths["cpuacct"])
    if "cpu" in paths:
        stat = table(paths["cpu"], "cpu.stat")
        result["cpu"]["throttling"] = filled(
            periods=stat.get("nr_periods"),
            throttledPeriods=stat.get("nr_throttled"),
            throttledTime=stat.get("throttled_time"),
        )
    if "cpuset" in paths:
        result["cpuset"] = _cpuset(paths["cpuset"], result["cpuset"])
    if "memory" in paths:
        result["memory"] = _memory(paths["memory"])
    if "pids" in paths:
        limit = number(paths["pids"], "pids.max")
        result["pids"] = filled(current=number(paths["pids"], "pids.current"), limit=0 if limit == UNLIMITED else limit)
    if "blkio" in paths:
        result["blkio"] = _blkio(paths["blkio"])
    if "hugetlb" in paths:
        result["hugetlb"] = _hugetlb(paths["hugetlb"])
    return result


def _usage(directory: str) -> dict[str, Any]:
    kernel: list[int] = []
    user: list[int] = []
    for line in text(directory, "cpuacct.usage_all").split("\n")[1:]:
        words = line.split()
        if len(words) >= 3:
            user.append(int(words[1]))
            kernel.append(int(words[2]))
    ticks = table(directory, "cpuacct.stat")
    return {
        **filled(
            total=number(directory, "cpuacct.usage"),
            percpu=[int(word) for word in text(directory, "cpuacct.usage_percpu").split()],
            percpu_kernel=kernel,
            percpu_user=user,
        ),
        "kernel": ticks.get("system", 0) * NANOSECONDS_PER_TICK,
        "user": ticks.get("user", 0) * NANOSECONDS_PER_TICK,
    }


def _cpuset(directory: str, keys: dict[str, int]) -> dict[str, Any]:
    prefix = "cpuset." if text(directory, "cpuset.cpus") else ""  # mounted with `noprefix` otherwise
    return {
        **filled(cpus=cpu_list(text(directory, prefix + "cpus")), mems=cpu_list(text(directory, prefix + "mems"))),
        **{key: number(directory, prefix + key) for key in keys},
    }


def _memory(directory: str) -> dict[str, Any]:
    raw = table(directory, "memory.stat")
    entries = {}
    for key, kind in (("usage", ""), ("swap", "memsw."), ("kernel", "kmem."), ("kernelTCP", "kmem.tcp.")):
        prefix = "memory." + kind
        entries[key] = memory_entry(
            limit=number(directory, prefix + "limit_in_bytes"),
            usage=number(directory, prefix + "usage_in_bytes"),
            max=number(directory, prefix + "max_usage_in_bytes"),
            failcnt=number(directory, prefix + "failcnt"),
        )
    return {**filled(cache=raw.get("cache")), **entries, **filled(raw=raw)}


# What the I/O schedulers and the throttling layer count, best source first. A later one is used where the first file
# of the one before does not exist or is empty.
_SOURCES: tuple[tuple[tuple[str, str], ...], ...] = (
    (
        ("blkio.bfq.sectors_recursive", "sectorsRecursive"),
        ("blkio.bfq.io_service_time_recursive", "ioServiceTimeRecursive"),
        ("blkio.bfq.io_wait_time_recursive", "ioWaitTimeRecursive"),
        ("blkio.bfq.io_merged_recursive", "ioMergedRecursive"),
        ("blkio.bfq.io_queued_recursive", "ioQueueRecursive"),
        ("blkio.bfq.time_recursive", "ioTimeRecursive"),
        ("blkio.bfq.io_serviced_recursive", "ioServicedRecursive"),
        ("blkio.bfq.io_service_bytes_recursive", "ioServiceBytesRecursive"),
    ),
    (
        ("blkio.bfq.io_serviced_recursive", "ioServicedRecursive"),
        ("blkio.bfq.io_service_bytes_recursive", "ioServiceBytesRecursive"),
    ),
    (
        ("blkio.sectors_recursive", "sectorsRecursive"),
        ("blkio.io_service_time_recursive", "ioServiceTimeRecursive"),
        ("blkio.io_wait_time_recursive", "ioWaitTimeRecursive"),
        ("blkio.io_merged_recursive", "ioMergedRecursive"),
        ("blkio.io_queued_recursive", "ioQueueRecursive"),
        ("blkio.time_recursive", "ioTimeRecursive"),
        ("blkio.io_serviced_recursive", "ioServicedRecursive"),
        ("blkio.io_service_bytes_recursive", "ioServiceBytesRecursive"),
    ),
    (
        ("blkio.throttle.io_serviced_recursive", "ioServicedRecursive"),
        ("blkio.throttle.io_service_bytes_recursive", "ioServiceBytesRecursive"),
    ),
    (
        ("blkio.throttle.io_serviced", "ioServicedRecursive"),
        ("blkio.throttle.io_service_bytes", "ioServiceBytesRecursive"),
    ),
)


def _blkio(directory: str) -> dict[str, Any]:
    for source in _SOURCES:
        tables = {key: _io_table(text(directory, file)) for file, key in source}
        if tables[source[0][1]]:
            return filled(**tables)
    return {}


def _io_table(content: str) -> list[dict[str, Any]]:
    """Lines of `MAJOR:MINOR OPERATION VALUE` or `MAJOR:MINOR VALUE`; the last one is a total of all devices."""
    result = []
    for line in content.split("\n"):
        words = line.replace(":", " ").split()
        if len(words) == 4:
            result.append(io_entry(int(words[0]), int(words[1]), words[2], int(words[3])))
        elif len(words) == 3:
            result.append(io_entry(int(words[0]), int(words[1]), "", int(words[2])))
    return result


def _hugetlb(directory: str) -> dict[str, Any]:
    result = {}
    for size in huge_page_sizes():
        prefix = f"hugetlb.{size}.rsvd."
        if not text(directory, prefix + "usage_in_bytes"):
            prefix = f"hugetlb.{size}."
        result[size] = {
            **filled(
                usage=number(directory, prefix + "usage_in_bytes"),
                max=number(directory, prefix + "max_usage_in_bytes"),
            ),
            "failcnt": number(directory, prefix + "failcnt"),
        }
    return result
