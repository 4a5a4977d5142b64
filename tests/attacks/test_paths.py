"""B. Paths: an image whose links lead to the host, at every place where the runtime makes or opens something.

CVE-2015-3627, CVE-2019-18837, CVE-2024-5154, CVE-2024-45310, CVE-2025-24965, CVE-2026-41579, CVE-2026-47766,
CVE-2026-88264, CVE-2026-88265, CVE-2026-115521 and Go's CVE-2026-39822 (a trailing slash). Races: test_races.py. Links
at /proc and /sys (CVE-2025-54867, CVE-2023-27561): integration/test_mounts.py; links as cwd:
integration/test_process_command.py.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.bundles import Change, Config
from support.canary import Canary
from support.container import Container
from support.terminal import ConsoleSocket
from support.weakened import without

Make = Callable[..., Container]

# As one writes it before one has read about it: the kernel follows the links from the host's root.
NAIVE = """
def make_in_root(root, path, directory, mode=0o755):
    base = b"/proc/self/fd/%d" % root
    parts = path.strip(b"/").split(b"/")
    for depth in range(1, len(parts) + (1 if directory else 0)):
        try:
            posix.mkdir(base + b"/" + b"/".join(parts[:depth]), mode)
        except FileExistsError:
            pass
    full = base + b"/" + b"/".join(parts)
    if not directory:
        posix.close(posix.open(full, posix.O_CREAT | posix.O_RDONLY, 0o644))
    return posix.open(full, O_PATH | O_CLOEXEC)


def open_in_root(root, path, flags=O_PATH):
    return posix.open(b"/proc/self/fd/%d/" % root + path.lstrip(b"/"), flags | O_CLOEXEC)
"""


def user_namespace(config: Config) -> None:
    """Root of the container is uid 100000 of the host."""
    config["linux"]["namespaces"].append({"type": "user"})
    for name in ("uidMappings", "gidMappings"):
        config["linux"][name] = [{"containerID": 0, "hostID": 100000, "size": 65536}]


def unmounted(*destinations: str) -> Change:
    """The image's own directories instead of the mounts at `destinations`."""

    def change(config: Config) -> None:
        config["mounts"] = [one for one in config["mounts"] if one["destination"] not in destinations]

    return change


NO_DEV = unmounted("/dev", "/dev/pts", "/dev/shm", "/dev/mqueue")

# Ways to write a link to a directory of the host.
WAYS: list[Callable[[Path], str]] = [
    str,
    lambda target: "../" * 20 + str(target)[1:],
    lambda target: f"{target}/",
    lambda target: f"{target}/.",
    lambda target: "//" + str(target)[1:].replace("/", "//"),
]


@pytest.mark.parametrize("user", [False, True], ids=["root", "user namespace"])
@without("kernel/paths.py", NAIVE)
def test_destinations_through_links(
    container: Make, canary: Canary, tmp_path: Path, user: bool, protected: bool
) -> None:
    """Every kind of mount and of device below links, and mounts on links, that lead to a directory of the host.

    Without openat2 (kernel/paths.py: make_in_root) directories and files are made there.
    """
    (tmp_path / "file").write_text("")

    def change(config: Config) -> None:
        def mount(where: str, kind: str, source: str = "none", *options: str) -> None:
            config["mounts"].append(
                {"destination": where, "type": kind, "source": source, "options": [*options, "nosuid"]}
            )

        devices: list[dict[str, object]] = []
        config["linux"]["devices"] = devices
        for number in range(len(WAYS)):
            link = f"/link{number}"
            mount(f"{link}/{number}-directory", "bind", str(tmp_path), "bind")
            mount(f"{link}/{number}-file", "bind", str(tmp_path / "file"), "bind")
            mount(f"{link}//{number}-tmpfs/", "tmpfs", "tmpfs")
            mount(f"/inner{link}/{number}-mqueue", "mqueue", "mqueue")
            mount(f"/dangling{number}/below/deep", "tmpfs", "tmpfs", "tmpcopyup")
            devices.append({"path": f"{link}/{number}-fifo", "type": "p"})
            if not user:  # there a device is bound from the same path of the host, which has none
                devices.append({"path": f"{link}/{number}-device", "type": "c", "major": 1, "minor": 5})
        mount("/dangling-file", "bind", str(tmp_path / "file"), "bind")
        mount("/link0/cgroup", "cgroup", "cgroup", "ro")
        if user:
            user_namespace(config)

    one = container(["true"], change)
    root = one.bundle.rootfs
    (root / "inner").mkdir()
    for number, way in enumerate(WAYS):
        (root / f"link{number}").symlink_to(way(canary.path))
        (root / "inner" / f"link{number}").symlink_to(f"../link{number}")
        (root / f"dangling{number}").symlink_to(way(canary.path / f"gone{number}"))
    (root / "dangling-file").symlink_to(canary.path / "gone-file")
    if user:
        subprocess.run(["chown", "-R", "100000:100000", root], check=True)
    result = one.run()
    if protected:
        result.ok()
        assert canary.touched() == set()
        assert len(list((root / str(canary.path)[1:]).iterdir())) >= 6 * len(WAYS)  # so all of it is in the rootfs
    else:
        assert canary.touched() >= {"0-directory", "0-file"}


