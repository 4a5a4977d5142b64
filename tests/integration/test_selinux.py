"""SELinux labels of programs, keyrings and mounts. `python3 -m tests.vm --security selinux` boots a kernel that has it.

The policy of the tests is loaded when there is none. It knows a few labels and forbids nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.bundles import Change
from support.changes import linux, mount, namespace, process, user_namespace
from support.container import Container

Make = Callable[..., Container]

MODULES = Path("/sys/kernel/security/lsm")
ACTIVE = MODULES.exists() and "selinux" in MODULES.read_text().split(",")
SELINUXFS = Path("/sys/fs/selinux")
LABEL = "system_u:system_r:container_t:s0:c1,c2"
CONTEXT = "system_u:object_r:container_file_t:s0:c1,c2"

pytestmark = pytest.mark.skipif(not ACTIVE, reason="SELinux is not active here")


@pytest.fixture(scope="module", autouse=True)
def policy(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A policy, if the kernel has none yet: until then every process is "kernel"."""
    if not (SELINUXFS / "enforce").exists():
        subprocess.run(["mount", "-t", "selinuxfs", "selinuxfs", SELINUXFS], check=True)
    if label("self") != "kernel":
        return
    if shutil.which("secilc") is None:
        pytest.skip("needs secilc to compile a policy")
    binary = tmp_path_factory.mktemp("policy") / "policy"
    source = Path(__file__).resolve().parents[1] / "support" / "selinux.cil"
    version = (SELINUXFS / "policyvers").read_text().strip()
    subprocess.run(["secilc", "-M", "true", "-c", version, "-o", binary, "-f", "/dev/null", source], check=True)
    (SELINUXFS / "load").write_bytes(binary.read_bytes())
    assert label("self") == "system_u:system_r:kernel_t:s0-s0:c0.c3"


def label(pid: int | str, kind: str = "current") -> str:
    return Path(f"/proc/{pid}/attr/{kind}").read_text().rstrip("\0\n")


def context(one: Container, path: str) -> str:
    return os.getxattr(f"/proc/{one.pid}/root{path}", "security.selinux").rstrip(b"\0").decode()


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_the_program_has_the_label(container: Make, no_new_privileges: bool) -> None:
    one = container(["sleep", "60"], process(selinuxLabel=LABEL, noNewPrivileges=no_new_privileges))
    one.create().ok()
    assert label(one.pid) != LABEL, "a label is for the next execve"
    one.start().ok()
    one.wait("running")
    assert label(one.pid) == LABEL
    for kind in ("exec", "keycreate", "fscreate", "sockcreate"):
        assert label(one.pid, kind) == "", "nothing is left for what the program makes"


def test_a_program_in_a_user_namespace_has_the_label(container: Make) -> None:
    one = container(["sleep", "60"], process(selinuxLabel=LABEL), user_namespace())
    one.run("--detach").ok()
    assert label(one.pid) == LABEL


def test_the_label_of_exec(container: Make) -> None:
    one = container(["sleep", "60"], process(selinuxLabel=LABEL))
    one.run("--detach").ok()
    show = ["cat", "/proc/self/attr/current"]
    assert one.exec(*show).ok().stdout.rstrip("\0\n") == LABEL
    other = LABEL.replace("c1,c2", "c3")
    assert one.exec(f"--process-label={other}", *show).ok().stdout.rstrip("\0\n") == other


def test_a_label_that_the_policy_does_not_know(container: Make) -> None:
    one = container(["true"], process(selinuxLabel="system_u:system_r:no_such_t:s0"))
    result = one.create()
    assert result.status == 1
    assert "the SELinux policy does not know the label system_u:system_r:no_such_t:s0" in result.stderr
    result = container(["true"], process(selinuxLabel="system_u:system_r:no_such_t:s0")).create("--no-new-keyring")
    assert result.status == 1
    assert "can't set process label system_u:system_r:no_such_t:s0" in result.stderr
    assert one.leaks() == []


@pytest.mark.parametrize("changes", [[], [namespace("cgroup")]], ids=["shared", "own"])
def test_mounts_have_the_label(container: Make, changes: list[Change]) -> None:
    """What is made for the container. Processes, cgroups and devices are the host's and keep theirs.

    With a cgroup namespace, cgroup2 is mounted, and the kernel refuses another context for what is mounted already.
    """
    one = container(["sleep", "60"], linux(mountLabel=CONTEXT), mount("/tmp/new", "tmpfs", type="tmpfs"), *changes)
    one.run("--detach").ok()
    for path in ("/tmp/new", "/dev", "/dev/null", "/dev/pts", "/dev/shm", "/dev/mqueue"):
        assert context(one, path) == CONTEXT, path
    for path in ("/proc/1", "/sys", "/sys/fs/cgroup"):
        assert "container_file_t" not in context(one, path), path


def test_long_options_and_a_label(container: Make, tmp_path: Path) -> None:
    """The layers of an overlay are longer than fsconfig(2) takes; the commas of the label must survive mount(2)."""
    layers = []
    for number in range(8):
        layer = tmp_path / f"{number}-{'x' * 60}"
        layer.mkdir()
        layers.append(str(layer))
    entry = mount("/mnt", "overlay", [f"lowerdir={':'.join(layers)}"], type="overlay")
    one = container(["sleep", "60"], linux(mountLabel=CONTEXT), entry)
    one.run("--detach").ok()
    assert context(one, "/mnt") == CONTEXT


def test_covered_directories_have_the_label(container: Make) -> None:
    one = container(["sleep", "60"], linux(mountLabel=CONTEXT, maskedPaths=["/proc/irq"]))
    one.run("--detach").ok()
    assert context(one, "/proc/irq") == CONTEXT
