"""`exec`: one more process in a container."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from support.changes import linux, process, top, user_namespace
from support.container import Container, wait_for

Make = Callable[..., Container]


@pytest.fixture
def running(container: Make) -> Container:
    one: Container = container(["sleep", "60"], process(env=["PATH=/bin", "OLD=1"], cwd="/usr"))
    one.run("--detach").ok()
    return one


def test_it_is_in_all_namespaces_and_in_the_cgroup(running: Container) -> None:
    pid_file = running.bundle.path / "pid"
    running.runtime("exec", "--detach", "--pid-file", pid_file, running.id, "sleep", "60").ok()
    pid = int(pid_file.read_text())
    for kind in ("mnt", "net", "pid", "ipc", "uts", "user", "cgroup", "time"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(running.proc(f"ns/{kind}")), kind
    assert Path(f"/proc/{pid}/cgroup").read_text() == running.proc("cgroup").read_text()
    assert os.readlink(f"/proc/{pid}/root") == os.readlink(running.proc("root"))
    assert sorted(running.runtime("ps", "--format", "json", running.id).json()) == sorted([pid, running.pid])


def test_defaults_come_from_the_container_and_flags_change_them(running: Container) -> None:
    words = ["--env", "NEW=2", "--env", "OLD=3", "--cwd", "/etc", "--user", "5:6", "--additional-gids", "7"]
    result = running.runtime("exec", *words, running.id, "sh", "-c", "pwd; id -u; id -g; id -G; env").ok()
    lines = result.stdout.splitlines()
    assert lines[:3] == ["/etc", "5", "6"]
    assert set(lines[3].split()) == {"6", "7"}
    assert {"NEW=2", "OLD=3", "PATH=/bin"} <= set(lines[4:]) and "OLD=1" not in lines
    assert running.exec("pwd").ok().stdout == "/usr\n"


def test_capabilities_are_added(running: Container) -> None:
    def bounding(*flags: str) -> int:
        text = running.runtime("exec", *flags, running.id, "cat", "/proc/self/status").ok().stdout
        return int(next(line.split()[1] for line in text.splitlines() if line.startswith("CapEff")), 16)

    assert bounding("--cap", "CAP_CHOWN") == bounding() | 1


def test_no_new_privileges_is_the_containers(running: Container) -> None:
    assert "NoNewPrivs:\t1" in running.exec("cat", "/proc/self/status").ok().stdout


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 42", 42), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
)
def test_the_exit_status(running: Container, script: str, status: int) -> None:
    assert running.exec("sh", "-c", script).status == status


def test_streams(running: Container) -> None:
    result = running.exec("sh", "-c", "cat; echo error >&2", stdin=b"in\0put")
    assert (result.raw, result.stderr, result.status) == (b"in\0put", "error\n", 0)


def test_signals_are_passed_on(running: Container) -> None:
    script = "trap 'exit 33' USR1; echo ready; while :; do sleep 0.05; done"
    process = running.runtime.popen("exec", running.id, "sh", "-c", script)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGUSR1)
    assert process.wait(10) == 33


def test_detached_returns_at_once_and_ends_with_the_container(running: Container) -> None:
    running.exec("--detach", "sh", "-c", "touch /tmp/there; sleep 300").ok()
    wait_for((running.bundle.rootfs / "tmp" / "there").exists, "the process to run")
    running.kill("KILL").ok()
    running.wait("stopped")
    running.delete().ok()
    assert running.leaks() == []


def test_words_after_the_id_are_the_programs(running: Container) -> None:
    assert running.exec("echo", "--cwd", "-t", "--", "x").ok().stdout == "--cwd -t -- x\n"


@pytest.mark.parametrize("user", [False, True], ids=["plain", "user namespace"])
def test_the_configuration_is_the_one_of_create(container: Make, user: bool) -> None:
    one = container(["sleep", "60"], *([user_namespace()] if user else []))
    one.run("--detach").ok()
    (one.bundle.path / "config.json").write_text("broken")
    assert one.exec("cat", "/proc/self/uid_map").ok().stdout.split()[1] == ("100000" if user else "0")


def test_in_a_created_container(container: Make) -> None:
    one = container(["sleep", "60"])
    one.create().ok()
    assert one.exec("echo", "early").ok().stdout == "early\n"
    assert one.status == "created"


@pytest.mark.parametrize("state", ["stopped", "paused", "missing"])
def test_refusals(container: Make, state: str) -> None:
    one = container(["sleep", "60"])
    texts = {
        "stopped": "exec failed: cannot exec in a stopped container",
        "paused": "exec failed: cannot exec in a paused container (use --ignore-paused to override)",
        "missing": "container does not exist",
    }
    if state != "missing":
        one.run("--detach").ok()
    if state == "stopped":
        one.kill("KILL").ok()
        one.wait("stopped")
    elif state == "paused":
        one.runtime("pause", one.id).ok()
    result = one.exec("true")
    assert result.status == 255
    assert texts[state] in result.stderr


DOCUMENTS = {
    "no args": ({"cwd": "/", "user": {"uid": 0, "gid": 0}}, "args"),
    "relative cwd": ({"args": ["true"], "cwd": "x", "user": {"uid": 0, "gid": 0}}, "cwd"),
    "wrong type": ({"args": ["true"], "cwd": "/", "user": {"uid": "0", "gid": 0}}, "user.uid"),
}


@pytest.mark.parametrize("case", DOCUMENTS)
def test_a_wrong_process_document(running: Container, tmp_path: Path, case: str) -> None:
    document, text = DOCUMENTS[case]
    path = tmp_path / "process.json"
    path.write_text(json.dumps(document))
    result = running.runtime("exec", "--process", path, running.id)
    assert result.status == 255
    assert text in result.stderr and len(result.stderr.splitlines()) == 1
    assert running.status == "running"


def test_a_sub_cgroup(running: Container) -> None:
    sub = running.cgroup("pids") / "inner"
    sub.mkdir()
    unified = not (sub / "cgroup.clone_children").exists()  # a file of every v1 cgroup
    where = "inner" if unified else "pids:inner"  # v2 has one tree and no names
    result = running.runtime("exec", "--cgroup", where, running.id, "cat", "/proc/self/cgroup").ok()
    assert any(line.endswith("/inner") and (unified or "pids" in line) for line in result.stdout.splitlines())


def test_nothing_of_the_runtime_reaches_it(running: Container) -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    try:
        result = running.exec("sh", "-c", "ls /proc/self/fd; env", pass_fds=[writing], env={"SECRET": "1"}).ok()
    finally:
        os.close(reading)
        os.close(writing)
    lines = result.stdout.split()
    assert set(lines[:4]) >= {"0", "1", "2"} and str(writing) not in lines
    assert "SECRET=1" not in lines


def test_many_at_once(running: Container) -> None:
    processes = [running.runtime.popen("exec", running.id, "sh", "-c", f"exit {number}") for number in range(12)]
    assert [process.wait(60) for process in processes] == list(range(12))


def test_the_rootfs_of_a_container_whose_bundle_moved(container: Make) -> None:
    one = container(["sleep", "60"], top(annotations={"a": "b"}), linux(maskedPaths=[]))
    one.run("--detach").ok()
    one.bundle.path.rename(one.bundle.path.with_name("moved"))
    try:
        assert one.exec("ls", "/bin/busybox").ok().stdout == "/bin/busybox\n"
        assert one.status == "running"
    finally:
        one.bundle.path.with_name("moved").rename(one.bundle.path)
