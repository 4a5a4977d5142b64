"""What limits do to processes, not what stands in the control files."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.cgroups import Place, needs

KIB = 1024
BLOCK = 64 * KIB


def disk_of(path: Path) -> dict[str, int]:
    """The whole disk that holds `path`: only whole disks can be throttled."""
    number = path.stat().st_dev
    entry = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not entry.exists():
        pytest.skip(f"{path} is on no disk")
    entry = entry.resolve()
    if (entry / "partition").exists():
        entry = entry.parent
    major, minor = map(int, (entry / "dev").read_text().split(":"))
    return {"major": major, "minor": minor}


def past_the_cache(path: Path, count: int, flags: int) -> Callable[[], None]:
    """Read or write `count` blocks of a file without the page cache."""

    def work() -> None:
        with mmap.mmap(-1, BLOCK) as aligned:
            descriptor = os.open(path, flags | os.O_DIRECT)
            for number in range(count):
                if flags & os.O_WRONLY:
                    os.pwrite(descriptor, aligned, number * BLOCK)
                else:
                    os.preadv(descriptor, [aligned], number * BLOCK)

    return work


def seconds(place: Place, resources: dict[str, Any], work: Callable[[], None]) -> float:
    """How long `work` takes a process in a cgroup with these resources."""
    one = place.made(resources)
    go, start = os.pipe()

    def when_told() -> None:
        os.read(go, 1)
        work()

    pid = place.run(when_told)
    one.add(pid)
    began = time.monotonic()
    os.write(start, b".")
    assert place.wait(pid) == 0
    took = time.monotonic() - began
    os.close(go)
    os.close(start)
    one.destroy()
    return took


@pytest.mark.parametrize(
    ("name", "rate", "writes"),
    [
        ("throttleReadBpsDevice", 16 * BLOCK, False),
        ("throttleReadIOPSDevice", 16, False),
        ("throttleWriteBpsDevice", 16 * BLOCK, True),
        ("throttleWriteIOPSDevice", 16, True),
    ],
)
def test_io_is_slowed_down(native: Place, tmp_path: Path, name: str, rate: int, writes: bool) -> None:
    """16 blocks a second are let through; 32 blocks take a second more than the first 16, which may come at once."""
    needs("blkio")
    file = tmp_path / "file"
    file.write_bytes(os.urandom(BLOCK) * 32)
    os.sync()
    flags = os.O_WRONLY if writes else os.O_RDONLY
    try:
        os.close(os.open(file, flags | os.O_DIRECT))
    except OSError:
        pytest.skip("the file system of the tests has no direct I/O")
    work = past_the_cache(file, 32, flags)
    limit = {"blockIO": {name: [{**disk_of(file), "rate": rate}]}}
    assert seconds(native, limit, work) > 0.9
    other = name.replace("Read", "Write") if "Read" in name else name.replace("Write", "Read")
    free = {"blockIO": {other: limit["blockIO"][name]}}
    assert any(seconds(native, free, work) < 0.9 for _ in range(3)), "the other direction is free"


def test_shares_divide_a_cpu(native: Place) -> None:
    """Two processes that want all of one CPU get it 8 to 1, whatever else the machine does."""
    needs("cpu")
    cpu = max(os.sched_getaffinity(0))
    used: dict[int, float] = {}
    go, start = os.pipe()
    told, tell = os.pipe()

    def spin() -> None:
        os.sched_setaffinity(0, {cpu})
        os.read(go, 1)
        end = time.monotonic() + 1
        while time.monotonic() < end:
            pass
        os.write(tell, f"{os.getpid()} {time.process_time()}\n".encode())

    shares = {}
    for share in (2048, 256):
        pid = native.run(spin)
        native.made({"cpu": {"shares": share}}, f"/{share}").add(pid)
        shares[pid] = share
    os.write(start, b"..")
    assert [native.wait(pid) for pid in shares] == [0, 0]
    for line in os.read(told, 1000).decode().splitlines():
        pid_text, time_text = line.split()
        used[shares[int(pid_text)]] = float(time_text)
    for descriptor in (go, start, told, tell):
        os.close(descriptor)
    if sum(used.values()) > 1.5:
        pytest.skip("one processor gave two programs a second each in one second: an emulator's idea of time")
    assert used[2048] / used[256] > 4, used


def test_the_last_process_that_memory_has_no_room_for(native: Place) -> None:
    """A process below the limit lives, one above it is killed."""
    needs("memory")

    def fill(mib: int) -> Callable[[], None]:
        return lambda: os._exit(0 if bytearray(os.urandom(KIB)) * (mib * KIB) else 1)

    one = native.made({"memory": {"limit": 64 * KIB * KIB, "swap": 64 * KIB * KIB}})
    for mib, status in ((8, 0), (128, -9)):
        go, start = os.pipe()
        work = fill(mib)

        def when_told(go: int = go, work: Callable[[], None] = work) -> None:
            os.read(go, 1)
            work()

        pid = native.run(when_told)
        one.add(pid)
        os.write(start, b".")
        assert native.wait(pid) == status
        os.close(go)
        os.close(start)
