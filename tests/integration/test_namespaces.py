"""Namespaces: all eight kinds, made or joined by path, and what belongs to them."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.bundles import Change
from support.changes import linux, namespace, process, top, user_namespace, without_mount, without_namespace
from support.container import Container, wait_for

Make = Callable[..., Container]

FILES = {
    "mount": "mnt", "network": "net", "pid": "pid", "ipc": "ipc", "uts": "uts", "cgroup": "cgroup", "time": "time",
    "user": "user",
}  # fmt: skip
OTHERS = ["pid", "network", "ipc", "uts", "cgroup", "time"]


def space(pid: int | str, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{FILES[kind]}")


def owner(pid: int, kind: str) -> int:
    """The inode of the user namespace that a namespace belongs to: NS_GET_USERNS of ioctl_nsfs(2)."""
    with open(f"/proc/{pid}/ns/{FILES[kind]}") as file:
        found = fcntl.ioctl(file, 0xB701)
    try:
        return os.fstat(found).st_ino
    finally:
        os.close(found)


def no_mounts(config: dict[str, object]) -> None:
    config["mounts"] = []


def shares(kind: str) -> list[Change]:
    """What a container must do without that shares its caller's namespace of this kind."""
    changes: list[Change] = [without_namespace(kind)]
    if kind == "mount":
        changes += [no_mounts, linux(maskedPaths=[], readonlyPaths=[])]
    if kind == "uts":
        changes.append(lambda config: config.pop("hostname"))
    return changes


@pytest.fixture
def holder() -> Iterator[int]:
    """A process in namespaces of its own, to be joined; it sleeps as pid 1 of its pid namespace."""
    flags = ["--net", "--ipc", "--uts", "--mount", "--cgroup", "--time", "--pid", "--fork", "--kill-child"]
    outer = subprocess.Popen(["unshare", *flags, "sleep", "300"], stdin=subprocess.DEVNULL)
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    try:
        wait_for(lambda: children.read_text().strip(), "the holder")
        pid = int(children.read_text())
        wait_for(lambda: b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes()[:6], "the holder's program")
        yield pid
    finally:
        outer.kill()
        outer.wait()


@pytest.mark.parametrize("kind", [*OTHERS, "mount"])
def test_new(container: Make, kind: str) -> None:
    one = container(["sleep", "60"], namespace(kind))
    one.run("--detach").ok()
    assert space(one.pid, kind) != space("self", kind)
    assert one.exec("readlink", f"/proc/self/ns/{FILES[kind]}").ok().stdout.strip() == space(one.pid, kind)


@pytest.mark.parametrize("kind", [*OTHERS, "mount"])
def test_not_listed_is_the_callers(container: Make, kind: str) -> None:
    one = container(["sleep", "60"], *shares(kind))
    one.run("--detach").ok()
    assert space(one.pid, kind) == space("self", kind)


@pytest.mark.parametrize("kind", [*OTHERS, "mount"])
def test_joined_by_path(container: Make, holder: int, kind: str) -> None:
    changes = shares(kind) if kind in ("uts", "mount") else []
    one = container(["sleep", "60"], *changes, namespace(kind, f"/proc/{holder}/ns/{FILES[kind]}"))
    one.run("--detach").ok()
    assert space(one.pid, kind) == space(holder, kind)
    for other in ("ipc", "network"):
        if other != kind:
            assert space(one.pid, other) not in (space(holder, other), space("self", other))


def test_all_joined_at_once(container: Make, holder: int) -> None:
    kinds = [kind for kind in OTHERS if kind != "cgroup"]
    changes = [namespace(kind, f"/proc/{holder}/ns/{FILES[kind]}") for kind in kinds]
    one = container(["sleep", "60"], *shares("uts"), *changes)
    one.run("--detach").ok()
    assert [space(one.pid, kind) for kind in kinds] == [space(holder, kind) for kind in kinds]


@pytest.mark.parametrize("kind", ["network", "pid"])
def test_joined_from_another_container(container: Make, kind: str) -> None:
    first = container(["sleep", "60"])
    first.run("--detach").ok()
    second = container(["sh", "-c", "exec sleep 60"], namespace(kind, f"/proc/{first.pid}/ns/{FILES[kind]}"))
    second.run("--detach").ok()
    assert space(second.pid, kind) == space(first.pid, kind)
    if kind == "pid":
        # Its first process is not the first of the namespace, and ends with it.
        status = second.proc("status").read_text()
        assert next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1] != "1"
        first.kill("KILL").ok()
        second.wait("stopped")


