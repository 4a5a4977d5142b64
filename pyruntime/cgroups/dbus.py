"""A small D-Bus client: as much as it takes to have systemd start and stop a unit.

A blocking connection over a unix socket, one call at a time; signals that arrive meanwhile are kept for `wait`. See
the D-Bus specification, "Message Protocol" and "Authentication Protocol".
"""

from __future__ import annotations

import _socket
import posix
from _struct import unpack_from
from time import monotonic

from pyruntime.cgroups.dbus_wire import Reader, Variant, Writer
from pyruntime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CALL, RETURN, ERROR, SIGNAL = 1, 2, 3, 4
PATH, INTERFACE, MEMBER, ERROR_NAME, REPLY_SERIAL, DESTINATION, SIGNATURE = 1, 2, 3, 4, 5, 6, 8
LARGEST = 128 << 20  # of any message
HEXADECIMAL = frozenset(b"0123456789abcdefABCDEF")

BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")


class CallFailed(RuntimeFailure):
    """The peer answered a call with an error. `name` is its D-Bus name."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message or name)
        self.name = name


class Message:
    """What came in: header fields by their code, and the values of the body."""

    __slots__ = ("body", "fields", "kind")

    def __init__(self, kind: int, fields: dict[int, Any], body: list[Any]) -> None:
        self.kind = kind
        self.fields = fields
        self.body = body


class Connection:
    """A connection to a bus, or straight to a service (`direct`: no bus in between, so no names)."""

    __slots__ = ("address", "direct", "serial", "signals", "socket")

    def __init__(self, address: str, direct: bool = False, timeout: float = 30) -> None:
        """Connect to a D-Bus address such as `unix:path=/run/dbus/system_bus_socket`. Raises OSError or
        RuntimeFailure."""
        self.address = address
        self.direct = direct
        self.serial = 0
        self.signals: list[Message] = []
        self.socket = _connect(address, timeout)
        try:
            self._authenticate()
            if not direct:
                self.call(*BUS, "Hello")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.socket.close()

    def call(
        self, service: str, path: str, interface: str, member: str, signature: str = "", *values: Any
    ) -> list[Any]:
        """Call a method and return the values of its answer. Raises CallFailed for an error of the peer."""
        self.serial += 1
        fields = [
            (PATH, Variant("o", path)),
            (INTERFACE, Variant("s", interface)),
            (MEMBER, Variant("s", member)),
        ]
        if not self.direct:
            fields.append((DESTINATION, Variant("s", service)))
        body = Writer().write(signature, *values).data
        if signature:
            fields.append((SIGNATURE, Variant("g", signature)))
        head = Writer().write("yyyyuua(yv)", ord("l"), CALL, 0, 1, len(body), self.serial, fields)
        head.align(8)
        try:
            self.socket.sendall(bytes(head.data) + body)
        except OSError as error:
            raise RuntimeFailure(f"{self.address}: cannot call {member}: {error.strerror}") from error
        while True:
            try:
                message = self._receive()
            except TimeoutError:
                raise RuntimeFailure(f"{self.address}: no answer to {member}") from None
            if message.kind == SIGNAL:
                self.signals.append(message)
            elif message.fields.get(REPLY_SERIAL) == self.serial:
                if message.kind == ERROR:
                    text = message.body[0] if message.body and isinstance(message.body[0], str) else ""
                    raise CallFailed(message.fields.get(ERROR_NAME, ""), text)
                return message.body

    def wait(self, member: str, timeout: float) -> list[Any] | None:
        """The values of the next signal named `member`; None when `timeout` seconds passed."""
        end = monotonic() + timeout
        while True:
            for index, message in enumerate(self.signals):
                if message.fields.get(MEMBER) == member:
                    del self.signals[index]
                    return message.body
            self.signals.clear()
            left = end - monotonic()
            if left <= 0:
                return None
            self.socket.settimeout(left)
            try:
                message = self._receive()
            except TimeoutError:
                return None
            if message.kind == SIGNAL:
                self.signals.append(message)

    def _authenticate(self) -> None:
        """EXTERNAL: who we are is what the kernel says about the socket. We name no uid: in a user namespace ours is
        another than the one that the peer sees."""
        self.socket.sendall(b"\0AUTH EXTERNAL\r\n")
        answer = self._line()
        begun = False
        if answer.startswith(b"DATA"):
            # systemd sleeps over a call that arrives together with BEGIN: it has read the call already and waits for
            # more. With BEGIN before its OK, and our call after, the two never arrive together. A bus does not mind,
            # but may refuse DATA, and then BEGIN is an error.
            begun = self.direct
            self.socket.sendall(b"DATA\r\nBEGIN\r\n" if begun else b"DATA\r\n")
            answer = self._line()
        if answer.startswith(b"REJECTED") and not begun:  # a server that wants to be told
            self.socket.sendall(b"AUTH EXTERNAL " + str(posix.geteuid()).encode().hex().encode() + b"\r\n")
            answer = self._line()
        if not answer.startswith(b"OK"):
            raise RuntimeFailure(f"{self.address}: D-Bus authentication failed: {answer.decode('utf-8', 'replace')}")
        if not begun:
            self.socket.sendall(b"BEGIN\r\n")

    def _line(self) -> bytes:
        # Byte by byte: what follows the line belongs to the next reader.
        line = b""
        while not line.endswith(b"\r\n"):
            byte = self.socket.recv(1)
            if not byte or len(line) > 16384:
                raise RuntimeFailure(f"{self.address}: the D-Bus peer closed the connection during authentication")
            line += byte
        return line[:-2]

    def _receive(self) -> Message:
        start = self._exactly(16)
        if start[0:1] != b"l":
            raise RuntimeFailure(f"{self.address}: a D-Bus message that is not little endian")
        size, _, fields_size = unpack_from("<III", start, 4)
        rest = -(-fields_size // 8) * 8 + size
        if rest > LARGEST:
            raise RuntimeFailure(f"{self.address}: a D-Bus message of {rest} bytes")
        data = start + self._exactly(rest)
        try:
            fields = {code: variant.value for code, variant in Reader(data, 12).read("a(yv)")[0]}
            body = data[len(data) - size :]
            return Message(start[1], fields, Reader(body).read(fields.get(SIGNATURE, "")))
        except ValueError as error:
            raise RuntimeFailure(f"{self.address}: {error}") from error

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                part = self.socket.recv(size - len(data))
            except ConnectionError:
                part = b""
            if not part:
                raise RuntimeFailure(f"{self.address}: the D-Bus peer closed the connection")
            data += part
        return data


def _connect(address: str, timeout: float) -> _socket.socket:
    """A socket for the first address of the list that works."""
    failure: OSError | None = None
    for one in address.split(";"):
        transport, _, options = one.partition(":")
        pairs = dict(pair.partition("=")[::2] for pair in options.split(","))
        if transport != "unix" or not ("path" in pairs or "abstract" in pairs):
            continue
        name = _unescape(pairs["path"]) if "path" in pairs else b"\0" + _unescape(pairs["abstract"])
        channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        channel.settimeout(timeout)
        try:
            channel.connect(name)
        except OSError as error:
            channel.close()
            failure = error
            continue
        return channel
    if failure is not None:
        raise failure
    raise RuntimeFailure(f"D-Bus address {address!r}: only unix:path= and unix:abstract= are known")


def _unescape(value: str) -> bytes:
    """%XX in an address stands for a byte. Raises RuntimeFailure."""
    first, *rest = value.encode("utf-8", "surrogateescape").split(b"%")
    for part in rest:
        digits = part[:2]
        if len(digits) < 2 or not HEXADECIMAL.issuperset(digits):
            raise RuntimeFailure(f"D-Bus address: {value!r} has a % without two hexadecimal digits")
        first += bytes([int(digits, 16)]) + part[2:]
    return first
