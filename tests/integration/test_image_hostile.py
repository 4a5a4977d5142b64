"""Images that mean harm: one clear error or a harmless result, and nothing outside of the bundle is touched."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.images import Layer, Layout, describe

PROGRAM = str(Path(__file__).parents[2] / "bin/pyruntime-image")
BOTH = pytest.mark.parametrize("mode", ["flat", "overlay"])


class Trap:
    """A directory with things that must stay as they are, beside the place where a hostile image is unpacked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.victim = path / "victim"
        self.victim.mkdir()
        (self.victim / "secret").write_text("secret")
        (self.victim / "directory").mkdir()
        (self.victim / "secret").chmod(0o600)
        (path / "work").mkdir()
        self.bundle = path / "work" / "bundle"
        self._before = self._look()

    def _look(self) -> Any:
        return describe(self.victim), sorted(os.listdir(self.path)), describe(Path("/etc"))["passwd"]

    def spring(
        self, *tars: bytes, mode: str = "flat", config: dict[str, Any] | None = None, options: tuple[str, ...] = ()
    ) -> str | None:
        """Unpack; the error, None if there was none. Fails if anything outside changed, or the error is no error."""
        layout = Layout(self.path / "work" / f"layout{time.monotonic_ns()}")
        layout.image(*tars, config=config or {"Cmd": ["x"]})
        store: list[str | Path] = ["--store", self.path / "work" / "store"] if mode == "overlay" else []
        done = subprocess.run(
            [PROGRAM, "unpack", "--quiet", "--mode", mode, *store, *options, layout.path, self.bundle],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        after = self._look()
        assert after[0] == self._before[0]
        assert after[1] == self._before[1]
        assert after[2] == self._before[2]
        assert not [name for name in os.listdir(self.path / "work") if "unpacking" in name]
        if done.returncode == 0:
            return None
        assert done.returncode == 1
        assert not self.bundle.exists()
        lines = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
        assert len(lines) == 1 and lines[0].startswith("pyruntime-image: "), done.stderr
        return str(lines[0])

    @property
    def rootfs(self) -> Path:
        return self.bundle / "rootfs"


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Trap]:
    yield Trap(tmp_path)


@BOTH
@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (Layer().file("../evil"), "contains `..`"),
        (Layer().file("a/../../evil"), "contains `..`"),
        (Layer().file("a/.."), "contains `..`"),
        (Layer().directory(".."), "contains `..`"),
        (Layer().symlink(".", "/"), "root of the image is not a directory"),
        (Layer().symlink("./", "/"), "root of the image is not a directory"),
        (Layer().symlink("/", "/"), "root of the image is not a directory"),
        (Layer().file("//./"), "root of the image is not a directory"),
        (Layer().hard_link("x", "../../../../../../../../../etc/passwd"), "contains `..`"),
        (Layer().hard_link("x", "/etc/passwd"), "not there"),
        (Layer().hard_link("x", "/"), "root directory"),
        (Layer().directory("d").hard_link("x", "d"), "a hard link to the directory d"),
        (Layer().hard_link("x", "x"), "not there"),
        (Layer().file("a").file("a/b"), "Not a directory"),
        (Layer().symlink("a", "b").symlink("b", "a").file("a/x"), "Too many levels"),
        (Layer().file(".wh."), "names nothing"),
        (Layer().file(".wh.."), "names nothing"),
        (Layer().file(".wh..."), "names nothing"),
        (Layer().directory(".wh.d").file(".wh.d/x"), "says it is a whiteout"),
        (Layer().device("w", tarfile.CHRTYPE, 0, 0), "whiteout"),
        (Layer().file("n" * 300), "too long"),
        (Layer().file("/".join(["n" * 200] * 30)), "too long"),
        (Layer().file("d/" * 2000 + "f"), "more than 1024 components"),
        (Layer().symlink("s", "t" * 5000), "too long"),
        (Layer().add("s", tarfile.SYMTYPE), "link to nothing"),
        (Layer().file("x", pax_headers={"path": "a\0b"}), "NUL"),
        (Layer().file("x", pax_headers={"SCHILY.xattr.user.x": "y" * 70000}), "x: "),
        (Layer().file("x", pax_headers={"SCHILY.xattr.user." + "n" * 300: "y"}), "no name of an extended attribute"),
        (Layer().file("x", mtime=1, pax_headers={"mtime": "9" * 40}), "time"),
        (Layer().file("esc\x1b[31m\n", pax_headers={"path": "../esc\x1b[31m\n"}), r"\x1b"),
    ],
)
def test_refused(trap: Trap, mode: str, layer: Layer, reason: str) -> None:
    error = trap.spring(layer.tar(), mode=mode)
    assert error is not None and reason in error
    assert "layer 1 of 1 (sha256:" in error and error.isprintable()


