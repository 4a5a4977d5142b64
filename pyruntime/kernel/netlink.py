"""Route netlink: links, addresses, routes and traffic control of one network namespace. See rtnetlink(7).

The messages are those of pyroute2: it knows every attribute of every kind of message by the kernel's own name. Only
its message classes are loaded. `import pyroute2` itself runs the package's `__init__`, which imports every part of it
and takes 92 ms (its IPRoute alone 62 ms, most of it asyncio); the classes used here take 20. The socket is therefore
ours: blocking, one batch of requests, one answer per request.

Nothing here is on the hot path. It is imported when a container names network devices, and by the bridge hook.
"""

from __future__ import annotations

import errno
import importlib
import importlib.machinery
import os
import socket
import struct
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any

from pyruntime.errors import RuntimeFailure
from pyruntime.kernel.processes import setns

CLONE_NEWNET = 0x40000000

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_DUMP = 0x300

NLMSG_ERROR = 2
NLMSG_DONE = 3

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWQDISC, RTM_DELQDISC = 36, 37
RTM_NEWTFILTER = 44

IFF_UP = 0x1
IFLA_IFNAME = 3

_CLASSES = {
    16: "ifinfmsg", 17: "ifinfmsg", 18: "ifinfmsg",
    20: "ifaddrmsg", 21: "ifaddrmsg", 22: "ifaddrmsg",
    24: "rtmsg", 25: "rtmsg", 26: "rtmsg",
    36: "tcmsg", 37: "tcmsg", 44: "tcmsg",
}  # fmt: skip

_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NLM_F_ACK_TLVS = 0x200
_NLMSGERR_ATTR_MSG = 1
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port

Attributes = Sequence[tuple[str, Any]]
"""Attributes of a message by the kernel's name (`IFLA_IFNAME`); a nested one is `{"attrs": [...]}`."""


class NetlinkError(OSError):
    """The kernel refused a request. `errno` as it gave it; the text names the request and the kernel's own reason."""


class Request:
    """One request: `what` a person calls it ("add address 10.0.0.2/24 to eth0"), the message type, flags and content.

    With `unless` the request may also fail with these errnos: the kernel's way to say "already so".
    """

    __slots__ = ("attributes", "fields", "flags", "kind", "unless", "what")

    def __init__(
        self,
        what: str,
        kind: int,
        fields: Mapping[str, Any],
        attributes: Attributes = (),
        *,
        flags: int = 0,
        unless: tuple[int, ...] = (),
    ) -> None:
        self.what = what
        self.kind = kind
        self.fields = fields
        self.attributes = attributes
        self.flags = flags
        self.unless = unless

    def encode(self, sequence: int, extra: int) -> bytes:
        """The message as it goes on the wire."""
        message = message_class(self.kind)()
        for name, value in self.fields.items():
            message[name] = value
        message["attrs"] = list(self.attributes)
        message["header"]["type"] = self.kind
        message["header"]["flags"] = NLM_F_REQUEST | self.flags | extra
        message["header"]["sequence_number"] = sequence
        message.encode()
        return bytes(message.data)


class RemoveLink(Request):
    """Remove the interface `name`, if it is there. A veth takes its other end along.

    Written out by hand: it is all that tearing a network down needs, and pyroute2 would be imported for it.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        super().__init__(f"remove {name}", RTM_DELLINK, {}, unless=(errno.ENODEV,))
        self.name = name

    def encode(self, sequence: int, extra: int) -> bytes:
        name = self.name.encode() + b"\0"
        attribute = struct.pack("=HH", 4 + len(name), IFLA_IFNAME) + name + bytes(-len(name) % 4)
        body = bytes(16) + attribute  # struct ifinfomsg, all of it unspecified
        return _HEADER.pack(_HEADER.size + len(body), self.kind, NLM_F_REQUEST | extra, sequence, 0) + body


class RouteSocket:
    """A route netlink socket in the network namespace `netns` (a descriptor), or in the caller's for -1.

    A socket stays in the namespace it was opened in. Opening one elsewhere takes the whole thread there and back, so
    the caller must be single-threaded. Raises OSError.
    """

    def __init__(self, netns: int = -1) -> None:
        if netns < 0:
            self._socket = _open()
        else:
            with Inside(netns):
                self._socket = _open()
        self._sequence = 0

    def __enter__(self) -> RouteSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def send(self, *requests: Request) -> None:
        """Make all requests, in order, in one system call. Raises NetlinkError for the first that fails.

        The kernel does not stop at a failure: what follows is tried as well.
        """
        first = self._sequence + 1
        self._sequence += len(requests)
        self._socket.send(b"".join(r.encode(first + i, NLM_F_ACK) for i, r in enumerate(requests)))
        failed: NetlinkError | None = None
        answered = 0
        while answered < len(requests):
            for kind, flags, sequence, payload in self._receive():
                if kind != NLMSG_ERROR or not first <= sequence < first + len(requests):
                    continue
                answered += 1
                request = requests[sequence - first]
                error = _error(request.what, flags, payload)
                if error is not None and error.errno not in request.unless:
                    failed = failed or error
        if failed is not None:
            raise failed

    def dump(self, request: Request) -> list[Any]:
        """All objects that the request's GET message selects, decoded: `o["index"]`, `o.get_attr("IFA_LOCAL")`."""
        self._sequence += 1
        wanted = self._sequence
        self._socket.send(request.encode(wanted, NLM_F_DUMP))
        found: list[Any] = []
        while True:
            for kind, flags, sequence, payload in self._receive():
                if sequence != wanted:
                    continue
                if kind == NLMSG_DONE:
                    return found
                if kind == NLMSG_ERROR:
                    raise _error(request.what, flags, payload) or NetlinkError(errno.EPROTO, request.what)
                found.append(_decode(kind, flags, sequence, payload))

    def get(self, request: Request) -> Any:
        """The one object that the request's GET message names, decoded, or None if there is no such object."""
        self._sequence += 1
        wanted = self._sequence
        self._socket.send(request.encode(wanted, 0))
        while True:
            for kind, flags, sequence, payload in self._receive():
                if sequence != wanted:
                    continue
                if kind != NLMSG_ERROR:
                    return _decode(kind, flags, sequence, payload)
                error = _error(request.what, flags, payload)
                if error is not None and error.errno != errno.ENODEV:
                    raise error
                return None

    def link(self, name: str) -> Any:
        """The interface `name` as a decoded `ifinfmsg`, or None."""
        return self.get(Request(f"look for {name}", RTM_GETLINK, {}, [("IFLA_IFNAME", name)]))

    def _receive(self) -> list[tuple[int, int, int, bytes]]:
        data = self._socket.recv(1 << 18)  # a dump fills at most 32 KiB of it; an answer is never cut
        parts: list[tuple[int, int, int, bytes]] = []
        offset = 0
        while offset + _HEADER.size <= len(data):
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
            parts.append((kind, flags, sequence, data[offset + _HEADER.size : offset + length]))
            offset += (length + 3) & ~3
        return parts