# Refusals.


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/proc/self/ns/uts", "is a namespace of kind uts, not network"),
        ("/etc/passwd", "is not a namespace"),
        ("/nowhere", "no such file or directory"),
    ],
)
def test_a_path_of_another_kind(container: Make, path: str, text: str) -> None:
    one = container(["true"], namespace("network", path))
    result = one.create()
    assert result.status == 1
    assert path in result.stderr and text in result.stderr
    assert one.leaks() == []


def test_a_kind_listed_twice(container: Make) -> None:
    one = container(["true"], lambda config: config["linux"]["namespaces"].append({"type": "pid"}))
    result = one.create()
    assert result.status == 1
    assert "linux.namespaces" in result.stderr and "pid" in result.stderr
    assert one.leaks() == []


# User namespaces.


def ids(pid: int) -> list[str]:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return [line.split()[1] for line in status if line.startswith(("Uid:", "Gid:"))]


@pytest.mark.parametrize(("user", "expected"), [(0, 100000), (1000, 101000)])
def test_user_namespace(container: Make, user: int, expected: int) -> None:
    one = container(["sleep", "60"], user_namespace(), process(user={"uid": user, "gid": user}))
    one.run("--detach").ok()
    assert space(one.pid, "user") != space("self", "user")
    assert ids(one.pid) == [str(expected)] * 2
    assert one.proc("uid_map").read_text().split() == ["0", "100000", "65536"]
    assert one.proc("gid_map").read_text().split() == ["0", "100000", "65536"]
    assert one.exec("id", "-u").ok().stdout.strip() == str(user)
    for kind in ("network", "mount", "pid", "ipc", "uts"):
        assert owner(one.pid, kind) == one.proc("ns/user").stat().st_ino, kind


def test_several_ranges(container: Make) -> None:
    uids = [{"containerID": 0, "hostID": 5000, "size": 1}, {"containerID": 1, "hostID": 200000, "size": 1000}]
    one = container(["sleep", "60"], namespace("user"), linux(uidMappings=uids, gidMappings=uids))
    one.create().ok()
    assert one.proc("uid_map").read_text().split() == ["0", "5000", "1", "1", "200000", "1000"]
    assert one.proc("root/dev/pts").stat().st_uid == 5000


def test_user_and_time_together(container: Make) -> None:
    offsets = {"boottime": {"secs": 1000000, "nanosecs": 5}, "monotonic": {"secs": 2000000}}
    one = container(["cat", "/proc/uptime", "/proc/self/uid_map"], user_namespace(), namespace("time"),
                    linux(timeOffsets=offsets))  # fmt: skip
    uptime, uid_map = one.run().ok().stdout.splitlines()
    assert float(uptime.split()[0]) > 1000000
    assert uid_map.split() == ["0", "100000", "65536"]


def test_a_user_namespace_that_is_joined(container: Make) -> None:
    first = container(["sleep", "60"], user_namespace())
    first.run("--detach").ok()
    second = container(
        ["sleep", "60"],
        namespace("user", f"/proc/{first.pid}/ns/user"),
        namespace("network", f"/proc/{first.pid}/ns/net"),
    )
    second.run("--detach").ok()
    assert space(second.pid, "user") == space(first.pid, "user")
    assert space(second.pid, "network") == space(first.pid, "network")
    assert space(second.pid, "ipc") != space(first.pid, "ipc")
    assert ids(second.pid) == ["100000"] * 2
    assert second.exec("id", "-u").ok().stdout.strip() == "0"


@pytest.mark.parametrize(
    "mappings",
    [
        {"uidMappings": [{"containerID": 0, "hostID": 1, "size": 5}] * 2,
         "gidMappings": [{"containerID": 0, "hostID": 1, "size": 5}]},
        {"uidMappings": [{"containerID": 0, "hostID": 1, "size": 5}]},
    ],
)  # fmt: skip
def test_mappings_that_make_no_sense(container: Make, mappings: dict[str, object]) -> None:
    one = container(["true"], namespace("user"), linux(**mappings))
    result = one.create()
    assert result.status == 1
    assert "dMappings" in result.stderr or "id_map" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert one.leaks() == []