def test_a_chain_of_links_ends_in_an_error(container: Make, canary: Canary, tmp_path: Path) -> None:
    one = container(
        ["true"],
        lambda config: config["mounts"].append({"destination": "/link0/x", "type": "tmpfs", "source": "tmpfs"}),
    )
    for number in range(41):
        (one.bundle.rootfs / f"link{number}").symlink_to(f"link{number + 1}")
    (one.bundle.rootfs / "link41").symlink_to(canary.path)
    result = one.run()
    assert result.status == 1 and "/link0/x" in result.stderr
    assert canary.touched() == set()


@without(
    "kernel/paths.py",
    NAIVE,
    "plan/devices.py",
    "MakeDevices._make = staticmethod(lambda parent, name, device: posix.mknod(name, device.kind | 0o666, "
    "device.number, dir_fd=parent))",
)
@pytest.mark.parametrize("user", [False, True], ids=["root", "user namespace"])
def test_dev_is_a_link(container: Make, canary: Canary, tmp_path: Path, user: bool, protected: bool) -> None:
    """CVE-2026-41579: devices, links and the console of a /dev that the image has put elsewhere.

    Without the descriptor of /dev (kernel/paths.py: open_in_root) they appear on the host.
    """

    def change(config: Config) -> None:
        config["process"]["terminal"] = True
        # With a terminal, the console too: the devpts is at another place of the image, which /dev/pts means.
        config["mounts"].append(
            {"destination": "/pts", "type": "devpts", "source": "devpts", "options": ["newinstance"]}
        )
        config["linux"].update(maskedPaths=[], readonlyPaths=[])
        if user:
            user_namespace(config)

    one = container(["true"], NO_DEV, change)
    (one.bundle.rootfs / "dev").rmdir()
    (one.bundle.rootfs / "dev").symlink_to(canary.path)
    if user:
        subprocess.run(["chown", "-R", "100000:100000", one.bundle.rootfs], check=True)
    with ConsoleSocket(tmp_path / "console") as engine:
        one.create("--console-socket", str(engine.path))
    if protected:
        assert canary.touched() == set()
    else:
        assert canary.touched() >= {"fd", "stdin"}


CONSOLES = {"a link to a file": "file", "a dangling link": "gone"}


@pytest.mark.parametrize("target", CONSOLES)
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
def test_console_is_a_link(container: Make, canary: Canary, tmp_path: Path, target: str, protected: bool) -> None:
    """CVE-2026-88264, CVE-2025-52565: the place of the console is a link to the host.

    Without O_NOFOLLOW (plan/lifecycle.py: OpenTerminal._attach) the host's file is made or emptied.
    """

    def change(config: Config) -> None:
        config["process"]["terminal"] = True
        config["mounts"].append(
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["newinstance", "ptmxmode=0666"],
            }
        )
        config["linux"].update(maskedPaths=[], readonlyPaths=[])

    one = container(["sleep", "60"], NO_DEV, change)
    (one.bundle.rootfs / "dev" / "console").symlink_to(canary.path / CONSOLES[target])
    with ConsoleSocket(tmp_path / "console") as engine:
        one.create("--console-socket", str(engine.path))
    assert (canary.touched() == set()) is protected


@without(
    "plan/lifecycle.py",
    """
    def _reopen(self, place):
        null = posix.open(b"/dev/null", posix.O_RDWR)
        for number in (0, 1, 2):
            if _is_null(number):
                posix.dup2(null, number)
    ReopenNull.apply = _reopen
    """,
)
def test_null_device_is_a_link_to_a_volume(container: Make, canary: Canary, protected: bool) -> None:
    """CVE-2026-88265: standard streams that were /dev/null become a host file, which the user then owns.

    Without the check of what /dev/null is (plan/lifecycle.py: ReopenNull) the file changes hands and content.
    """

    def change(config: Config) -> None:
        config["process"]["user"] = {"uid": 1000, "gid": 1000}
        config["mounts"].append(
            {"destination": "/data", "type": "bind", "source": str(canary.path), "options": ["bind"]}
        )
        config["linux"].update(maskedPaths=[], readonlyPaths=[], devices=[])

    # /dev/null is there before our own device is to be made: the name is a link, so that is refused; a volume below
    # the directory brings it in afterwards.
    def late(config: Config) -> None:
        config["mounts"] += [{"destination": "/dev", "type": "bind", "source": str(dev), "options": ["bind"]}]

    dev = canary.path.with_name(canary.path.name + ".dev")
    dev.mkdir()
    try:
        (dev / "null").symlink_to("/data/file")
        one = container(["sh", "-c", "echo x; true"], NO_DEV, change, late)
        with open("/dev/null", "r+b") as null:
            process = one.runtime.popen(
                "run", "--bundle", one.bundle.path, one.id, stdin=null, stdout=null, stderr=null
            )
            assert process.wait(30) == 0
    finally:
        shutil.rmtree(dev)
    assert (canary.touched() == set()) is protected


