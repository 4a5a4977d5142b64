"""What engines do to a runtime that nobody would do by hand: a fake engine, like conmon, a shim and buildah."""

from __future__ import annotations

import ctypes
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from engines.engine import cgroup_mounts
from support.container import Container, new_id, wait_for
from support.runtime import Runtime
from support.terminal import ConsoleSocket

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
ContainerFactory = Callable[..., Container]
libc = ctypes.CDLL(None, use_errno=True)

SLEEP = ("sleep", "1000")


def terminal(config: dict[str, Any]) -> None:
    config["process"]["terminal"] = True


@pytest.fixture
def subreaper() -> Iterator[None]:
    """This process is the engine: orphans below it become its children, and it reaps them."""
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    yield
    libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def reap(pid: int, timeout: float = 10) -> int:
    """Wait for a child that became ours; its wait status as an exit code."""
    deadline = time.monotonic() + timeout
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        assert time.monotonic() < deadline, f"{pid} has not ended"
        time.sleep(0.01)


def test_descriptors_that_leak_into_the_runtime_do_not_reach_the_container(container: ContainerFactory) -> None:
    one = container(SLEEP)
    secret, shut = os.pipe()
    leaked = list(range(3, 21))

    def leak() -> None:
        for number in leaked:
            if number not in (secret, shut):
                os.dup2(shut, number)

    words = [sys.executable, "-c", "import os, sys; [os.dup2(int(sys.argv[1]), n) for n in range(3, 21)];"
             "[os.set_inheritable(n, True) for n in range(3, 21)]; os.execv(sys.argv[2], sys.argv[2:])"]  # fmt: skip
    os.set_inheritable(shut, True)
    try:
        for verb in (
            ["create", "--bundle", str(one.bundle.path), one.id],
            ["start", one.id],
            ["exec", "--detach", one.id, "sleep", "1001"],
        ):
            argv = [*words, str(shut), *one.runtime.argv(*verb)]
            assert subprocess.run(argv, stdin=subprocess.DEVNULL, close_fds=False, check=False).returncode == 0
        pids = one.runtime("ps", "--format", "json", one.id).ok().json()
        assert len(pids) == 2
        for pid in pids:
            assert sorted(os.listdir(f"/proc/{pid}/fd"), key=int) == ["0", "1", "2"]
        os.close(shut)
        shut = -1
        ready, _, _ = select.select([secret], [], [], 5)
        assert ready, "something still holds the leaked pipe"
        assert os.read(secret, 1) == b""
    finally:
        os.close(secret)
        if shut >= 0:
            os.close(shut)


def test_runs_with_nothing_but_an_empty_variable_in_the_environment(container: ContainerFactory) -> None:
    one = container(SLEEP)
    env = {"XDG_RUNTIME_DIR": ""}
    one.create(env=env).ok()
    one.start(env=env).ok()
    one.exec("true", env=env).ok()
    for verb in ("pause", "resume", "state"):
        one.runtime(verb, one.id, env=env).ok()
    one.runtime("kill", one.id, "9", env=env).ok()
    one.wait("stopped")
    one.runtime("delete", one.id, env=env).ok()
    assert one.create(env={}).ok().output == ""
    assert one.runtime("delete", "--force", one.id, env={}).ok().output == ""


def test_the_environment_of_the_engine_does_not_reach_the_container(container: ContainerFactory) -> None:
    one = container(["env"])
    told = one.run(
        env={"PATH": "/engine/bin:/usr/bin:/bin", "_OCI_SYNCPIPE": "3", "SECRET": "1", "PYTHONPATH": "/x"}
    ).ok()
    assert set(told.stdout.split("\n")) == {*one.bundle.config["process"]["env"], "HOME=/root", ""}


@pytest.mark.parametrize("mode", [os.O_RDONLY, os.O_WRONLY])
def test_the_streams_may_be_dev_null_in_the_wrong_mode(container: ContainerFactory, mode: int) -> None:
    one = container(["sh", "-c", "exec sleep 1000"])
    null = os.open("/dev/null", mode)
    try:
        for words in (
            ["create", "--bundle", str(one.bundle.path)],
            ["start"],
            ["exec", "--detach"],
            ["kill"],
            ["delete", "--force"],
        ):
            verb, *flags = words
            tail = ["true"] if verb == "exec" else ["9"] if verb == "kill" else []
            argv = one.runtime.argv(verb, *flags, one.id, *tail)
            done = subprocess.run(argv, stdin=null, stdout=null, stderr=null, check=False, timeout=30)
            assert done.returncode == 0, verb
    finally:
        os.close(null)