def outside(trap: Trap) -> str:
    return str(trap.victim)


@BOTH
def test_links_out_of_the_root_lead_into_it(trap: Trap, mode: str) -> None:
    victim = outside(trap)
    layer = (
        Layer()
        .symlink("absolute", victim)
        .file("absolute/secret", b"stolen")
        .symlink("relative", "../" * 30 + victim.lstrip("/"))
        .file("relative/other", b"stolen")
        .hard_link("hard", "absolute/secret")
        .symlink("self", "/proc/self/root")
        .file("self/x", b"1")
        .symlink("file", victim + "/secret")
        .file("file", b"replaced, not followed")
    )
    assert trap.spring(layer.tar(), mode=mode) is None
    if mode == "flat":
        inside = trap.rootfs / victim.lstrip("/")
        assert (inside / "secret").read_bytes() == (inside / "other").read_bytes()[:6] == b"stolen"
        assert stat.S_ISREG(os.lstat(trap.rootfs / "file").st_mode)
        assert (trap.rootfs / "proc/self/root/x").exists()


@BOTH
def test_a_directory_swapped_for_a_link(trap: Trap, mode: str) -> None:
    victim = outside(trap)
    layer = Layer().directory("d").file("d/one").symlink("d", victim).file("d/two", b"x").file("d/secret", b"x")
    again = Layer().symlink("d", "/").file("d/etc/passwd", b"x").directory("d").file("d/three")
    assert trap.spring(layer.tar(), again.tar(), mode=mode) is None
    if mode == "flat":
        assert sorted(os.listdir(trap.rootfs / "d")) == ["three"]
        assert (trap.rootfs / "etc/passwd").read_bytes() == b"x"


def test_links_back_to_themselves_do_not_confuse_the_open_directories(trap: Trap) -> None:
    layer = (
        Layer()
        .symlink("l", ".")
        .file("l/a", b"1")
        .directory("l/l")
        .file("l/a", b"2")
        .symlink("l", "a-directory")
        .directory("a-directory")
        .file("l/b", b"3")
    )
    assert trap.spring(layer.tar()) is None
    assert (trap.rootfs / "a").read_bytes() == b"1"
    assert (trap.rootfs / "a-directory/b").read_bytes() == b"3"


@BOTH
def test_a_special_file_is_replaced_and_never_opened(trap: Trap, mode: str) -> None:
    disk = trap.path / "work" / "disk"
    disk.write_bytes(b"precious" * 512)
    loop = subprocess.run(["losetup", "--find", "--show", disk], capture_output=True, text=True, check=False)
    device = os.stat(loop.stdout.strip()).st_rdev if loop.returncode == 0 else os.makedev(7, 250)
    try:
        layer = (
            Layer()
            .device("disk", tarfile.BLKTYPE, os.major(device), os.minor(device))
            .hard_link("again", "disk")
            .file("disk", b"overwritten")
            .file("again", b"overwritten")
            .add("pipe", tarfile.FIFOTYPE)
            .file("pipe", b"no reader will ever come")
            .device("x", tarfile.CHRTYPE, 5, 1)
            .symlink("x", "disk")
        )
        assert trap.spring(layer.tar(), mode=mode) is None
        assert disk.read_bytes() == b"precious" * 512
        if mode == "flat":
            assert stat.S_ISREG(os.lstat(trap.rootfs / "disk").st_mode)
    finally:
        if loop.returncode == 0:
            subprocess.run(["losetup", "--detach", loop.stdout.strip()], check=True)


@BOTH
def test_whiteouts_through_links(trap: Trap, mode: str) -> None:
    victim = outside(trap)
    base = Layer().symlink("v", victim).symlink("r", "/").directory("keep")
    above = Layer().file("v/.wh.secret").file("v/.wh..wh..opq").file("r/.wh.keep").file(f"{victim}/.wh.directory")
    assert trap.spring(base.tar(), above.tar(), mode=mode) is None
    if mode == "flat":
        assert sorted(os.listdir(trap.rootfs)) == ["r", "v"]


