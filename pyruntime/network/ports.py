"""Published ports: who has them already, and what connection tracking remembers of them."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable

from pyruntime.errors import RuntimeFailure
from pyruntime.network.options import Publish
from pyruntime.network.state import Record

KINDS = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}


def check(wanted: list[Publish], versions: set[int], records: Iterable[Record]) -> None:
    """Raises RuntimeFailure if another container has published one of the ports, or a program of the host listens."""
    if not wanted:
        return
    for i, one in enumerate(wanted):
        for other in wanted[:i]:
            if _overlap(one, as_list(other)):
                raise RuntimeFailure(f"--publish: port {one.host_port}/{one.protocol} is published twice")
    for record in records:
        for taken in record["publish"]:
            for one in wanted:
                if _overlap(one, taken):
                    raise RuntimeFailure(
                        f"--publish: port {max(one.host_port, taken[2])}/{one.protocol} of the host is already "
                        f"published by container {record['id']}"
                    )
    for one in wanted:
        for port in range(one.host_port, one.host_port + one.count):
            for version in versions if one.host is None else {one.host.version}:
                _check_listener(one, port, version)


def as_list(one: Publish) -> list[object]:
    """How a record holds it."""
    return [one.protocol, None if one.host is None else str(one.host), one.host_port, one.port, one.count]


def _overlap(one: Publish, taken: list[object]) -> bool:
    protocol, host, first, _, count = taken
    assert isinstance(first, int) and isinstance(count, int)
    return (
        one.protocol == protocol
        and (one.host is None or host is None or str(one.host) == host)
        and one.host_port < first + count
        and first < one.host_port + one.count
    )


def _check_listener(one: Publish, port: int, version: int) -> None:
    """A redirected port would cut the program off that listens there, so binding it must be possible."""
    kind, protocol = KINDS[one.protocol]
    try:
        sock = socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, kind | socket.SOCK_CLOEXEC, protocol)
    except OSError:
        return  # a protocol that this kernel does not have has no listener
    with sock:
        if kind == socket.SOCK_STREAM:  # closed connections that linger are no obstacle
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind((str(one.host) if one.host is not None else "::" if version == 6 else "0.0.0.0", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise RuntimeFailure(
                    f"--publish: a program of the host already listens on port {port}/{one.protocol}"
                ) from None


# Connection tracking, see linux/netfilter/nfnetlink_conntrack.h. Attributes of a tuple nest: PROTO within TUPLE_ORIG.
_IPCTNL_MSG_CT_GET = (1 << 8) | 1
_IPCTNL_MSG_CT_DELETE = (1 << 8) | 2
_CTA_TUPLE_ORIG, _CTA_TUPLE_PROTO = 1, 2
_CTA_PROTO_NUM, _CTA_PROTO_DST_PORT = 1, 3
_HEADER = struct.Struct("=IHHIIBBH")  # struct nlmsghdr and struct nfgenmsg
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300


def forget_flows(publish: Iterable[list[object]]) -> None:
    """Remove the UDP flows to these ports from connection tracking. Best effort: without it nothing is left to do.

    A flow keeps the destination that its first packet got, for as long as packets come. Without this a client that
    keeps sending would go on talking to the container that had the port before, or to none.
    """
    ports = {
        port
        for p, _, first, _, n in publish
        if p == "udp"
        for port in range(int(str(first)), int(str(first)) + int(str(n)))
    }
    if not ports:
        return
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 12) as sock:  # NETLINK_NETFILTER
            sock.bind((0, 0))
            for family in (socket.AF_INET, socket.AF_INET6):
                for original in _udp_flows(sock, family, ports):
                    header = _HEADER.pack(
                        _HEADER.size + len(original), _IPCTNL_MSG_CT_DELETE, _NLM_F_REQUEST, 2, 0, family, 0, 0
                    )
                    sock.send(header + original)
    except OSError:
        return


def _udp_flows(sock: socket.socket, family: int, ports: set[int]) -> list[bytes]:
    """The attribute CTA_TUPLE_ORIG of every UDP flow to one of `ports`, as the kernel wrote it."""
    sock.send(_HEADER.pack(_HEADER.size, _IPCTNL_MSG_CT_GET, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0, family, 0, 0))
    found: list[bytes] = []
    while True:
        data = sock.recv(1 << 18)
        offset = 0
        while offset + 16 <= len(data):
            length, kind = struct.unpack_from("=IH", data, offset)
            if kind in {2, 3}:  # NLMSG_ERROR, NLMSG_DONE
                return found
            for attribute, original in _attributes(data[offset + _HEADER.size : offset + length]):
                if attribute == _CTA_TUPLE_ORIG and _port(original, ports):
                    found.append(original)
            offset += (length + 3) & ~3


def _port(original: bytes, ports: set[int]) -> bool:
    for kind, attribute in _attributes(original[4:]):
        if kind == _CTA_TUPLE_PROTO:
            parts = {inner: value[4:] for inner, value in _attributes(attribute[4:])}
            number = parts.get(_CTA_PROTO_NUM, b"\0")[0]
            return number == socket.IPPROTO_UDP and int.from_bytes(parts[_CTA_PROTO_DST_PORT][:2], "big") in ports
    return False


def _attributes(data: bytes) -> Iterable[tuple[int, bytes]]:
    """Type, and the whole attribute with its header, of each attribute in `data`."""
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        yield kind & 0x3FFF, data[offset : offset + max(4, length)].ljust((max(4, length) + 3) & ~3, b"\0")
        offset += (max(4, length) + 3) & ~3
