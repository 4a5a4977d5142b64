"""Setting a container's network up, tearing it down, and mending what a crash left.

The order is what makes a crash at any moment harmless: the record of what is going to be made is on disk before the
first lease, interface or rule, it goes after the last of them, and every call first removes what belongs to records
whose veth is gone.
"""

from __future__ import annotations

import ipaddress
import os

from pyruntime.errors import RuntimeFailure
from pyruntime.network import firewall, ports
from pyruntime.network.options import Settings, gateway, overlap
from pyruntime.network.pool import choose
from pyruntime.network.state import Record, State, exists, ifb_name, prefix, veth_name


def attach(state: State, settings: Settings, container: str, netns: int) -> Record | None:
    """Give `container`, whose network namespace is `netns`, what `settings` ask for.

    Returns the record of the interface, or None when the namespace is another container's that has its network already
    (a pod). Called again for the same container it makes everything anew, with the same
    addresses. Raises RuntimeFailure or OSError, having undone what it did.
    """
    from pyruntime.kernel.netlink import Inside
    from pyruntime.network.links import let_through, mac_of

    sweep(state)
    name = veth_name(container, settings.ifname)
    old = state.record(name)
    if old is not None and old["id"] != container:
        raise RuntimeFailure(f"{name} is the interface of container {old['id']}: give one of the two another id")
    if exists(name) or old is not None:
        detach(state, [name])
    with Inside(netns):
        taken = exists(settings.ifname)
    identity = os.fstat(netns).st_ino
    if taken:
        if any(record["netns"] == identity for record in state.records()):
            return None
        raise RuntimeFailure(
            f"the container's network namespace already has an interface {settings.ifname}: "
            "choose another name with --ifname, or --mode none"
        )
    ports.check(settings.publish, {subnet.version for subnet in settings.subnets}, state.records())
    network = _network(state, settings)
    try:
        addresses = choose(state, settings, old["addresses"] if old else [])
        record: Record = {
            "id": container,
            "bridge": settings.bridge,
            "ifname": settings.ifname,
            "veth": name,
            "netns": identity,
            "addresses": addresses,
            "mac": settings.mac or mac_of(addresses[0]),
            "mtu": settings.mtu,
            "publish": [ports.as_list(one) for one in settings.publish],
        }
        state.save(record)
        for address in addresses:
            state.lease(settings.bridge, address, name)
        _connect(state, settings, network, record, netns)
        firewall.add(state, firewall.network_elements(settings.bridge, network) + firewall.container_elements(record))
        # Only now: the table's guard is what makes route_localnet harmless.
        let_through(settings.bridge, network, any(one["publish"] for one in state.records()))
        ports.forget_flows(record["publish"])
    except BaseException:
        try:
            detach(state, [name])
        except (RuntimeFailure, OSError):
            pass  # the failure that led here is the one to report; the next call sweeps
        raise
    return record


def detach(state: State, names: list[str]) -> None:
    """Remove everything that the records `names` hold, and the networks that nobody uses afterwards.

    A record may be missing or damaged: then what follows from its name is removed. Raises RuntimeFailure or OSError.
    """
    records = {name: state.record(name) for name in names}
    unused = {bridge: state.network(bridge) for bridge in state.bridges() if _only(state, bridge, names)}
    doomed = [link for name in names for link in (name, ifb_name(name)) if exists(link)]
    doomed += [bridge for bridge, network in unused.items() if network and network["made"] and exists(bridge)]
    reused = {
        bridge: network
        for bridge, network in unused.items()
        if network and not network["made"] and network["own"] and exists(bridge)
    }
    if doomed or reused:  # when the container is gone and others use the bridge, netlink need not be loaded
        from pyruntime.network import links

        links.remove(doomed)
        for bridge, reused_network in reused.items():
            links.take_addresses(bridge, reused_network)
    elements = [element for record in records.values() if record for element in firewall.container_elements(record)]
    for bridge, network in unused.items():
        elements += firewall.network_elements(bridge, network) if network else []
    if None in records.values() or None in unused.values() or len(unused) == len(state.bridges()):
        firewall.rebuild(state, without=unused)
    else:
        firewall.remove(state, elements, without=unused)
    for name, record in records.items():
        if record is not None:
            ports.forget_flows(record["publish"])
        state.forget(name)
    for bridge in unused:
        state.forget_network(bridge)


def sweep(state: State) -> None:
    """Remove what is left of containers that are gone: their network namespace took the veth with it."""
    dead = [name for name in state.names() if not exists(name)]
    if dead or any(not state.leases(bridge) for bridge in state.bridges()):
        detach(state, dead)


def names_of(state: State, container: str) -> list[str]:
    """The names of all records of `container`, one per interface."""
    start = prefix(container)
    found = []
    for name in state.names():
        if name.startswith(start):
            record = state.record(name)
            if record is None or record["id"] == container:
                found.append(name)
    return found


def _only(state: State, bridge: str, names: list[str]) -> bool:
    """Do only the records `names` have addresses of the bridge?"""
    return all(state.holder(bridge, address) in names for address in state.leases(bridge))


def _network(state: State, settings: Settings) -> Record:
    """The record of the bridge's network, made if there is none. Raises RuntimeFailure if it is another network."""
    wanted: Record = {
        "subnets": [str(subnet) for subnet in settings.subnets],
        "isolated": settings.isolate,
        "internal": settings.internal,
        "masquerade": settings.masquerade,
    }
    known = state.network(settings.bridge)
    if known is not None:
        for key, value in wanted.items():
            if known[key] != value:
                raise RuntimeFailure(
                    f"the bridge {settings.bridge} is in use with {key}: {_show(known[key])}, not {_show(value)}: "
                    "choose another --bridge, or remove its containers first"
                )
        return known
    for bridge, other in state.networks().items():
        for subnet in settings.subnets:
            for taken in other["subnets"]:
                if overlap(subnet, ipaddress.ip_network(taken)):
                    raise RuntimeFailure(f"--subnet: {subnet} overlaps with {taken} of the bridge {bridge}")
    from pyruntime.network.links import check_overlap

    wanted["gateways"] = [str(gateway(subnet)) for subnet in settings.subnets]
    wanted["mtu"] = settings.mtu
    wanted["made"] = not exists(settings.bridge)
    wanted["own"] = check_overlap(settings.bridge, wanted)
    state.save_network(settings.bridge, wanted)
    return wanted


def _show(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value).lower()


def _connect(state: State, settings: Settings, network: Record, record: Record, netns: int) -> None:
    """The links: the bridge, the pair, addresses and routes, bandwidth limits."""
    from pyruntime.kernel.netlink import RouteSocket
    from pyruntime.network import links

    with RouteSocket() as route:
        lost = not exists(settings.bridge)
        bridge = links.make_bridge(route, settings.bridge, network)
        if lost:  # someone removed the bridge under the containers that use it
            for other in state.records():
                if other["bridge"] == settings.bridge and exists(other["veth"]):
                    links.join(route, other["veth"], settings.bridge, bridge["index"])
        links.make_pair(route, record, bridge, netns)
        links.configure(record, network, netns)
        if settings.rate_in or settings.rate_out:
            from pyruntime.network import bandwidth

            index = route.link(record["veth"])["index"]
            if settings.rate_in:
                bandwidth.limit_sending(route, record["veth"], index, settings.rate_in)
            if settings.rate_out:
                bandwidth.limit_receiving(route, record["veth"], index, ifb_name(record["veth"]), settings.rate_out)
