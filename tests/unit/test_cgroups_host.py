"""Which hierarchies a host has and where a container's cgroup goes, from the text of two files in /proc."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyruntime.cgroups import host as host_module
from pyruntime.cgroups.host import clean, inner, parse, place
from pyruntime.errors import RuntimeFailure, SpecError

V1 = b"""\
22 27 0:21 / /proc rw,relatime - proc proc rw
31 23 0:28 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:10 - cgroup cgroup rw,cpu,cpuacct
33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,seclabel,memory,release_agent=/x
34 31 0:31 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices
35 31 0:32 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
36 31 0:33 / /sys/fs/cgroup/openrc rw - cgroup openrc rw,release_agent=/lib/rc,name=openrc
"""
V1_OWN = b"""\
12:name=openrc:/
11:devices:/user.slice
5:cpu,cpuacct:/user.slice
4:memory:/user.slice/user-0.slice/session-1.scope
1:name=systemd:/user.slice/user-0.slice/session-1.scope
"""
HYBRID = V1 + b"37 31 0:34 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"
V2 = b"31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"


def test_v1_with_controllers_mounted_together() -> None:
    host = parse(V1, V1_OWN)
    assert host.layout == "v1"
    assert host.mount("cpu") == host.mount("cpuacct") == "/sys/fs/cgroup/cpu,cpuacct"
    assert set(host.mounts) == {"cpu", "cpuacct", "memory", "devices", "name=systemd", "name=openrc"}
    assert place(host, "cpu", "/docker/x") == "/sys/fs/cgroup/cpu,cpuacct/docker/x"


def test_a_relative_path_lies_below_our_own_cgroup_on_v1() -> None:
    host = parse(V1, V1_OWN)
    assert place(host, "memory", "x") == "/sys/fs/cgroup/memory/user.slice/user-0.slice/session-1.scope/x"
    assert place(host, "devices", "x") == "/sys/fs/cgroup/devices/user.slice/x"
    assert place(host, "name=openrc", "x") == "/sys/fs/cgroup/openrc/x"


def test_hybrid() -> None:
    host = parse(HYBRID, V1_OWN + b"0::/user.slice\n")
    assert host.layout == "hybrid"
    assert not host.unified
    assert place(host, "", "/x") == "/sys/fs/cgroup/unified/x"
    assert place(host, "", "x") == "/sys/fs/cgroup/unified/user.slice/x"


def test_v2_and_a_relative_path_beside_our_own_cgroup() -> None:
    host = parse(V2, b"0::/user.slice/user-0.slice/session-1.scope\n")
    assert host.layout == "v2"
    assert place(host, "", "/x/y") == "/sys/fs/cgroup/x/y"
    assert place(host, "", "x") == "/sys/fs/cgroup/user.slice/user-0.slice/x"
    assert place(parse(V2, b"0::/\n"), "", "x") == "/sys/fs/cgroup/x"
    assert place(parse(V2, b"0::/init.scope\n"), "", "x") == "/sys/fs/cgroup/x"


def test_v2_with_a_v1_controller_beside_it() -> None:
    extra = b"90 27 0:70 / /opt/vpn/net-cls rw - cgroup net_cls rw,net_cls\n"
    host = parse(V2 + extra, b"9:net_cls:/\n0::/a/b\n")
    assert host.layout == "v2"
    assert list(host.mounts) == [""]


def test_inside_a_container_without_a_cgroup_namespace() -> None:
    mountinfo = V1.replace(b"0:30 / /sys/fs/cgroup/memory", b"0:30 /docker/abc /sys/fs/cgroup/memory")
    host = parse(mountinfo, b"4:memory:/docker/abc/init\n")
    assert place(host, "memory", "x") == "/sys/fs/cgroup/memory/init/x"
    assert place(parse(mountinfo, b"4:memory:/docker/abc\n"), "memory", "x") == "/sys/fs/cgroup/memory/x"
    assert place(parse(mountinfo, b"4:memory:/docker/abcdef\n"), "memory", "x") == "/sys/fs/cgroup/memory/x"
    assert place(host, "memory", "/x") == "/sys/fs/cgroup/memory/x"


def test_a_mount_made_outside_of_our_cgroup_namespace() -> None:
    host = parse(V1.replace(b"0:30 / /sys", b"0:30 /.. /sys"), b"4:memory:/\n")
    assert place(host, "memory", "x") == "/sys/fs/cgroup/memory/x"


def test_the_copies_that_containers_mount_do_not_count() -> None:
    copy = b"90 27 0:30 /docker/abc /var/lib/x/sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    assert parse(V1 + copy, b"").mount("memory") == "/sys/fs/cgroup/memory"


def test_a_later_mount_on_the_same_point_covers_the_earlier_one() -> None:
    """As in a container that mounts its cgroups anew over those that it was given."""
    inner = b"32 31 0:30 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
    outer = b"90 27 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    own = b"4:memory:/docker/abc/init\n"
    assert place(parse(inner, own), "memory", "x") == "/sys/fs/cgroup/memory/init/x"
    assert place(parse(inner + outer, own), "memory", "x") == "/sys/fs/cgroup/memory/docker/abc/init/x"
    two = b"37 31 0:34 /a /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    own += b"0::/a/b\n"
    assert place(parse(inner + two, own), "", "x") == "/sys/fs/cgroup/unified/b/x"
    assert place(parse(inner + two + two.replace(b" /a ", b" / "), own), "", "x") == "/sys/fs/cgroup/unified/a/b/x"


@pytest.mark.parametrize(
    ("mounts", "layout", "controllers"),
    [
        # systemd.unified_cgroup_hierarchy=hybrid: systemd's own hierarchy twice, the controllers on v1.
        (
            b"33 31 0:28 / /sys/fs/cgroup/systemd rw shared:9 - cgroup cgroup rw,xattr,name=systemd\n"
            b"34 31 0:29 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw,nsdelegate\n"
            b"35 31 0:30 / /sys/fs/cgroup/pids rw shared:11 - cgroup cgroup rw,pids\n",
            "hybrid", {"", "name=systemd", "pids"},
        ),
        # Only systemd's named hierarchy: no controller anywhere, but not v2 either.
        (b"33 31 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n", "v1", {"name=systemd"}),
        # cgroup2 somewhere else than usual, and nothing beside it.
        (b"34 31 0:29 / /mnt/cgroups rw - cgroup2 none rw\n", "v2", {""}),
        # cgroup2 on the well-known place, and a v1 controller that a VPN mounted, before or after it.
        (
            b"90 27 0:70 / /opt/vpn rw - cgroup net_cls rw,net_cls\n"
            b"31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
            "v2", {""},
        ),
        # cgroup2 in a place of its own, before the v1 controllers.
        (
            b"34 31 0:29 / /mnt/cgroup2 rw - cgroup2 none rw\n35 31 0:30 / /dev/cgroup/cpu rw - cgroup none rw,cpu\n",
            "hybrid", {"", "cpu"},
        ),
    ],
    ids=["hybrid", "named", "elsewhere", "vpn", "android"],
)  # fmt: skip
def test_layouts(
    mounts: bytes, layout: str, controllers: set[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Through the files in /proc as they are read."""
    files = {"/proc/self/mountinfo": tmp_path / "mountinfo", "/proc/self/cgroup": tmp_path / "cgroup"}
    files["/proc/self/mountinfo"].write_bytes(b"22 27 0:21 / /proc rw - proc proc rw\n" + mounts)
    files["/proc/self/cgroup"].write_bytes(b"4:pids:/a\n1:name=systemd:/b\n0::/c\n")
    read = host_module._slurp
    monkeypatch.setattr(host_module, "_slurp", lambda path: read(str(files[path])))
    host = host_module.detect()
    assert (host.layout, set(host.mounts)) == (layout, controllers)
    files["/proc/self/mountinfo"].unlink()
    with pytest.raises(RuntimeFailure, match="is /proc mounted"):
        host_module.detect()


