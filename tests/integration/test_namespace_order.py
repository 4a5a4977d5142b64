"""User namespaces together with the others: whichever is listed first, each is joined when that is allowed.

A namespace belongs to a user namespace. One of the host's can be joined only before the container's user namespace is
entered, one of the container's only afterwards; and new ones have to belong to the user namespace that is joined.
"""

from __future__ import annotations

import fcntl
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.bundles import Change, Config
from support.changes import namespace, user_namespace
from support.container import Container, new_id

Make = Callable[..., Container]

FILES = {"user": "user", "mount": "mnt", "network": "net", "pid": "pid", "ipc": "ipc", "uts": "uts", "cgroup": "cgroup",
         "time": "time"}  # fmt: skip


def space(pid: int | str, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{FILES[kind]}")


def owner(pid: int, kind: str) -> str:
    """The user namespace that a namespace belongs to, as its link shows it: NS_GET_USERNS of ioctl_nsfs(2)."""
    with open(f"/proc/{pid}/ns/{FILES[kind]}") as file:
        found = fcntl.ioctl(file, 0xB701)
    try:
        return os.readlink(f"/proc/self/fd/{found}")
    finally:
        os.close(found)


def spaces(*kinds: str, of: int | None = None) -> list[dict[str, str]]:
    return [{"type": kind, **({"path": f"/proc/{of}/ns/{FILES[kind]}"} if of else {})} for kind in kinds]


def listed(entries: list[dict[str, str]]) -> Change:
    """Exactly these namespaces; a container that joins all of them brings no mounts and no name."""

    def change(config: Config) -> None:
        config["linux"]["namespaces"] = entries
        joined = {entry["type"] for entry in entries if "path" in entry}
        if joined & {"mount", "uts"}:
            config.pop("hostname")
        if "mount" in joined:
            config["mounts"] = []
            config["linux"].update(maskedPaths=[], readonlyPaths=[])

    return change


ALL = ["user", "network", "pid", "ipc", "uts", "cgroup", "time"]


@pytest.fixture
def first(container: Make) -> Container:
    """A container with a user namespace and one of every other kind in it."""
    one = container(["sleep", "60"], user_namespace(), *(namespace(kind) for kind in ("cgroup", "time")))
    one.run("--detach").ok()
    return one


@pytest.mark.parametrize("seed", range(4))
def test_all_of_another_container(container: Make, first: Container, seed: int) -> None:
    """In any order of the list; the user namespace is what all of them belong to."""
    entries = spaces(*ALL, of=first.pid) + spaces("mount")
    random.Random(seed).shuffle(entries)
    two = container(["sleep", "60"], listed(entries))
    two.run("--detach").ok()
    for kind in ALL:
        assert space(two.pid, kind) == space(first.pid, kind), kind
    assert owner(two.pid, "mount") == space(first.pid, "user")
    assert two.exec("id", "-u").ok().stdout == "0\n"
    assert os.stat(f"/proc/{two.pid}").st_uid == 100000


@pytest.mark.parametrize("front", [True, False])
def test_a_network_of_the_host_and_a_user_namespace_of_a_container(
    container: Make, first: Container, netns: str, front: bool
) -> None:
    """The network belongs to the host's user namespace: it is entered first, wherever it is listed."""
    network = [{"type": "network", "path": netns}]
    rest = [*spaces("user", "ipc", of=first.pid), *spaces("mount", "pid", "uts")]
    two = container(["sleep", "60"], listed(network + rest if front else rest + network), without_sysfs)
    two.run("--detach").ok()
    assert os.stat(f"/proc/{two.pid}/ns/net").st_ino == os.stat(netns).st_ino
    assert space(two.pid, "user") == space(first.pid, "user")
    assert space(two.pid, "ipc") == space(first.pid, "ipc")
    for kind in ("mount", "pid", "uts"):
        assert owner(two.pid, kind) == space(first.pid, "user"), kind
    assert owner(two.pid, "network") == space("self", "user")
    assert two.exec("readlink", "/proc/self/ns/net").ok().stdout.strip() == space(two.pid, "network")


def test_a_network_of_the_host_and_a_new_user_namespace(container: Make, netns: str) -> None:
    """What podman does for `--network ns:PATH --userns auto`."""
    entries = [*spaces("user", "mount", "pid", "ipc", "uts"), {"type": "network", "path": netns}]
    one = container(["sleep", "60"], user_namespace(), listed(entries), without_sysfs)
    one.run("--detach").ok()
    assert os.stat(f"/proc/{one.pid}/ns/net").st_ino == os.stat(netns).st_ino
    assert owner(one.pid, "pid") == space(one.pid, "user") != space("self", "user")
    assert one.exec("readlink", "/proc/self/ns/net").ok().stdout.strip() == space(one.pid, "network")


def test_more_of_the_host_and_a_new_user_namespace(container: Make) -> None:
    """Also the pid namespace, which only children enter; and time offsets, which are written after all that."""
    plain = container(["sleep", "60"])
    plain.run("--detach").ok()
    entries = [*spaces("user", "mount", "uts", "time"), *spaces("pid", "ipc", "network", of=plain.pid)]
    offsets = {"boottime": {"secs": 7777777}}
    one = container(
        ["sleep", "60"], user_namespace(), listed(entries), without_sysfs, with_the_hosts_proc,
        lambda config: config["linux"].update(timeOffsets=offsets),
    )  # fmt: skip
    one.run("--detach").ok()
    for kind in ("pid", "ipc", "network"):
        assert space(one.pid, kind) == space(plain.pid, kind), kind
        assert owner(one.pid, kind) == space("self", "user")
    for kind in ("mount", "uts", "time"):
        assert owner(one.pid, kind) == space(one.pid, "user"), kind
    uptime, uid_map = one.exec("cat", "/proc/uptime", "/proc/self/uid_map").ok().stdout.splitlines()
    assert float(uptime.split()[0]) > 7777777
    assert uid_map.split() == ["0", "100000", "65536"]


def test_new_namespaces_belong_to_the_joined_user_namespace(container: Make, first: Container) -> None:
    entries = spaces("user", of=first.pid) + spaces("network", "pid", "ipc", "uts", "cgroup", "time", "mount")
    two = container(["sleep", "60"], listed(entries))
    two.run("--detach").ok()
    for entry in entries[1:]:
        assert owner(two.pid, entry["type"]) == space(first.pid, "user"), entry
        assert space(two.pid, entry["type"]) != space(first.pid, entry["type"]), entry
    assert two.exec("readlink", "/proc/self/ns/user").ok().stdout.strip() == space(first.pid, "user")


def test_time_of_another_container_with_its_offsets(container: Make) -> None:
    offsets = {"boottime": {"secs": 7777777}}
    first = container(["sleep", "60"], namespace("time"), lambda config: config["linux"].update(timeOffsets=offsets))
    first.run("--detach").ok()
    two = container(["sleep", "60"], namespace("time", f"/proc/{first.pid}/ns/time"))
    two.run("--detach").ok()
    assert space(two.pid, "time") == space(first.pid, "time")
    assert float(two.exec("cut", "-d", " ", "-f1", "/proc/uptime").ok().stdout) > 7777777


def test_negative_offsets(container: Make) -> None:
    """A container that believes it booted a minute later than the machine."""
    now = float(Path("/proc/uptime").read_text().split()[0])
    if now < 120:
        pytest.skip("this machine has only just booted")
    offsets = {"boottime": {"secs": -60, "nanosecs": 500}, "monotonic": {"secs": -30}}
    one = container(
        ["cat", "/proc/uptime"], namespace("time"), lambda config: config["linux"].update(timeOffsets=offsets)
    )
    inside = float(one.run().ok().stdout.split()[0])
    assert 30 < now + 30 - inside < 90


def without_sysfs(config: Config) -> None:
    """sysfs shows a network namespace and can be mounted only by its owner."""
    config["mounts"] = [entry for entry in config["mounts"] if entry["type"] != "sysfs"]
    config["mounts"] = [entry for entry in config["mounts"] if not entry["destination"].startswith("/sys")]


def with_the_hosts_proc(config: Config) -> None:
    """proc and mqueue show a pid and an ipc namespace, and so belong to the owners of these."""
    config["mounts"] = [entry for entry in config["mounts"] if entry["type"] not in ("proc", "mqueue")]
    config["mounts"].append({"destination": "/proc", "source": "/proc", "options": ["rbind"]})


@pytest.fixture
def netns() -> Iterator[str]:
    """A network namespace that a person made."""
    name = new_id("order")
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield f"/run/netns/{name}"
    subprocess.run(["ip", "netns", "del", name], check=True)
