"""Hooks: six kinds, each at its point and in its namespaces, with the state on stdin and nothing of the image."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.bundles import Change
from support.container import Container, wait_for

Make = Callable[..., Container]

HOST_KINDS = ("prestart", "createRuntime", "poststart", "poststop")
ALL_KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def hook(script: str, **more: Any) -> dict[str, Any]:
    return {"path": "/bin/sh", "args": ["sh", "-c", script], **more}


def hooks(**lists: list[dict[str, Any]]) -> Change:
    return lambda config: config.update(hooks=lists)


def state_to(path: Path) -> dict[str, Any]:
    return hook(f"cat > {path}; readlink /proc/self/ns/* > {path}.ns; pwd > {path}.cwd; env > {path}.env; "
                f"ls /proc/self/fd > {path}.fd")  # fmt: skip


def test_order_and_points(container: Make, tmp_path: Path) -> None:
    log = tmp_path / "log"
    inside = hook("echo startContainer >> /log")
    one = container(
        ["sh", "-c", "echo program >> /log; sleep 1000"],
        hooks(**{kind: [hook(f"echo {kind} >> {log}")] for kind in ALL_KINDS if kind != "startContainer"},
              startContainer=[inside]),
    )  # fmt: skip
    one.create().ok()
    assert log.read_text().split() == ["prestart", "createRuntime", "createContainer"]
    assert not (one.bundle.rootfs / "log").exists()
    one.start().ok()
    assert log.read_text().split()[3:] == ["poststart"]
    wait_for(lambda: "program" in (one.bundle.rootfs / "log").read_text(), "the program")
    assert (one.bundle.rootfs / "log").read_text().split() == ["startContainer", "program"]
    one.kill().ok()
    one.wait("stopped")
    one.delete().ok()
    assert log.read_text().split()[4:] == ["poststop"]


@pytest.mark.parametrize("kind", HOST_KINDS)
def test_host_hooks_see_the_host(container: Make, tmp_path: Path, kind: str) -> None:
    out = tmp_path / kind
    one = container(
        ["sleep", "1000"],
        hooks(**{kind: [state_to(out)]}),
        lambda config: config.update(annotations={"a": "b"}),
        lambda config: config["process"]["env"].append("LD_PRELOAD=/evil.so"),
    )
    one.create().ok()
    pid = one.pid
    one.start().ok()
    one.kill().ok()
    one.wait("stopped")
    one.delete().ok()
    state = json.loads(out.read_text())
    assert state["id"] == one.id and state["annotations"] == {"a": "b"} and state["bundle"] == str(one.bundle.path)
    assert state["pid"] == (0 if kind == "poststop" else pid)
    own = [str(link.readlink()) for link in sorted(Path("/proc/self/ns").iterdir())]
    assert Path(f"{out}.ns").read_text().split() == own
    assert Path(f"{out}.cwd").read_text().strip() == str(one.bundle.path)
    assert "LD_PRELOAD" not in Path(f"{out}.env").read_text()
    assert set(Path(f"{out}.fd").read_text().split()) <= {"0", "1", "2", "3"}  # 3 is the directory that ls reads


def test_create_container_hook_is_in_the_container_with_the_hosts_files(container: Make, tmp_path: Path) -> None:
    out = tmp_path / "document"
    one = container(["sleep", "1000"], hooks(createContainer=[state_to(out)]))
    one.create().ok()
    inner = set(Path(f"{out}.ns").read_text().split())
    for kind in ("mnt", "pid", "net", "ipc", "uts"):
        assert str(one.proc(f"ns/{kind}").readlink()) in inner, kind
    assert json.loads(out.read_text())["pid"] == 1


def test_mounts_are_there_for_runtime_hooks(container: Make, tmp_path: Path) -> None:
    """Tools that prepare a container from a hook look into its mount namespace, at the rootfs' own path."""
    out = tmp_path / "seen"
    script = (
        f"pid=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/'); cat /proc/$pid/mountinfo > {out}.mounts; "
        f"ls /proc/$pid/root$PWD/rootfs/proc/1 > {out}.proc"
    )
    one = container(["sleep", "1000"], hooks(createRuntime=[hook(script)]))
    one.create().ok()
    assert f"{one.bundle.rootfs}/dev/pts" in Path(f"{out}.mounts").read_text()
    assert "mountinfo" in Path(f"{out}.proc").read_text()


