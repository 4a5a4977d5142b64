"""A terminal with somebody in front of it, and the socket of an engine that wants the container's terminal."""

from __future__ import annotations

import array
import fcntl
import os
import pty
import select
import socket
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Screen:
    """A pseudo-terminal. Programs started by `spawn` have it as their controlling terminal and standard streams."""

    def __init__(self, rows: int = 24, columns: int = 80) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(rows, columns)
        self.seen = b""
        self.processes: list[subprocess.Popen[bytes]] = []

    def spawn(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        def controlling() -> None:
            fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0)

        streams: dict[str, Any] = {"stdin": self.slave, "stdout": self.slave, "stderr": self.slave, **options}
        process = subprocess.Popen(argv, start_new_session=True, preexec_fn=controlling, **streams)
        self.processes.append(process)
        return process

    def resize(self, rows: int, columns: int) -> None:
        set_size(self.master, rows, columns)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def until(self, text: str, timeout: float = 10) -> str:
        """Read until `text` has appeared; what came before it and it are taken away."""
        self.seen = read_until(self.master, text, timeout, self.seen)
        before, found, self.seen = self.seen.partition(text.encode())
        return (before + found).decode("utf-8", "replace")

    def rest(self) -> str:
        """What has appeared until now."""
        while select.select([self.master], [], [], 0.05)[0]:
            self.seen += os.read(self.master, 65536)
        text, self.seen = self.seen.decode("utf-8", "replace"), b""
        return text

    def attributes(self) -> list[Any]:
        return termios.tcgetattr(self.slave)

    @property
    def is_raw(self) -> bool:
        return not self.attributes()[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        os.close(self.master)
        os.close(self.slave)


class ConsoleSocket:
    """Where an engine waits for a terminal. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.server.bind(str(path))
        self.server.listen()
        self.server.settimeout(10)
        self.payload = b""
        self.received: list[int] = []

    def receive(self) -> int:
        """The descriptor that came: exactly one, in one message, followed by the end of the connection."""
        connection, _ = self.server.accept()
        with connection:
            connection.settimeout(10)
            room = socket.CMSG_SPACE(struct.calcsize("i"))
            self.payload, ancillary, flags, _ = connection.recvmsg(4096, room, socket.MSG_CMSG_CLOEXEC)
            assert not flags & socket.MSG_CTRUNC
            descriptors = array.array("i")
            for level, kind, data in ancillary:
                assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
                descriptors.frombytes(data)
            self.received += descriptors
            assert len(descriptors) == 1
            assert connection.recv(1) == b""
        return descriptors[0]

    def __enter__(self) -> ConsoleSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.close()
        for descriptor in self.received:
            os.close(descriptor)


def set_size(terminal: int, rows: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def get_size(terminal: int) -> tuple[int, int]:
    rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(terminal, termios.TIOCGWINSZ, bytes(8)))
    return rows, columns


def read_until(descriptor: int, text: str, timeout: float = 10, seen: bytes = b"") -> bytes:
    """Read from a descriptor until `text` has come; everything that came."""
    deadline = time.monotonic() + timeout
    while text.encode() not in seen:
        left = deadline - time.monotonic()
        ready = left > 0 and select.select([descriptor], [], [], left)[0]
        assert ready, f"no {text!r} within {timeout} s, but {seen!r}"
        try:
            data = os.read(descriptor, 65536)
        except OSError as error:
            raise AssertionError(f"the terminal ended before {text!r}: {seen!r}") from error
        assert data, f"the end came before {text!r}: {seen!r}"
        seen += data
    return seen
