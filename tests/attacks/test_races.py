"""B. Paths, raced: somebody who shares the rootfs or a volume exchanges a directory and a link all the time.

CVE-2021-30465, CVE-2024-45310 (destinations of mounts), CVE-2019-19921 (/proc), CVE-2025-31133 (/dev/null),
CVE-2025-52565 (the console), GHSA-3q8j-pf29-vwv8 (masked and read-only paths). PYRUNTIME_RACES=N makes N times as many
tries; each try meets thousands of exchanges (renameat2(2), some 500,000 in a second).
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from attacks.conftest import races
from support.bundles import Config
from support.canary import Canary
from support.container import Container
from support.mountinfo import Mount
from support.terminal import ConsoleSocket
from support.weakened import without

from pyruntime.kernel import paths

Make = Callable[..., Container]
Swapping = Callable[[Path, Path], "subprocess.Popen[bytes]"]

ENOUGH = 10_000  # exchanges, below which a race has not been one


@contextmanager
def swapped(swapping: Swapping, one: Path, other: Path) -> Iterator[None]:
    """Exchange two names meanwhile. What ends early, because the attack got through, need not have been long."""
    process = swapping(one, other)
    time.sleep(0.02)
    begun = time.monotonic()
    yield
    lasted = time.monotonic() - begun
    output, _ = process.communicate(timeout=10)
    assert process.returncode == 0 and int(output) > (ENOUGH if lasted > 1 else 0)


def covering(mountinfo: str, *points: str) -> list[Mount]:
    """Those of the mounts that lie at one of the points."""
    return [mount for mount in map(Mount, filter(None, mountinfo.split("\n"))) if mount.point in points]


def naive(root: int, path: bytes) -> int:
    base = f"/proc/self/fd/{root}{path.decode()}"
    os.makedirs(base, exist_ok=True)
    return os.open(base, os.O_PATH)


@pytest.mark.parametrize("way", ["ours", "naive"])
def test_making_directories(swapping: Swapping, canary: Canary, tmp_path: Path, way: str) -> None:
    """20,000 directories below a name that is a directory one moment and a link to the host the next.

    Without openat2 (kernel/paths.py: make_in_root), here os.makedirs, half of them are made on the host.
    """
    make = (lambda root, path: paths.make_in_root(root, path, True)) if way == "ours" else naive
    volume = tmp_path / "volume"
    (volume / "a").mkdir(parents=True)
    (volume / "b").symlink_to(canary.path)
    root = os.open(volume, os.O_PATH)
    refused = 0
    try:
        with swapped(swapping, volume / "a", volume / "b"):
            for number in range(races(20_000 if way == "ours" else 2_000)):
                try:
                    os.close(make(root, b"/a/%d/x" % (number % 500)))
                except OSError:
                    refused += 1
    finally:
        os.close(root)
    assert (canary.touched() == set()) is (way == "ours")
    assert refused < races(10_000)  # it is not safe for doing nothing


NAIVE = """
def make_in_root(root, path, directory, mode=0o755):
    full = b"/proc/self/fd/%d" % root + path
    parent = full.rpartition(b"/")[0]
    for name in (parent, full):
        try:
            posix.mkdir(name, mode)
        except FileExistsError:
            pass
    return posix.open(full, O_PATH | O_CLOEXEC)