def test_hooks_run_although_the_container_may_have_one_process_only(container: Make, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    one = container(
        ["true"],
        hooks(createContainer=[hook(f"echo yes | cat > {marker}")]),
        lambda config: config["linux"]["resources"].update(pids={"limit": 1}),
    )
    one.run().ok()
    assert marker.read_text() == "yes\n"


def test_start_container_hook_has_the_programs_rights(container: Make) -> None:
    one = container(
        ["true"], hooks(startContainer=[hook("cat > /state; grep Cap /proc/self/status > /caps; env > /env")])
    )
    one.run().ok()
    state = json.loads((one.bundle.rootfs / "state").read_text())
    assert state["pid"] == 1 and state["status"] == "created"
    bounding = next(line for line in (one.bundle.rootfs / "caps").read_text().split("\n") if line.startswith("CapBnd"))
    assert int(bounding.split()[1], 16) == (1 << 29 | 1 << 5 | 1 << 10)  # AUDIT_WRITE, KILL, NET_BIND_SERVICE
    assert "PATH=" in (one.bundle.rootfs / "env").read_text()


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer"])
def test_failing_hook_before_the_start_undoes_create(container: Make, tmp_path: Path, kind: str) -> None:
    stopped, later = tmp_path / "poststop", tmp_path / "later"
    failing = [{"path": "/bin/true"}, hook("echo because >&2; exit 3"), hook(f"touch {later}")]
    one = container(["true"], hooks(**{kind: failing, "poststop": [hook(f"touch {stopped}")]}))
    result = one.create()
    assert result.status == 1
    assert f"error running {kind} hook #1:" in result.stderr and "because" in result.stderr
    assert stopped.exists() and not later.exists()
    assert not one.leaks()


def test_failing_start_container_hook_ends_run(container: Make) -> None:
    result = container(["true"], hooks(startContainer=[{"path": "/bin/false"}])).run()
    assert result.status == 1 and "error running startContainer hook" in result.stderr


def test_failing_poststart_hook_destroys_the_container(container: Make, tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    one = container(["sleep", "1000"], hooks(poststart=[{"path": "/bin/false"}], poststop=[hook(f"touch {stopped}")]))
    one.create().ok()
    result = one.start()
    assert result.status == 1 and "error running poststart hook #0" in result.stderr
    assert "container does not exist" in one.runtime("state", one.id).stderr
    assert stopped.exists() and one.leaks() == []


def test_failing_poststop_hook_only_warns(container: Make, tmp_path: Path) -> None:
    marker = tmp_path / "second"
    one = container(["true"], hooks(poststop=[{"path": "/bin/false"}, hook(f"touch {marker}")]))
    result = one.run()
    assert result.status == 0 and marker.exists()
    assert "error running poststop hook #0" in result.stderr


def test_timeout_ends_the_hook_and_what_it_started(container: Make, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    one = container(["true"], hooks(createRuntime=[hook(f"sleep 321 & echo $! > {pid}; wait", timeout=1)]))
    begun = time.monotonic()
    result = one.create()
    assert result.status == 1 and "ran past specified timeout" in result.stderr
    assert time.monotonic() - begun < 10
    wait_for(lambda: not Path(f"/proc/{pid.read_text().strip()}/exe").exists(), "the hook's child to end")


@pytest.mark.parametrize("command", ["sleep 321", "setsid sleep 321"])
def test_timeout_of_a_hook_in_the_pid_namespace(container: Make, command: str) -> None:
    """`run` becomes its parent, and the container's init does not end before somebody has reaped it."""
    one = container(["true"], hooks(createContainer=[hook("exec " + command, timeout=1)]))
    result = one.run(timeout=20)
    assert result.status == 1 and "ran past specified timeout" in result.stderr
    assert one.leaks() == []


def test_hook_that_reads_nothing_and_writes_without_end(container: Make) -> None:
    annotations = {f"key.{number}": "x" * 1000 for number in range(200)}
    one = container(
        ["true"],
        hooks(createRuntime=[hook("head -c 20000000 /dev/zero | tr '\\0' y; exit 1")]),
        lambda config: config.update(annotations=annotations),
    )
    result = one.create()
    assert result.status == 1 and len(result.stderr) < 2000


def test_hook_that_leaves_a_daemon_behind(container: Make) -> None:
    one = container(["true"], hooks(createRuntime=[hook("sleep 5 & exit 0")]))
    begun = time.monotonic()
    one.run().ok()
    assert time.monotonic() - begun < 4


def test_failing_start_container_hook_fails_start(container: Make, tmp_path: Path) -> None:
    later, stopped = tmp_path / "later", tmp_path / "stopped"
    failing = [hook("echo because >&2; exit 4"), hook(f"touch {later}")]
    one = container(["sh", "-c", "touch /ran"], hooks(startContainer=failing, poststop=[hook(f"touch {stopped}")]))
    one.create().ok()
    result = one.start()
    assert result.status == 1 and "error running startContainer hook" in result.stderr and "because" in result.stderr
    assert not (one.bundle.rootfs / "ran").exists() and not later.exists()
    assert "container does not exist" in one.runtime("state", one.id).stderr
    assert stopped.exists() and one.leaks() == []


def test_create_container_hooks_know_the_inner_pid_whatever_groups_we_have(container: Make, tmp_path: Path) -> None:
    """The kernel lists the groups before the pids, kilobytes of them."""
    out = tmp_path / "seen"
    one = container(["sleep", "1000"], hooks(createContainer=[state_to(out)]))
    before = os.getgroups()
    os.setgroups(range(1 << 20, (1 << 20) + 2000))
    try:
        one.create().ok()
    finally:
        os.setgroups(before)
    assert json.loads(out.read_text())["pid"] == 1