def test_closed_streams_are_no_reason_to_fail(container: ContainerFactory) -> None:
    one = container(SLEEP)
    for words in (["create", "--bundle", one.bundle.path], ["start"], ["delete", "--force"]):
        argv = one.runtime.argv(*words, one.id)
        shut = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *argv]
        assert subprocess.run(shut, check=False, timeout=30).returncode == 0, words[0]


FAILURES: dict[str, tuple[list[str], str]] = {
    "create of what is no bundle": (["create", "--bundle", "/", "x"], "JSON specification file config.json not found"),
    "start of nothing": (["start", "no-such-container"], "does not exist"),
    "state of nothing": (["state", "no-such-container"], "does not exist"),
    "kill of nothing": (["kill", "no-such-container", "9"], "does not exist"),
    "exec in nothing": (["exec", "no-such-container", "true"], "does not exist"),
    "pause of nothing": (["pause", "no-such-container"], "does not exist"),
    "an impossible id": (["create", "--bundle", "/", "a/b"], "invalid container ID format"),
}


@pytest.mark.parametrize("case", FAILURES, ids=str)
def test_a_failure_is_one_json_object_in_the_log_and_one_line_on_standard_error(
    runtime: Runtime, tmp_path: Path, case: str
) -> None:
    arguments, text = FAILURES[case]
    log = tmp_path / "log.json"
    before = '{"level":"error","msg":"earlier","time":"2026-01-02T03:04:05Z"}\n'
    log.write_text(before)
    runtime.flags = ["--log", str(log), "--log-format", "json"]
    result = runtime(*arguments)
    assert result.status == (255 if arguments[0] == "exec" else 1)
    assert result.stdout == ""
    assert log.read_text().startswith(before)
    objects = [json.loads(line) for line in log.read_text()[len(before) :].splitlines()]
    assert len(objects) == 1, objects
    assert objects[0]["level"] == "error"
    assert text in objects[0]["msg"]
    assert "\n" not in objects[0]["msg"]
    assert datetime.fromisoformat(objects[0]["time"]).tzinfo is not None
    assert result.stderr.rstrip("\n") == objects[0]["msg"]


def test_a_command_that_is_missing_fails_at_create_and_leaves_nothing(
    container: ContainerFactory, tmp_path: Path
) -> None:
    one = container(["nothing-of-this-name"])
    log = tmp_path / "log.json"
    one.runtime.flags = ["--log", str(log), "--log-format=json"]
    pid_file = tmp_path / "pid"
    result = one.create("--pid-file", str(pid_file))
    assert result.status == 1
    message = json.loads(log.read_text())["msg"]
    assert message.startswith("runc create failed: ")
    assert 'exec: "nothing-of-this-name": executable file not found in $PATH' in message
    assert not pid_file.exists()
    assert one.leaks() == []
    assert one.runtime("delete", "--force", one.id).ok().output == ""


def test_the_streams_end_before_start_when_there_is_a_console_socket(
    container: ContainerFactory, tmp_path: Path
) -> None:
    one = container(["sh", "-c", "tty; sleep 1000"], terminal)
    with ConsoleSocket(tmp_path / "console") as console:
        argv = one.runtime.argv("create", "--bundle", one.bundle.path, "--console-socket", console.path, one.id)
        made = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output, _ = made.communicate(timeout=20)  # as go-runc does: until the end of the stream, not of the process
        assert (made.returncode, output) == (0, b"")
        master = console.receive()
        assert one.status == "created"
        one.start().ok()
        seen = b""
        while b"/dev/pts/0" not in seen:
            assert select.select([master], [], [], 10)[0]
            seen += os.read(master, 1000)
        argv = one.runtime.argv("exec", "--detach", "--tty", "--console-socket", console.path, one.id, "sleep", "1001")
        joined = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output, _ = joined.communicate(timeout=20)
        assert (joined.returncode, output) == (0, b"")
        assert os.isatty(console.receive())


def test_deleting_twice_is_as_engines_expect(container: ContainerFactory) -> None:
    one = container(["true"])
    one.create().ok()
    one.start().ok()
    one.wait("stopped")
    one.delete().ok()
    again = one.delete()
    assert again.status == 1
    assert "does not exist" in again.output
    assert one.delete("--force").ok().output == ""
    assert one.delete("--force").ok().output == ""


