"""The root file system of a container: read-only, closed paths, devices, the way into it."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.changes import bind, linux, mount, resources, root, user_namespace, without_mount, without_namespace
from support.container import Container
from support.mountinfo import host_mounts_at, mounts

Make = Callable[..., Container]

DEFAULTS = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}


def test_readonly_root(container: Make) -> None:
    one = container(["sh", "-c", "touch /x; touch /dev/x && touch /dev/shm/x && echo fine"], root(readonly=True))
    result = one.run().ok()
    assert "/x: Read-only file system" in result.stderr
    assert result.stdout == "fine\n"  # only the root itself; what is mounted in it has its own options
    assert not (one.bundle.rootfs / "x").exists()
    (one.bundle.rootfs / "x").touch()  # the directory of the host stays as it is


def test_writable_root(container: Make) -> None:
    one = container(["touch", "/x"])
    one.run().ok()
    assert (one.bundle.rootfs / "x").exists()


def test_missing_mount_points_of_a_readonly_root_are_made(container: Make, tmp_path: Path) -> None:
    container(["ls", "/new"], root(readonly=True), bind(tmp_path, "/new")).run().ok()


def test_an_absolute_path_and_a_link_to_the_rootfs(container: Make, rootfs: Path, tmp_path: Path) -> None:
    assert container(["echo", "x"], root=rootfs).run().ok().stdout == "x\n"
    one = container(["echo", "x"], root(path="link"))
    (one.bundle.path / "link").symlink_to("rootfs")
    assert one.run().ok().stdout == "x\n"


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_rootfs_that_is_none(container: Make, kind: str) -> None:
    one = container(["true"], root(path=kind))
    if kind == "file":
        (one.bundle.path / "file").write_text("")
    result = one.create()
    assert result.status == 1
    assert "root.path" in result.stderr and f"{one.bundle.path}/{kind}" in result.stderr
    assert one.leaks() == []


@pytest.mark.parametrize(
    ("word", "tags"),
    [
        ("shared", {"shared"}),
        ("slave", {"master"}),
        ("private", set()),
        ("unbindable", {"unbindable"}),
        (None, {"master"}),
    ],
)
def test_root_propagation(container: Make, word: str | None, tags: set[str]) -> None:
    one = container(["sleep", "60"], *([linux(rootfsPropagation=word)] if word else []))
    one.create().ok()
    found = mounts(one.pid)["/"].tags
    hosts = mounts("self")
    on = next(hosts[str(parent)] for parent in one.bundle.rootfs.parents if str(parent) in hosts)
    # What lies on a private mount, as it does where systemd is not, has no master to be a slave of.
    assert found == (tags if "shared" in on.tags else tags - {"master"})


@pytest.mark.parametrize("flags", [[], ["--no-pivot"]], ids=["pivot", "no-pivot"])
def test_the_hosts_proc_and_sys_stay_where_its_mounts_are_shared(container: Make, flags: list[str]) -> None:
    """As systemd makes them: an unmount in the container reaches every peer of the mount that lies below."""
    one = container(["true"], linux(rootfsPropagation="shared"))
    # On a mount of its own: the one that the rootfs lies on is no peer of the host's any more.
    look = 'mount --bind "$0" "$0" && "$@" && test -e /proc/self/status && test -d /sys/kernel && test -x /usr/bin/env'
    command = ["unshare", "--mount", "--propagation", "shared", "sh", "-c", look, str(one.bundle.path)]
    command += one.runtime.argv("run", "--bundle", one.bundle.path, *flags, one.id)
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("propagation", [None, "shared"])
@pytest.mark.parametrize("flags", [[], ["--no-pivot"]], ids=["pivot", "no-pivot"])
def test_the_hosts_files_are_gone(container: Make, tmp_path: Path, flags: list[str], propagation: str | None) -> None:
    before = host_mounts_at(tmp_path)
    look = ["sh", "-c", "ls /; ls /../..; cat /proc/self/mounts; ls /proc/self/fd/0; cat /proc/sys/kernel/hostname"]
    changes = [linux(rootfsPropagation=propagation)] if propagation else []
    result = container(look, *changes).run(*flags).ok()
    one = container(["sleep", "60"], *changes)
    one.run("--detach", *flags).ok()
    again = one.exec(*look).ok()
    for text in (result.stdout, again.stdout):
        names = text.split()
        assert names[:9] == ["bin", "dev", "etc", "proc", "root", "sys", "tmp", "usr", "var"]
        assert "home" not in names and "boot" not in names
        assert "pyruntime" in names  # the host name: /proc is the container's
    types = [one.point for one in mounts(one.pid).values() if one.type in ("proc", "sysfs")]
    # With the host's own procfs in sight a nested user namespace could mount one without masks.
    assert {point.split("/")[1] for point in types} == {"proc", "sys"}
    assert host_mounts_at(tmp_path) == before


# Paths that are closed.


def test_masked_paths(container: Make) -> None:
    one = container(
        ["sh", "-c", "cat /proc/kcore /file; ls -A /directory; echo x > /directory/new"],
        linux(maskedPaths=["/proc/kcore", "/file", "/directory", "/missing", "/file/below", "/link"]),
    )
    rootfs = one.bundle.rootfs
    (rootfs / "file").write_text("secret")
    (rootfs / "directory").mkdir()
    (rootfs / "directory" / "secret").write_text("secret")
    (rootfs / "linked").write_text("secret")
    (rootfs / "link").symlink_to("linked")
    result = one.run()
    assert result.stdout == ""
    assert "Read-only file system" in result.stderr
    assert (rootfs / "linked").read_text() == "secret"


def test_masked_files_are_the_null_device(container: Make) -> None:
    one = container(["sleep", "60"], linux(maskedPaths=["/proc/kcore", "/proc/keys", "/proc/scsi", "/sys/firmware"]))
    one.create().ok()
    for name in ("proc/kcore", "proc/keys"):
        if not Path("/", name).exists():
            continue
        assert one.proc(f"root/{name}").stat().st_rdev == os.makedev(1, 3)
    for name in ("proc/scsi", "sys/firmware"):
        if one.proc(f"root/{name}").exists():
            assert os.listdir(one.proc(f"root/{name}")) == []


def test_masking_with_a_false_null_device_is_refused(container: Make, tmp_path: Path) -> None:
    """An image that brings its own /dev/null must not choose what covers a masked path (CVE-2025-31133)."""
    one = container(["true"], without_mount("/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"))
    (one.bundle.rootfs / "dev" / "null").symlink_to("/etc/passwd")
    result = one.create()
    assert result.status == 1
    assert "/dev/null" in result.stderr
    assert one.leaks() == []


def test_readonly_paths(container: Make) -> None:
    one = container(
        ["sh", "-c", "touch /dir/x; echo y > /dir/sub/file; echo z > /file; cat /file; touch /other"],
        linux(readonlyPaths=["/dir", "/file", "/missing", "/proc/sys"]),
        mount("/dir/sub", "none", [], "tmpfs"),
    )
    (one.bundle.rootfs / "dir").mkdir()
    (one.bundle.rootfs / "file").write_text("before\n")
    result = one.run().ok()
    assert result.stdout == "before\n"
    assert result.stderr.count("Read-only file system") == 2  # as everywhere, mounts below keep their options


def test_proc_sys_is_readonly(container: Make) -> None:
    result = container(["sh", "-c", "echo x > /proc/sys/kernel/hostname"]).run()
    assert "Read-only file system" in result.stderr


# Devices.


@pytest.mark.parametrize("user", [False, True], ids=["plain", "user namespace"])
def test_default_devices_and_links(container: Make, user: bool) -> None:
    one = container(["sleep", "60"], *([user_namespace()] if user else []))
    one.create().ok()
    for name, number in DEFAULTS.items():
        status = one.proc(f"root/dev/{name}").stat()
        assert stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(*number), name
        if not user:  # there they are the host's own
            assert stat.S_IMODE(status.st_mode) == 0o666 and (status.st_uid, status.st_gid) == (0, 0), name
    for name, target in LINKS.items():
        assert os.readlink(one.proc(f"root/dev/{name}")) == target
    assert os.readlink(one.proc("root/dev/ptmx")) in ("pts/ptmx", "/dev/pts/ptmx")


@pytest.mark.parametrize("user", [False, True], ids=["plain", "user namespace"])
def test_a_listed_ptmx_is_the_link_all_the_same(container: Make, user: bool) -> None:
    """podman --privileged lists the devices of the host; in a user namespace nodes are bound: nothing unlinks them."""
    node = {"path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2}
    one = container(
        ["readlink", "/dev/ptmx"],
        lambda config: config["linux"].update(devices=[node]),
        *([user_namespace()] if user else []),
    )
    assert one.run().ok().stdout.strip() in ("pts/ptmx", "/dev/pts/ptmx")


def test_devices_can_be_used(container: Make) -> None:
    script = "head -c 5 /dev/zero | wc -c; head -c 5 /dev/urandom | wc -c; echo x > /dev/null; echo x > /dev/full"
    result = container(["sh", "-c", script]).run()
    assert result.stdout.split() == ["5", "5"]
    assert "No space left" in result.stderr


def test_listed_devices(container: Make) -> None:
    devices = [
        {"path": "/dev/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 3, "gid": 4},
        {"path": "/dev/deep/below/block", "type": "b", "major": 7, "minor": 200},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o600},
        {"path": "/dev/unbuffered", "type": "u", "major": 1, "minor": 3},
        {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "uid": 9},
    ]
    one = container(["sleep", "60"], linux(devices=devices))
    one.create().ok()
    mine = one.proc("root/dev/mine").stat()
    assert stat.filemode(mine.st_mode) == "crw-r-----"
    assert (mine.st_rdev, mine.st_uid, mine.st_gid) == (os.makedev(1, 5), 3, 4)
    block = one.proc("root/dev/deep/below/block").stat()
    assert stat.filemode(block.st_mode) == "brw-rw-rw-" and block.st_rdev == os.makedev(7, 200)
    assert stat.filemode(one.proc("root/dev/pipe").stat().st_mode) == "prw-------"
    assert stat.S_ISCHR(one.proc("root/dev/unbuffered").stat().st_mode)
    null = one.proc("root/dev/null").stat()
    assert (stat.filemode(null.st_mode), null.st_uid) == ("crw-------", 9)  # a listed one replaces the default


def test_a_listed_device_needs_permission(container: Make) -> None:
    """60:0 is a number for experiments that no driver has: opening it is ENXIO where it is allowed."""
    devices = linux(devices=[{"path": "/dev/mine", "type": "c", "major": 60, "minor": 0}])
    rules = [{"allow": False, "access": "rwm"}]
    script = ["cat", "/dev/mine"]
    result = container(script, devices, resources(devices=rules)).run()
    assert "Operation not permitted" in result.stderr
    rules.append({"allow": True, "type": "c", "major": 60, "minor": 0, "access": "r"})
    result = container(script, devices, resources(devices=rules)).run()
    assert "No such device" in result.stderr


def test_a_wrong_node_in_the_way_is_refused(container: Make) -> None:
    one = container(["true"], without_mount("/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"), linux(maskedPaths=[]))
    (one.bundle.rootfs / "dev" / "zero").write_text("not a device")
    result = one.create()
    assert result.status == 1
    assert "/dev/zero" in result.stderr
    assert one.leaks() == []


def test_nothing_is_made_outside_through_a_link(container: Make, tmp_path: Path) -> None:
    one = container(
        ["true"], without_mount("/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"), linux(maskedPaths=[], readonlyPaths=[])
    )
    (one.bundle.rootfs / "dev").rmdir()
    (one.bundle.rootfs / "dev").symlink_to(tmp_path)
    one.run()
    assert not (tmp_path / "null").exists() and not (tmp_path / "fd").is_symlink()


def test_a_bound_dev_is_left_alone(container: Make, tmp_path: Path) -> None:
    own = tmp_path / "dev"
    own.mkdir()
    os.mknod(own / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    one = container(["ls", "/dev"], without_mount("/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"), bind(own, "/dev"))
    assert one.run().ok().stdout.split() == ["null"]


@pytest.mark.parametrize("minor", [3, 5], ids=["null", "zero"])
def test_a_file_is_masked_by_the_null_device_and_no_other(container: Make, tmp_path: Path, minor: int) -> None:
    """/dev is a volume here, and what is called null in it may be any device (CVE-2025-31133)."""
    own = tmp_path / "dev"
    own.mkdir()
    os.mknod(own / "null", stat.S_IFCHR | 0o666, os.makedev(1, minor))
    one = container(
        ["head", "-c", "1", "/etc/passwd"],
        without_mount("/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"),
        bind(own, "/dev"),
        linux(maskedPaths=["/etc/passwd"]),
    )
    (one.bundle.rootfs / "etc" / "passwd").write_text("root")
    result = one.run()
    if minor == 3:
        assert result.ok().stdout == ""
    else:
        assert result.status == 1 and "is not the null device" in result.stderr


# Without a mount namespace.


def test_without_a_mount_namespace(container: Make, tmp_path: Path) -> None:
    """Only the root directory is the container's. Nothing is mounted: it would be the host's."""

    def bare(config: dict[str, object]) -> None:
        config["mounts"] = []

    one = container(
        ["sh", "-c", "ls /; exec sleep 60"],
        bare,
        without_namespace("mount"),
        linux(maskedPaths=[], readonlyPaths=[]),
    )
    before = host_mounts_at(tmp_path)
    one.run("--detach").ok()
    assert os.readlink(one.proc("ns/mnt")) == os.readlink("/proc/self/ns/mnt")
    assert os.readlink(one.proc("root")) == str(one.bundle.rootfs)
    assert one.exec("sh", "-c", "ls /bin/busybox").ok().stdout == "/bin/busybox\n"
    assert host_mounts_at(tmp_path) == before
