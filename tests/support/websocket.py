"""The streams of `exec` and `attach` as a kubelet passes them on: Kubernetes' v4.channel.k8s.io over a WebSocket."""

from __future__ import annotations

import base64
import json
import os
import socket
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)

_BINARY, _CLOSE = 2, 8


class Streams:
    """One connection; use as a context manager. `connection` is a socket already connected to the server of `url`."""

    def __init__(self, connection: socket.socket, url: str, timeout: float = 20) -> None:
        self.socket = connection
        self.socket.settimeout(timeout)
        parts = urlsplit(url)
        key = base64.b64encode(os.urandom(16)).decode()
        request = (
            f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Protocol: v4.channel.k8s.io\r\nOrigin: http://{parts.netloc}\r\n\r\n"
        )
        self.socket.sendall(request.encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            more = self.socket.recv(1)
            assert more, f"the server closed the connection after {answer!r}"
            answer += more
        assert answer.startswith(b"HTTP/1.1 101 "), answer
        self.output = {STDOUT: b"", STDERR: b"", ERROR: b""}
        self.ended = False

    def __enter__(self) -> Streams:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, channel: int, raw: bytes) -> None:
        """One frame. Those of a client are masked (RFC 6455, 5.3); a mask of zeros changes nothing."""
        payload = bytes([channel]) + raw
        assert len(payload) < 126
        self.socket.sendall(bytes([0x80 | _BINARY, 0x80 | len(payload), 0, 0, 0, 0]) + payload)

    def type(self, text: str) -> None:
        self.send(STDIN, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        self.send(RESIZE, json.dumps({"Width": columns, "Height": rows}).encode())

    def _receive(self) -> None:
        kind, length = self._bytes(2)
        if length in (126, 127):
            length = int.from_bytes(self._bytes(2 if length == 126 else 8), "big")
        payload = self._bytes(length)
        if kind & 15 == _CLOSE:
            self.ended = True
        elif payload:
            self.output[payload[0]] += payload[1:]

    def _bytes(self, count: int) -> bytes:
        raw = b""
        while len(raw) < count:
            more = self.socket.recv(count - len(raw))
            if not more:
                raise EOFError(f"the server closed the connection after {self.output}")
            raw += more
        return raw

    def until(self, text: str, channel: int = STDOUT) -> str:
        """What `channel` has brought, as soon as it contains `text`; it is taken away up to there."""
        while text.encode() not in self.output[channel]:
            self._receive()
        before, found, rest = self.output[channel].partition(text.encode())
        self.output[channel] = rest
        return (before + found).decode()

    def finish(self) -> int:
        """Read to the end; the exit code of the command."""
        while not self.ended:
            try:
                self._receive()
            except EOFError:
                break
        status: dict[str, Any] = json.loads(self.output[ERROR])
        if status["status"] == "Success":
            return 0
        causes = {cause["reason"]: cause["message"] for cause in status["details"]["causes"]}
        return int(causes["ExitCode"])