@without(
    "plan/rootfs.py",
    """
    def _readonly(self, place):
        m.mount(None, b"/proc/self/fd/%d" % place.rootfs, None, m.MS_REMOUNT | m.MS_BIND | m.MS_RDONLY)
    ReadonlyRoot.apply = _readonly
    """,
)
def test_readonly_root_without_proc(container: Make, protected: bool) -> None:
    """CVE-2026-115521: the image holds directories where procfs would have our descriptors.

    Without mount_setattr on the descriptor (plan/rootfs.py: ReadonlyRoot) one of those turns read-only, not the root.
    """

    def change(config: Config) -> None:
        config["root"]["readonly"] = True
        config["linux"].update(maskedPaths=[], readonlyPaths=[])
        config["mounts"] += [
            {"destination": f"/mine/self/fd/{number}", "type": "tmpfs", "source": "tmpfs"} for number in range(3, 24)
        ]

    one = container(["sh", "-c", "touch /x && echo written"], unmounted("/proc"), change)
    (one.bundle.rootfs / "proc").rmdir()
    (one.bundle.rootfs / "proc").symlink_to("mine")
    assert (one.run().stdout == "written\n") is not protected


@without(
    "kernel/copyup.py",
    """
    class _Following:
        def __getattr__(self, name):
            return getattr(_posix, name)

        @staticmethod
        def stat(path, *, dir_fd, follow_symlinks):
            return _posix.stat(path, dir_fd=dir_fd)

        @staticmethod
        def open(path, flags, *rest, **more):
            return _posix.open(path, flags & ~_posix.O_NOFOLLOW, *rest, **more)

    _posix, posix = posix, _Following()
    """,
)
def test_copies_of_links(container: Make, canary: Canary, protected: bool) -> None:
    """CVE-2024-5154: tmpcopyup of a directory with links to the host's files, which lie in reach until pivot_root.

    Without O_NOFOLLOW (kernel/copyup.py: _copy) their content is copied into the container.
    """
    one = container(
        ["sh", "-c", "cat /data/file /data/directory/inner"],
        lambda config: config["mounts"].append(
            {"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}
        ),
    )
    (one.bundle.rootfs / "data").mkdir()
    (one.bundle.rootfs / "data" / "file").symlink_to(canary.file)
    (one.bundle.rootfs / "data" / "directory").symlink_to(canary.directory)
    assert ("secret" in one.run().stdout) is not protected


def test_a_source_is_what_it_was_at_create(container: Make, tmp_path: Path) -> None:
    """CVE-2024-23651: whoever can rename a source afterwards changes nothing."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "x").write_text("ours\n")
    one = container(
        ["cat", "/m/x"],
        lambda config: config["mounts"].append(
            {"destination": "/m", "type": "bind", "source": str(tmp_path / "source"), "options": ["bind"]}
        ),
    )
    with (tmp_path / "out").open("wb") as out:
        assert one.runtime.popen("create", "--bundle", one.bundle.path, one.id, stdout=out).wait(30) == 0
    (tmp_path / "source").rename(tmp_path / "moved")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "x").write_text("theirs\n")
    one.start().ok()
    one.wait("stopped")
    assert (tmp_path / "out").read_text() == "ours\n"


@pytest.mark.parametrize("kind", ["tmpfs", "bind", "cgroup"])
@without(
    "plan/mounts.py",
    "check_proc = lambda *arguments: None",
    "plan/cgroupfs.py",
    "check_proc = lambda *arguments: None",
)
def test_nothing_covers_a_part_of_proc(container: Make, tmp_path: Path, kind: str, protected: bool) -> None:
    """CVE-2019-16884, CVE-2015-3630: something over the files that the runtime or an engine writes to.

    Without plan/mounts.py: check_proc it is mounted there. More destinations:
    integration/test_mounts.py.
    """

    def change(config: Config) -> None:
        config["linux"].update(maskedPaths=[], readonlyPaths=[])
        where = "/link" if kind == "tmpfs" else "/proc/self/attr"
        config["mounts"].append(
            {"destination": where, "type": kind, "source": str(tmp_path), "options": ["bind"] * (kind == "bind")}
        )

    one = container(["true"], change)
    (one.bundle.rootfs / "link").symlink_to("/proc/self/attr")
    result = one.run()
    assert (result.status == 0) is not protected
    if protected:
        assert "inside /proc" in result.stderr and one.leaks() == []
