"""B. The image's own /dev: false null devices under masks, false terminals.

CVE-2025-31133, CVE-2025-62161, CVE-2025-52565. While they are exchanged: test_races.py. The console as a link:
test_paths.py. That masks and terminals work at all: integration/test_rootfs.py, integration/test_terminal.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.bundles import Config
from support.container import Container
from support.runtime import Result
from support.terminal import ConsoleSocket
from support.weakened import without

Make = Callable[..., Container]


def no_dev(config: Config) -> None:
    config["mounts"] = [one for one in config["mounts"] if not one["destination"].startswith("/dev")]


def _link(path: Path) -> None:
    path.symlink_to("/etc/secret")


def _file(path: Path) -> None:
    path.write_text("not empty")


def _zero(path: Path) -> None:
    os.mknod(path, 0o020666, os.makedev(1, 5))


def _block(path: Path) -> None:
    os.mknod(path, 0o060666, os.makedev(1, 3))


def _nothing(_: Path) -> None:
    pass


FALSE = {"a link": _link, "a file": _file, "a FIFO": os.mkfifo, "zero": _zero, "a block device": _block}


@pytest.mark.parametrize("kind", FALSE)
@without(
    "plan/rootfs.py",
    'MaskedPaths._null = staticmethod(lambda root: open_in_root(root, b"/dev/null"))',
    "plan/devices.py",
    "MakeDevices.apply = lambda self, place: None",
)
def test_a_false_null_device(container: Make, kind: str, protected: bool) -> None:
    """CVE-2025-31133: what is laid over masked files is whatever the image has at /dev/null.

    Without the check of the device (plan/rootfs.py: MaskedPaths._null; also plan/devices.py: MakeDevices, which refuses
    a node that is not the one asked for) the "mask" is a file with content, or a device of the image's choice.
    """
    one = container(
        ["stat", "-L", "-c", "%F %t:%T", "/etc/masked"],
        no_dev,
        lambda config: config["linux"].update(maskedPaths=["/etc/masked"], readonlyPaths=[]),
    )
    (one.bundle.rootfs / "etc" / "secret").write_text("secret")
    (one.bundle.rootfs / "etc" / "masked").write_text("hidden")
    FALSE[kind](one.bundle.rootfs / "dev" / "null")
    result = one.run()
    assert (result.status == 0) is not protected
    if not protected:
        assert "character special file 1:3" not in result.stdout


@without(
    "plan/rootfs.py",
    """
    _apply = MaskedPaths.apply
    def _forgiving(self, place):
        try:
            _apply(self, place)
        except FileNotFoundError:
            pass
    MaskedPaths.apply = _forgiving
    """,
)
def test_no_null_device_at_all(container: Make, tmp_path: Path, protected: bool) -> None:
    """CVE-2025-31133, second half: without a /dev/null masks were left out in silence.

    Without the error (plan/rootfs.py: MaskedPaths) the file stays readable. The /dev is a volume, so that nothing is
    made in it.
    """
    (tmp_path / "dev").mkdir()
    volume = {"destination": "/dev", "type": "bind", "source": str(tmp_path / "dev"), "options": ["bind"]}
    one = container(
        ["cat", "/etc/masked"],
        no_dev,
        lambda config: config["mounts"].append(volume),
        lambda config: config["linux"].update(maskedPaths=["/etc/masked"], readonlyPaths=[]),
    )
    (one.bundle.rootfs / "etc" / "masked").write_text("hidden")
    assert ("hidden" in one.run().stdout) is not protected


def test_five_hundred_masks_and_the_same_twice(container: Make) -> None:
    """A list that grew with every release, and engines that add theirs: order, number and repetition mean nothing."""
    names = [f"/etc/masked{number}" for number in range(250)]
    one = container(
        ["sh", "-c", "cat /etc/masked* /proc/version | wc -c; ls -A /var"],
        lambda config: config["linux"].update(maskedPaths=["/proc/version", "/var", "/gone", *names, *names, "/var"]),
    )
    for name in names:
        (one.bundle.rootfs / name[1:]).write_text("hidden")
    (one.bundle.rootfs / "var" / "x").write_text("hidden")
    assert one.run().ok().stdout == "0\n"


def _node(pts: Path) -> None:
    os.mknod(pts / "ptmx", 0o020666, os.makedev(5, 2))


def _link_inside(pts: Path) -> None:
    (pts / "ptmx").symlink_to("/real/ptmx")


def _link_outside(pts: Path) -> None:
    (pts / "ptmx").symlink_to("/dev/pts/ptmx")  # with the host's root that is the host's


def _elsewhere(pts: Path) -> None:
    pts.rmdir()
    pts.symlink_to("/proc/1")


def with_terminal(config: Config) -> None:
    config["process"]["terminal"] = True
    config["mounts"].append({"destination": "/real", "type": "devpts", "source": "devpts", "options": ["newinstance"]})
    config["linux"].update(maskedPaths=[], readonlyPaths=[])


def create(container: Make, tmp_path: Path, prepare: Callable[[Path], None]) -> Result:
    one = container(["sleep", "60"], no_dev, with_terminal)
    pts = one.bundle.rootfs / "dev" / "pts"
    pts.mkdir()
    prepare(pts)
    with ConsoleSocket(tmp_path / "console") as engine:
        return one.create("--console-socket", str(engine.path))


TERMINALS = {
    "a node": _node,
    "a link": _link_inside,
    "a file": lambda pts: _file(pts / "ptmx"),
    "elsewhere": _elsewhere,
}


@pytest.mark.parametrize("kind", TERMINALS)
def test_a_false_terminal_multiplexer(container: Make, tmp_path: Path, kind: str) -> None:
    """The image's /dev/pts/ptmx is no multiplexer of a devpts there: nothing is opened, no ioctl sent."""
    result = create(container, tmp_path, TERMINALS[kind])
    assert result.status == 1
    assert "not the terminal multiplexer" in result.stderr or "no /dev/pts/ptmx" in result.stderr


@without(
    "plan/lifecycle.py",
    """
    def _naive(self, place):
        master = posix.open(b"/proc/self/fd/%d/dev/pts/ptmx" % place.rootfs, posix.O_RDWR | posix.O_NOCTTY)
        place.console = master
    OpenTerminal.apply = _naive
    """,
)
def test_the_hosts_terminal_multiplexer(container: Make, tmp_path: Path, protected: bool) -> None:
    """CVE-2025-52565: a link makes the runtime open the host's multiplexer, and the container gets a terminal there.

    Without the checks and O_NOFOLLOW (plan/lifecycle.py: OpenTerminal) the create succeeds.
    """
    assert (create(container, tmp_path, _link_outside).status == 0) is not protected
