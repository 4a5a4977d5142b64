"""Security contexts of Kubernetes, through containerd's CRI plugin, as the processes in the containers see them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines.engine import lines, status_field
from engines.kubelet import Kubelet
from support.container import wait_for
from support.cri import BIDIRECTIONAL, HOST_TO_CONTAINER, LOCALHOST, POD, RUNTIME_DEFAULT, UNCONFINED

SLEEP = ("sleep", "1000")
CHOWN, NET_RAW, SYS_TIME = 1 << 0, 1 << 13, 1 << 25


def test_runs_as_a_user_with_groups(kubelet: Kubelet) -> None:
    who = {"run_as_user": {"value": 1000}, "run_as_group": {"value": 2000}, "supplemental_groups": [3000, 4000]}
    code, said = kubelet.pod().run("sh", "-c", "id -u; id -g; id -G", security=who)
    assert (code, said) == (0, lines("1000", "2000", "2000 3000 4000"))


def test_the_sandbox_runs_as_a_user_too(kubelet: Kubelet) -> None:
    pod = kubelet.pod(security={"run_as_user": {"value": 1000}, "readonly_rootfs": True})
    status = Path(f"/proc/{pod.pid}/status")
    wait_for(lambda: status_field(status.read_text(), "Uid").split() == ["1000"] * 4, "the user of the sandbox")


def test_adds_and_drops_capabilities(kubelet: Kubelet) -> None:
    pod = kubelet.pod()

    def effective(**capabilities: list[str]) -> int:
        code, said = pod.run("grep", "CapEff", "/proc/self/status", security={"capabilities": capabilities})
        assert code == 0
        return int(said.split()[1], 16)

    usual = effective()
    assert usual & CHOWN
    assert usual & NET_RAW
    assert not usual & SYS_TIME
    assert effective(add_capabilities=["SYS_TIME"], drop_capabilities=["CHOWN"]) == usual & ~CHOWN | SYS_TIME
    assert effective(drop_capabilities=["ALL"]) == 0
    assert effective(drop_capabilities=["ALL"], add_capabilities=["NET_RAW"]) == NET_RAW


def test_forbids_new_privileges_and_writing(kubelet: Kubelet) -> None:
    security = {"no_new_privs": True, "readonly_rootfs": True}
    container = kubelet.pod().start("sh", "-c", "cat /proc/self/status; touch /new; sleep 1000", security=security)
    container.says("Read-only file system")
    assert status_field("".join(container.said("stdout")), "NoNewPrivs") == "1"
    code, _, complaint = container.exec("touch", "/other")
    assert (code, "Read-only file system" in complaint) == (1, True)
    assert status_field(container.exec("cat", "/proc/self/status")[1], "NoNewPrivs") == "1"


def test_masks_paths_and_makes_others_read_only(kubelet: Kubelet) -> None:
    security = {"masked_paths": ["/proc/cpuinfo", "/proc/no-such", "/etc"], "readonly_paths": ["/proc/sys", "/tmp"]}
    container = kubelet.pod().start(*SLEEP, security=security)
    assert container.exec("sh", "-c", "cat /proc/cpuinfo; ls -A /etc") == (0, "", "")
    for command in ("echo x >/proc/sys/kernel/domainname", "touch /tmp/new", "touch /etc/new"):
        code, _, complaint = container.exec("sh", "-c", command)
        assert code == 1, command
        assert "Read-only file system" in complaint, command


def test_filters_system_calls(kubelet: Kubelet, tmp_path: Path) -> None:
    pod = kubelet.pod(security={"seccomp": {"profile_type": RUNTIME_DEFAULT}})
    status = Path(f"/proc/{pod.pid}/status")
    wait_for(lambda: status_field(status.read_text(), "Seccomp") == "2", "the filter of the sandbox")

    def seccomp(**profile: object) -> str:
        code, said = pod.run("cat", "/proc/self/status", security={"seccomp": profile})
        assert code == 0
        return status_field(said, "Seccomp")

    assert seccomp(profile_type=RUNTIME_DEFAULT) == "2"
    assert seccomp(profile_type=UNCONFINED) == "0"
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 75}],
    }
    (tmp_path / "profile.json").write_text(json.dumps(profile))
    local = {"profile_type": LOCALHOST, "localhost_ref": str(tmp_path / "profile.json")}
    container = pod.start("sh", "-c", "mkdir /one; sleep 1000", security={"seccomp": local})
    container.says("Value too large")
    assert "Value too large" in container.exec("mkdir", "/two")[2]
    assert container.exec("ls", "/")[0] == 0


def test_gives_a_privileged_container_what_the_host_has(kubelet: Kubelet) -> None:
    pod = kubelet.pod(security={"privileged": True})
    container = pod.start(*SLEEP, security={"privileged": True})
    code, said, _ = container.exec(
        "sh",
        "-c",
        "grep CapEff /proc/self/status; mkdir /inside; mount -t tmpfs none /inside && echo mounted; "
        "ls /dev/fuse /dev/kmsg; echo 4322 >/proc/sys/kernel/msgmax && echo written",
    )
    own = status_field(Path("/proc/self/status").read_text(), "CapEff")
    assert int(said.split()[1], 16) == int(own, 16)
    assert "mounted" in said
    for path in ("/dev/fuse", "/dev/kmsg"):
        assert (path in said) == os.path.exists(path)
    assert (code, "written" in said) == (0, True)


def test_sets_sysctls_and_names_of_the_pod(kubelet: Kubelet) -> None:
    pod = kubelet.pod(
        network=POD,
        hostname="myself",
        sysctls={"net.ipv4.ip_forward": "1", "kernel.msgmax": "4321"},
        dns_config={"servers": ["192.0.2.53"], "searches": ["example.test"]},
    )
    files = ("/etc/hostname", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/msgmax", "/etc/resolv.conf")
    code, said = pod.run("cat", *files)
    assert code == 0
    assert said.startswith(lines("myself", "1", "4321"))
    assert "nameserver 192.0.2.53" in said


def test_mounts_and_gives_devices(kubelet: Kubelet, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the node\n")
    container = kubelet.pod().start(
        *SLEEP,
        mounts=[
            {"container_path": "/read", "host_path": str(tmp_path), "readonly": True},
            {"container_path": "/write", "host_path": str(tmp_path)},
            {"container_path": "/etc/one", "host_path": str(tmp_path / "file"), "readonly": True},
        ],
        devices=[{"container_path": "/dev/zilch", "host_path": "/dev/null", "permissions": "rw"}],
    )
    assert container.exec("cat", "/read/file", "/etc/one")[1] == lines("from the node", "from the node")
    assert "Read-only file system" in container.exec("touch", "/read/new")[2]
    assert container.exec("sh", "-c", "echo back >/write/new; echo x >/dev/zilch") == (0, "", "")
    assert (tmp_path / "new").read_text() == "back\n"
    code, _, complaint = container.exec("sh", "-c", "mknod /disk b 7 0; cat /disk")
    assert (code, "Operation not permitted" in complaint) == (1, True)


@pytest.fixture
def shared_mount(tmp_path: Path) -> Iterator[Path]:
    """A mount whose propagation is shared, which not every host has."""
    path = tmp_path / "shared"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "shared", path], check=True)
    subprocess.run(["mount", "--make-shared", path], check=True)
    (path / "inner").mkdir()
    yield path
    subprocess.run(["umount", "--recursive", path], check=True)


def test_lets_mounts_of_the_node_appear(kubelet: Kubelet, shared_mount: Path) -> None:
    mount = {"container_path": "/seen", "host_path": str(shared_mount), "propagation": HOST_TO_CONTAINER}
    hidden = {"container_path": "/hidden", "host_path": str(shared_mount)}
    container = kubelet.pod().start(*SLEEP, mounts=[mount, hidden])
    subprocess.run(["mount", "-t", "tmpfs", "later", shared_mount / "inner"], check=True)
    (shared_mount / "inner" / "file").write_text("later\n")
    assert container.exec("cat", "/seen/inner/file")[1] == "later\n"
    assert container.exec("ls", "/hidden/inner")[1] == ""
    container.stop()


def test_lets_mounts_of_a_container_appear_on_the_node(kubelet: Kubelet, shared_mount: Path) -> None:
    mount = {"container_path": "/given", "host_path": str(shared_mount), "propagation": BIDIRECTIONAL}
    pod = kubelet.pod(security={"privileged": True})
    container = pod.start(*SLEEP, mounts=[mount], security={"privileged": True})
    container.exec("sh", "-c", "mount -t tmpfs inside /given/inner && echo made >/given/inner/file")
    wait_for((shared_mount / "inner" / "file").exists, "the mount to appear")
    assert (shared_mount / "inner" / "file").read_text() == "made\n"
    container.stop()
    container.remove()