def test_kill_of_what_has_ended_says_so(container: ContainerFactory) -> None:
    one = container(["true"])
    one.create().ok()
    one.start().ok()
    one.wait("stopped")
    result = one.kill("TERM")
    assert result.status == 1
    assert re.search(r"container not running|no such process|process already finished", result.output)
    one.kill("9", "--all").ok()


def test_flags_in_the_forms_of_go(container: ContainerFactory, tmp_path: Path) -> None:
    one = container(SLEEP)
    root = str(one.runtime.root)
    program = one.runtime.program[0]

    def say(*words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        argv = [program, "-root", root, f"-log={tmp_path / 'log'}", "--log-format=json", "--debug=false", *words]
        return subprocess.run(argv, input=stdin, stdout=subprocess.DEVNULL, check=False, timeout=30)

    log = tmp_path / "run.log"
    with log.open("wb") as out:
        argv = [program, f"-root={root}", "run", "-detach", "-no-subreaper", "-keep=true", f"-bundle={one.bundle.path}",
                f"--pid-file={tmp_path / 'pid'}", one.id]  # fmt: skip
        assert subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False).returncode == 0
    assert say("update", "--resources=-", one.id, stdin=b'{"pids":{"limit":77},"unknown":{"x":1}}').returncode == 0
    assert (one.cgroup("pids") / "pids.max").read_text() == "77\n"
    assert say("update", "--resources", "-", one.id, stdin=b'{"pids":{"limit":78}}').returncode == 0
    assert (one.cgroup("pids") / "pids.max").read_text() == "78\n"
    assert say("events", "-stats=1", "--interval=1s", one.id).returncode == 0
    assert say("ps", "-f=json", one.id).returncode == 0
    assert say("kill", "--all=false", one.id, "SIGKILL").returncode == 0
    one.wait("stopped")
    assert say("delete", "--force=T", one.id).returncode == 0


def test_unknown_flags_and_missing_values_in_the_words_that_engines_look_for(runtime: Runtime) -> None:
    assert runtime("checkpoint", "--help").ok().stdout
    probe = runtime("restore", "--lsm-mount-context")
    assert probe.status == 1
    assert "flag needs an argument" in probe.output
    wrong = runtime("create", "--no-such-flag", "x")
    assert wrong.status == 1
    assert "flag provided but not defined: -no-such-flag" in wrong.output
    version = runtime("--version").ok()
    assert version.stderr == ""
    assert len([line for line in version.stdout.splitlines() if "version" in line]) == 1
    assert re.search(r"^spec: 1\.\d+\.\d+", version.stdout, re.MULTILINE)


def test_the_pid_file_holds_digits_replaces_another_and_names_the_process(
    container: ContainerFactory, tmp_path: Path
) -> None:
    one = container(SLEEP)
    folder = tmp_path / "pids"
    folder.mkdir()
    pid_file = folder / "pid"
    pid_file.write_text("1234567890 rubbish\n")
    inode = pid_file.stat().st_ino
    one.create("--pid-file", str(pid_file)).ok()
    assert pid_file.read_text() == str(one.pid)
    assert pid_file.stat().st_ino != inode, "written in place: a reader may see half of it"
    assert os.listdir(folder) == ["pid"]
    one.start().ok()
    (folder / "short").write_text("")
    one.exec("--detach", f"--pid-file={folder / 'short'}", "true").ok()
    assert (folder / "short").read_text().isdigit()
    assert one.exec("--detach", f"--pid-file={folder / 'none'}", "nothing-of-this-name").status == 255
    assert not (folder / "none").exists()


def test_a_relative_pid_file_lies_where_the_engine_is(container: ContainerFactory, tmp_path: Path) -> None:
    one = container(SLEEP)
    one.create("--pid-file", "pid", cwd=tmp_path).ok()
    assert (tmp_path / "pid").read_text() == str(one.pid)


