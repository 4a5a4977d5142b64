"""What a new process gets from the caller of the runtime: descriptors, and perhaps a terminal."""

from __future__ import annotations

import posix

from pyruntime.container import report
from pyruntime.errors import RuntimeFailure
from pyruntime.kernel.processes import close_from

HOLES = 256  # descriptors that may be asked for without being there


def check_console(terminal: bool, console_socket: str | None, detached: bool) -> None:
    """The combinations that make no sense, in the words that engines know. Raises RuntimeFailure."""
    if terminal and detached and not console_socket:
        raise RuntimeFailure(
            "cannot allocate tty if runc will detach without setting console socket: use --console-socket"
        )
    if console_socket and not (terminal and detached):
        raise RuntimeFailure("cannot use console socket if runc will not detach or allocate tty")


def listen_fds() -> int:
    """How many sockets systemd passes to us for the container: sd_listen_fds(3)."""
    if posix.environ.get(b"LISTEN_PID", b"") != b"%d" % posix.getpid():
        return 0
    count = posix.environ.get(b"LISTEN_FDS", b"")
    return int(count) if count.isdigit() and len(count) < 6 else 0


def close_unknown(passed: int) -> None:
    """Close what a careless caller leaked to us, for good, before anything of the container exists (CVE-2024-21626).

    Where one of the descriptors to pass on is not there, nothing else may come to lie: its place is held by something
    that ends with execve. Raises RuntimeFailure for one that is missing among very many: that is a mistake.
    """
    holder = -1
    for number in range(3, 3 + passed):
        try:
            posix.fstat(number)
        except OSError:
            if passed > HOLES:
                raise RuntimeFailure(
                    f"unable to stat preserved-fd {number - 2} (of {passed}): bad file descriptor"
                ) from None
            if holder < 0:
                holder = posix.eventfd(0, posix.EFD_CLOEXEC)  # it takes the lowest number that is free
            if holder != number:
                posix.dup2(holder, number, False)
    log = report.descriptor
    if log > 2 + passed:
        close_from(3 + passed, log - 1)
        close_from(log + 1)
    else:
        close_from(3 + passed)
