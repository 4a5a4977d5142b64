"""`linux.netDevices` of real containers: with user namespaces, joined networks, and when create fails afterwards."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.bundles import Change
from support.changes import hooks, linux, namespace, user_namespace
from support.container import Container, new_id

Make = Callable[..., Container]

ADDRESS = "192.0.2.77/24"


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def links(pid: int | None = None) -> dict[str, Any]:
    """The interfaces of the host, or of a process' network namespace, by name."""
    inside = [] if pid is None else ["nsenter", f"--net=/proc/{pid}/ns/net", "--"]
    text = subprocess.run([*inside, "ip", "-j", "addr"], check=True, capture_output=True, text=True).stdout
    return {link["ifname"]: link for link in json.loads(text)}


def addresses(link: dict[str, Any]) -> list[str]:
    return [f"{one['local']}/{one['prefixlen']}" for one in link["addr_info"] if one["family"] == "inet"]


@pytest.fixture
def device() -> Iterator[str]:
    """An interface of the host with an address. Its peer takes it away in the end, wherever it is then."""
    name = f"nd{os.getpid() % 100000}"
    ip("link", "add", name, "type", "veth", "peer", "name", f"{name}p")
    ip("addr", "add", ADDRESS, "dev", name)
    ip("link", "set", name, "up")
    yield name
    subprocess.run(["ip", "link", "del", f"{name}p"], check=False, stderr=subprocess.DEVNULL)


@pytest.fixture
def netns() -> Iterator[str]:
    name = new_id("nd")
    ip("netns", "add", name)
    yield f"/run/netns/{name}"
    ip("netns", "del", name)


@pytest.mark.parametrize("changes", [[], [user_namespace()]], ids=["plain", "userns"])
def test_it_is_in_the_container(container: Make, device: str, changes: list[Change]) -> None:
    one = container(["sleep", "60"], linux(netDevices={device: {"name": "data0"}}), *changes)
    one.create().ok()
    assert device not in links()
    found = links(one.pid)["data0"]
    assert addresses(found) == [ADDRESS] and "UP" in found["flags"]
    one.start().ok()


@pytest.mark.parametrize("changes", [[], [user_namespace()]], ids=["plain", "userns"])
def test_it_is_in_the_network_that_is_joined(container: Make, device: str, netns: str, changes: list[Change]) -> None:
    def without_sysfs(config: dict[str, Any]) -> None:
        config["mounts"] = [entry for entry in config["mounts"] if not entry["destination"].startswith("/sys")]

    one = container(
        ["sleep", "60"], linux(netDevices={device: {}}), *changes, namespace("network", netns), without_sysfs
    )
    one.run("--detach").ok()
    assert device in links(one.pid) and device not in links()
    assert os.stat(f"/proc/{one.pid}/ns/net").st_ino == os.stat(netns).st_ino


def test_it_is_on_the_host_again_when_create_fails(container: Make, device: str) -> None:
    """A virtual interface would end together with the network namespace of the container that did not come to be."""
    one = container(
        ["true"], linux(netDevices={device: {"name": "data0"}}), hooks(createRuntime=[{"path": "/bin/false"}])
    )
    assert one.create().status == 1
    found = links()[device]
    assert addresses(found) == [ADDRESS] and "UP" in found["flags"]
