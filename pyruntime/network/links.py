"""The bridge, the veth pair, addresses and routes. See rtnetlink(7), veth(4).

The container's end of the pair is created right inside the container's network namespace under its final name; there
is no moment when it is visible on the host.
"""

from __future__ import annotations

import errno
import ipaddress
import os
from typing import Any

from pyruntime.errors import RuntimeFailure
from pyruntime.kernel.netlink import (
    IFF_UP,
    NLM_F_CREATE,
    NLM_F_EXCL,
    RTM_DELADDR,
    RTM_GETADDR,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWROUTE,
    Inside,
    RemoveLink,
    Request,
    RouteSocket,
)
from pyruntime.network.options import overlap
from pyruntime.network.state import Record

AF_INET, AF_INET6 = 2, 10
IFA_F_NODAD = 0x02
IFA_F_PERMANENT = 0x80
RT_TABLE_MAIN = 254
RTPROT_STATIC = 4
RTN_UNICAST = 1

_NEW = NLM_F_CREATE | NLM_F_EXCL
_UP = {"flags": IFF_UP, "change": IFF_UP}


def make_bridge(route: RouteSocket, bridge: str, network: Record) -> Any:
    """Make the bridge or mend it, set it up, and return it as an `ifinfmsg`. Raises RuntimeFailure, OSError."""
    info: list[tuple[str, Any]] = [("IFLA_INFO_KIND", "bridge")]
    attributes: list[tuple[str, Any]] = [
        ("IFLA_IFNAME", bridge),
        # A fixed one: a bridge without takes the lowest of its ports and changes it as they come and go.
        ("IFLA_ADDRESS", mac_of(network["gateways"][0])),
        ("IFLA_LINKINFO", {"attrs": info}),
    ]
    if network["mtu"]:
        attributes.append(("IFLA_MTU", network["mtu"]))
    new = Request(f"make the bridge {bridge}", RTM_NEWLINK, {}, attributes, flags=_NEW, unless=(errno.EEXIST,))
    route.send(new)
    link = route.link(bridge)
    kind = (link.get_attr("IFLA_LINKINFO") or link).get_attr("IFLA_INFO_KIND") if link is not None else None
    if kind != "bridge":
        raise RuntimeFailure(f"--bridge: {bridge} is an interface of kind {kind or 'unknown'}, not a bridge")
    if any(":" in subnet for subnet in network["subnets"]):
        # The bridge asks its ports for hardware addresses under its link-local address, which duplicate address
        # detection would keep unusable for up to two seconds: forwarded packets would be lost meanwhile.
        sysctl(f"net/ipv6/conf/{bridge}/accept_dad", "0")
    requests = [
        address_request(bridge, link["index"], gateway, int(subnet.partition("/")[2]))
        for subnet, gateway in zip(network["subnets"], network["gateways"], strict=True)
    ]
    route.send(*requests, Request(f"set {bridge} up", RTM_NEWLINK, {"index": link["index"], **_UP}))
    return link


