"""Mounts of a container: what can be mounted where, from where, and what is refused."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from support.changes import bind, mount, mount_options, without_mount
from support.container import Container
from support.mountinfo import host_mounts_at, mounts

Make = Callable[..., Container]


# Destinations.


def test_missing_destinations_are_made(container: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    (tmp_path / "dir").mkdir()
    one = container(
        ["cat", "/new/deep/file"],
        bind(tmp_path / "file", "/new/deep/file"),
        bind(tmp_path / "dir", "/another/dir"),
        mount("/third/tmp", "none", [], "tmpfs"),
    )
    assert one.run().ok().stdout == "content"
    rootfs = one.bundle.rootfs
    assert (rootfs / "new/deep/file").stat().st_size == 0
    assert (rootfs / "new/deep").stat().st_mode & 0o777 == 0o755  # whatever the umask of the caller
    assert (rootfs / "another/dir").is_dir() and (rootfs / "third/tmp").is_dir()


def test_order_is_kept(container: Make, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("seen")
    one = container(["cat", "/a/b/x"], mount("/a", "none", [], "tmpfs"), bind(tmp_path, "/a/b"))
    assert one.run().ok().stdout == "seen"
    hidden = container(["ls", "/a"], bind(tmp_path, "/a/b"), mount("/a", "none", [], "tmpfs"))
    assert hidden.run().ok().stdout == ""


def test_a_destination_without_a_leading_slash(container: Make, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("seen")
    result = container(["cat", "/rel/x"], bind(tmp_path, "rel")).run()
    assert result.stdout == "seen" or ("mounts[" in result.stderr and "destination" in result.stderr)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/real", "real"),  # absolute: from the container's root, not from the host's
        ("real", "real"),
        ("../../../../../../real", "real"),
        ("/../../missing/dir", "missing/dir"),  # dangling: made where it points to, inside
        ("/etc", "etc"),
    ],
)
def test_links_are_followed_inside_the_rootfs(container: Make, tmp_path: Path, target: str, expected: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    one = container(["sleep", "60"], bind(source, "/link"), bind(source, "/link2/below"))
    (one.bundle.rootfs / "real").mkdir()
    (one.bundle.rootfs / "link").symlink_to(target)
    (one.bundle.rootfs / "link2").symlink_to(target)
    host_before = set(os.listdir("/"))
    one.create().ok()
    assert {f"/{expected}", f"/{expected}/below"} & set(mounts(one.pid)) >= {f"/{expected}"}
    assert set(os.listdir("/")) == host_before


def test_a_link_in_a_loop_is_refused(container: Make, tmp_path: Path) -> None:
    one = container(["true"], bind(tmp_path, "/loop/x"))
    (one.bundle.rootfs / "loop").symlink_to("loop")
    result = one.create()
    assert result.status == 1
    assert "/loop/x" in result.stderr and "symbolic links" in result.stderr
    assert one.leaks() == []


def test_a_link_to_the_host_cannot_be_reached_by_a_later_mount(container: Make, tmp_path: Path) -> None:
    """A volume holds a link that leads out; a mount below it stays in the container (CVE-2021-30465)."""
    volume, secret = tmp_path / "volume", tmp_path / "secret"
    volume.mkdir()
    secret.mkdir()
    (volume / "out").symlink_to(f"/../../../../..{secret}")
    one = container(["sleep", "60"], bind(volume, "/v"), mount("/v/out", "none", [], "tmpfs"))
    one.create().ok()
    assert str(secret) in mounts(one.pid)  # the same path, but in the container
    assert str(secret) not in mounts("self")
    assert (one.bundle.rootfs / str(secret).lstrip("/")).is_dir()


def test_a_file_in_the_way(container: Make, tmp_path: Path) -> None:
    one = container(["true"], bind(tmp_path, "/etc/passwd/x"))
    result = one.create()
    assert result.status == 1
    assert "/etc/passwd/x" in result.stderr and "not a directory" in result.stderr
    assert one.leaks() == []


@pytest.mark.parametrize(("source", "destination"), [("dir", "/etc/passwd"), ("file", "/etc")])
def test_a_directory_and_a_file_do_not_fit(container: Make, tmp_path: Path, source: str, destination: str) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").write_text("")
    result = container(["true"], bind(tmp_path / source, destination)).create()
    assert result.status == 1
    assert destination in result.stderr and "not a directory" in result.stderr


# Sources.


def test_a_relative_source_is_the_bundles(container: Make) -> None:
    one = container(["cat", "/m/x"], bind("beside", "/m"))
    (one.bundle.path / "beside").mkdir()
    (one.bundle.path / "beside" / "x").write_text("beside\n")
    assert one.run(cwd=Path("/")).ok().stdout == "beside\n"


def test_a_source_that_is_a_link_is_followed_on_the_host(container: Make, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("host\n")
    (tmp_path / "link").symlink_to(tmp_path / "x")
    assert container(["cat", "/m"], bind(tmp_path / "link", "/m")).run().ok().stdout == "host\n"


def test_a_missing_source(container: Make, tmp_path: Path) -> None:
    one = container(["true"], bind(tmp_path / "gone", "/m"))
    result = one.create()
    assert result.status == 1
    assert f"{tmp_path}/gone" in result.stderr and "no such file or directory" in result.stderr
    assert one.leaks() == []
    assert not (one.bundle.rootfs / "m").exists()


@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
def test_special_files_can_be_bound(container: Make, tmp_path: Path, kind: str) -> None:
    source = tmp_path / "s"
    if kind == "fifo":
        os.mkfifo(source)
    elif kind == "device":
        os.mknod(source, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    else:
        os.mknod(source, stat.S_IFSOCK | 0o666)
    assert container(["stat", "-c", "%F", "/m"], bind(source, "/m")).run().ok().stdout.strip() in (
        "fifo", "socket", "character special file",
    )  # fmt: skip


def test_a_device_on_a_nodev_mount_is_dead(container: Make, tmp_path: Path) -> None:
    os.mknod(tmp_path / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    script = ["sh", "-c", "echo x > /m/null"]
    container(script, bind(tmp_path, "/m")).run().ok()
    result = container(script, bind(tmp_path, "/m", "nodev")).run()
    assert result.status == 1 and "Permission denied" in result.stderr


def test_a_readonly_bind_cannot_be_written_and_its_source_can(container: Make, tmp_path: Path) -> None:
    result = container(["touch", "/m/x"], bind(tmp_path, "/m", "ro")).run()
    assert result.status == 1 and "Read-only file system" in result.stderr
    (tmp_path / "y").write_text("")


def test_the_whole_of_it_is_gone_afterwards(container: Make, tmp_path: Path) -> None:
    before = host_mounts_at(tmp_path)
    one = container(["true"], bind(tmp_path, "/m"), mount("/n", "none", [], "tmpfs"))
    one.run().ok()
    assert host_mounts_at(tmp_path) == before
    assert one.leaks() == []


# tmpcopyup.


@pytest.mark.parametrize("options", [["tmpcopyup"], ["tmpcopyup", "ro", "size=1m"]])
def test_a_tmpfs_with_a_copy_of_what_it_covers(container: Make, options: list[str]) -> None:
    script = "cd /data && ls -ln sub/file && readlink link && cat sub/file && stat -c %a:%u:%g . sub && touch new"
    one = container(["sh", "-c", script], mount("/data", "none", options, "tmpfs"))
    data = one.bundle.rootfs / "data"
    (data / "sub").mkdir(parents=True)
    (data / "sub" / "file").write_text("content\n")
    (data / "sub" / "file").chmod(0o604)
    os.chown(data / "sub" / "file", 11, 12)
    (data / "link").symlink_to("/etc/passwd")
    data.chmod(0o1770)
    os.chown(data / "sub", 13, 14)
    result = one.run()
    assert result.stdout.splitlines()[1:] == ["/etc/passwd", "content", "1770:0:0", "755:13:14"]
    assert result.stdout.startswith("-rw----r-- ") and " 11 " in result.stdout and " 12 " in result.stdout
    assert (result.status == 0) == ("ro" not in options)
    assert (data / "sub" / "file").exists()  # what is covered is left alone


def test_a_copy_of_nothing(container: Make) -> None:
    one = container(["ls", "/new"], mount("/new", "none", ["tmpcopyup"], "tmpfs"))
    assert one.run().ok().stdout == ""


def test_a_copy_that_does_not_fit(container: Make) -> None:
    one = container(["true"], mount("/data", "none", ["tmpcopyup", "size=64k"], "tmpfs"))
    (one.bundle.rootfs / "data").mkdir()
    (one.bundle.rootfs / "data" / "big").write_bytes(b"x" * 300_000)
    result = one.create()
    assert result.status == 1
    assert "/data" in result.stderr and "no space left" in result.stderr
    assert one.leaks() == []


@pytest.mark.parametrize(
    ("destination", "options", "mode"),
    [("/private", [], "2750"), ("/private", ["mode=711"], "711"), ("/missing", [], "1777")],
)
def test_a_tmpfs_takes_over_the_mode(container: Make, destination: str, options: list[str], mode: str) -> None:
    one = container(["stat", "-c", "%a", destination], mount(destination, "none", options, "tmpfs"))
    (one.bundle.rootfs / "private").mkdir()
    (one.bundle.rootfs / "private").chmod(0o2750)
    assert one.run().ok().stdout == f"{mode}\n"


# /proc and /sys.


@pytest.mark.parametrize("destination", ["/proc", "/sys"])
def test_proc_and_sys_are_not_mounted_through_links(container: Make, destination: str) -> None:
    one = container(["true"])
    shutil.rmtree(one.bundle.rootfs / destination[1:])
    (one.bundle.rootfs / destination[1:]).symlink_to("tmp")
    result = one.create()
    assert result.status == 1
    assert destination in result.stderr and "must be mounted on ordinary directory" in result.stderr
    assert one.leaks() == []


@pytest.mark.parametrize("destination", ["/proc/self/attr", "/proc/sys", "/proc/1/fd", "/tmp/link"])
@pytest.mark.parametrize("kind", ["bind", "tmpfs"])
def test_nothing_may_cover_a_part_of_proc(container: Make, tmp_path: Path, kind: str, destination: str) -> None:
    change = bind(tmp_path, destination) if kind == "bind" else mount(destination, "none", [], "tmpfs")
    one = container(["true"], change)
    (one.bundle.rootfs / "tmp" / "link").symlink_to("/proc/sys")
    result = one.create()
    assert result.status == 1
    assert "inside /proc" in result.stderr
    assert one.leaks() == []


@pytest.mark.parametrize("change", [bind("/etc", "/proc"), mount("/proc", "none", [], "tmpfs")], ids=["bind", "tmpfs"])
def test_nothing_but_procfs_may_be_proc(container: Make, change: Callable[..., object]) -> None:
    result = container(["true"], change).create()
    assert result.status == 1 and "inside /proc" in result.stderr


def test_what_lxcfs_mounts_is_allowed(container: Make, tmp_path: Path) -> None:
    (tmp_path / "uptime").write_text("1 2\n")
    one = container(["cat", "/proc/uptime"], bind(tmp_path / "uptime", "/proc/uptime"))
    assert one.run().ok().stdout == "1 2\n"


def test_the_hosts_proc_may_be_bound(container: Make) -> None:
    one = container(["sleep", "60"], without_mount("/proc"), bind("/proc", "/proc", "rbind"))
    one.create().ok()
    assert mounts(one.pid)["/proc"].type == "proc"


# Remounts, /dev, cgroups.


def test_remount(container: Make, tmp_path: Path) -> None:
    one = container(
        ["sleep", "60"],
        bind(tmp_path, "/b"),
        mount("/b", "none", ["remount", "bind", "ro", "nosuid"]),
        mount("/t", "none", ["size=1m"], "tmpfs"),
        mount("/t", "none", ["remount", "size=2m", "noexec"], "tmpfs"),
    )
    one.create().ok()
    found = mounts(one.pid)
    assert found["/b"].options >= {"ro", "nosuid"}
    assert "noexec" in found["/t"].options and found["/t"].superblock >= {"rw", "size=2048k"}


@pytest.mark.parametrize(
    ("before", "words", "after"),
    [
        ([], ["noatime"], {"noatime"}),
        (["noatime"], ["relatime"], {"relatime"}),
        (["noatime"], ["bind", "strictatime"], {"rw"}),
        (["noatime"], [], {"noatime"}),
    ],
)
def test_a_remount_changes_the_access_time(
    container: Make, before: list[str], words: list[str], after: set[str]
) -> None:
    one = container(
        ["sleep", "60"],
        mount("/t", "none", before, "tmpfs"),
        mount("/t", "none", ["remount", *words], "tmpfs"),
    )
    one.create().ok()
    assert mounts(one.pid)["/t"].options & {"noatime", "relatime", "rw"} == {*after, "rw"}


@pytest.mark.parametrize("times", [1, 2], ids=["once", "said twice"])
def test_a_readonly_dev_has_its_devices(container: Make, times: int) -> None:
    one = container(
        ["sh", "-c", "echo x > /dev/null && ls /dev/fd && touch /dev/x"],
        mount_options("/dev", "nosuid", "strictatime", "mode=755", "size=65536k", *["ro"] * times),
    )
    result = one.run()
    assert "Read-only file system" in result.stderr
    assert result.stdout.split()[:3] == ["0", "1", "2"]


@pytest.mark.skipif(not Path("/sys/fs/cgroup/memory").exists(), reason="cgroup v1")
@pytest.mark.parametrize("own", [False, True], ids=["bound", "namespace"])
def test_cgroups_show_the_container_alone(container: Make, own: bool) -> None:
    script = "cat /sys/fs/cgroup/memory/cgroup.procs; ls /sys/fs/cgroup/memory/..; mkdir /sys/fs/cgroup/memory/x"
    one = container(
        ["sh", "-c", script],
        lambda config: config["linux"]["namespaces"].extend([{"type": "cgroup"}] if own else []),
    )
    result = one.run()
    assert result.stdout.splitlines()[0] == "1"
    assert "memory" in result.stdout.split() and "Read-only file system" in result.stderr
    assert result.status == 1


def test_data_with_paths(container: Make, tmp_path: Path) -> None:
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower" / "x").write_text("from below\n")
    options = [f"lowerdir={tmp_path}/lower", f"upperdir={tmp_path}/upper", f"workdir={tmp_path}/work"]
    one = container(["sh", "-c", "cat /m/x && echo new > /m/y"], mount("/m", "overlay", options, "overlay"))
    assert one.run().ok().stdout == "from below\n"
    assert (tmp_path / "upper" / "y").read_text() == "new\n"