"""


@without("kernel/paths.py", NAIVE)
def test_destinations_of_mounts(
    container: Make, swapping: Swapping, canary: Canary, tmp_path: Path, protected: bool
) -> None:
    """CVE-2021-30465: binds and tmpfs below such a name in a volume, hundreds in each container.

    Without openat2 (kernel/paths.py: make_in_root) mount points appear on the host.
    """
    volume = tmp_path / "volume"
    (volume / "a").mkdir(parents=True)
    (volume / "b").symlink_to(canary.path)
    tries = 250

    def change(config: Config) -> None:
        config["mounts"].append({"destination": "/v", "type": "bind", "source": str(volume), "options": ["bind"]})
        for number in range(tries):
            kind = "tmpfs" if number % 2 else "bind"
            config["mounts"].append(
                {
                    "destination": f"/v/a/{number}",
                    "type": kind,
                    "source": str(tmp_path),
                    "options": ["bind"] * (kind == "bind"),
                }
            )

    one = container(["true"], change)
    done = 0
    with swapped(swapping, volume / "a", volume / "b"):
        for number in range(races(50)):
            # Where a mount meets the link, its place may be missing or a link itself: then the whole create fails.
            done += one.run().status == 0
            if canary.touched() or (done and number >= races(5)):
                break
    assert (canary.touched() == set()) is protected
    if protected:
        made = one.bundle.rootfs / str(canary.path)[1:]
        assert done and made.is_dir()  # so mounts did meet the link, and it led into the rootfs


@without(
    "plan/mounts.py",
    """
    def _plain_target(root, destination):
        if posix.readlink is None:
            raise OSError
        return open_in_root(root, destination)
    """,
)
def test_proc_itself(container: Make, swapping: Swapping, protected: bool) -> None:
    """CVE-2019-19921: /proc is a directory or a link to one that the image has filled.

    Without RESOLVE_NO_SYMLINKS (plan/mounts.py: _plain_target) procfs is mounted elsewhere, and a false /proc remains.
    """
    one = container(["ls", "/other"], lambda config: config["linux"].update(maskedPaths=[], readonlyPaths=[]))
    root = one.bundle.rootfs
    (root / "other").mkdir()
    (root / "link").symlink_to("other")
    elsewhere = good = 0
    with swapped(swapping, root / "proc", root / "link"):
        for number in range(races(100)):
            result = one.run()
            good += result.status == 0
            elsewhere += "self" in result.stdout
            if elsewhere or (protected and good and number >= races(16)):
                break
    assert good
    assert (elsewhere == 0) is protected


def no_dev(config: Config) -> None:
    config["mounts"] = [one for one in config["mounts"] if not one["destination"].startswith("/dev")]


@without(
    "plan/rootfs.py",
    """
    MaskedPaths._null = staticmethod(lambda root: open_in_root(root, b"/dev/null"))
    """,
)
def test_the_null_device_of_masks(container: Make, swapping: Swapping, protected: bool) -> None:
    """CVE-2025-31133: /dev/null is the device or a link to a file of procfs, while it is laid on masked files.

    Without the check of the descriptor (plan/rootfs.py: MaskedPaths._null) a mask is what it should hide.
    """
    one = container(
        ["stat", "-c", "%t:%T", "/proc/keys"],
        no_dev,
        lambda config: config["linux"].update(maskedPaths=["/proc/keys"], readonlyPaths=[]),
        lambda config: config["linux"]["resources"].update(devices=[{"allow": True, "access": "rwm"}]),
    )
    dev = one.bundle.rootfs / "dev"
    os.mknod(dev / "null", 0o020666, os.makedev(1, 3))
    (dev / "link").symlink_to("/proc/sys/kernel/core_pattern")
    false = good = 0
    with swapped(swapping, dev / "null", dev / "link"):
        for number in range(races(100)):
            result = one.run()
            good += result.status == 0
            false += result.status == 0 and result.stdout != "1:3\n"
            if false or (protected and good and number >= races(16)):
                break
    assert good
    assert (false == 0) is protected


def pts(config: Config) -> None:
    config["process"]["terminal"] = True
    config["mounts"].append(
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance"]}
    )
    config["linux"].update(maskedPaths=[], readonlyPaths=[])


@without(
    "plan/lifecycle.py",
    """
    def _attach(root, slave):
        dev = open_in_root(root, b"/dev", O_PATH | O_DIRECTORY)
        target = posix.open(b"console", posix.O_CREAT | posix.O_RDWR | posix.O_TRUNC, 0o666, dir_fd=dev)
        m.attach(m.clone_tree(slave), target)
    OpenTerminal._attach = staticmethod(_attach)
    """,
)
def test_the_console(container: Make, swapping: Swapping, canary: Canary, tmp_path: Path, protected: bool) -> None:
    """CVE-2025-52565: /dev/console is a file or a link to the host while the terminal is attached there.

    Without O_NOFOLLOW (plan/lifecycle.py: OpenTerminal._attach) the host's file is written to.
    """
    one = container(["sleep", "60"], no_dev, pts)
    dev = one.bundle.rootfs / "dev"
    (dev / "console").write_text("")
    (dev / "link").symlink_to(canary.file)
    good = 0
    with swapped(swapping, dev / "console", dev / "link"):
        for number in range(races(50)):
            with ConsoleSocket(tmp_path / f"console{number}") as engine:
                if one.create("--console-socket", str(engine.path)).status == 0:
                    good += 1
                    one.delete("--force").ok()
            if canary.touched() or (protected and good and number >= races(5)):
                break
    assert good
    assert (canary.touched() == set()) is protected


@without(
    "plan/rootfs.py",
    """
    def _by_name(self, place):
        name = b"/proc/self/fd/%d" % place.rootfs + self.path
        try:
            m.mount(name, name, None, m.MS_BIND | m.MS_REC)
        except OSError:
            return
    ReadonlyPath.apply = _by_name
    """,
)
def test_readonly_paths(container: Make, swapping: Swapping, tmp_path: Path, protected: bool) -> None:
    """GHSA-3q8j-pf29-vwv8: a path is exchanged between the bind and the remount that makes it read-only.

    Without mount_setattr before the attach (plan/rootfs.py: ReadonlyPath) a writable mount may stay: here, the remount
    is the part that the exchange has taken away.
    """
    volume = tmp_path / "volume"
    (volume / "a").mkdir(parents=True)
    (volume / "b").mkdir()

    def change(config: Config) -> None:
        config["mounts"].append({"destination": "/v", "type": "bind", "source": str(volume), "options": ["bind"]})
        config["linux"].update(maskedPaths=[], readonlyPaths=["/v/a"])

    one = container(["cat", "/proc/self/mountinfo"], change)
    writable = good = 0
    with swapped(swapping, volume / "a", volume / "b"):
        for number in range(races(100)):
            result = one.run()
            if result.status == 0:
                covered = covering(result.stdout, "/v/a", "/v/b")
                good += bool(covered)
                writable += any("rw" in mount.options for mount in covered)
            if writable or (protected and good and number >= races(10)):
                break
    assert good
    assert (writable == 0) is protected


def test_deleting_follows_nothing(container: Make, swapping: Swapping, canary: Canary) -> None:
    """CVE-2024-9676: deleting never walks into what a container can write: hundreds of exchanges in its rootfs."""
    one = container(["sleep", "60"])
    root = one.bundle.rootfs
    (root / "a").mkdir()
    (root / "b").symlink_to(canary.path)
    with swapped(swapping, root / "a", root / "b"):
        for _ in range(races(3)):
            one.create().ok()
            one.delete("--force").ok()
    assert canary.touched() == set()
