"""Moving interfaces of the host into another network namespace. See rtnetlink(7), runtime spec 1.3 `linux.netDevices`.

The kernel keeps MTU, hardware address and the like across the move, drops every address and leaves the interface
down, so the addresses are read first. They are read before the interface is set down, too: that already removes the
IPv6 ones (unless keep_addr_on_down is set).
"""

from __future__ import annotations

import errno
import os
from typing import Any

from pyruntime.errors import RuntimeFailure
from pyruntime.kernel.netlink import (
    IFF_UP,
    NLM_F_CREATE,
    NLM_F_EXCL,
    RTM_GETADDR,
    RTM_NEWADDR,
    RTM_NEWLINK,
    NetlinkError,
    Request,
    RouteSocket,
)

AF_INET = 2
AF_INET6 = 10
IFA_F_PERMANENT = 0x80
IFA_F_MCAUTOJOIN = 0x400
IFA_F_NOPREFIXROUTE = 0x200
IFA_F_NODAD = 0x02
IFA_F_HOMEADDRESS = 0x10
RT_SCOPE_UNIVERSE = 0

_KEPT_FLAGS = IFA_F_MCAUTOJOIN | IFA_F_NOPREFIXROUTE | IFA_F_NODAD | IFA_F_HOMEADDRESS  # what a person can ask for
_KEPT_ATTRIBUTES = ("IFA_ADDRESS", "IFA_LOCAL", "IFA_BROADCAST", "IFA_RT_PRIORITY")


def move(devices: list[tuple[str, str]], netns: int) -> list[_Move]:
    """Move each (name here, name there) into the network namespace `netns` is open on, with its addresses, and set up.

    A name there may end in %d: the kernel then picks the number. Every interface and name is checked before the first
    one moves, and if one cannot move the others come back. Raises RuntimeFailure for what the caller got wrong,
    NetlinkError for what the kernel refuses.
    """
    with RouteSocket() as here, RouteSocket(netns) as there:
        moves: list[_Move] = []
        for name, target in devices:
            link = here.link(name)
            if link is None:
                raise RuntimeFailure(f"linux.netDevices.{name}: no such interface in the runtime's network namespace")
            if not target.endswith("%d") and there.link(target) is not None:
                raise RuntimeFailure(
                    f"linux.netDevices.{name}: the container's network namespace already has an interface {target}: "
                    "give another name, or a template such as eth%d"
                )
            moves.append(_Move(name, target, link))
        for address in _permanent_addresses(here):
            for one in moves:
                if one.link["index"] == address["index"]:
                    one.addresses.append(address)
        begun: list[_Move] = []
        try:
            for one in moves:
                begun.append(one)
                one.go(here, there, netns)
        except OSError:
            _undo(begun, here, there)
            raise
        return moves


def give_back(moves: list[_Move], netns: int) -> None:
    """Undo `move`: every interface is here again, under its name, with its addresses. What cannot be undone stays."""
    with RouteSocket() as here, RouteSocket(netns) as there:
        _undo(moves, here, there)


class _Move:
    """One interface: what it is here, and its index there once it has arrived (-1 before)."""

    __slots__ = ("addresses", "index", "link", "name", "target")

    def __init__(self, name: str, target: str, link: Any) -> None:
        self.name = name
        self.target = target
        self.link = link
        self.addresses: list[Any] = []
        self.index = -1

    def go(self, here: RouteSocket, there: RouteSocket, netns: int) -> None:
        """Move and rename in one request, so that neither name has to be free on the other side."""
        template = self.target.endswith("%d")
        # The number that the kernel picks for a template is not told, so the interface lands under a name of its own.
        landing = f"landing{self.link['index']}" if template else self.target
        here.send(_down(self.name, self.link["index"]))
        here.send(_move(f"move {self.name} into the container", self.link["index"], landing, netns))
        arrived = there.link(landing)
        if arrived is None:
            raise NetlinkError(errno.ENODEV, f"{self.name} was moved, but is not in the container's network namespace")
        self.index = int(arrived["index"])
        requests: list[Request] = []
        if template:
            rename = [("IFLA_IFNAME", self.target)]
            requests.append(Request(f"name {self.name} {self.target}", RTM_NEWLINK, {"index": self.index}, rename))
        there.send(*requests, *(_add(self.name, self.index, a) for a in self.addresses), _up(self.name, self.index))

    def back(self, here: RouteSocket, there: RouteSocket, home: int) -> None:
        """Undo `go`, however far it came: the address that went with "down" or the move, and the state."""
        if self.index >= 0:
            there.send(_down(self.name, self.index))
            there.send(_move(f"move {self.name} back", self.index, self.name, home))
        link = here.link(self.name)
        if link is not None:
            requests = [_add(self.name, link["index"], address) for address in self.addresses]
            if self.link["flags"] & IFF_UP:
                requests.append(_up(self.name, link["index"]))
            if requests:
                here.send(*requests)


def _undo(begun: list[_Move], here: RouteSocket, there: RouteSocket) -> None:
    """The container will not come to be: its namespace would take virtual interfaces with it."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for one in reversed(begun):
            try:
                one.back(here, there, home)
            except OSError:
                continue  # the failure that led here is the one to report
    finally:
        os.close(home)


def _down(name: str, index: int) -> Request:
    return Request(f"set {name} down", RTM_NEWLINK, {"index": index, "flags": 0, "change": IFF_UP})


def _up(name: str, index: int) -> Request:
    return Request(f"set {name} up", RTM_NEWLINK, {"index": index, "flags": IFF_UP, "change": IFF_UP})


def _move(what: str, index: int, name: str, netns: int) -> Request:
    return Request(what, RTM_NEWLINK, {"index": index}, [("IFLA_IFNAME", name), ("IFLA_NET_NS_FD", netns)])


def _permanent_addresses(here: RouteSocket) -> list[Any]:
    """All addresses of the namespace that a person gave (IFA_F_PERMANENT) and that are valid beyond the link."""
    found = here.dump(Request("list addresses", RTM_GETADDR, {"family": 0}))
    return [
        address
        for address in found
        if _flags(address) & IFA_F_PERMANENT
        and address["scope"] == RT_SCOPE_UNIVERSE
        and address["family"] in {AF_INET, AF_INET6}
    ]


def _flags(address: Any) -> int:
    """The flags; the header has room for the lowest eight only."""
    wide = address.get_attr("IFA_FLAGS")
    return int(address["flags"] if wide is None else wide)


def _add(name: str, index: int, address: Any) -> Request:
    """The request that gives the same address to the interface `index`. Without its label, which holds the old name."""
    attributes = [(key, address.get_attr(key)) for key in _KEPT_ATTRIBUTES if address.get_attr(key) is not None]
    attributes.append(("IFA_FLAGS", _flags(address) & _KEPT_FLAGS))
    return Request(
        f"add address {address.get_attr('IFA_ADDRESS')}/{address['prefixlen']} to {name}",
        RTM_NEWADDR,
        {"index": index, "family": address["family"], "prefixlen": address["prefixlen"], "scope": address["scope"]},
        attributes,
        flags=NLM_F_CREATE | NLM_F_EXCL,
        unless=(errno.EEXIST,),  # IPv4 addresses are still there when the interface never left
    )
