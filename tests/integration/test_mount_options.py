"""Every word in the options of a mount, and what the kernel says that it did."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.changes import bind, linux, mount, user_namespace
from support.container import Container
from support.mountinfo import HostMounts, Mount, host_mounts_at, mount_inside, mounts

Make = Callable[..., Container]

WORDS = {
    # options of the entry: (words that mountinfo has, words that it has not)
    "ro": ({"ro"}, {"rw"}),
    "rw": ({"rw"}, {"ro"}),
    "ro,rw": ({"rw"}, {"ro"}),
    "rw,ro": ({"ro"}, {"rw"}),
    "nosuid": ({"nosuid"}, set()),
    "nosuid,suid": (set(), {"nosuid"}),
    "nodev": ({"nodev"}, set()),
    "nodev,dev": (set(), {"nodev"}),
    "noexec": ({"noexec"}, set()),
    "noexec,exec": (set(), {"noexec"}),
    "nodiratime": ({"nodiratime"}, set()),
    "nodiratime,diratime": (set(), {"nodiratime"}),
    "noatime": ({"noatime"}, {"relatime"}),
    "noatime,atime": ({"relatime"}, {"noatime"}),
    "noatime,relatime": ({"relatime"}, {"noatime"}),
    "relatime,noatime": ({"noatime"}, {"relatime"}),
    "strictatime": (set(), {"relatime", "noatime"}),
    "strictatime,nostrictatime": ({"relatime"}, {"noatime"}),
    "noatime,norelatime": ({"relatime"}, {"noatime"}),
    "nosymfollow": ({"nosymfollow"}, set()),
    "nosymfollow,symfollow": (set(), {"nosymfollow"}),
    "defaults": ({"rw", "relatime"}, {"nosuid", "nodev", "noexec"}),
    "": ({"rw", "relatime"}, {"nosuid", "nodev", "noexec"}),
    "silent,loud,iversion,noiversion,nomand,async,nolazytime": ({"rw"}, set()),
    "nosuid,nodev,noexec,ro,noatime": ({"nosuid", "nodev", "noexec", "ro", "noatime"}, {"relatime"}),
}


def created(one: Container) -> dict[str, Mount]:
    """The mounts of a created container: all of them are there by then."""
    one.create().ok()
    return mounts(one.pid)


@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_attributes_of_a_mount(container: Make, kind: str, tmp_path: Path) -> None:
    """All combinations in one container, each at a mount point of its own."""
    changes = []
    for number, words in enumerate(WORDS):
        options = [word for word in words.split(",") if word]
        if kind == "tmpfs":
            changes.append(mount(f"/m{number}", "none", options, "tmpfs"))
        else:
            changes.append(bind(tmp_path, f"/m{number}", *options))
    found = created(container(["true"], *changes))
    for number, (words, (there, absent)) in enumerate(WORDS.items()):
        shown = found[f"/m{number}"].options
        assert there <= shown, words
        assert not absent & shown, words


# What the options say of a bind mount whose source is nosuid,noexec,noatime: what there is then, and what there is not.
OF_A_SOURCE = {
    "": ({"rw", "nosuid", "noexec", "noatime"}, set()),
    "rprivate": ({"rw", "nosuid", "noexec", "noatime"}, set()),
    "ro": ({"ro", "noatime"}, {"nosuid", "noexec", "relatime"}),
    "exec": ({"rw", "noatime"}, {"nosuid", "noexec"}),
    "rw": ({"rw", "noatime"}, {"nosuid", "noexec"}),
    "atime": ({"noatime"}, {"nosuid", "relatime"}),  # asks for nothing instead
    "relatime": ({"relatime"}, {"noatime"}),
    "relatime,norelatime": ({"noatime"}, {"relatime"}),
    "strictatime": (set(), {"noatime", "relatime", "nodiratime"}),
    "nodiratime": ({"nodiratime", "relatime"}, {"noatime"}),
    "nodiratime,strictatime": ({"nodiratime"}, {"noatime", "relatime"}),
}


def test_flags_of_a_source(container: Make, tmp_path: Path, host_mounts: HostMounts) -> None:
    source = host_mounts.tmpfs(tmp_path / "source")
    subprocess.run(["mount", "-o", "remount,bind,nosuid,noexec,noatime", source], check=True)
    words = [[word for word in text.split(",") if word] for text in OF_A_SOURCE]
    found = created(container(["true"], *(bind(source, f"/m{number}", *one) for number, one in enumerate(words))))
    for number, (text, (there, absent)) in enumerate(OF_A_SOURCE.items()):
        shown = found[f"/m{number}"].options
        assert there <= shown, text
        assert not absent & shown, text
    assert mounts("self")[str(source)].options >= {"rw", "noexec"}  # the host's own did not change


@pytest.mark.parametrize(
    ("words", "there", "absent"),
    [("", {"ro", "nosuid", "noatime"}, set()), ("nodev", {"ro", "nosuid", "nodev", "noatime"}, set()),
     ("symfollow", {"ro", "nosuid"}, {"nosymfollow"}), ("rw", None, None), ("suid", None, None),
     ("relatime", None, None), ("noatime,ro", {"ro", "nosuid", "noatime"}, set())],
)  # fmt: skip
def test_flags_of_a_source_are_locked_in_a_user_namespace(
    container: Make, tmp_path: Path, host_mounts: HostMounts, words: str, there: set[str] | None, absent: set[str]
) -> None:
    source = host_mounts.tmpfs(tmp_path / "source")
    subprocess.run(["mount", "-o", "remount,bind,ro,nosuid,noatime,nosymfollow", source], check=True)
    one = container(["true"], bind(source, "/m", *[word for word in words.split(",") if word]), user_namespace())
    (one.bundle.rootfs / "m").mkdir()
    if there is None:
        result = one.create()
        assert result.status == 1
        assert f'error mounting \\"{source}\\" to rootfs at \\"/m\\": ' in result.stderr
        assert "operation not permitted" in result.stderr
        return
    shown = created(one)["/m"].options
    assert there <= shown and not absent & shown


@pytest.mark.parametrize(
    ("words", "expected"),
    [("sync", {"sync"}), ("dirsync", {"dirsync"}), ("lazytime", {"lazytime"}), ("sync,async", set())],
)
def test_flags_of_the_filesystem(container: Make, words: str, expected: set[str]) -> None:
    found = created(container(["true"], mount("/m", "none", words.split(","), "tmpfs")))
    assert found["/m"].superblock & {"sync", "dirsync", "lazytime"} == expected


def test_data_goes_to_the_filesystem(container: Make) -> None:
    options = ["size=128k", "mode=1750", "uid=7", "gid=8", "nr_inodes=50", "huge=never"]
    one = container(["sleep", "60"], mount("/m", "none", options, "tmpfs"))
    assert created(one)["/m"].superblock >= {"size=128k", "mode=1750", "uid=7", "gid=8", "nr_inodes=50"}
    assert one.proc("root/m").stat().st_mode & 0o7777 == 0o1750


@pytest.mark.parametrize(
    ("kind", "words", "said"),
    [
        ("tmpfs", ["size=lots"], "size"),
        ("tmpfs", ["nonsense"], "nonsense"),
        ("nosuchfs", [], "nosuchfs"),
        ("tmpfs", ["rr"], "rr"),
    ],
)
def test_a_filesystem_that_refuses_says_why(container: Make, kind: str, words: list[str], said: str) -> None:
    one = container(["true"], mount("/m", "none", words, kind))
    result = one.create()
    assert result.status == 1
    assert r"to rootfs at \"/m\"" in result.stderr and said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert one.leaks() == []


# Recursive forms: they change the mounts below as well; the plain ones only the topmost.


@pytest.mark.parametrize(
    ("words", "top", "below"),
    [
        ("ro", {"ro"}, {"rw"}),
        ("rro", {"ro"}, {"ro"}),
        ("rro,rw", {"ro"}, {"ro"}),
        ("rnosuid,rnodev,rnoexec", {"nosuid", "nodev", "noexec"}, {"nosuid", "nodev", "noexec"}),
        ("rnoatime", {"noatime"}, {"noatime"}),
        ("rnodiratime,rnosymfollow", {"nodiratime", "nosymfollow"}, {"nodiratime", "nosymfollow"}),
        ("rrw", {"rw"}, {"rw"}),
        ("rstrictatime", set(), set()),
        ("rnoatime,rrelatime", {"relatime"}, {"relatime"}),
        ("rnoatime,rsuid,rdev,rexec,rdiratime,rsymfollow", {"noatime"}, {"noatime"}),
    ],
)
def test_recursive_attributes(
    container: Make, tmp_path: Path, host_mounts: HostMounts, words: str, top: set[str], below: set[str]
) -> None:
    source = host_mounts.tmpfs(tmp_path / "source")
    host_mounts.tmpfs(source / "below")
    found = created(container(["true"], bind(source, "/m", "rbind", *words.split(","))))
    assert top <= found["/m"].options
    assert below <= found["/m/below"].options
    assert mounts("self")[str(source / "below")].options >= {"rw", "relatime"}


def test_bind_leaves_out_what_is_mounted_below(container: Make, tmp_path: Path, host_mounts: HostMounts) -> None:
    source = host_mounts.tmpfs(tmp_path / "source")
    host_mounts.tmpfs(source / "below")
    found = created(container(["true"], bind(source, "/plain"), bind(source, "/whole", "rbind")))
    assert "/plain/below" not in found
    assert "/whole/below" in found


# Propagation.


@pytest.mark.parametrize(
    ("word", "tags"),
    [
        ("shared", {"shared", "master"}),
        ("rshared", {"shared", "master"}),
        ("slave", {"master"}),
        ("rslave", {"master"}),
        ("private", set()),
        ("rprivate", set()),
        ("unbindable", {"unbindable"}),
        ("runbindable", {"unbindable"}),
        (None, {"master"}),
    ],
)
def test_propagation_types(
    container: Make, tmp_path: Path, host_mounts: HostMounts, word: str | None, tags: set[str]
) -> None:
    source = host_mounts.tmpfs(tmp_path / "source", "shared")
    host_mounts.tmpfs(source / "below", "shared")
    found = created(container(["true"], bind(source, "/m", "rbind", *([word] if word else []))))
    assert found["/m"].tags == tags
    recursive = word is None or word.startswith("r")
    assert found["/m/below"].tags == (tags if recursive else {"master"})


def test_a_slave_hears_from_the_host_and_not_the_other_way(
    container: Make, tmp_path: Path, host_mounts: HostMounts
) -> None:
    source = host_mounts.tmpfs(tmp_path / "source", "shared")
    (source / "inner").mkdir()
    one = container(["sleep", "60"], bind(source, "/m", "rbind", "rslave"))
    one.create().ok()
    host_mounts.tmpfs(source / "later")
    assert "/m/later" in mounts(one.pid)
    assert mount_inside(one.pid, "-t", "tmpfs", "none", "/m/inner").returncode == 0
    assert str(source / "inner") not in mounts("self")


def test_a_private_mount_hears_nothing(container: Make, tmp_path: Path, host_mounts: HostMounts) -> None:
    source = host_mounts.tmpfs(tmp_path / "source", "shared")
    one = container(["sleep", "60"], bind(source, "/m", "rbind", "rprivate"))
    one.create().ok()
    host_mounts.tmpfs(source / "later")
    assert "/m/later" not in mounts(one.pid)


def test_a_shared_mount_reaches_the_host(container: Make, tmp_path: Path, host_mounts: HostMounts) -> None:
    """For that the root must be shared too, as engines configure it."""
    source = host_mounts.tmpfs(tmp_path / "source", "shared")
    (source / "inner").mkdir()
    one = container(["sleep", "60"], bind(source, "/m", "rbind", "rshared"), linux(rootfsPropagation="shared"))
    one.create().ok()
    assert mounts(one.pid)["/m"].peers == mounts("self")[str(source)].peers
    assert mount_inside(one.pid, "-t", "tmpfs", "none", "/m/inner").returncode == 0
    assert str(source / "inner") in mounts("self")


@pytest.mark.parametrize("root", ["", "shared", "slave", "private", "rshared"])
def test_nothing_of_a_container_reaches_the_host(
    container: Make, tmp_path: Path, host_mounts: HostMounts, root: str
) -> None:
    """Its mounts lie on shared mounts of the host, which must not be unmounted there when it lets go of the host."""
    shared = host_mounts.tmpfs(tmp_path / "shared", "shared")
    host_mounts.tmpfs(shared / "below")
    before = host_mounts_at(tmp_path)
    changes = [linux(rootfsPropagation=root)] if root else []
    one = container(
        ["sleep", "60"], bind(shared, "/m", "rbind", "rslave"), mount("/m/new", "none", [], "tmpfs"), *changes
    )
    one.create().ok()
    assert host_mounts_at(tmp_path) == before
    one.delete("--force").ok()
    assert host_mounts_at(tmp_path) == before
