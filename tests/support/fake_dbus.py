"""A D-Bus peer for tests: authenticates, answers method calls from a table, sends signals."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyruntime.cgroups.dbus_wire import Reader, Variant, Writer

Answer = Callable[[list[Any]], tuple[str, list[Any]]]


class Refused(Exception):
    """Raised by an answer: the call fails with this D-Bus error name."""


class Call:
    """A method call that came in."""

    def __init__(self, fields: dict[int, Any], values: list[Any]) -> None:
        self.path: str = fields.get(1, "")
        self.interface: str = fields.get(2, "")
        self.member: str = fields.get(3, "")
        self.destination: str = fields.get(6, "")
        self.values = values


class FakeBus:
    """Listens on the unix socket `path`. `answers` maps a method to a function: arguments -> (signature, values)."""

    def __init__(self, path: Path, auth: str = "data") -> None:
        self.path = path
        text = str(path).replace("%", "%25").replace(",", "%2c").replace("=", "%3D").replace(" ", "%20")
        self.address = f"unix:path={text}"
        self.auth = auth
        self.auth_lines: list[bytes] = []
        self.calls: list[Call] = []
        self.answers: dict[str, Answer] = {"Hello": lambda values: ("s", [":1.5"])}
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            connection.close()
        self._thread.join(5)

    def signal(self, member: str, signature: str, *values: Any) -> None:
        """Send a signal to everybody who is connected."""
        fields = [(1, Variant("o", "/sender")), (2, Variant("s", "a.sender")), (3, Variant("s", member))]
        for connection in self._open:
            self._send(connection, 4, fields, signature, list(values))

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                self._authenticate(connection)
                self._open.append(connection)
                while True:
                    self._answer(connection)
        except (OSError, EOFError):
            pass

    def _authenticate(self, connection: socket.socket) -> None:
        while True:
            line = b""
            while not line.endswith(b"\r\n"):
                byte = connection.recv(1)
                if not byte:
                    raise EOFError
                line += byte
            line = line[:-2]
            self.auth_lines.append(line)
            if line == b"BEGIN":
                return
            named = line.startswith(b"AUTH EXTERNAL ")
            if line == b"DATA" or (self.auth == "ok" and not named) or (self.auth == "named" and named):
                connection.sendall(b"OK 0123456789abcdef0123456789abcdef\r\n")
            elif self.auth == "data":
                connection.sendall(b"DATA\r\n")
            else:
                connection.sendall(b"REJECTED EXTERNAL\r\n")

    def _exactly(self, connection: socket.socket, size: int) -> bytes:
        data = connection.recv(size, socket.MSG_WAITALL) if size else b""
        if len(data) < size:
            raise EOFError
        return data

    def _answer(self, connection: socket.socket) -> None:
        start = self._exactly(connection, 16)
        size, serial, fields_size = struct.unpack_from("<III", start, 4)
        data = start + self._exactly(connection, -(-fields_size // 8) * 8 + size)
        fields = {code: variant.value for code, variant in Reader(data, 12).read("a(yv)")[0]}
        call = Call(fields, Reader(data[len(data) - size :]).read(fields.get(8, "")))
        self.calls.append(call)
        answer = self.answers.get(call.member)
        try:
            if answer is None:
                raise Refused("org.freedesktop.DBus.Error.UnknownMethod", f"I do not know {call.member}")
            signature, values = answer(call.values)
        except Refused as refused:
            name, text = refused.args
            self._send(connection, 3, [(4, Variant("s", name)), (5, Variant("u", serial))], "s", [text])
        else:
            self._send(connection, 2, [(5, Variant("u", serial))], signature, values)

    def _send(
        self, connection: socket.socket, kind: int, fields: list[tuple[int, Variant]], signature: str, values: list[Any]
    ) -> None:
        body = bytes(Writer().write(signature, *values).data)
        if signature:
            fields = [*fields, (8, Variant("g", signature))]
        head = Writer().write("yyyyuua(yv)", ord("l"), kind, 0, 1, len(body), 7, fields)
        head.align(8)
        with self._lock:
            connection.sendall(bytes(head.data) + body)
