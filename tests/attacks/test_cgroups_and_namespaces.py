"""D. Cgroups, mounts of the host, namespaces, process ids.

CVE-2022-0492 (release_agent), CVE-2023-25809 (cgroups of others: also integration/test_rootless.py), the sub-cgroup
escapes of crun 1.29, CVE-2021-43784 (lengths), runc 1.5.3's propagation fix, hostile names in /proc. Cgroup v2:
integration/test_cgroup_v2.py in the guest of tests/vm; namespaces by path: integration/test_namespaces.py; mappings:
integration/test_namespaces.py; a foreign process in the cgroup: integration/test_lifecycle.py.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.bundles import Config
from support.container import Container
from support.mountinfo import HostMounts
from support.runtime import Runtime
from support.weakened import without

Make = Callable[..., Container]

v1 = pytest.mark.skipif(not Path("/sys/fs/cgroup/memory").exists(), reason="cgroup v1")


def writable_cgroups(config: Config) -> None:
    for one in config["mounts"]:
        if one["type"] == "cgroup":
            one["options"].remove("ro")


@v1
@pytest.mark.parametrize("own", [False, True], ids=["bound", "namespace"])
@without(
    "plan/cgroupfs.py",
    """
    def _show(self, hierarchy, attributes, options):
        tree = m.open_tree(m.AT_FDCWD, b"/sys/fs/cgroup/" + hierarchy.name)
        m.set_attributes(tree, attributes)
        return tree
    MountCgroups._show = _show
    """,
)
def test_release_agent(container: Make, own: bool, protected: bool) -> None:
    """CVE-2022-0492: a program of the container's choice that the kernel runs on the host, named in the root of a v1
    hierarchy. Even a writable mount of cgroups shows no root.

    Without showing the container's own directory alone (plan/cgroupfs.py: MountCgroups._show) the file is there, and
    so are the cgroups of everybody else.
    """

    def change(config: Config) -> None:
        writable_cgroups(config)
        if own:
            config["linux"]["namespaces"].append({"type": "cgroup"})

    script = "ls /sys/fs/cgroup/*/release_agent; ls /sys/fs/cgroup/memory/.. | head -3; cat /proc/self/mountinfo"
    result = container(["sh", "-c", script], change).run()
    assert ("release_agent" in result.stdout.split("\n")[0]) is not protected


BAD_CGROUPS = ["..", "../..", "/..", "a/../..", "memory:..", "pids:/../..", "x\n/..", "a/./../../b"]


@v1
@pytest.mark.parametrize("bad", BAD_CGROUPS)
def test_exec_into_a_cgroup_above(container: Make, bad: str) -> None:
    one = container(["sleep", "1000"])
    one.run("--detach").ok()
    result = one.runtime("exec", "--cgroup", bad, one.id, "true")
    assert result.status == 255 and "bad sub cgroup path" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@v1
@without(
    "cgroups/joined.py",
    """
    def _join(self, text):
        names, colon, path = text.rpartition(":")
        for name in names.split(",") if colon else list(self.subs):
            self.subs[name] = path.strip("/")
        return self
    Joined.join = _join
    open_below = lambda base, sub: posix.open(base + "/" + sub, cgroupfs.DIRECTORY)
    """,
)
def test_exec_out_of_the_cgroup(container: Make, protected: bool) -> None:
    """crun 1.29: the process of `exec --cgroup ..` is outside of the container's limits.

    Without the check and RESOLVE_BENEATH (cgroups/joined.py: Joined.join, open_below) it is.
    """
    one = container(["sleep", "1000"])
    one.run("--detach").ok()
    result = one.runtime("exec", "--cgroup", "pids:..", one.id, "cat", "/proc/self/cgroup")
    pids = next((line for line in result.stdout.split("\n") if ":pids:" in line), "")
    assert (bool(pids) and not pids.endswith(one.id)) is not protected


@v1
@pytest.mark.parametrize("path", ["../../{}", "/a/../../{}", "/../{}", "a/b/../../..//{}"])
def test_cgroups_path_with_dots(container: Make, path: str) -> None:
    """linux.cgroupsPath with `..`: it is taken for text, so what comes out is below the root of the hierarchy.

    The text itself: unit/test_cgroups_host.py. Here: where the container really is.
    """
    one = container(["sleep", "1000"])
    one.bundle.config["linux"]["cgroupsPath"] = path.format(one.id)
    one.bundle.write()
    one.create().ok()
    inside = one.cgroup("pids")
    assert inside.name == one.id and ".." not in inside.parts
    assert inside.is_relative_to("/sys/fs/cgroup/pids") and inside.is_dir()


LONG = "x" * 70_000


def _long_mount(config: Config) -> None:
    config["mounts"].append({"destination": "/m", "type": "bind", "source": "/" + LONG, "options": ["bind"]})


def _long_destination(config: Config) -> None:
    config["mounts"].append({"destination": "/" + LONG, "type": "tmpfs", "source": "tmpfs"})


def _long_namespace(config: Config) -> None:
    config["linux"]["namespaces"][1]["path"] = "/proc/self/ns/" + LONG


def _long_option(config: Config) -> None:
    config["mounts"].append({"destination": "/m", "type": "tmpfs", "source": "x", "options": ["mode=" + LONG]})


def _long_program(config: Config) -> None:
    config["process"]["args"] = ["/" + LONG]


def _long_cwd(config: Config) -> None:
    config["process"]["cwd"] = "/" + "y/" * 35_000


def _long_hostname(config: Config) -> None:
    config["hostname"] = LONG


TOO_LONG = [_long_mount, _long_destination, _long_namespace, _long_option, _long_program, _long_cwd, _long_hostname]


@pytest.mark.parametrize("change", TOO_LONG)
def test_what_is_too_long_is_an_error_and_not_cut(container: Make, change: Callable[[Config], None]) -> None:
    """CVE-2021-43784: a length of 16 bits, or a name of 4,096 bytes, that an attacker's text runs over."""
    one = container(["true"], change)
    result = one.run()
    assert result.status == 1
    assert len(result.stderr.splitlines()) == 1 and len(result.stderr) < 4096
    assert one.leaks() == []


