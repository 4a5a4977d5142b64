"""Noticing that the kernel killed a process of a container for lack of memory.

v1 signals an eventfd that was registered with memory.oom_control, for every OOM and once more when the cgroup goes
away. v2 changes memory.events, which inotify reports; when the cgroup goes away the watch is dropped (IN_IGNORED).
"""

from __future__ import annotations

import posix
import select
from _struct import unpack_from
from errno import ENOENT
from time import monotonic

from pyruntime.errors import RuntimeFailure
from pyruntime.kernel import cgroupfs
from pyruntime.kernel.cgroupfs import UNIFIED
from pyruntime.kernel.libc import as_int, errno, function

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyruntime.cgroups.manager import Manager

IN_MODIFY, IN_DELETE_SELF, IN_IGNORED = 0x2, 0x400, 0x8000
CLOSE_ON_EXEC = posix.O_CLOEXEC | posix.O_NONBLOCK


def open_v1(directory: str | None) -> int:
    """An eventfd that counts the OOM events of the memory cgroup `directory`. The caller closes it."""
    if not directory:
        raise RuntimeFailure("cannot watch for lack of memory: the container has no memory cgroup")
    try:
        control = posix.open(directory + "/memory.oom_control", cgroupfs.READ)
        try:
            event = posix.eventfd(0, CLOSE_ON_EXEC)
            cgroupfs.write(None, directory + "/cgroup.event_control", b"%d %d" % (event, control))
        finally:
            posix.close(control)
    except OSError as error:
        raise RuntimeFailure(f"cannot watch {directory} for lack of memory: {error.strerror}") from error
    return event


def open_v2(directory: str) -> int:
    """An inotify descriptor that reports changes of memory.events and the end of the cgroup. The caller closes it."""
    add_watch = function("inotify_add_watch", 3)
    watcher = as_int(function("inotify_init1", 1)(CLOSE_ON_EXEC))
    if watcher < 0:
        raise RuntimeFailure(f"cannot watch {directory} for lack of memory: inotify: {posix.strerror(errno())}")
    for name, mask in (("memory.events", IN_MODIFY), ("cgroup.events", IN_MODIFY)):
        path = f"{directory}/{name}".encode("utf-8", "surrogateescape")
        if not directory or add_watch(watcher, path, mask | IN_DELETE_SELF) < 0:
            posix.close(watcher)
            raise RuntimeFailure(
                f"cannot watch {directory}/{name} for lack of memory: is the memory controller enabled?"
            )
    return watcher


def watch(manager: Manager, timeout: float | None) -> Iterator[None]:
    """Yield at every OOM kill until the cgroup is gone (on v2: empty), or nothing happened for `timeout` seconds."""
    descriptor = manager.oom_event_fd()
    try:
        if manager.version == 2:
            yield from _watch_v2(descriptor, manager.paths[UNIFIED], timeout)
        else:
            yield from _watch_v1(descriptor, manager.paths["memory"], timeout)
    finally:
        posix.close(descriptor)


def _wait(descriptor: int, timeout: float | None) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    end = None if timeout is None else monotonic() + timeout
    while True:
        left = None if end is None else max(0.0, end - monotonic())
        if poll.poll(None if left is None else left * 1000):
            return True
        if left == 0:
            return False


def _watch_v1(descriptor: int, directory: str, timeout: float | None) -> Iterator[None]:
    while _wait(descriptor, timeout):
        count = int.from_bytes(posix.read(descriptor, 8), "little")
        if not cgroup_there(directory):
            return  # the last event is the removal
        for _ in range(count):
            yield


def _watch_v2(descriptor: int, directory: str, timeout: float | None) -> Iterator[None]:
    seen = _kills(directory)
    while _wait(descriptor, timeout):
        gone = False
        data = posix.read(descriptor, 4096)
        offset = 0
        while offset < len(data):
            _, mask, _, length = unpack_from("=iIII", data, offset)
            gone = gone or bool(mask & (IN_DELETE_SELF | IN_IGNORED))
            offset += 16 + length
        now = _kills(directory)
        for _ in range(now - seen):
            yield
        seen = max(seen, now)
        if gone or not _populated(directory):
            return


def _kills(directory: str) -> int:
    """How many processes were killed; memory.events also counts reclaim, which is nobody's death."""
    try:
        for line in cgroupfs.read(None, directory + "/memory.events").split(b"\n"):
            if line.startswith(b"oom_kill "):
                return int(line[9:])
    except OSError:
        pass
    return 0


def _populated(directory: str) -> bool:
    try:
        return b"populated 1" in cgroupfs.read(None, directory + "/cgroup.events")
    except OSError:
        return False


def cgroup_there(directory: str) -> bool:
    """Whether the cgroup exists."""
    try:
        posix.lstat(directory)
    except OSError as error:
        return error.errno != ENOENT
    return True