class Inside:
    """`with Inside(netns):` the thread is in that network namespace, and back in its own afterwards."""

    def __init__(self, netns: int) -> None:
        self._there = netns

    def __enter__(self) -> None:
        self._back = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            setns(self._there, CLONE_NEWNET)
        except OSError:
            os.close(self._back)
            raise

    def __exit__(self, *_: object) -> None:
        try:
            setns(self._back, CLONE_NEWNET)
        finally:
            os.close(self._back)


def message_class(kind: int) -> type[Any]:
    """pyroute2's class for messages of type `kind` (RTM_*). Raises RuntimeFailure if pyroute2 is not installed."""
    name = _CLASSES[kind]
    found: type[Any] = getattr(load(f"netlink.rtnl.{name}"), name)
    return found


def _places() -> list[str]:
    """Where pyroute2 may be. An isolated interpreter (`-I -S`) has no site-packages on its path, not even its own."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    prefix = os.path.dirname(os.path.dirname(sys.executable))
    return [
        *sys.path,
        f"{prefix}/lib/{version}/site-packages",
        f"/usr/local/lib/{version}/dist-packages",
        "/usr/lib/python3/dist-packages",
    ]


def load(module: str) -> types.ModuleType:
    """A module of pyroute2 (`netlink.rtnl.rtmsg`), imported without its package's `__init__`. Raises RuntimeFailure."""
    loaded = sys.modules.get(f"pyroute2.{module}")
    if loaded is not None:
        return loaded
    if "pyroute2" not in sys.modules:
        spec = importlib.machinery.PathFinder.find_spec("pyroute2", _places())
        if spec is None or spec.submodule_search_locations is None:
            raise RuntimeFailure("the Python package pyroute2 is needed to set up network interfaces: install it")
        package = types.ModuleType("pyroute2")
        package.__path__ = list(spec.submodule_search_locations)
        package.__spec__ = spec
        sys.modules["pyroute2"] = package
    return importlib.import_module(f"pyroute2.{module}")


def _open() -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK):
        try:
            sock.setsockopt(_SOL_NETLINK, option, 1)
        except OSError:  # before Linux 4.12 errors come without a text
            pass
    sock.bind((0, 0))
    return sock


def _decode(kind: int, flags: int, sequence: int, payload: bytes) -> Any:
    header = _HEADER.pack(_HEADER.size + len(payload), kind, flags, sequence, 0)
    message = message_class(kind)(bytearray(header + payload))
    message.decode()
    return message


def _error(what: str, flags: int, payload: bytes) -> NetlinkError | None:
    """The error in an NLMSG_ERROR message, or None if it acknowledges."""
    number = -struct.unpack_from("=i", payload)[0]
    if not number:
        return None
    text = os.strerror(number)
    offset = 4 + _HEADER.size
    while flags & _NLM_F_ACK_TLVS and offset + 4 <= len(payload):
        length, kind = struct.unpack_from("=HH", payload, offset)
        if kind == _NLMSGERR_ATTR_MSG:
            text += ": " + payload[offset + 4 : offset + length].rstrip(b"\0").decode("utf-8", "replace")
        offset += max(4, (length + 3) & ~3)
    return NetlinkError(number, f"{what}: {text}")
