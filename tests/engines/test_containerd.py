"""containerd, driven by ctr; the daemon has a root, a state and a socket of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engines.engine import IMAGE, Daemon, call, cgroup_of, environment, lines, memory_limit, need, sweep
from support.container import new_id, wait_for
from support.runtime import Result
from support.terminal import Screen

pytestmark = pytest.mark.skipif(bool(need("containerd", "ctr")), reason="containerd is not installed")

CONFIGURATION = """\
version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{directory}/socket"
"""


class Containerd:
    def __init__(self, directory: Path, archive: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.socket = directory / "socket"
        self.program = ""
        self.env = environment()
        (directory / "config.toml").write_text(CONFIGURATION.format(directory=directory))
        self.daemon = Daemon(
            directory / "log",
            "containerd",
            "--config",
            directory / "config.toml",
            env=environment(TMPDIR=str(directory)),
        )
        self.daemon.start(self.socket)
        self("images", "import", archive).ok()

    def argv(self, *arguments: str | Path) -> list[str]:
        return ["ctr", "--address", str(self.socket), *map(str, arguments)]

    def __call__(self, *arguments: str | Path, **options: Any) -> Result:
        return call(*self.argv(*arguments), env=self.env, **options)

    def run(self, *arguments: str | Path, **options: Any) -> Result:
        """`run --rm`: flags, "--", command."""
        at = arguments.index("--")
        flags = ("run", "--rm", "--runc-binary", self.program, *arguments[:at])
        return self(*flags, IMAGE, new_id(), *arguments[at + 1 :], **options)

    def start(self, *arguments: str | Path) -> str:
        """`run --detach`: flags, "--", command. The id of the container."""
        at = arguments.index("--")
        name = new_id()
        flags = ("run", "--detach", "--runc-binary", self.program, *arguments[:at])
        self(*flags, IMAGE, name, *arguments[at + 1 :]).ok()
        return name

    def tasks(self) -> dict[str, tuple[int, str]]:
        rows = [line.split() for line in self("tasks", "ls").ok().stdout.splitlines()[1:]]
        return {name: (int(pid), status) for name, pid, status in rows}

    def clean(self) -> None:
        for name in self.tasks():
            self("tasks", "resume", name)
            self("tasks", "rm", "--force", name).ok()
        for name in self("containers", "ls", "--quiet").ok().stdout.split():
            self("containers", "rm", name).ok()

    def close(self) -> list[str]:
        try:
            self.clean()
        finally:
            self.daemon.stop()
            left = sweep(self.directory)
        return left


@pytest.fixture(scope="session")
def shared_containerd(engine_directory: Path, archive: Path) -> Iterator[Containerd]:
    containerd = Containerd(engine_directory / "containerd", archive)
    left = []
    try:
        yield containerd
    finally:
        left = containerd.close()
    assert not left, f"containerd left behind: {left}"


@pytest.fixture
def containerd(shared_containerd: Containerd, program: str) -> Iterator[Containerd]:
    shared_containerd.program = program
    yield shared_containerd
    shared_containerd.clean()


def test_runs_a_command_and_passes_its_output_and_status(containerd: Containerd) -> None:
    told = containerd.run("--env", "ONE=1", "--", "sh", "-c", "echo $ONE; echo complaint >&2; exit 7")
    assert (told.status, told.stdout) == (7, "1\n")
    assert "complaint" in told.stderr
    assert containerd.tasks() == {}


def test_runs_with_no_streams_at_all(containerd: Containerd) -> None:
    assert containerd.run("--null-io", "--", "sh", "-c", "echo lost; exit 6").status == 6


def test_gives_a_terminal(containerd: Containerd) -> None:
    screen = Screen(30, 100)
    name = new_id()
    try:
        flags = ("run", "--rm", "--tty", "--runc-binary", containerd.program)
        process = screen.spawn(containerd.argv(*flags, IMAGE, name, "sh"), env=containerd.env)
        screen.until("# ")
        screen.type("tty; echo done-$((40+2))\n")
        assert "/dev/pts/0" in screen.until("done-42")
        screen.type("exit 3\n")
        assert process.wait(20) == 3
    finally:
        screen.close()


def test_says_why_a_command_cannot_be_run(containerd: Containerd) -> None:
    told = containerd.run("--", "nothing-of-this-name")
    assert told.status != 0
    assert "executable file" in told.stderr
    assert "not found" in told.stderr
    assert containerd.tasks() == {}


def test_executes_in_a_running_container(containerd: Containerd) -> None:
    name = containerd.start("--", "sleep", "1000")
    inside = ("tasks", "exec", "--exec-id")
    told = containerd(*inside, "e1", name, "sh", "-c", "pwd; exit 5")
    assert (told.status, told.stdout) == (5, "/\n")
    told = containerd(*inside, "e2", "--cwd", "/tmp", "--user", "1000", name, "sh", "-c", "pwd; id -u")
    assert told.ok().stdout == lines("/tmp", "1000")
    containerd(*inside, "e3", "--detach", name, "sleep", "1001").ok()
    wait_for(lambda: len(containerd("tasks", "ps", name).ok().stdout.splitlines()) == 3, "the detached command")


def test_sends_signals_and_removes_by_force(containerd: Containerd) -> None:
    name = containerd.start("--", "sleep", "1000")
    pid, status = containerd.tasks()[name]
    assert status == "RUNNING"
    containerd("tasks", "kill", "--signal", "9", name).ok()
    wait_for(lambda: containerd.tasks()[name][1] == "STOPPED", "the end")
    assert not Path(f"/proc/{pid}").exists()
    assert "exit code 137" in containerd("tasks", "rm", name).ok().stderr
    other = containerd.start("--", "sleep", "1000")
    cgroup = cgroup_of(containerd.tasks()[other][0], "pids")
    containerd("tasks", "kill", "--all", "--signal", "KILL", other).ok()
    containerd("tasks", "rm", "--force", other)
    wait_for(lambda: not cgroup.exists(), "the cgroup to go")


def test_pauses_and_resumes(containerd: Containerd) -> None:
    name = containerd.start("--", "sleep", "1000")
    containerd("tasks", "pause", name).ok()
    assert containerd.tasks()[name][1] == "PAUSED"
    containerd("tasks", "resume", name).ok()
    assert containerd.tasks()[name][1] == "RUNNING"
    assert containerd("tasks", "exec", "--exec-id", "e", name, "echo", "up").ok().stdout == "up\n"


@pytest.mark.usefixtures("all_hierarchies_mounted")
def test_limits_memory_and_shows_metrics(containerd: Containerd) -> None:
    name = containerd.start("--memory-limit", str(64 << 20), "--", "sleep", "1000")
    assert memory_limit(containerd.tasks()[name][0]) == 64 << 20
    assert name in containerd("tasks", "metrics", name).ok().stdout


def test_shares_the_namespaces_of_the_host(containerd: Containerd) -> None:
    told = containerd.run("--net-host", "--with-ns", f"uts:/proc/{os.getpid()}/ns/uts", "--", "sh", "-c",
                          "readlink /proc/self/ns/net; readlink /proc/self/ns/uts")  # fmt: skip
    assert told.ok().stdout == lines(os.readlink("/proc/self/ns/net"), os.readlink("/proc/self/ns/uts"))


def test_mounts_and_keeps_the_root_read_only(containerd: Containerd, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    mount = f"type=bind,src={tmp_path},dst=/host,options=rbind:ro"
    told = containerd.run(
        "--read-only", "--mount", mount, "--", "sh", "-c", "cat /host/file; touch /host/new; touch /new"
    )
    assert told.stdout == "from the host\n"
    assert told.stderr.count("Read-only file system") == 2


def test_containers_outlive_a_restart_of_the_daemon(containerd: Containerd) -> None:
    name = containerd.start("--", "sleep", "1000")
    pid, _ = containerd.tasks()[name]
    containerd.daemon.kill()
    containerd.socket.unlink(missing_ok=True)
    containerd.daemon.start(containerd.socket)
    wait_for(lambda: containerd("tasks", "ls").status == 0, "the daemon", 20)
    assert containerd.tasks()[name] == (pid, "RUNNING")
    assert containerd("tasks", "exec", "--exec-id", "e", name, "echo", "up").ok().stdout == "up\n"
    containerd("tasks", "kill", "--signal", "9", name).ok()
    wait_for(lambda: containerd.tasks()[name][1] == "STOPPED", "the end")