def make_pair(route: RouteSocket, record: Record, bridge: Any, netns: int) -> None:
    """Make the veth pair: one end a port of the bridge, the other in `netns`. Raises OSError."""
    mtu = ("IFLA_MTU", record["mtu"] or bridge.get_attr("IFLA_MTU"))
    peer = [("IFLA_IFNAME", record["ifname"]), ("IFLA_NET_NS_FD", netns), ("IFLA_ADDRESS", record["mac"]), mtu]
    kind = [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", {"attrs": peer})]})]
    name = [("IFLA_IFNAME", record["veth"]), mtu, ("IFLA_LINKINFO", {"attrs": kind})]
    what = f"make the interface {record['ifname']} of the container"
    alias = [("IFLA_IFNAME", record["veth"]), ("IFLA_IFALIAS", record["id"][:255])]
    route.send(
        Request(what, RTM_NEWLINK, dict(_UP), name, flags=_NEW),
        Request(f"label {record['veth']}", RTM_NEWLINK, {}, alias),
    )
    join(route, record["veth"], record["bridge"], bridge["index"])


def join(route: RouteSocket, name: str, bridge: str, index: int) -> None:
    """Make the interface a port of the bridge. Raises OSError."""
    # Hairpin: a frame may leave by the port it came from, for a container that calls itself by a published port.
    port = [("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", {"attrs": [("IFLA_BRPORT_MODE", 1)]})]
    master = [("IFLA_IFNAME", name), ("IFLA_MASTER", index)]
    hairpin = [("IFLA_IFNAME", name), ("IFLA_LINKINFO", {"attrs": port})]
    route.send(
        Request(f"connect {name} with {bridge}", RTM_NEWLINK, {}, master),
        Request(f"allow hairpin on {name}", RTM_NEWLINK, {}, hairpin),
    )


def configure(record: Record, network: Record, netns: int) -> None:
    """Give the container's end its addresses and routes and set it and `lo` up. Raises OSError."""
    with Inside(netns):
        for address in record["addresses"]:
            if ":" in address:  # it may be switched off by the container's default, and must not come by announcements
                sysctl(f"net/ipv6/conf/{record['ifname']}/disable_ipv6", "0")
                sysctl(f"net/ipv6/conf/{record['ifname']}/accept_ra", "0")
                sysctl(f"net/ipv6/conf/{record['ifname']}/accept_dad", "0")
        route = RouteSocket()
    with route:
        link = route.link(record["ifname"])
        index = link["index"]
        requests = []
        lengths = {":" in subnet: int(subnet.partition("/")[2]) for subnet in network["subnets"]}
        for address in record["addresses"]:
            requests.append(address_request(record["ifname"], index, address, lengths[":" in address]))
        requests.append(Request(f"set {record['ifname']} up", RTM_NEWLINK, {"index": index, **_UP}))
        requests.append(Request("set lo up", RTM_NEWLINK, {"index": 1, **_UP}))
        for gateway in network["gateways"]:
            if not network["internal"] and any((":" in address) == (":" in gateway) for address in record["addresses"]):
                requests.append(default_route(index, gateway))
        route.send(*requests)


def remove(names: list[str]) -> None:
    """Remove interfaces; one that is not there is no error. Raises OSError."""
    if names:
        with RouteSocket() as route:
            route.send(*(RemoveLink(name) for name in names))


def take_addresses(bridge: str, network: Record) -> None:
    """Take from a bridge that was there before us the addresses that we gave it. Raises OSError."""
    with RouteSocket() as route:
        link = route.link(bridge)
        for subnet, address in zip(network["subnets"], network["gateways"], strict=True):
            if address in network["own"]:
                request = address_request(bridge, link["index"], address, int(subnet.partition("/")[2]))
                request.kind, request.flags, request.unless = RTM_DELADDR, 0, (errno.EADDRNOTAVAIL,)
                route.send(request)


def check_overlap(bridge: str, network: Record) -> list[str]:
    """The gateway addresses that the bridge does not have yet.

    Raises RuntimeFailure if another interface of the host is in one of the subnets: its neighbours would be cut off.
    """
    with RouteSocket() as route:
        link = route.link(bridge)
        present = set()
        for found in route.dump(Request("list addresses", RTM_GETADDR, {"family": 0})):
            address = ipaddress.ip_address(found.get_attr("IFA_ADDRESS"))
            if link is not None and found["index"] == link["index"]:
                present.add(str(address))
                continue
            around = ipaddress.ip_network((address, found["prefixlen"]), strict=False)
            for subnet in network["subnets"]:
                if overlap(around, ipaddress.ip_network(subnet)):
                    raise RuntimeFailure(f"--subnet: {subnet} overlaps with {address}/{found['prefixlen']} of the host")
    return [gateway for gateway in network["gateways"] if gateway not in present]


def address_request(name: str, index: int, address: str, length: int) -> Request:
    """Add an address, usable at once: duplicate address detection would take a second, and the lease rules it out."""
    family = AF_INET6 if ":" in address else AF_INET
    attributes: list[tuple[str, Any]] = [("IFA_ADDRESS", address), ("IFA_LOCAL", address)]
    if family == AF_INET6:
        attributes.append(("IFA_FLAGS", IFA_F_NODAD | IFA_F_PERMANENT))
    return Request(
        f"give {name} the address {address}/{length}",
        RTM_NEWADDR,
        {"family": family, "prefixlen": length, "scope": 0, "index": index},
        attributes,
        flags=_NEW,
        unless=(errno.EEXIST,),
    )


def default_route(index: int, gateway: str) -> Request:
    """The default route by `gateway`; a container with several networks keeps the one of the first."""
    return Request(
        f"set the default route to {gateway}",
        RTM_NEWROUTE,
        {
            "family": AF_INET6 if ":" in gateway else AF_INET,
            "table": RT_TABLE_MAIN,
            "proto": RTPROT_STATIC,
            "scope": 0,
            "type": RTN_UNICAST,
        },
        [("RTA_GATEWAY", gateway), ("RTA_OIF", index)],
        flags=_NEW,
        unless=(errno.EEXIST,),
    )


def mac_of(address: str) -> str:
    """A hardware address made from an IP address: whoever gets the IP address next is found in every ARP cache."""
    packed = ipaddress.ip_address(address).packed
    # Locally administered, unicast. The second byte keeps IPv4 and IPv6 apart.
    return ":".join(f"{byte:02x}" for byte in (0x02, len(packed), *packed[-4:]))


def let_through(bridge: str, network: Record, published: bool) -> None:
    """Let the host pass packets on between the bridge and its other interfaces. Raises OSError."""
    versions = {":" in subnet for subnet in network["subnets"]}
    if not network["internal"] or published:
        if False in versions:
            sysctl("net/ipv4/ip_forward", "1")
        if True in versions:
            # A forwarding host ignores router announcements, unless told so: it would lose its own default route.
            for name in os.listdir("/proc/sys/net/ipv6/conf"):
                if name != "default" and read_sysctl(f"net/ipv6/conf/{name}/accept_ra") == "1":
                    sysctl(f"net/ipv6/conf/{name}/accept_ra", "2")
            sysctl("net/ipv6/conf/all/forwarding", "1")
    if published and False in versions:
        sysctl(f"net/ipv4/conf/{bridge}/route_localnet", "1")


def read_sysctl(name: str) -> str:
    """A kernel parameter of the caller's network namespace, or "" if there is none of that name."""
    try:
        with open(f"/proc/sys/{name}", encoding="ascii") as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""


def sysctl(name: str, value: str) -> None:
    """Set a kernel parameter, if it is not so already: /proc/sys may be read-only. Raises RuntimeFailure."""
    if read_sysctl(name) == value:
        return
    try:
        with open(f"/proc/sys/{name}", "w", encoding="ascii") as file:
            file.write(value)
    except OSError as error:
        raise RuntimeFailure(f"/proc/sys/{name} cannot be set to {value}: {error.strerror}") from error