@pytest.mark.parametrize("name", ["a\x85b", "a\x0cb", "a\rb", "a - cgroup x"])
def test_strange_mount_points_are_no_lines(name: str) -> None:
    raw = name.encode().replace(b" ", b"\\040")
    line = b"90 27 0:30 / /mnt/" + raw + b" rw - cgroup cgroup rw,pids\n"
    host = parse(V1 + line, b"8:pids:/\n")
    assert host.mount("pids") == "/mnt/" + name
    assert host.mount("memory") == "/sys/fs/cgroup/memory"


def test_no_cgroups_at_all() -> None:
    assert parse(b"22 27 0:21 / /proc rw - proc proc rw\n", b"").layout == "none"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/../../b", "/b"),
        ("../../b", "b"),
        ("a//b/./c/", "a/b/c"),
        ("/", "/"),
        ("..", ""),
        ("a/b/../../../c", "c"),
        ("/...", "/..."),
    ],
)
def test_clean(path: str, expected: str) -> None:
    assert clean(path) == expected


@pytest.mark.parametrize("path", ["/", "..", "/..", "./.", "a\0b", "/a\nb", "/" + "x" * 256])
def test_paths_that_are_no_cgroup(path: str) -> None:
    with pytest.raises(SpecError, match=r"^linux\.cgroupsPath: "):
        inner("id", path)


def test_no_path_means_the_id() -> None:
    assert inner("id", None) == inner("id", "") == "id"


@given(st.text(alphabet="/.a", max_size=30))
def test_no_path_leaves_the_mount(path: str) -> None:
    for text, own in ((V1, V1_OWN), (V2, b"0::/a/b\n")):
        host = parse(text, own)
        controller = next(iter(host.mounts))
        try:
            directory = place(host, controller, inner("id", path))
        except SpecError:
            continue
        assert directory.startswith(host.mount(controller) + "/")
        assert ".." not in directory.split("/")
        assert "" not in directory[1:].split("/")


@given(st.binary(max_size=300))
def test_any_bytes_parse(data: bytes) -> None:
    parse(data, data)
    parse(V1 + data, V1_OWN + data)
