"""Processes by their number: who has it, and a hold on that one. See pidfd_open(2), pidfd_send_signal(2), proc(5).

Apart from kernel/processes.py because state, start, kill and delete need nothing else, and `_ctypes`, through which
all other system calls go, is a twelfth of their time.
"""

from __future__ import annotations

import posix

try:
    from _signal import pidfd_send_signal as _send_signal
    from posix import pidfd_open as _open
except ImportError:  # a Python that was built on a system older than Linux 5.3 runs on newer ones as well
    from pyruntime.kernel.libc import NR, syscall

    def _open(pid: int, flags: int = 0) -> int:
        return syscall(NR["pidfd_open"], pid, flags)

    def _send_signal(pidfd: int, signal: int, siginfo: None = None, flags: int = 0) -> None:
        syscall(NR["pidfd_send_signal"], pidfd, signal, siginfo, flags)


def pidfd_open(pid: int) -> int:
    """A descriptor that means this process and no later one with the same number."""
    try:
        return _open(pid, 0)
    except OSError as error:
        error.filename = "pidfd_open"
        raise


def pidfd_signal(pidfd: int, signal: int) -> None:
    """Send `signal` to the process of `pidfd`. Raises ProcessLookupError when it is gone."""
    try:
        _send_signal(pidfd, signal, None, 0)
    except OSError as error:
        error.filename = "pidfd_send_signal"
        raise


def start_time(pid: int) -> int:
    """When the process started, in clock ticks since boot, or 0 if it is gone or a zombie.

    Together with the pid this names a process for good: a reused pid has another start time. proc(5), field 22.
    """
    state, started = stat(pid)
    return 0 if state in (b"Z", b"X", b"") else started


def stat(pid: int) -> tuple[bytes, int]:
    """(state letter, start time) of a process; (b"", 0) if there is none. The name may hold spaces and parentheses.

    Raises OSError when it cannot be told (no descriptors left, say): not to know is not to be gone.
    """
    path = f"/proc/{pid}/stat"
    try:
        descriptor = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b"", 0
    try:
        text = posix.read(descriptor, 4096)
    except ProcessLookupError:
        return b"", 0
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        posix.close(descriptor)
    fields = text[text.rfind(b")") + 2 :].split(b" ")
    if len(fields) < 20:
        return b"", 0
    return fields[0], int(fields[19])
