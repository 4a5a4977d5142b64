"""pyruntime-bridge moves packets: between containers, to and from the host and the world outside."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.network import HOST4, HOST6, OUTSIDE4, OUTSIDE6, Host

BOTH = ("--subnet", "10.87.0.0/16", "--subnet", "fd00:87::/64")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    try:
        yield host
    finally:
        host.close()


def test_containers_and_host_reach_each_other(host: Host) -> None:
    one, two = host.container("one", *BOTH), host.container("two", *BOTH)
    assert host.addresses(one) == {4: "10.87.0.2", 6: "fd00:87::2"}
    assert host.addresses(two) == {4: "10.87.0.3", 6: "fd00:87::3"}
    host.serve("host", 9000, netns=host.netns)
    for version, gateway in ((4, "10.87.0.1"), (6, "fd00:87::1")):
        there, here = host.addresses(two)[version], host.addresses(one)[version]
        assert host.ask(there, 80, netns=one.netns) == f"two 80 {here}"
        assert host.ask(there, 80) == f"two 80 {gateway}"
        assert host.ask(gateway, 9000, netns=one.netns) == f"host 9000 {here}"
    for stand in (one, two):
        host.remove(stand)
    host.assert_clean()


def test_outside_sees_the_host_s_address(host: Host) -> None:
    one = host.container("one", *BOTH)
    host.serve("world", 9000, netns=host.outside)
    for kind in ("tcp", "udp"):
        assert host.ask(OUTSIDE4, 9000, netns=one.netns, kind=kind) == f"world 9000 {HOST4}"
        assert host.ask(OUTSIDE6, 9000, netns=one.netns, kind=kind) == f"world 9000 {HOST6}"


def test_without_masquerading_it_sees_the_container_s(host: Host) -> None:
    one = host.container("one", "--no-masquerade")
    host.serve("world", 9000, netns=host.outside)
    assert host.ask(OUTSIDE4, 9000, netns=one.netns, timeout=0.5) is None  # no way back
    host.run("ip", "route", "add", "10.87.0.0/16", "via", HOST4, netns=host.outside, check=True)
    assert host.ask(OUTSIDE4, 9000, netns=one.netns) == "world 9000 10.87.0.2"


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_published_port_is_reached_from_everywhere(host: Host, kind: str) -> None:
    one = host.container("one", *BOTH, "--publish", f"8080:80/{kind}")
    two = host.container("two", *BOTH)
    # From outside, and the container sees who really calls.
    assert host.ask(HOST4, 8080, netns=host.outside, kind=kind) == f"one 80 {OUTSIDE4}"
    assert host.ask(HOST6, 8080, netns=host.outside, kind=kind) == f"one 80 {OUTSIDE6}"
    # From the host, by any address of its own.
    for address in ("127.0.0.1", HOST4, HOST6, "10.87.0.1", "fd00:87::1"):
        assert (host.ask(address, 8080, kind=kind) or "").startswith("one 80 ")
    # From a neighbour on the bridge and from the container itself, by the host's address (hairpin).
    for stand in (two, one):
        for address in (HOST4, HOST6):
            assert (host.ask(address, 8080, netns=stand.netns, kind=kind) or "").startswith("one 80 ")
    # Only that port, and only that protocol.
    assert host.ask(HOST4, 8081, netns=host.outside, kind=kind, timeout=0.3) is None
    assert host.ask(HOST4, 8080, netns=host.outside, kind="udp" if kind == "tcp" else "tcp", timeout=0.3) is None
    host.remove(one)
    assert host.ask(HOST4, 8080, netns=host.outside, kind=kind, timeout=0.3) is None


def test_ranges_keep_or_shift_their_numbers(host: Host) -> None:
    one = host.container(
        "one", "--publish", "7000-7002:7000-7002", "--publish=8000-8002:80-82", ports=(7000, 7002, 80, 82)
    )
    for outside, inside in ((7000, 7000), (7002, 7002), (8000, 80), (8002, 82)):
        assert host.ask(HOST4, outside, netns=host.outside) == f"one {inside} {OUTSIDE4}"
    assert host.ask(HOST4, 7003, netns=host.outside, timeout=0.3) is None
    host.remove(one)
    host.assert_clean()


def test_a_port_published_at_one_address_is_not_at_the_others(host: Host) -> None:
    host.container("one", *BOTH, "--publish", "127.0.0.1:8080:80", "--publish", f"[{HOST6}]:8081:80")
    assert host.ask("127.0.0.1", 8080) == "one 80 10.87.0.1"
    assert host.ask(HOST4, 8080, netns=host.outside, timeout=0.3) is None
    assert host.ask(HOST6, 8081, netns=host.outside) == f"one 80 {OUTSIDE6}"
    assert host.ask(HOST4, 8081, netns=host.outside, timeout=0.3) is None
    # The same port at another address is another port.
    host.container("two", *BOTH, "--publish", f"{HOST4}:8080:80")
    assert host.ask(HOST4, 8080, netns=host.outside) == f"two 80 {OUTSIDE4}"


def test_the_host_s_loopback_stays_out_of_reach(host: Host) -> None:
    """route_localnet must not let a container talk to what listens at 127.0.0.1 of the host (CVE-2020-8558)."""
    one = host.container("one", "--publish", "8080:80")
    host.serve("secret", 9000, netns=host.netns)
    for words in (
        ["sysctl", "-qw", "net.ipv4.conf.eth0.route_localnet=1"],
        ["ip", "route", "del", "local", "127.0.0.0/8", "dev", "lo", "table", "local"],
        ["ip", "route", "del", "local", "127.0.0.1", "dev", "lo", "table", "local"],
        ["ip", "addr", "del", "127.0.0.1/8", "dev", "lo"],
        ["ip", "route", "add", "127.0.0.0/8", "via", "10.87.0.1", "src", "10.87.0.2"],
    ):
        host.run(*words, netns=one.netns, check=words[1] == "-qw" or words[2] == "add")
    assert host.ask("127.0.0.1", 9000, netns=one.netns, timeout=0.5) is None
    # The attack is real: without the guard it succeeds.
    host.run("nft", "flush", "chain", "inet", "pyruntime-bridge", "guard", check=True)
    assert host.ask("127.0.0.1", 9000, netns=one.netns) == "secret 9000 10.87.0.2"


def test_isolated_bridges(host: Host) -> None:
    first = host.container("first", "--bridge", "br1", "--subnet", "10.1.0.0/24", "--isolate", "--publish", "8080:80")
    second = host.container("second", "--bridge", "br2", "--subnet", "10.2.0.0/24")
    third = host.container("third", "--bridge", "br3", "--subnet", "10.3.0.0/24")
    same = host.container("same", "--bridge", "br1", "--subnet", "10.1.0.0/24", "--isolate")
    host.serve("world", 9000, netns=host.outside)
    assert host.ask("10.1.0.2", 80, netns=second.netns, timeout=0.3) is None
    assert host.ask("10.2.0.2", 80, netns=first.netns, timeout=0.3) is None
    assert host.ask("10.3.0.2", 80, netns=second.netns) == "third 80 10.2.0.2"
    assert host.ask("10.1.0.2", 80, netns=same.netns) == "first 80 10.1.0.3"
    assert host.ask(OUTSIDE4, 9000, netns=first.netns) == f"world 9000 {HOST4}"
    assert host.ask(HOST4, 8080, netns=second.netns) == "first 80 10.2.0.2"  # published is for everybody
    for stand in (first, second, third, same):
        host.remove(stand)
    host.assert_clean()


def test_an_internal_bridge_leads_nowhere(host: Host) -> None:
    one, two = host.container("one", "--internal"), host.container("two", "--internal")
    host.serve("world", 9000, netns=host.outside)
    assert host.ask("10.87.0.3", 80, netns=one.netns) == "two 80 10.87.0.2"
    host.run("ip", "route", "add", "default", "via", "10.87.0.1", netns=one.netns, check=True)
    host.run("sysctl", "-qw", "net.ipv4.ip_forward=1", check=True)
    assert host.ask(OUTSIDE4, 9000, netns=one.netns, timeout=0.3) is None
    host.run("ip", "route", "add", "10.87.0.0/16", "via", HOST4, netns=host.outside, check=True)
    assert host.ask("10.87.0.2", 80, netns=host.outside, timeout=0.3) is None
    host.run("nft", "flush", "set", "inet", "pyruntime-bridge", "internal", check=True)
    assert host.ask("10.87.0.2", 80, netns=host.outside) == f"one 80 {OUTSIDE4}"  # nothing else was in the way
    host.remove(two)


def test_address_hardware_address_and_mtu_as_asked(host: Host) -> None:
    asked = (
        "--ip",
        "10.87.9.9",
        "--ip",
        "fd00:87::99",
        "--mac",
        "02:aa:bb:cc:dd:ee",
        "--mtu",
        "1400",
        "--ifname",
        "lan0",
    )
    one = host.container("one", *BOTH, *asked)
    link = json.loads(host.run("ip", "-j", "link", "show", "lan0", netns=one.netns, check=True).stdout)[0]
    assert (link["address"], link["mtu"]) == ("02:aa:bb:cc:dd:ee", 1400)
    assert host.addresses(one, "lan0") == {4: "10.87.9.9", 6: "fd00:87::99"}
    assert host.ask("fd00:87::99", 80) == "one 80 fd00:87::1"
    two = host.serve("two", 80)
    refused = host.hook("two", two.process.pid, *BOTH, "--ip", "10.87.9.9")
    assert (refused.returncode, refused.stderr) == (
        1, "pyruntime-bridge: --ip: container one already has 10.87.9.9\n"
    )  # fmt: skip
    assert "eth0" not in host.run("ip", "link", netns=two.netns).stdout
    host.remove(one)
    host.assert_clean()


@pytest.mark.parametrize("direction", ["in", "out"])
def test_bandwidth_is_limited(host: Host, direction: str) -> None:
    """A quarter of a megabyte at 2 Mbit/s, less the first burst, takes about a second in the limited direction only."""
    one = host.container("one", f"--rate-{direction}", "2mbit/16000")
    size = 250_000
    for way in ("in", "out"):
        sender, receiver = (host.netns, one.netns) if way == "in" else (one.netns, host.netns)
        address = "10.87.0.2" if way == "in" else "10.87.0.1"
        seconds = _transfer(host, sender, receiver, address, size)
        if way == direction:
            assert 0.8 < seconds < 4
        else:
            assert seconds < 0.8
    host.remove(one)
    host.assert_clean()


def _transfer(host: Host, sender: str, receiver: str, address: str, size: int) -> float:
    receive = f"""
