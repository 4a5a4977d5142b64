"""`linux.netDevices` between two network namespaces of the test's own: what moves, what it keeps, what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOST = f"ndhost{os.getpid()}"
GUEST = f"ndguest{os.getpid()}"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


def ip(namespace: str, *words: str) -> str:
    return subprocess.run(["ip", "-n", namespace, *words], check=True, capture_output=True, text=True).stdout


def links(namespace: str) -> dict[str, Any]:
    return {link["ifname"]: link for link in json.loads(ip(namespace, "-j", "addr"))}


def addresses(link: dict[str, Any]) -> set[str]:
    return {f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"] if a["scope"] == "global"}


def move(**devices: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Plan and apply in a process of its own, inside the namespace that plays the host."""
    program = """
import os, sys, json
sys.path.insert(0, sys.argv[1])
from pyruntime.errors import RuntimeFailure
from pyruntime.plan.netdevices import plan_net_devices
try:
    step = plan_net_devices(json.loads(sys.argv[3]), True, False)
    print(step.describe())
    step.move(os.open(sys.argv[2], os.O_RDONLY))
except RuntimeFailure as failure:
    sys.exit(str(failure))
"""
    command = ["ip", "netns", "exec", HOST, sys.executable, "-c", program, str(ROOT)]
    command += [f"/run/netns/{GUEST}", json.dumps(devices)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(autouse=True)
def namespaces() -> Iterator[None]:
    made: list[str] = []
    try:
        for name in (HOST, GUEST):
            subprocess.run(["ip", "netns", "add", name], check=True)
            made.append(name)
        ip(HOST, "link", "add", "one", "type", "veth", "peer", "name", "one-peer")
        ip(HOST, "link", "add", "two", "type", "veth", "peer", "name", "two-peer")
        yield
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=True)


def test_it_keeps_name_mtu_address_and_hardware_address() -> None:
    ip(HOST, "link", "set", "one", "mtu", "1442", "address", "02:00:00:00:12:34", "up")
    ip(HOST, "addr", "add", "10.11.0.7/24", "dev", "one")
    ip(HOST, "addr", "add", "10.12.0.7", "peer", "10.12.0.9/32", "dev", "one")
    ip(HOST, "addr", "add", "fd00:11::7/64", "dev", "one", "nodad")
    result = move(one={})
    assert (result.stderr, result.stdout) == ("", "move network interface one into the container\n")
    assert "one" not in links(HOST)
    there = links(GUEST)["one"]
    assert (there["mtu"], there["address"]) == (1442, "02:00:00:00:12:34")
    assert "UP" in there["flags"]
    assert addresses(there) == {"10.11.0.7/24", "10.12.0.7/32", "fd00:11::7/64"}
    assert [a["address"] for a in there["addr_info"] if a["local"] == "10.12.0.7"] == ["10.12.0.9"]


def test_addresses_of_the_link_or_with_a_lifetime_stay_behind() -> None:
    ip(HOST, "link", "set", "one", "up")
    ip(HOST, "addr", "add", "10.11.0.7/24", "dev", "one", "valid_lft", "600", "preferred_lft", "600")
    ip(HOST, "addr", "add", "10.13.0.7/24", "dev", "one", "scope", "link")
    ip(HOST, "addr", "add", "fe80::77/64", "dev", "one", "nodad")
    assert move(one={}).returncode == 0
    left = {a["local"] for a in links(GUEST)["one"]["addr_info"]}
    assert not left & {"10.11.0.7", "10.13.0.7", "fe80::77"}


def test_a_new_name_also_when_the_old_one_is_taken_there() -> None:
    ip(GUEST, "link", "add", "one", "type", "bridge")
    assert move(one={"name": "eth0"}).returncode == 0
    assert set(links(GUEST)) == {"lo", "one", "eth0"}


def test_templates_count_up_from_what_is_there() -> None:
    ip(GUEST, "link", "add", "eth0", "type", "bridge")
    result = move(one={"name": "eth%d"}, two={"name": "eth%d"})
    assert result.returncode == 0, result.stderr
    there = links(GUEST)
    assert set(there) == {"lo", "eth0", "eth1", "eth2"}
    assert all("UP" in there[name]["flags"] for name in ("eth1", "eth2"))


def test_names_can_be_exchanged() -> None:
    hardware = {name: links(HOST)[name]["address"] for name in ("one", "two")}
    assert move(one={"name": "two"}, two={"name": "one"}).returncode == 0
    there = links(GUEST)
    assert (there["two"]["address"], there["one"]["address"]) == (hardware["one"], hardware["two"])


def test_a_taken_name_is_an_error_before_anything_moves() -> None:
    ip(GUEST, "link", "add", "eth0", "type", "bridge")
    before = set(links(HOST))
    result = move(one={"name": "eth1"}, two={"name": "eth0"})
    assert "linux.netDevices.two: the container's network namespace already has an interface eth0" in result.stderr
    assert set(links(HOST)) == before
    assert set(links(GUEST)) == {"lo", "eth0"}


def test_a_missing_interface_is_an_error_before_anything_moves() -> None:
    result = move(one={}, nowhere={})
    assert "linux.netDevices.nowhere: no such interface" in result.stderr
    assert "one" in links(HOST)


def test_when_one_cannot_move_the_others_come_back_as_they_were() -> None:
    ip(HOST, "link", "set", "one", "mtu", "1400", "up")
    ip(HOST, "addr", "add", "10.11.0.7/24", "dev", "one")
    ip(HOST, "addr", "add", "fd00:11::7/64", "dev", "one", "nodad")
    result = move(one={"name": "eth0"}, lo={"name": "other"})
    assert "linux.netDevices: move lo into the container" in result.stderr
    assert set(links(GUEST)) == {"lo"}
    here = links(HOST)["one"]
    assert addresses(here) == {"10.11.0.7/24", "fd00:11::7/64"}
    assert (here["mtu"], "UP" in here["flags"]) == (1400, True)
