"""sd_notify(3) for a container in a systemd unit: its READY=1 is passed on to the service manager.

The manager's socket is not given to the container. It gets a socket of its own, in a directory of the state root that
is bound at /run/notify, and `start` waits there for the one message that matters.
"""

from __future__ import annotations

import _socket
import os
import select

from pyruntime.errors import RuntimeFailure

INSIDE = "/run/notify"
NAME = "notify.sock"
VARIABLE = f"NOTIFY_SOCKET={INSIDE}/{NAME}"


def directory(container: str) -> str:
    """Where the container's socket lies, by the container's state directory."""
    return f"{container}/notify"


def mount(container: str) -> dict[str, object]:
    """The mount entry that shows the directory to the container."""
    return {
        "destination": INSIDE,
        "type": "bind",
        "source": directory(container),
        "options": ["bind", "nosuid", "noexec", "nodev", "ro"],
    }


class Proxy:
    """Listens for the container, speaks to the service manager."""

    __slots__ = ("_host", "_socket")

    def __init__(self, container: str, host: str) -> None:
        """`host` is the manager's socket: a path, or `@` and an abstract name."""
        self._host = host
        path = f"{directory(container)}/{NAME}"
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        folder = os.open(directory(container), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                os.unlink(NAME, dir_fd=folder)
            except FileNotFoundError:
                pass
            # For anybody, as the container's user is. By the mask, not by chmod: root of a user namespace of ours may
            # write to the directory, and could put a link there between two calls.
            before = os.umask(0)
            try:
                self._socket.bind(f"/proc/self/fd/{folder}/{NAME}")  # the path may be longer than an address
            finally:
                os.umask(before)
        except OSError as error:
            raise RuntimeFailure(f"cannot make the notify socket {path}: {(error.strerror or '').lower()}") from None
        finally:
            os.close(folder)

    def forward(self, pid: int, pidfd: int = -1) -> None:
        """Wait until the container says READY, and say so to the manager; return at once when the container ends."""
        own = pidfd < 0
        try:
            watch = os.pidfd_open(pid) if own else pidfd
        except ProcessLookupError:
            return
        try:
            while True:
                ready, _, _ = select.select([self._socket.fileno(), watch], [], [])
                if self._socket.fileno() in ready:
                    lines = self._socket.recv(65536).split(b"\n")
                    if any(line.startswith(b"READY=") for line in lines):
                        self._tell(pid, next(line for line in lines if line.startswith(b"READY=")))
                        return
                elif watch in ready:
                    return
        finally:
            if own:
                os.close(watch)

    def _tell(self, pid: int, ready: bytes) -> None:
        address: str | bytes = b"\0" + self._host[1:].encode() if self._host.startswith("@") else self._host
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        try:
            connection.connect(address)
            connection.send(ready)
            connection.send(b"MAINPID=%d" % pid)
            self._barrier(connection)
        except OSError:
            pass  # nobody listens (any more): the container runs all the same
        finally:
            connection.close()

    @staticmethod
    def _barrier(connection: _socket.socket) -> None:
        """Wait until the manager has seen the messages: it closes a pipe then. See sd_notify_barrier(3)."""
        read, write = os.pipe()
        try:
            rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, write.to_bytes(4, "little"))]
            connection.sendmsg([b"BARRIER=1"], rights)
            os.close(write)
            write = -1
            select.select([read], [], [], 30)
        finally:
            os.close(read)
            if write >= 0:
                os.close(write)