@BOTH
def test_depth_beyond_any_path(trap: Trap, mode: str) -> None:
    layer = Layer()
    here = "d"
    layer.directory("d")
    for level in range(40):
        below = here + "/" + "/".join(["x"] * 100)
        layer.directory(below)
        layer.symlink(f"l{level}", below if level == 0 else f"l{level - 1}/" + "/".join(["x"] * 100))
        here = f"l{level}"
    deep = layer.tar()
    for above in (Layer().file(".wh.d"), Layer().file("d", b"a file now"), Layer().file("d/new").file("d/.wh.x")):
        error = trap.spring(deep, above.tar(), mode=mode)
        if error is None:
            subprocess.run(["rm", "-rf", trap.bundle], check=True)
        else:
            assert "Too many levels" in error or "deep" in error


def test_the_same_whiteout_a_hundred_thousand_times(trap: Trap) -> None:
    base = Layer().directory("d")
    for number in range(2000):
        base.file(f"d/{number}")
    above = Layer()
    for number in range(2000):
        above.file(f"d/new{number}")
    header = Layer().file("d/.wh..wh..opq").tar()[:512]
    tar = above.tar().rstrip(b"\0")
    tar += bytes(-len(tar) % 512) + header * 100_000 + bytes(1024)
    begun = time.monotonic()
    assert trap.spring(base.tar(), tar) is None
    assert time.monotonic() - begun < 20
    assert len(os.listdir(trap.rootfs / "d")) == 2000


def test_limits(trap: Trap) -> None:
    large = Layer().file("zeros", bytes(30 << 20)).tar()
    assert "--max-size" in str(trap.spring(large, options=("--max-size", "10M")))
    many = Layer()
    for number in range(300):
        many.file(str(number))
    assert "--max-entries" in str(trap.spring(many.tar(), options=("--max-entries", "200")))
    assert trap.spring(many.tar(), large, options=("--max-size", "0")) is None


