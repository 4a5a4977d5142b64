"""create, start, state, kill, delete, list, run: each verb's effect, its refusals and what it leaves behind."""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.bundles import Config
from support.container import Container, wait_for
from support.runtime import Runtime

Make = Callable[..., Container]

SLEEP = ["sleep", "1000"]


def test_create_waits_for_start(container: Make, tmp_path: Path) -> None:
    one = container(["sh", "-c", "echo ran > /marker; sleep 1000"])
    one.create().ok()
    state = one.state()
    assert state["status"] == "created" and state["pid"] > 0
    assert state["bundle"] == str(one.bundle.path) and state["id"] == one.id
    assert b"sleep" not in one.proc("cmdline").read_bytes()
    assert not (one.bundle.rootfs / "marker").exists()
    one.start().ok()
    wait_for((one.bundle.rootfs / "marker").exists, "the program to run")
    assert one.status == "running"


def test_stopped_container_has_no_pid(container: Make) -> None:
    one = container(["true"])
    one.create().ok()
    one.start().ok()
    one.wait("stopped")
    assert one.state()["pid"] == 0
    one.delete().ok()
    gone = one.runtime("state", one.id)
    assert gone.status == 1 and "does not exist" in gone.stderr


def test_refusals_have_the_words_that_engines_know(container: Make) -> None:
    one = container(SLEEP)
    one.create().ok()
    assert "container with given ID already exists" in one.create().stderr
    one.start().ok()
    assert "cannot start an already running container" in one.start().stderr
    refused = one.delete()
    assert refused.status == 1 and f"cannot delete container {one.id} that is not stopped: running" in refused.stderr
    assert one.status == "running"
    one.kill().ok()
    one.wait("stopped")
    assert "cannot start a container that has stopped" in one.start().stderr
    killed = one.kill()
    assert killed.status == 1 and "container not running" in killed.stderr
    assert one.kill("KILL", "--all").status == 0
    one.delete().ok()
    assert one.delete().status == 1
    assert one.delete("--force").status == 0


def test_delete_of_a_created_container(container: Make) -> None:
    one = container(SLEEP)
    one.create().ok()
    pid = one.pid
    one.delete().ok()
    assert ended(pid)
    assert not one.leaks()


def nothing_left(one: Container) -> Callable[[], bool]:
    """A condition to wait for."""
    return lambda: not one.leaks()