import socket
server = socket.create_server(("0.0.0.0", 7777))
print("ready", flush=True)
connection, left = server.accept()[0], {size}
while left > 0:
    left -= len(connection.recv(65536))
connection.send(b".")
"""
    send = f"import socket; s = socket.create_connection(({address!r}, 7777)); s.sendall(bytes({size})); s.recv(1)"
    command = ["nsenter", f"--net={receiver}", "--", sys.executable, "-I", "-S", "-c", receive]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and server.stdout.readline() == "ready\n"
        begin = time.monotonic()
        host.run(sys.executable, "-I", "-S", "-c", send, netns=sender, check=True)
        return time.monotonic() - begin


def test_fifty_at_once_all_get_different_addresses(host: Host) -> None:
    count = 50
    stands = [host.serve(f"c{number}") for number in range(count)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda stand: host.hook(stand.id, stand.process.pid, *BOTH), stands))
        assert {(result.returncode, result.stderr) for result in results} == {(0, "")}
        found = list(pool.map(host.addresses, stands))
    assert len({one[4] for one in found}) == len({one[6] for one in found}) == count
    for stand in stands:
        stand.end()
    with ThreadPoolExecutor(8) as pool:
        ends = list(pool.map(lambda stand: host.hook(stand.id, 0), stands))
    assert {(result.returncode, result.stderr) for result in ends} == {(0, "")}
    host.assert_clean()


def test_a_udp_client_that_keeps_sending_follows_the_port_to_its_new_owner(host: Host) -> None:
    """Connection tracking remembers where the flow went before; the hook makes it forget."""
    host.container("neighbour")  # without it the table goes with the first container, and connection tracking stops
    one = host.container("one", "--publish", "5300:80/udp")
    ask: dict[str, Any] = {"netns": host.outside, "kind": "udp", "source": 4444}
    assert host.ask(HOST4, 5300, **ask) == f"one 80 {OUTSIDE4}"
    host.remove(one)
    assert host.ask(HOST4, 5300, **ask, timeout=0.2) is None  # now there is a flow that leads nowhere
    two = host.container("two", "--publish", "5300:80/udp")
    assert host.addresses(two) == {4: "10.87.0.4"}
    assert host.ask(HOST4, 5300, **ask) == f"two 80 {OUTSIDE4}"


def test_two_networks_for_one_container(host: Host) -> None:
    one = host.container("one", "--bridge", "br1", "--subnet", "10.1.0.0/24")
    assert (
        host.hook("one", one.process.pid, "--bridge", "br2", "--subnet", "10.2.0.0/24", "--ifname", "eth1").returncode
        == 0
    )
    assert host.addresses(one, "eth0")[4] == "10.1.0.2"
    assert host.addresses(one, "eth1")[4] == "10.2.0.2"
    host.serve("world", 9000, netns=host.outside)
    assert host.ask("10.2.0.2", 80) == "one 80 10.2.0.1"
    assert host.ask(OUTSIDE4, 9000, netns=one.netns) == f"world 9000 {HOST4}"
    host.remove(one)
    host.assert_clean()