@pytest.mark.usefixtures("subreaper")
def test_the_container_becomes_a_child_of_the_engine(container: ContainerFactory, tmp_path: Path) -> None:
    one = container(["sh", "-c", "until [ -e /go ]; do sleep 0.05; done; exit 42"])
    pid_file = tmp_path / "pid"
    one.create("--pid-file", str(pid_file)).ok()
    pid = int(pid_file.read_text())
    assert f"PPid:\t{os.getpid()}\n" in Path(f"/proc/{pid}/status").read_text()
    one.start().ok()
    exec_file = tmp_path / "exec"
    one.exec("--detach", f"--pid-file={exec_file}", "sh", "-c", "exit 43").ok()
    assert reap(int(exec_file.read_text())) == 43
    (one.bundle.rootfs / "go").touch()
    wait_for(lambda: "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text(), "the container to end")
    state = one.state()
    assert (state["status"], state["pid"]) == ("stopped", 0)
    assert reap(pid) == 42
    assert one.state()["status"] == "stopped"
    one.delete().ok()


def test_a_created_container_outlives_the_engine(container: ContainerFactory) -> None:
    one = container(SLEEP)
    argv = one.runtime.argv("create", "--bundle", one.bundle.path, one.id)
    code = "import ctypes, subprocess, sys; die = lambda: ctypes.CDLL(None).prctl(1, 9);"
    code += "sys.exit(subprocess.run(sys.argv[1:], preexec_fn=die).returncode)"
    with open(os.devnull, "r+b") as null:
        assert subprocess.run([sys.executable, "-c", code, *argv], stdin=null, stdout=null, stderr=null).returncode == 0  # noqa: PLW1510
    assert one.status == "created"  # its engine and that one's runtime are gone
    one.start().ok()
    assert one.status == "running"


@pytest.mark.parametrize("milliseconds", [5, 10, 15, 20, 25, 30, 40, 60])
def test_a_create_that_is_killed_can_be_cleaned_up(container: ContainerFactory, milliseconds: int) -> None:
    one = container(SLEEP)
    argv = one.runtime.argv("create", "--bundle", one.bundle.path, one.id)

    def die_with_the_engine() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    with open(os.devnull, "r+b") as null:
        process = subprocess.Popen(argv, stdin=null, stdout=null, stderr=null, preexec_fn=die_with_the_engine)
    time.sleep(milliseconds / 1000)
    process.kill()
    process.wait()
    assert one.delete("--force").ok().output == ""
    wait_for(lambda: not one.leaks(), "all of it to be gone")
    one.create().ok()
    one.start().ok()
    assert one.status == "running"


def test_the_container_is_in_its_cgroup_when_create_returns(container: ContainerFactory) -> None:
    one = container(SLEEP)
    one.create().ok()
    mounted = {mount.name for mount in cgroup_mounts()}
    for line in one.proc("cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and set(controllers.split(",")) & mounted:
            assert one.id in path, f"{controllers} {path}"
    assert str(one.pid) in (one.cgroup("pids") / "cgroup.procs").read_text().split()


def test_later_verbs_need_no_global_flag_of_create(container: ContainerFactory) -> None:
    one = container(SLEEP)
    one.runtime.flags = ["--cgroup-manager", "disabled"] if one.runtime.name != "runc" else []
    one.create().ok()
    one.runtime.flags = []
    one.start().ok()
    one.exec("true").ok()
    one.kill("9").ok()
    one.wait("stopped")
    one.delete().ok()


def test_stdin_reaches_its_end_in_the_container(container: ContainerFactory, tmp_path: Path) -> None:
    """buildah leaks both ends of the container's own pipes into the runtime."""
    one = container(["cat"])
    read, write = os.pipe()
    with (tmp_path / "out").open("wb") as out:
        os.set_inheritable(read, True)
        os.set_inheritable(write, True)
        argv = one.runtime.argv("create", "--bundle", one.bundle.path, one.id)
        assert subprocess.run(argv, stdin=read, stdout=out, stderr=out, close_fds=False, check=False).returncode == 0
        assert subprocess.run(one.runtime.argv("start", one.id), stdin=subprocess.DEVNULL, check=False).returncode == 0
        os.write(write, b"all of it\n")
        os.close(write)
        os.close(read)
    one.wait("stopped")
    assert (tmp_path / "out").read_bytes() == b"all of it\n"


def test_verbs_say_nothing_when_they_succeed(container: ContainerFactory) -> None:
    one = container(SLEEP)
    assert one.create().ok().output == ""
    for verb in ("start", "pause", "resume"):
        assert one.runtime(verb, one.id).ok().output == "", verb
    assert one.runtime("ps", "--format", "json", one.id).ok().json() == [one.pid]
    assert one.kill("9").ok().output == ""
    one.wait("stopped")
    assert one.delete().ok().output == ""


def test_ids_that_engines_make(container: ContainerFactory) -> None:
    for id in (new_id("a_b+c.d-E"), os.urandom(32).hex()):
        one = container(["true"], id=id)
        one.run().ok()
