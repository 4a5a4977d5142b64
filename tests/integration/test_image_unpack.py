"""Unpacking: every kind of entry, whiteouts, both modes against each other, other ids, interruption, umoci."""

from __future__ import annotations

import base64
import gzip
import json
import os
import random
import shutil
import signal
import stat
import struct
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.images import MTIME, Layer, Layout, describe, docker_archive

ROOT = Path(__file__).parents[2]
PROGRAM = [str(ROOT / "bin/pyruntime-image")]


def image(*arguments: object, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*PROGRAM, *map(str, arguments)], capture_output=True, text=True, check=False, **options)
    if check:
        assert done.returncode == 0, done.stderr
    return done


class Place:
    """A directory with a layout to fill, a store, and the bundles made of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.layout = Layout(path / "layout")
        self.bundle = path / "bundle"
        self._mounted: list[Path] = []

    def unpack(self, *tars: bytes, mode: str = "flat", options: tuple[str, ...] = ()) -> Path:
        """The root file system of a new image of these layers."""
        shutil.rmtree(self.layout.path)
        self.layout = Layout(self.path / "layout")
        self.layout.image(*tars, config={"Cmd": ["sh"]})
        bundle = self.path / f"bundle-{mode}"
        store = ["--store", str(self.path / "store")] if mode == "overlay" else []
        image("unpack", "--force", "--mode", mode, *store, *options, self.layout.path, bundle)
        return self.root(bundle)

    def root(self, bundle: Path) -> Path:
        config = json.loads((bundle / "config.json").read_text())
        first = config["mounts"][0]
        if first["destination"] != "/":
            return bundle / "rootfs"
        target = bundle / "rootfs"
        options = [option for option in first["options"] if not option.startswith(("upperdir", "workdir"))]
        lower = options[0].removeprefix("lowerdir=")
        subprocess.run(
            ["mount", "-t", "overlay", "overlay", "-o", f"ro,lowerdir={bundle}/upper:{lower}", target], check=True
        )
        self._mounted.append(target)
        return target

    def close(self) -> None:
        for target in self._mounted:
            subprocess.run(["umount", target], check=True)
        self._mounted.clear()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


BOTH = pytest.mark.parametrize("mode", ["flat", "overlay"])


def xattr(**values: bytes) -> dict[str, Any]:
    return {
        "pax_headers": {
            f"LIBARCHIVE.xattr.{name.replace('__', '.')}": base64.b64encode(value).decode().rstrip("=")
            for name, value in values.items()
        }
    }


CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service=ep


@BOTH
def test_every_kind_of_entry(place: Place, mode: str) -> None:
    acl = {"SCHILY.acl.access": "user::rw-,user:1000:r--,group::r--,mask::r--,other::r--"}
    default = {"SCHILY.acl.default": "user::rwx,user:1000:rwx,group::r-x,mask::rwx,other::r-x"}
    long = "/".join(["d" * 200] * 3)
    tar = (
        Layer()
        .directory("./", mode=0o711, mtime=MTIME + 7)
        .directory("shared", mode=0o2775, uid=5, gid=50, pax_headers=default)
        .file("shared/plain", b"x")
        .file("setuid", b"#!", mode=0o6755, uid=7, gid=8)
        .file("times", pax_headers={"mtime": "1234567890.123456789"})
        .file("caps", b"1", mode=0o755, **xattr(security__capability=CAPABILITY, user__note=b"\0\xff"))
        .file("acl", pax_headers=acl)
        .hard_link("again", "setuid")
        .symlink("link", "/nowhere/at/../all", uid=3, gid=4)
        .hard_link("linklink", "link")
        .device("null", tarfile.CHRTYPE, 1, 3, mode=0o666)
        .device("disk", tarfile.BLKTYPE, 7, 200, mode=0o660, gid=6)
        .add("pipe", tarfile.FIFOTYPE, mode=0o622)
        .directory(long)
        .file(long + "/" + "f" * 200, b"deep")
        .file("implied/parent/file", b"1")
        .file("/absolute", b"2")
        .file("dot/./and//slashes", b"3")
        .directory("closed", mode=0o000)
        .file("closed/inside", b"4", mode=0o000)
        .file("big", bytes(range(256)) * 8192)
        .file("naïve ☃\n", b"5")
        .tar()
    )
    root = place.unpack(tar, mode=mode)

    def look(name: str) -> os.stat_result:
        return os.lstat(root / name)

    assert look(".").st_mode & 0o7777 == 0o711 and look(".").st_mtime == MTIME + 7
    shared = look("shared")
    assert (shared.st_mode & 0o7777, shared.st_uid, shared.st_gid, shared.st_mtime) == (0o2775, 5, 50, MTIME)
    assert os.getxattr(root / "shared", "system.posix_acl_default")
    plain = look("shared/plain")
    assert (plain.st_gid, plain.st_mode & 0o7777) == (0, 0o644)  # neither group nor ACL rubbed off
    assert os.listxattr(root / "shared/plain") == []
    assert (look("setuid").st_mode & 0o7777, look("setuid").st_uid, look("setuid").st_gid) == (0o6755, 7, 8)
    assert look("times").st_mtime_ns == 1234567890_123456789
    assert os.getxattr(root / "caps", "security.capability") == CAPABILITY
    assert os.getxattr(root / "caps", "user.note") == b"\0\xff"
    assert b"\x02\x00\x04\x00\xe8\x03\x00\x00" in os.getxattr(root / "acl", "system.posix_acl_access")
    assert look("again").st_ino == look("setuid").st_ino and look("again").st_nlink == 2
    assert os.readlink(root / "link") == "/nowhere/at/../all"
    assert (look("link").st_uid, look("link").st_gid, look("link").st_mtime) == (3, 4, MTIME)
    assert look("linklink").st_ino == look("link").st_ino
    assert stat.S_ISCHR(look("null").st_mode) and look("null").st_rdev == os.makedev(1, 3)
    assert look("null").st_mode & 0o777 == 0o666
    assert stat.S_ISBLK(look("disk").st_mode) and look("disk").st_gid == 6
    assert stat.S_ISFIFO(look("pipe").st_mode) and look("pipe").st_mode & 0o777 == 0o622
    assert (root / long / ("f" * 200)).read_bytes() == b"deep"
    assert (root / "implied/parent/file").read_bytes() == b"1"
    assert look("implied").st_mode & 0o7777 == 0o755
    assert (root / "absolute").read_bytes() == b"2"
    assert (root / "dot/and/slashes").read_bytes() == b"3"
    assert (root / "closed/inside").read_bytes() == b"4" and look("closed").st_mode & 0o7777 == 0
    assert (root / "big").read_bytes() == bytes(range(256)) * 8192
    assert (root / "naïve ☃\n").read_bytes() == b"5"


@BOTH
def test_sparse_files_keep_their_holes(place: Place, mode: str, tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(50 << 20)
        file.seek(20 << 20)
        file.write(b"middle")
    tar = subprocess.run(
        ["tar", "--sparse", "--format=posix", "-C", tmp_path, "-cf", "-", "sparse"], stdout=subprocess.PIPE, check=True
    ).stdout
    root = place.unpack(tar, mode=mode)
    assert (root / "sparse").read_bytes() == (tmp_path / "sparse").read_bytes()
    assert os.stat(root / "sparse").st_blocks * 512 < 1 << 20


@BOTH
def test_attributes_that_steer_the_host_are_dropped(place: Place, mode: str) -> None:
    dropped = xattr(
        trusted__overlay__redirect=b"/x", user__overlay__redirect=b"/x", security__selinux=b"l", security__ima=b"1"
    )
    place.layout.image(Layer().file("a", **dropped).directory("d", **dropped).tar(), config={"Cmd": ["x"]})
    store = ["--store", place.path / "store"] if mode == "overlay" else []
    done = image("unpack", "--mode", mode, *store, place.layout.path, place.bundle)
    assert "trusted.overlay.redirect was left out on 2 files" in done.stderr
    found = [path for path in place.path.rglob("*") if path.name in ("a", "d")]
    assert len(found) == 2
    for path in found:
        assert os.listxattr(path) == []


BASE = Layer().directory("a").file("a/old", b"1").directory("a/sub").file("a/sub/deep", b"2").file("b", b"3").tar()


def names(root: Path) -> set[str]:
    return set(describe(root)) - {"."}


@BOTH
@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (Layer().file(".wh.b"), {"a", "a/old", "a/sub", "a/sub/deep"}),
        (Layer().directory("a").file("a/.wh.old"), {"a", "a/sub", "a/sub/deep", "b"}),
        (Layer().file("a/.wh.old"), {"a", "a/sub", "a/sub/deep", "b"}),
        (Layer().file(".wh.a"), {"b"}),
        (Layer().directory("a").file("a/.wh..wh..opq").file("a/new"), {"a", "a/new", "b"}),
        (Layer().directory("a").file("a/new").file("a/.wh..wh..opq"), {"a", "a/new", "b"}),
        (Layer().file("a/new").file("a/.wh..wh..opq"), {"a", "a/new", "b"}),
        (Layer().file("a/.wh..wh..opq").directory("a/sub").file("a/sub/new"), {"a", "a/sub", "a/sub/new", "b"}),
        (Layer().directory("a/sub").file("a/sub/new").file("a/.wh..wh..opq"), {"a", "a/sub", "a/sub/new", "b"}),
        (Layer().file(".wh.a").directory("a").file("a/new"), {"a", "a/new", "b"}),
        (Layer().directory("a").file("a/new").file(".wh.a"), {"a", "a/new", "b"}),
        (Layer().file("a/sub/new").file(".wh.a"), {"a", "a/sub", "a/sub/new", "b"}),
        (Layer().file(".wh.b").file("b", b"new"), {"a", "a/old", "a/sub", "a/sub/deep", "b"}),
        (Layer().file("b", b"new").file(".wh.b"), {"a", "a/old", "a/sub", "a/sub/deep", "b"}),
        (Layer().file("a", b"now a file"), {"a", "b"}),
        (Layer().symlink("a", "b"), {"a", "b"}),
        (Layer().directory("b").file("b/in"), {"a", "a/old", "a/sub", "a/sub/deep", "b", "b/in"}),
        (Layer().file("a", b"x").directory("a").file("a/in"), {"a", "a/in", "b"}),
        (
            Layer().file(".wh.missing").file("no/.wh.such").directory("new").file("new/.wh.x"),
            {"a", "a/old", "a/sub", "a/sub/deep", "b", "new"},
        ),
        (Layer().file("a/.wh..wh.plnk"), {"a", "a/old", "a/sub", "a/sub/deep", "b"}),
        (Layer().symlink("l", "a").file("l/.wh.old"), {"a", "a/sub", "a/sub/deep", "b", "l"}),
        (Layer().file(".wh..wh..opq").file("only"), {"only"}),
    ],
)
def test_whiteouts(place: Place, mode: str, layer: Layer, expected: set[str]) -> None:
    assert names(place.unpack(BASE, layer.tar(), mode=mode)) == expected


@BOTH
def test_a_layer_changes_what_it_names_and_nothing_else(place: Place, mode: str) -> None:
    base = (
        Layer()
        .directory("tmp", mode=0o1777, uid=3, mtime=MTIME + 1)
        .directory("real", mode=0o700, mtime=MTIME + 2, **xattr(user__keep=b"1"))
        .symlink("alias", "real")
        .file("real/file", b"one", uid=9)
        .file("first", b"shared", uid=4, mode=0o640)
    )
    above = Layer().file("tmp/x").file("alias/y").hard_link("second", "first").file("alias/file", b"two")
    root = place.unpack(base.tar(), above.tar(), mode=mode)
    tmp, real = os.stat(root / "tmp"), os.stat(root / "real")
    assert (tmp.st_mode & 0o7777, tmp.st_uid, tmp.st_mtime) == (0o1777, 3, MTIME + 1)
    assert (real.st_mode & 0o7777, real.st_mtime) == (0o700, MTIME + 2)
    assert os.getxattr(root / "real", "user.keep") == b"1"
    assert os.path.islink(root / "alias") and os.listdir(root / "alias") != []
    assert (root / "real/file").read_bytes() == b"two" and (root / "real/y").exists()
    second = os.stat(root / "second")
    assert (second.st_uid, second.st_mode & 0o7777) == (4, 0o640)
    assert (root / "second").read_bytes() == b"shared"


def test_a_directory_described_again_starts_from_nothing(place: Place) -> None:
    one = Layer().directory("d", mode=0o2777, uid=1, **xattr(user__old=b"1")).file("d/f")
    two = Layer().directory("d", mode=0o750, mtime=MTIME + 9, **xattr(user__new=b"2"))
    flat, overlay = (describe(place.unpack(one.tar(), two.tar(), mode=mode)) for mode in ("flat", "overlay"))
    assert {**flat, ".": None} == {**overlay, ".": None}
    assert flat["d"][:4] == (stat.S_IFDIR | 0o750, 0, 0, (MTIME + 9) * 10**9)
    assert flat["d"][5] == (("user.new", b"2"),)


# Random layers of a few names: what the two modes make of them must agree, and nothing may leave the root.
NAMES = st.sampled_from(["a", "b", "c", "d"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
TARGETS = st.one_of(PATHS, PATHS.map("/{}".format), PATHS.map("../{}".format), st.just("/"), st.just("../../.."))
ENTRIES = st.one_of(
    st.tuples(st.just("file"), PATHS, st.binary(max_size=3)),
    st.tuples(st.just("directory"), PATHS, st.sampled_from([0o755, 0o700, 0o2755, 0o1777])),
    st.tuples(st.just("symlink"), PATHS, TARGETS),
    st.tuples(st.just("hard_link"), PATHS, PATHS),
    st.tuples(st.just("whiteout"), PATHS, st.none()),
    st.tuples(st.just("opaque"), PATHS, st.none()),
)


def build(entries: list[tuple[str, str, Any]], serial: int) -> bytes:
    layer = Layer()
    for number, (kind, path, extra) in enumerate(entries):
        mtime = MTIME + serial * 100 + number
        parent, _, name = path.rpartition("/")
        if kind == "file":
            layer.file(path, extra, mtime=mtime, uid=number)
        elif kind == "directory":
            layer.directory(path, mode=extra, mtime=mtime)
        elif kind == "symlink":
            layer.symlink(path, extra, mtime=mtime)
        elif kind == "hard_link":
            layer.hard_link(path, extra)
        elif kind == "whiteout":
            layer.file(f"{parent}/.wh.{name}" if parent else f".wh.{name}")
        else:
            layer.file(f"{path}/.wh..wh..opq")
    return layer.tar()


def outcome(path: Path, tars: list[bytes], mode: str) -> Any:
    """What a mode makes of the layers, in this process: the tree, or that it is an error."""
    from pyruntime.errors import RuntimeFailure
    from pyruntime.image import bundle, choose
    from pyruntime.image.progress import Progress
    from pyruntime.image.source import open_source
    from pyruntime.image.store import Store

    place = Place(path / mode)
    place.layout.image(*tars, config={"Cmd": ["x"]})
    old = os.umask(0)
    try:
        found = choose.choose(open_source(str(place.layout.path)), None, None)
        job = bundle.Job(found, str(place.bundle), Progress(1, 1, quiet=True))
        job.mode = mode
        job.store = str(path / mode / "store")
        Store.prepare(job.store, None, None)
        bundle.make(job)
        result: Any = describe(place.root(place.bundle))
        # Directories that no entry describes have the time of their making.
        result = {name: (*what[:3], min(what[3], (MTIME + 9999) * 10**9), *what[4:]) for name, what in result.items()}
    except RuntimeFailure:
        result = "error"
    finally:
        os.umask(old)
        place.close()
    return result


@settings(
    max_examples=120, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(layers=st.lists(st.lists(ENTRIES, max_size=7), min_size=1, max_size=3))
def test_both_modes_agree(tmp_path: Path, layers: list[list[tuple[str, str, Any]]]) -> None:
    work = tmp_path / "work"
    (work / "flat").mkdir(parents=True)
    (work / "overlay").mkdir()
    (work / "canary").write_text("untouched")
    try:
        tars = [build(entries, serial) for serial, entries in enumerate(layers)]
        assert outcome(work, tars, "flat") == outcome(work, tars, "overlay")
        assert sorted(os.listdir(work)) == ["canary", "flat", "overlay"]
        assert (work / "canary").read_text() == "untouched"
    finally:
        shutil.rmtree(work)


def real_image(path: Path) -> Path:
    """An image that umoci made: three layers with changes, removals, links and odd modes."""
    layout, work = path / "umoci", path / "work"
    name = f"{layout}:x"

    def umoci(*arguments: str | Path) -> None:
        subprocess.run(["umoci", *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    umoci("init", "--layout", layout)
    umoci("new", "--image", name)
    umoci("unpack", "--image", name, work)
    root = work / "rootfs"
    shutil.copytree(ROOT / "pyruntime", root / "usr/lib/pyruntime", symlinks=False)
    for directory in ("etc", "var/empty", "tmp"):
        (root / directory).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    (root / "bin").symlink_to("usr/lib")
    os.link(root / "etc/passwd", root / "etc/linked")
    os.mkfifo(root / "var/pipe")
    os.mknod(root / "var/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.setxattr(root / "etc/passwd", "user.note", b"1")
    umoci("repack", "--refresh-bundle", "--image", name, work)
    shutil.rmtree(root / "usr/lib/pyruntime/plan")
    (root / "etc/passwd").write_text("changed\n")
    os.chown(root / "var/empty", 12, 13)
    (root / "var/empty").chmod(0o2710)
    umoci("repack", "--refresh-bundle", "--image", name, work)
    (root / "usr/lib/pyruntime/plan").mkdir()
    (root / "usr/lib/pyruntime/plan/new").write_text("back again")
    (root / "var/pipe").unlink()
    umoci("repack", "--refresh-bundle", "--image", name, work)
    umoci("config", "--image", name, "--config.cmd", "sh")
    return layout


@pytest.mark.skipif(shutil.which("umoci") is None, reason="umoci makes the image and unpacks it for comparison")
def test_the_same_tree_as_umoci(place: Place) -> None:
    layout = real_image(place.path)
    subprocess.run(
        ["umoci", "unpack", "--image", f"{layout}:x", place.path / "theirs"], check=True, stderr=subprocess.DEVNULL
    )
    expected = describe(place.path / "theirs/rootfs", inodes=True)
    image("unpack", layout, place.path / "flat")
    assert describe(place.path / "flat/rootfs", inodes=True) == expected
    image("unpack", "--mode", "overlay", "--store", place.path / "store", layout, place.path / "over")
    overlay = describe(place.root(place.path / "over"))
    assert overlay == describe(place.path / "theirs/rootfs")


def test_layers_are_shared_between_images(place: Place) -> None:
    store = place.path / "store"
    base = Layer().directory("usr").file("usr/base", b"x" * 1000).tar()
    for number in range(3):
        place.layout.image(base, Layer().file(f"own{number}").tar(), tag=f"t{number}", config={"Cmd": ["x"]})
        image(
            "unpack", "--mode", "overlay", "--store", store, "--tag", f"t{number}", place.layout.path,
            place.path / f"b{number}",
        )  # fmt: skip
    assert len(os.listdir(store / "layers")) == 4
    assert len({os.stat(path).st_ino for path in store.rglob("usr/base")}) == 1
    assert names(place.root(place.path / "b1")) == {"usr", "usr/base", "own1"}


def test_a_host_mount_comes_and_goes(place: Place) -> None:
    place.layout.image(Layer().file("hello", b"x").tar(), config={"Cmd": ["x"]})
    options = ["--mode", "overlay", "--overlay-mount", "host", "--store", place.path / "store"]
    try:
        image("unpack", *options, place.layout.path, place.bundle)
        assert (place.bundle / "rootfs/hello").exists()
        refused = image("unpack", "--force", *options, place.layout.path, place.bundle, check=False)
        assert refused.returncode == 1 and "is mounted" in refused.stderr
        (hook,) = json.loads((place.bundle / "config.json").read_text())["hooks"]["poststop"]
        subprocess.run([hook["path"], *hook["args"][1:]], check=True)
        assert not (place.bundle / "rootfs/hello").exists()
        image("mount", place.bundle)
        image("mount", place.bundle)
        assert (place.bundle / "rootfs/hello").exists()
    finally:
        image("umount", place.bundle)
    assert not (place.bundle / "rootfs/hello").exists()
    image("umount", place.bundle)


def test_volumes_are_filled_from_the_image(place: Place) -> None:
    tar = Layer().directory("data", mode=0o750, uid=9).file("data/seed", b"s", uid=9).tar()
    place.layout.image(tar, config={"Cmd": ["x"], "Volumes": {"/data": {}, "/none/yet": {}}})
    for mode in ("flat", "overlay"):
        bundle = place.path / mode
        image("unpack", "--mode", mode, "--store", place.path / "store", place.layout.path, bundle)
        config = json.loads((bundle / "config.json").read_text())
        mounts = {mount["destination"]: mount for mount in config["mounts"]}
        volume = bundle / mounts["/data"]["source"]
        assert (volume / "seed").read_bytes() == b"s"
        assert (os.stat(volume).st_uid, os.stat(volume).st_mode & 0o7777) == (9, 0o750)
        assert os.listdir(bundle / mounts["/none/yet"]["source"]) == []


def test_ids_are_mapped_by_the_kernel(place: Place) -> None:
    acl = {"SCHILY.acl.access": "user::rw-,user:1000:r--,group::r--,mask::r--,other::r--"}
    tar = (
        Layer()
        .file("root")
        .file("user", uid=1000, gid=1001, pax_headers=acl)
        .file("caps", **xattr(security__capability=CAPABILITY))
        .device("null", tarfile.CHRTYPE, 1, 3)
        .tar()
    )
    maps = ("--uid-map", "0:200000:65536", "--gid-map", "0:300000:65536")
    root = place.unpack(tar, options=maps)
    bundle = root.parent
    assert (os.stat(root).st_uid, os.stat(root / "root").st_gid) == (200000, 300000)
    assert (os.stat(root / "user").st_uid, os.stat(root / "user").st_gid) == (201000, 301001)
    assert struct.pack("<I", 201000) in os.getxattr(root / "user", "system.posix_acl_access")
    # Version 3 of the attribute names the root it is valid for (capabilities(7)).
    assert struct.pack("<I", 200000) in os.getxattr(root / "caps", "security.capability")
    assert not (root / "null").exists()
    assert (os.stat(bundle).st_uid, os.stat(bundle).st_gid, os.stat(bundle).st_mode & 0o7777) == (0, 300000, 0o710)
    linux = json.loads((bundle / "config.json").read_text())["linux"]
    assert linux["uidMappings"] == [{"containerID": 0, "hostID": 200000, "size": 65536}]
    assert {"type": "user"} in linux["namespaces"]


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv makes an ordinary user of us")
@BOTH
def test_without_privileges(tmp_path_factory: pytest.TempPathFactory, mode: str) -> None:
    path = tmp_path_factory.mktemp("rootless")
    place = Place(path)
    tar = Layer().file("f", b"1", uid=1234, gid=5).directory("d", mode=0o000).file("d/x").file(".wh.n").tar()
    place.layout.image(tar, Layer().file("d/.wh.x").file("y").tar(), config={"Cmd": ["x"]})
    code = path / "code"
    for part in ("pyruntime", "bin"):
        shutil.copytree(ROOT / part, code / part, ignore=shutil.ignore_patterns("__pycache__"))
    for parent in [path, *path.parents]:
        if parent.stat().st_mode & 0o005 != 0o005 and str(parent) != "/":
            parent.chmod(parent.stat().st_mode | 0o755)
    os.chown(path, 65534, 65534)
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", str(code / "bin/pyruntime-image")]
    environment = {"HOME": str(path), "PATH": "/usr/bin:/bin"}
    bundle = path / "bundle"
    for force in ([], ["--force"]):
        done = subprocess.run(
            [*command, "unpack", *force, "--mode", mode, place.layout.path, bundle],
            env=environment, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert "not mapped" in done.stderr or mode == "overlay"
    config = json.loads((bundle / "config.json").read_text())
    assert config["linux"]["uidMappings"][0] == {"containerID": 0, "hostID": 65534, "size": 1}
    if mode == "flat":
        assert (bundle / "rootfs/f").read_bytes() == b"1"
        assert os.stat(bundle / "rootfs/f").st_uid == 65534
        assert sorted(os.listdir(bundle / "rootfs/d")) == []
    else:
        assert "userxattr" in config["mounts"][0]["options"]


def big_layers() -> list[bytes]:
    noise = random.Random(5)
    return [
        Layer().file(f"big{n}", noise.randbytes(3 << 20)).tar() if n % 2 else many(n) for n in range(6)
    ]  # fmt: skip


def many(seed: int) -> bytes:
    layer = Layer()
    for number in range(400):
        layer.file(f"d{seed}/{number % 20}/{number}", b"x" * 100)
    return layer.tar()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=["KILL", "TERM", "INT"])
@BOTH
def test_interrupted_at_any_moment(place: Place, mode: str, number: signal.Signals) -> None:
    tars = big_layers()
    place.layout.image(*tars, config={"Cmd": ["new"]})
    old = Layout(place.path / "old")
    old.image(Layer().file("old").tar(), config={"Cmd": ["old"]})
    store = place.path / "store"
    command = ["unpack", "--quiet", "--mode", mode, "--store", str(store), "--force"]
    image(*command, old.path, place.bundle)
    begun = time.monotonic()
    image(*command, place.layout.path, place.path / "measure")
    length = time.monotonic() - begun
    moments = random.Random(7)
    for _ in range(8):
        if mode == "overlay":
            shutil.rmtree(store / "layers")
            shutil.rmtree(store / "chains")
            (store / "layers").mkdir()
            (store / "chains").mkdir()
            image(*command, old.path, place.bundle)
        process = subprocess.Popen(
            [*PROGRAM, *command, place.layout.path, place.bundle], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        time.sleep(moments.uniform(0.05, length))
        process.send_signal(number)
        _, errors = process.communicate()
        assert b"Traceback" not in errors or number == signal.SIGKILL, errors.decode()
        left = [name for name in os.listdir(place.path) if ".unpacking-" in name]
        assert not left or number == signal.SIGKILL
        command_line = json.loads((place.bundle / "config.json").read_text())["process"]["args"]
        root = place.root(place.bundle)
        found = names(root)
        place.close()
        if command_line == ["old"]:
            assert found == {"old"}
        else:
            assert command_line == ["new"] and {"big1", "big3", "big5", "d0/0/0", "d4/19/399"} <= found
            assert len(found) == 3 + 3 * 421
            image(*command, old.path, place.bundle)
    image(*command, place.layout.path, place.bundle)  # and the next one works, and cleans up after the killed ones
    assert not [name for name in os.listdir(place.path) if ".unpacking-" in name]
    assert not list(store.rglob("*.unpacking-*")) or mode == "flat"


def test_two_at_once_want_the_same_layers(place: Place) -> None:
    place.layout.image(*big_layers(), config={"Cmd": ["x"]})
    processes = [
        subprocess.Popen(
            [
                *PROGRAM, "unpack", "--quiet", "--mode", "overlay", "--store", place.path / "store", place.layout.path,
                place.path / f"b{n}",
            ],
            stderr=subprocess.PIPE,
        )
        for n in range(3)
    ]  # fmt: skip
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    trees = [names(place.root(place.path / f"b{n}")) for n in range(3)]
    assert trees[0] == trees[1] == trees[2] and len(trees[0]) == 3 + 3 * 421


def test_memory_does_not_grow_with_the_image(place: Place) -> None:
    layer = Layer().file("large", b"zeros and ones\n" * (20 << 20)).tar()  # 300 MB
    place.layout.image(layer, config={"Cmd": ["x"]}, compress=lambda tar: gzip.compress(tar, 1))
    for mode in ("flat", "overlay"):
        limited = ["sh", "-c", 'ulimit -d 65536; exec "$@"', "sh", *PROGRAM]  # KiB
        subprocess.run(
            [
                *limited,
                "unpack",
                "--quiet",
                "--mode",
                mode,
                "--store",
                place.path / "s",
                place.layout.path,
                place.path / mode,
            ],
            check=True,
        )


def test_docker_archives_through_a_pipe(place: Place) -> None:
    tar = Layer().file("hello", b"x").tar()
    docker_archive(place.path / "image.tar", tar, tar, tags=["a:1"], config={"Cmd": ["x"]})
    with open(place.path / "image.tar", "rb") as file:
        compressor = subprocess.Popen(["gzip", "-c"], stdin=file, stdout=subprocess.PIPE)
        image("unpack", "-", place.bundle, stdin=compressor.stdout)
        assert compressor.wait() == 0
    assert (place.bundle / "rootfs/hello").read_bytes() == b"x"


def test_progress_is_a_bar_on_a_terminal_only(place: Place) -> None:
    place.layout.image(*big_layers(), config={"Cmd": ["x"]})
    done = image("unpack", place.layout.path, place.bundle)
    assert "\r" not in done.stderr and "unpacking layer 2 of 6, sha256:" in done.stderr
    master, slave = os.openpty()
    try:
        subprocess.run([*PROGRAM, "unpack", "--force", place.layout.path, place.bundle], stderr=slave, check=True)
        shown = os.read(master, 1 << 16)
    finally:
        os.close(master)
        os.close(slave)
    assert b"\r[" in shown and shown.endswith(b"\r\x1b[K")