def test_a_layer_damaged_on_the_way_leaves_nothing(trap: Trap) -> None:
    layout = Layout(trap.path / "work" / "layout")
    layout.image(Layer().file("good").tar(), Layer().file("bad", os.urandom(1 << 20)).tar(), config={"Cmd": ["x"]})
    blobs = sorted((layout.path / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    raw = bytearray(blobs[-1].read_bytes())
    raw[len(raw) // 2] ^= 1
    blobs[-1].write_bytes(raw)
    for mode in ("flat", "overlay"):
        done = subprocess.run(
            [PROGRAM, "unpack", "--quiet", "--mode", mode, "--store", trap.path / "work/s", layout.path, trap.bundle],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1 and "does not have the digest the manifest gives" in done.stderr
        assert "layer 2 of 2" in done.stderr
        assert not trap.bundle.exists()
    done = subprocess.run([PROGRAM, "verify", layout.path], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "does not have the digest" in done.stderr


@BOTH
@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (Layer().symlink("etc", "/etc"), "/etc/passwd in the image: Too many levels"),
        (Layer().symlink("etc/passwd", "/etc/../etc/shadow"), "not in the image's /etc/passwd"),
        (Layer().symlink("etc", "../" * 30 + "etc"), "/etc/passwd in the image: Too many levels"),
        (Layer().symlink("etc/passwd", "/proc/self/root/etc/passwd"), "not in the image's /etc/passwd"),
        (Layer().file("etc/passwd", b"daemon:x:1:1\n" * 2_000_000), "larger than 16 MiB"),
        (Layer().file("etc/passwd", b"daemon:x:4294967296:0::\ndaemon:x:-1:0::\n"), "not in the image's /etc/passwd"),
    ],
)
def test_users_are_looked_up_inside(trap: Trap, mode: str, layer: Layer, reason: str) -> None:
    # `daemon` is in the passwd file of every host.
    error = trap.spring(layer.tar(), mode=mode, config={"Cmd": ["x"], "User": "daemon"})
    assert error is not None and reason in error


@BOTH
@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_a_passwd_that_is_no_file(trap: Trap, mode: str, kind: bytes) -> None:
    layer = Layer().device("etc/passwd", kind, 1, 5)  # 1:5 is /dev/zero, which never ends
    error = trap.spring(layer.tar(), mode=mode, config={"Cmd": ["x"], "User": "daemon"})
    assert error is not None and "not a regular file" in error


@BOTH
def test_volumes_are_filled_from_inside(trap: Trap, mode: str) -> None:
    layer = Layer().symlink("data", outside(trap))
    config = {"Cmd": ["x"], "Volumes": {"/data": {}, "/proc/self/root": {}}}
    assert trap.spring(layer.tar(), mode=mode, config=config) is None
    volumes = trap.bundle / "volumes"
    assert [list((volumes / name).iterdir()) for name in sorted(os.listdir(volumes))] == [[], []]


@BOTH
def test_names_that_differ_by_case_or_form_are_different_files(trap: Trap, mode: str) -> None:
    layer = Layer().directory("Dir").symlink("dir", outside(trap)).file("Dir/x", b"1").file("DIR/y", b"2")
    layer.file("caf\u00e9", b"3").symlink("cafe\u0301", outside(trap)).file("cafe\u0301/secret", b"x")
    assert trap.spring(layer.tar(), mode=mode) is None
    if mode == "flat":
        names = set(os.listdir(trap.rootfs))
        assert {"Dir", "dir", "DIR", "caf\u00e9", "cafe\u0301"} <= names


def test_names_that_are_one_to_the_file_system(tmp_path: Path) -> None:
    """On a file system that folds case and form (git's CVE-2021-21300), a name may be taken by a link: no escape."""
    folded = tmp_path / "folded"
    folded.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "casefold", "tmpfs", folded], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs tmpfs with case folding: Linux 6.13, CONFIG_UNICODE")
    try:
        (folded / "bundles").mkdir()
        subprocess.run(["chattr", "+F", folded / "bundles"], check=True)
        victim = tmp_path / "victim"
        victim.mkdir()
        layer = Layer().directory("A").file("A/x").symlink("a", str(victim)).file("A/y", b"x").file("a/z", b"x")
        layout = Layout(tmp_path / "layout")
        layout.image(layer.tar(), config={"Cmd": ["x"]})
        subprocess.run([PROGRAM, "unpack", "--quiet", layout.path, folded / "bundles" / "b"], check=True)
        assert os.listdir(victim) == []
        (name,) = [name for name in os.listdir(folded / "bundles/b/rootfs") if name in "aA"]
        assert stat.S_ISLNK(os.lstat(folded / "bundles/b/rootfs" / name).st_mode)
    finally:
        subprocess.run(["umount", folded], check=True)


def test_a_bundle_is_closed_to_other_users(trap: Trap) -> None:
    """A device node or a set-user-id program of an image must not be at the disposal of the host's users."""
    layer = Layer().device("disk", tarfile.BLKTYPE, 7, 250, mode=0o666).file("su", b"", mode=0o4755)
    (trap.path / "work").chmod(0o2777)
    subprocess.run(["setfacl", "-d", "-m", "u:1000:rwx", trap.path / "work"], check=True)
    assert trap.spring(layer.tar()) is None
    status = os.stat(trap.bundle)
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (0, 0o700)
    assert os.listxattr(trap.bundle) == []
    assert os.listxattr(trap.rootfs / "su") == []


# Archives of nonsense: whatever a header says, the answer is a tree below the root or one error.
FIELD = st.sampled_from(
    ["..", ".", "", "/", "a", "b", "a/b", "../../victim/secret", "l", "l/secret", ".wh.a", "\udcff"]
)
MEMBER = st.tuples(
    FIELD,
    st.sampled_from([b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"\0", b"g", b"x", b"S", b"L", b"K"]),
    FIELD,
    st.binary(max_size=40),
    st.integers(0, 0o7777),
)


@settings(
    max_examples=60, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(members=st.lists(MEMBER, max_size=8), mode=st.sampled_from(["flat", "overlay"]))
def test_nonsense(tmp_path: Path, members: list[tuple[str, bytes, str, bytes, int]], mode: str) -> None:
    raw = io.BytesIO()
    for name, kind, link, data, bits in members:
        info = tarfile.TarInfo("placeholder")
        info.type, info.size, info.mode, info.uid = kind, len(data), bits, 12
        block = bytearray(info.tobuf(tarfile.GNU_FORMAT)[:512])
        for place, value in ((0, name), (157, link)):
            block[place : place + 100] = value.encode("utf-8", "surrogateescape").ljust(100, b"\0")
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        raw.write(bytes(block) + data + bytes(-len(data) % 512))
    work = tmp_path / "nonsense"
    work.mkdir()
    try:
        trap = Trap(work)
        error = trap.spring(Layer().symlink("l", str(trap.victim)).tar(), raw.getvalue(), mode=mode)
        if error is None:
            assert json.loads((trap.bundle / "config.json").read_text())["process"]["args"] == ["x"]
    finally:
        subprocess.run(["rm", "-rf", work], check=True)
