"""Masquerading, published ports and isolation: one nftables table of our own. See nft(8).

The rules of the table never change. Everything that differs between networks and containers is an element of one of
its sets and maps, so setting a container up adds a few elements and tearing it down removes them: 3 ms with `nft`,
where pyroute2's nftables support needs 30 ms to be imported. When the table is not there, or not as expected (after
`nft flush ruleset`, a reboot, a crash), it is made anew from the records in one transaction.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable

from pyruntime.errors import RuntimeFailure
from pyruntime.network.state import Record, State, exists

TABLE = "inet pyruntime-bridge"

PROGRAMS = ("/usr/sbin/nft", "/usr/bin/nft", "/sbin/nft", "/usr/local/sbin/nft")  # a hook has no PATH

Element = tuple[str, str]
"""Name of a set or map, and an element of it as nft writes it."""

# `same` holds each bridge paired with itself: nftables cannot compare iifname with oifname.
# `local4` pairs a subnet with its bridge: packets from there back to there only pass here when they were redirected.
RULES = f"""
table {TABLE} {{
    set bridges {{ type ifname; }}
    set isolated {{ type ifname; }}
    set internal {{ type ifname; }}
    set same {{ type ifname . ifname; }}
    set subnets4 {{ type ipv4_addr; flags interval; }}
    set subnets6 {{ type ipv6_addr; flags interval; }}
    set local4 {{ type ipv4_addr . ifname; flags interval; }}
    set local6 {{ type ipv6_addr . ifname; flags interval; }}
    map publish4 {{
        type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service; flags interval;
    }}
    map publish6 {{
        type inet_proto . ipv6_addr . inet_service : ipv6_addr . inet_service; flags interval;
    }}
    # Ranges of ports that keep their numbers: one element instead of one per port.
    map ranges4 {{ type inet_proto . ipv4_addr . inet_service : ipv4_addr; flags interval; }}
    map ranges6 {{ type inet_proto . ipv6_addr . inet_service : ipv6_addr; flags interval; }}

    chain guard {{
        # route_localnet lets the host reach published ports at 127.0.0.1. It must not let containers reach what
        # listens there on the host (CVE-2020-8558): this comes before connection tracking puts addresses back.
        type filter hook prerouting priority raw; policy accept;
        iifname @bridges ip daddr 127.0.0.0/8 drop
        iifname @bridges ip saddr 127.0.0.0/8 drop
    }}
    chain published {{
        meta l4proto {{ tcp, udp, sctp }} dnat ip to meta l4proto . ip daddr . th dport map @publish4
        meta l4proto {{ tcp, udp, sctp }} dnat ip6 to meta l4proto . ip6 daddr . th dport map @publish6
        meta l4proto {{ tcp, udp, sctp }} dnat ip to meta l4proto . ip daddr . th dport map @ranges4
        meta l4proto {{ tcp, udp, sctp }} dnat ip6 to meta l4proto . ip6 daddr . th dport map @ranges6
    }}
    chain prerouting {{
        type nat hook prerouting priority dstnat; policy accept;
        fib daddr type local jump published
    }}
    chain output {{
        type nat hook output priority -100; policy accept;
        fib daddr type local jump published
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        ct state established,related accept
        ct status dnat accept
        iifname . oifname @same accept
        iifname @bridges oifname @isolated drop
        iifname @isolated oifname @bridges drop
        iifname @internal drop
        oifname @internal drop
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr @subnets4 oifname != @bridges ip daddr != 224.0.0.0/4 masquerade
        ip6 saddr @subnets6 oifname != @bridges ip6 daddr != ff00::/8 masquerade
        # Replies must come back through the host: a container that reaches itself or a neighbour by a published port,
        # and the host at 127.0.0.1.
        ct status dnat ip saddr . oifname @local4 masquerade
        ct status dnat ip6 saddr . oifname @local6 masquerade
        oifname @bridges ip saddr 127.0.0.0/8 masquerade
    }}
}}
"""


class NftError(RuntimeFailure):
    """nft refused a transaction; nothing of it was done."""


def network_elements(bridge: str, network: Record) -> list[Element]:
    """What a network puts into the table."""
    found = [("bridges", f'"{bridge}"'), ("same", f'"{bridge}" . "{bridge}"')]
    for name in ("isolated", "internal"):
        if network[name]:
            found.append((name, f'"{bridge}"'))
    for subnet in network["subnets"]:
        version = 6 if ":" in subnet else 4
        found.append((f"local{version}", f'{subnet} . "{bridge}"'))
        if network["masquerade"]:
            found.append((f"subnets{version}", subnet))
    return found


def container_elements(record: Record) -> list[Element]:
    """What a container puts into the table: its published ports, once per IP version it has an address of."""
    found: list[Element] = []
    for address in record["addresses"]:
        version, everywhere = (6, "::/0") if ":" in address else (4, "0.0.0.0/0")
        for protocol, host, host_port, port, count in record["publish"]:
            if host is not None and (":" in host) != (version == 6):
                continue
            key = f"{protocol} . {host or everywhere}"
            if count > 1 and host_port == port:
                found.append((f"ranges{version}", f"{key} . {port}-{port + count - 1} : {address}"))
                continue
            for i in range(count):
                found.append((f"publish{version}", f"{key} . {host_port + i} : {address} . {port + i}"))
    return found


def add(state: State, elements: list[Element]) -> None:
    """Put `elements` into the table; what is already there is no error. The state's records must include them.

    If nft refuses, the table is made anew from the records, and if it refuses that too, its reason is raised.
    """
    if len(state.names()) == 1:  # the first container: there is no table yet
        rebuild(state)
        return
    try:
        _run(_statement("add", elements))
    except NftError:
        rebuild(state)


def remove(state: State, elements: list[Element], without: Container[str] = ()) -> None:
    """Take `elements` out of the table. `without` names the bridges that go as a whole."""
    try:
        # An element that is not there cannot be deleted, so it is added first: both happen at once or not at all.
        _run(_statement("add", elements) + _statement("delete", elements))
    except NftError:
        rebuild(state, without)


def rebuild(state: State, without: Container[str] = ()) -> None:
    """Make the whole table anew from the records, or remove it if there is no network.

    A record counts while its veth exists, a network while its bridge exists and is not in `without`.
    """
    networks = {b: network for b, network in state.networks().items() if b not in without and exists(b)}
    text = f"add table {TABLE}\ndelete table {TABLE}\n"
    if networks:
        elements = [element for bridge, network in networks.items() for element in network_elements(bridge, network)]
        for record in state.records():
            if record["bridge"] in networks and exists(record["veth"]):
                elements += container_elements(record)
        text += RULES + _statement("add", elements)
    _run(text)


def _statement(verb: str, elements: Iterable[Element]) -> str:
    sets: dict[str, list[str]] = {}
    for name, element in elements:
        sets.setdefault(name, []).append(element)
    return "".join(f"{verb} element {TABLE} {name} {{ {', '.join(found)} }}\n" for name, found in sets.items())


def _run(text: str) -> None:
    """Give nft one transaction. Raises NftError with its first complaint."""
    if not text:
        return
    program = next((path for path in PROGRAMS if os.path.exists(path)), None)
    if program is None:
        raise RuntimeFailure(f"nft is not installed (looked for {', '.join(PROGRAMS)}): install nftables")
    script = os.memfd_create("nft", os.MFD_CLOEXEC)
    complaint = os.memfd_create("nft", os.MFD_CLOEXEC)
    try:
        os.write(script, text.encode())
        os.lseek(script, 0, os.SEEK_SET)
        actions = [(os.POSIX_SPAWN_DUP2, script, 0), (os.POSIX_SPAWN_DUP2, complaint, 1)]
        pid = os.posix_spawn(program, [program, "-f", "-"], {}, file_actions=[*actions, (os.POSIX_SPAWN_DUP2, 1, 2)])
        _, status = os.waitpid(pid, 0)
        if status:
            lines = os.pread(complaint, 4096, 0).decode("utf-8", "replace").splitlines()
            raise NftError(f"nft refused the rules: {lines[0] if lines else f'wait status {status}'}")
    finally:
        os.close(script)
        os.close(complaint)