@without(
    "plan/rootfs.py",
    """
    _open_plain = OpenPlainRoot.apply
    def _and_private(self, place):
        m.set_propagation(b"/", m.MS_PRIVATE, True)
        _open_plain(self, place)
    OpenPlainRoot.apply = _and_private
    """,
)
def test_propagation_of_the_host(container: Make, runtime: Runtime, tmp_path: Path, protected: bool) -> None:
    """runc 1.5.3: a container without a mount namespace of its own must not change how the host's mounts propagate.

    Without the distinction (plan/build.py: OpenPlainRoot and no DetachFromHost), here a call too many, shared mounts
    of the caller are private afterwards. In a mount namespace that stands for the host.
    """

    def change(config: Config) -> None:
        config["linux"]["namespaces"].remove({"type": "mount"})
        config["linux"].update(maskedPaths=[], readonlyPaths=[])
        config["mounts"] = []

    one = container(["true"], change)
    look = "cat /proc/self/mountinfo"
    script = f'{look} > "$1/before"; "$2" --root "$3" run -b "$4" "$5"; {look} > "$1/after"'
    command = ["unshare", "--mount", "--propagation", "shared", "sh", "-ec", script, "sh", str(tmp_path)]
    command += [runtime.program[0], str(runtime.root), str(one.bundle.path), one.id]
    subprocess.run(command, check=True)
    before, after = ((tmp_path / name).read_text().count(" shared:") for name in ("before", "after"))
    assert before
    assert (before == after) is protected


@without(
    "kernel/pids.py",
    """
    def stat(pid):
        try:
            file = posix.open(f"/proc/{pid}/stat", posix.O_RDONLY)
        except OSError:
            return b"", 0
        fields = posix.read(file, 4096).split(b" ")
        posix.close(file)
        return fields[2], int(fields[21])
    """,
)
def test_name_of_the_program_reads_like_procfs(
    container: Make, tmp_path: Path, compiled: Callable[..., Path], protected: bool
) -> None:
    """A program called `x) Z 0 0`: /proc/PID/stat then reads as if the process were a zombie.

    Without searching for the last parenthesis (kernel/pids.py: stat) the container counts as stopped, and its
    process stays when it is deleted.
    """
    one = container(["/x) Z 0 0"])
    program = one.bundle.rootfs / "x) Z 0 0"
    program.write_bytes(compiled("pause").read_bytes())
    program.chmod(0o755)
    pid_file = tmp_path / "pid"
    one.run("--detach", "--pid-file", str(pid_file)).ok()
    assert Path("/proc", pid_file.read_text(), "comm").read_text() == "x) Z 0 0\n"
    status = one.status
    os.kill(int(pid_file.read_text()), 9)  # the weakened one would not find it
    assert (status == "running") is protected


@pytest.mark.parametrize("flags", [(), ("--no-pivot",)], ids=["pivot", "no pivot"])
def test_mount_points_of_the_host_with_strange_names(
    container: Make, host_mounts: HostMounts, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    """mountinfo escapes blanks and newlines but no other separators: names of mount points must not make lines.

    Whoever splits it like text sees a cgroup mount here that does not exist, at a place of the attacker's choice
    (unit/test_cgroups_host.py has the parser).
    """
    line = "\r99 1 0:99 / /sys/fs/cgroup rw - cgroup2 none rw\x0b\x0c\x85"
    host_mounts.tmpfs(tmp_path / line.replace("/", "\u2044"))
    container(["cat", "/proc/self/cgroup"]).run(*flags).ok()