def ended(pid: int) -> bool:
    """Whether the process is gone, or a zombie that its new parent has not looked at yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@pytest.mark.parametrize("name", ["TERM", "SIGTERM", "term", "15"])
def test_signals_reach_the_program(container: Make, name: str) -> None:
    one = container(["sh", "-c", "trap 'echo got > /got; exit 3' TERM; echo up > /up; while true; do sleep 0.05; done"])
    one.create().ok()
    one.start().ok()
    wait_for((one.bundle.rootfs / "up").exists, "the trap")
    one.kill(name).ok()
    one.wait("stopped")
    assert (one.bundle.rootfs / "got").exists()


def test_kill_of_a_created_container_ends_it(container: Make) -> None:
    one = container(SLEEP)
    one.create().ok()
    one.kill("TERM").ok()
    one.wait("stopped")


def test_kill_without_a_pid_namespace_ends_everything(container: Make) -> None:
    def shared(config: Config) -> None:
        config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != "pid"]

    one = container(["sh", "-c", "sleep 1000 & sleep 1000 & wait"], shared)
    one.create().ok()
    one.start().ok()
    wait_for(lambda: len(json.loads(one.runtime("ps", "--format", "json", one.id).stdout)) == 3, "three processes")
    one.kill("KILL").ok()
    one.wait("stopped")
    wait_for(lambda: not one._processes(), "all of them to end")


def test_run_gives_the_exit_status_and_leaves_nothing(container: Make) -> None:
    one = container(["sh", "-c", "echo out; echo err >&2; exit 7"])
    result = one.run()
    assert (result.status, result.stdout, result.stderr) == (7, "out\n", "err\n")
    assert not one.leaks()


def test_run_of_a_killed_program(container: Make) -> None:
    assert container(["sh", "-c", "kill -9 $$"]).run().status in (137, 0)  # pid 1 ignores it in its own namespace
    one = container(SLEEP)
    process = one.runtime.popen("run", "--bundle", str(one.bundle.path), one.id)
    wait_for(lambda: one.runtime("state", one.id).status == 0 and one.status == "running", "run")
    one.kill().ok()
    assert process.wait(10) == 137


def test_run_detached_and_kept(container: Make) -> None:
    one = container(["true"])
    assert one.run("--keep").status == 0
    assert one.status == "stopped"
    two = container(SLEEP)
    two.run("--detach").ok()
    assert two.status == "running"


def test_signals_of_run_are_passed_on(container: Make) -> None:
    one = container(["sh", "-c", "trap 'exit 9' USR1; echo up > /up; while true; do sleep 0.05; done"])
    process = one.runtime.popen("run", "--bundle", str(one.bundle.path), one.id)
    wait_for((one.bundle.rootfs / "up").exists, "the trap")
    process.send_signal(signal.SIGUSR1)
    assert process.wait(10) == 9


def test_pid_file_is_a_number_and_replaces_what_was_there(container: Make, tmp_path: Path) -> None:
    one = container(SLEEP)
    file = tmp_path / "pid"
    file.write_text("old contents\n")
    one.create("--pid-file", str(file)).ok()
    assert file.read_text() == str(one.pid)


def test_failed_create_writes_no_pid_file_and_leaves_nothing(container: Make, tmp_path: Path) -> None:
    one = container(["no-such-program"])
    file = tmp_path / "pid"
    result = one.create("--pid-file", str(file))
    assert result.status == 1 and "no-such-program" in result.stderr
    assert "executable file not found in $PATH" in result.stderr
    assert not file.exists()
    assert not one.leaks()


def test_config_is_frozen_at_create(container: Make) -> None:
    one = container(["sh", "-c", "echo first > /said; sleep 1000"])
    one.create().ok()
    config = json.loads((one.bundle.path / "config.json").read_text())
    config["process"]["args"] = ["sh", "-c", "echo second > /said"]
    (one.bundle.path / "config.json").write_text(json.dumps(config))
    one.start().ok()
    wait_for((one.bundle.rootfs / "said").exists, "the program")
    assert (one.bundle.rootfs / "said").read_text() == "first\n"


def test_container_without_a_process_is_created_and_cannot_start(container: Make) -> None:
    one = container(["true"], lambda config: config.pop("process"))
    one.create().ok()
    assert one.status == "created"
    assert "without a process" in one.start().stderr


def test_preserved_descriptors_and_no_others(container: Make, tmp_path: Path) -> None:
    one = container(["sh", "-c", "ls /proc/self/fd; cat <&3"])
    passed = os.open(tmp_path / "passed", os.O_RDWR | os.O_CREAT)
    leaked = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    os.write(passed, b"hello\n")
    os.lseek(passed, 0, 0)

    def arrange() -> None:
        low, high = os.dup(passed), os.dup(leaked)
        os.dup2(low, 3)
        os.dup2(high, 17)

    result = one.run("--preserve-fds", "1", preexec=arrange, pass_fds=(3, 17))
    os.close(passed)
    os.close(leaked)
    assert result.stdout.split("\n")[-2] == "hello", result
    assert "17" not in result.stdout.split()


def test_missing_preserved_descriptors(container: Make, tmp_path: Path) -> None:
    """What is there is passed on; the places of what is not there stay empty. Many are a mistake."""
    (tmp_path / "file").write_text("hello\n")
    passed = os.open(tmp_path / "file", os.O_RDONLY)
    one = container(["sh", "-c", "for n in $(seq 3 60); do test -e /proc/$$/fd/$n && echo $n; done; cat <&9"])
    result = one.run("--preserve-fds", "40", preexec=lambda: os.dup2(os.dup(passed), 9) and None, pass_fds=(9,))
    os.close(passed)
    assert result.ok().stdout.split() == ["9", "hello"]
    result = container(["true"]).run("--preserve-fds", "400")
    assert result.status == 1 and "unable to stat preserved-fd" in result.stderr


def test_socket_activation(container: Make, tmp_path: Path) -> None:
    one = container(["sh", "-c", "echo $LISTEN_FDS $LISTEN_PID; test -e /proc/self/fd/3 && echo there"])
    file = os.open(tmp_path, os.O_RDONLY)
    # The variable must hold the pid of the runtime itself, which only the process knows before it becomes it.
    wrapper = tmp_path / "activate"
    wrapper.write_text(f'#!/bin/sh\nexport LISTEN_FDS=1 LISTEN_PID=$$\nexec {one.runtime.program[0]} "$@"\n')
    wrapper.chmod(0o755)
    activated = Runtime(wrapper, one.runtime.root)
    result = activated("run", "--bundle", one.bundle.path, one.id, preexec=lambda: os.dup2(file, 3), pass_fds=(3,))
    os.close(file)
    assert result.stdout == "1 1\nthere\n", result


def test_killed_create_leaves_what_delete_can_remove(container: Make) -> None:
    """SIGKILL at many moments of create: whatever is left, `delete --force` removes it."""
    container(SLEEP).run("--detach").ok()  # so that there is something to list
    for delay in (0.004, 0.008, 0.012, 0.016, 0.02, 0.025, 0.03, 0.04):
        one = container(SLEEP)
        # No pipes: an init that outlives its runtime would keep them open.
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = one.runtime.popen("create", "--bundle", str(one.bundle.path), one.id, **streams)
        time.sleep(delay)
        process.kill()
        process.wait()
        assert one.runtime("list").status == 0
        assert one.runtime("delete", "--force", one.id).status == 0
        wait_for(nothing_left(one), f"nothing to be left of a create killed after {delay} s")


def test_twenty_at_once_and_one_winner_for_an_id(container: Make) -> None:
    many = [container(["true"]) for _ in range(20)]
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        assert [result.status for result in pool.map(lambda one: one.run(), many)] == [0] * 20
    contested = container(SLEEP)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda _: contested.create(), range(16)))
    assert sorted(result.status for result in results) == [0] + [1] * 15
    assert contested.status == "created"


def test_list_shows_each_container(container: Make) -> None:
    one, two = container(SLEEP), container(SLEEP)
    one.create().ok()
    two.run("--detach").ok()
    listed = {entry["id"]: entry["status"] for entry in one.runtime("list", "--format", "json").json()}
    assert listed == {one.id: "created", two.id: "running"}
    assert sorted(one.runtime("list", "--quiet").stdout.split()) == sorted([one.id, two.id])
    table = one.runtime("list").stdout.split("\n")
    assert table[0].split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]


def test_pause_and_resume(container: Make) -> None:
    one = container(["sh", "-c", "i=0; while true; do i=$((i+1)); echo $i > /count; sleep 0.02; done"])
    one.create().ok()
    one.start().ok()
    count = one.bundle.rootfs / "count"
    wait_for(count.exists, "the program")
    one.runtime("pause", one.id).ok()
    assert one.status == "paused"
    before = count.read_text()
    time.sleep(0.2)
    assert count.read_text() == before
    assert "cannot exec in a paused container" in one.exec("true").stderr
    one.runtime("resume", one.id).ok()
    wait_for(lambda: count.read_text() not in ("", before), "it to go on")
    assert "container not paused" in one.runtime("resume", one.id).stderr


@pytest.mark.cgroupfs
def test_a_foreign_process_in_the_cgroup_is_refused_and_lives(container: Make) -> None:
    """create must not kill what it finds: the cgroup is somebody else's."""
    host = container(SLEEP)
    host.create().ok()
    host.start().ok()
    line = next(line for line in host.proc("cgroup").read_text().splitlines() if "pids" in line or "::" in line)
    guest = container(SLEEP, lambda config: config["linux"].update(cgroupsPath=line.split(":", 2)[2]))
    result = guest.create()
    assert result.status == 1 and "cgroup is not empty" in result.stderr
    assert host.status == "running"
