"""What engines get from a new process: the terminal's master side, a pidfd, the pid in a file."""

from __future__ import annotations

import _socket
import posix
import stat as modes
from _struct import pack

from pyruntime.container.directories import write_file
from pyruntime.errors import RuntimeFailure

SOL_SOCKET, SCM_RIGHTS = 1, 1


def connect(path: str) -> _socket.socket:
    """A stream connection to the Unix socket at `path`. Raises RuntimeFailure."""
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        # sun_path holds 107 bytes; engines use longer paths, and the name of an open descriptor is short.
        descriptor = posix.open(path, posix.O_PATH | posix.O_CLOEXEC)
        try:
            if not modes.S_ISSOCK(posix.fstat(descriptor).st_mode):
                raise RuntimeFailure(f"{path} is not a Unix socket")
            connection.connect(f"/proc/self/fd/{descriptor}")
        finally:
            posix.close(descriptor)
    except OSError as error:
        connection.close()
        raise RuntimeFailure(f"dial unix {path}: {(error.strerror or '').lower()}") from None
    return connection


def send_descriptor(path: str, descriptor: int, label: bytes) -> None:
    """Send one descriptor with one message and hang up: that is what engines read."""
    connection = connect(path)
    try:
        connection.sendmsg([label], [(SOL_SOCKET, SCM_RIGHTS, pack("i", descriptor))])
    except OSError as error:
        raise RuntimeFailure(f"cannot send a descriptor to {path}: {(error.strerror or '').lower()}") from None
    finally:
        connection.close()


def send_console(path: str, master: int) -> None:
    """Send the master side of a terminal."""
    send_descriptor(path, master, b"/dev/ptmx")


def write_pid(path: str, pid: int) -> None:
    """The pid in decimal, without a newline, renamed over whatever is at `path`."""
    try:
        # The umask of the caller decides about the mode, as for any file that a program makes for its caller.
        write_file(path, b"%d" % pid, 0o666)
    except OSError as error:
        raise RuntimeFailure(f"cannot write the pid file {path}: {(error.strerror or '').lower()}") from None