# What belongs to a namespace.


def test_time_offsets(container: Make) -> None:
    offsets = {"boottime": {"secs": 86400 * 365}, "monotonic": {"secs": 7, "nanosecs": 9}}
    one = container(["sleep", "60"], namespace("time"), linux(timeOffsets=offsets))
    one.run("--detach").ok()
    text = one.proc("timens_offsets").read_text().split()
    assert text == ["monotonic", "7", "9", "boottime", str(86400 * 365), "0"]
    assert float(one.exec("cat", "/proc/uptime").ok().stdout.split()[0]) > 86400 * 365


def test_hostname_and_domainname(container: Make) -> None:
    before = os.uname().nodename
    script = ["sh", "-c", "hostname; cat /proc/sys/kernel/domainname"]
    result = container(script, top(hostname="inner.example", domainname="nis.example")).run().ok()
    assert result.stdout.split() == ["inner.example", "nis.example"]
    assert os.uname().nodename == before


@pytest.mark.parametrize("name", ["hostname", "domainname"])
def test_names_need_a_uts_namespace(container: Make, name: str) -> None:
    one = container(["true"], lambda config: config.pop("hostname"), without_namespace("uts"), top(**{name: "x"}))
    before = os.uname().nodename
    result = one.create()
    assert result.status == 1
    assert name in result.stderr and "uts" in result.stderr.lower()
    assert os.uname().nodename == before


def test_sysctl(container: Make) -> None:
    values = {
        "net.ipv4.ip_forward": "1",
        "net/ipv4/ip_unprivileged_port_start": "0",
        "kernel.shmmax": "1234567",
        "fs.mqueue.msg_max": "42",
    }
    files = [f"/proc/sys/{key.replace('.', '/')}" for key in values]
    one = container(["cat", *files], linux(sysctl=values))
    assert one.run().ok().stdout.split() == list(values.values())


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("kernel.panic", []),
        ("vm.swappiness", []),
        ("kernel.hostname", []),
        ("net.ipv4.ip_forward", [without_namespace("network")]),
        ("kernel.shmmax", [without_namespace("ipc")]),
    ],
)
def test_sysctls_of_the_host_are_refused(container: Make, key: str, changes: list[Change]) -> None:
    file = Path("/proc/sys", key.replace(".", "/"))
    before = file.read_text()
    one = container(["true"], linux(sysctl={key: "1"}), *changes)
    result = one.create()
    assert result.status == 1
    assert key in result.stderr and "sysctl" in result.stderr
    assert file.read_text() == before
    assert one.leaks() == []


@pytest.mark.parametrize("user", [False, True], ids=["plain", "user namespace"])
def test_loopback_is_up(container: Make, user: bool) -> None:
    one = container(["sh", "-c", "cat /sys/class/net/lo/operstate; ping -c 1 -w 5 127.0.0.1; ls /sys/class/net"],
                    process(capabilities={kind: ["CAP_NET_RAW"] for kind in ("bounding", "effective", "permitted")}),
                    *([user_namespace()] if user else []))  # fmt: skip
    result = one.run().ok()
    assert "1 packets received" in result.stdout
    assert result.stdout.split()[-1] == "lo"  # and nothing of the host


def test_a_joined_network_is_left_as_it_is(container: Make, holder: int) -> None:
    one = container(["sh", "-c", "ip link show lo"], namespace("network", f"/proc/{holder}/ns/net"))
    assert "UP" not in one.run().ok().stdout.split("mtu")[0]


def test_without_a_pid_namespace(container: Make) -> None:
    one = container(["sh", "-c", "sleep 300 & exec sleep 300"], without_namespace("pid"), without_mount("/proc"),
                    linux(maskedPaths=[], readonlyPaths=[]))  # fmt: skip
    one.run("--detach").ok()
    assert "NSpid:\t" + str(one.pid) in one.proc("status").read_text()
    assert len(one.runtime("ps", "--format", "json", one.id).ok().json()) == 2
    one.kill("KILL").ok()
    one.wait("stopped")
    wait_for(lambda: not [left for left in one.leaks() if left.startswith("process")], "the other process to end")
    one.delete().ok()
    assert one.leaks() == []
