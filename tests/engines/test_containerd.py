"""containerd, driven by ctr; the daemon has a root, a state and a socket of its own."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engines.engine import IMAGE, Daemon, call, cgroup_of, environment, lines, memory_limit, need, status_field, sweep
from support.bundles import copy_tree
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

    def exec(self, name: str, *command: str, flags: tuple[str, ...] = (), **options: Any) -> Result:
        """`tasks exec` of a command that says something.

        ctr loses the output of one that is done before ctr knows that its end of the pipes is open: ask again then.
        """
        for _ in range(5):
            told = self("tasks", "exec", "--exec-id", new_id("e"), *flags, name, *command, **options)
            if told.output:
                break
        return told

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
    told = containerd.exec(name, "sh", "-c", "pwd; exit 5")
    assert (told.status, told.stdout) == (5, "/\n")
    told = containerd.exec(name, "sh", "-c", "pwd; id -u", flags=("--cwd", "/tmp", "--user", "1000"))
    assert told.ok().stdout == lines("/tmp", "1000")
    refused = containerd.exec(name, "nothing-of-this-name")
    assert (refused.status != 0, "executable file" in refused.stderr) == (True, True)


def test_executes_in_the_background_and_signals_that_alone(containerd: Containerd) -> None:
    name = containerd.start("--", "sleep", "1000")
    containerd("tasks", "exec", "--exec-id", "behind", "--detach", name, "sleep", "1001").ok()
    pids = [int(line.split()[0]) for line in containerd("tasks", "ps", name).ok().stdout.splitlines()[1:]]
    behind = next(pid for pid in pids if b"1001" in Path(f"/proc/{pid}/cmdline").read_bytes())
    assert sorted(pids) == sorted([containerd.tasks()[name][0], behind])
    containerd("tasks", "kill", "--exec-id", "behind", "--signal", "KILL", name).ok()
    wait_for(lambda: not Path(f"/proc/{behind}").exists(), "the end of the command")
    assert containerd.tasks()[name][1] == "RUNNING"


def test_executes_with_a_terminal(containerd: Containerd) -> None:
    name = containerd.start("--", "sleep", "1000")
    screen = Screen(31, 101)
    try:
        argv = containerd.argv("tasks", "exec", "--exec-id", "e", "--tty", name, "sh")
        process = screen.spawn(argv, env=containerd.env)
        screen.until("# ")
        screen.type("stty size; echo done-$((40+2))\n")
        assert "31 101" in screen.until("done-42")
        screen.type("exit 4\n")
        assert process.wait(20) == 4
    finally:
        screen.close()


def test_runs_two_beside_each_other(containerd: Containerd) -> None:
    names = [containerd.start("--env", f"NUMBER={number}", "--", "sleep", f"100{number}") for number in (1, 2)]
    for number, name in enumerate(names, 1):
        told = containerd.exec(name, "sh", "-c", "echo $NUMBER >/mine; ps -o args")
        assert f"sleep 100{number}" in told.ok().stdout
        assert f"sleep 100{3 - number}" not in told.stdout
    assert [containerd.exec(name, "cat", "/mine").ok().stdout for name in names] == ["1\n", "2\n"]
    containerd("tasks", "kill", "--signal", "KILL", names[0]).ok()
    wait_for(lambda: containerd.tasks()[names[0]][1] == "STOPPED", "the end of the first")
    assert containerd.exec(names[1], "echo", "up").ok().stdout == "up\n"


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
    assert containerd.exec(name, "echo", "up").ok().stdout == "up\n"


@pytest.mark.usefixtures("all_hierarchies_mounted")
def test_limits_memory_and_shows_metrics(containerd: Containerd) -> None:
    name = containerd.start("--memory-limit", str(64 << 20), "--", "sleep", "1000")
    assert memory_limit(containerd.tasks()[name][0]) == 64 << 20
    shown = containerd("tasks", "metrics", name).ok().stdout
    usage = re.search(r"^memory\.usage(?:_in_bytes)?\s+(\d+)\s*$", shown, re.MULTILINE)
    assert usage, shown
    assert 0 < int(usage[1]) < 64 << 20
    assert name in shown


def test_confines(containerd: Containerd, tmp_path: Path) -> None:
    status = ("--", "cat", "/proc/self/status")
    usual = containerd.run(*status).ok().stdout
    assert status_field(usual, "NoNewPrivs") == "1"  # as ctr asks for
    told = containerd.run("--cap-drop", "CAP_CHOWN", "--cap-add", "CAP_SYS_TIME", "--seccomp", *status).ok().stdout
    assert int(status_field(told, "CapEff"), 16) == int(status_field(usual, "CapEff"), 16) & ~1 | 1 << 25
    assert status_field(told, "Seccomp") == "2"
    profile = '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}'
    (tmp_path / "profile.json").write_text(profile)
    refused = containerd.run("--seccomp", "--seccomp-profile", str(tmp_path / "profile.json"), "--", "mkdir", "/new")
    assert "Operation not permitted" in refused.stderr


def test_maps_users(containerd: Containerd) -> None:
    told = containerd.run("--uidmap", "0:100000:65536", "--gidmap", "0:200000:65536", "--",
                          "sh", "-c", "id -u; cat /proc/self/uid_map; touch /new; stat -c %u:%g /new")  # fmt: skip
    first, mapped, owner = told.ok().stdout.splitlines()
    assert (first, mapped.split(), owner) == ("0", ["0", "100000", "65536"], "0:0")


def test_runs_a_directory(containerd: Containerd, rootfs: Path, tmp_path: Path) -> None:
    copy_tree(rootfs, tmp_path / "root")
    flags = ("run", "--rm", "--runc-binary", containerd.program, "--rootfs", "--pid-file", tmp_path / "pid")
    containerd(*flags, tmp_path / "root", new_id(), "/bin/sh", "-c", "echo kept >/file").ok()
    assert (tmp_path / "root" / "file").read_text() == "kept\n"
    assert (tmp_path / "pid").read_text().isdigit()


def test_keeps_its_state_where_it_is_told(containerd: Containerd) -> None:
    root = containerd.directory / "own-root"
    name = containerd.start("--runc-root", str(root), "--", "sleep", "1000")
    assert (root / "default" / name).is_dir()
    assert containerd.exec(name, "echo", "up").ok().stdout == "up\n"
    containerd("tasks", "rm", "--force", name).ok()
    assert not (root / "default" / name).exists()


def test_goes_on_from_a_checkpoint(containerd: Containerd, tmp_path: Path) -> None:
    if not shutil.which("criu") or call("criu", "check").status != 0:
        pytest.skip("criu check does not pass on this kernel")
    count = "i=0; while :; do i=$((i+1)); echo $i >/count; sleep 0.1; done"
    name = containerd.start("--net-host", "--", "sh", "-c", count)
    wait_for(lambda: containerd.exec(name, "cat", "/count").stdout.strip() not in ("", "0"), "counting", 60)
    flags = ("--image-path", tmp_path / "images", "--work-path", tmp_path / "work")
    containerd("tasks", "checkpoint", *flags, name).ok()
    assert (tmp_path / "images" / "inventory.img").exists()
    before = containerd.exec(name, "cat", "/count").ok().stdout  # without --exit it goes on
    wait_for(lambda: containerd.exec(name, "cat", "/count").stdout != before, "counting on", 60)
    containerd("containers", "checkpoint", "--rw", "--task", name, "localhost/saved:1").ok()
    reached = int(containerd.exec(name, "cat", "/count").ok().stdout)
    containerd("tasks", "rm", "--force", name).ok()
    containerd("containers", "rm", name).ok()
    containerd("containers", "restore", "--rw", "--live", name, "localhost/saved:1").ok()
    wait_for(lambda: int(containerd.exec(name, "cat", "/count").stdout or 0) > reached, "counting after restore", 60)


def test_runs_in_a_scope_of_systemd(containerd: Containerd) -> None:
    if not Path("/run/systemd/system").is_dir():
        pytest.skip("systemd is not running here")
    scope = new_id()
    flags = ("--runc-systemd-cgroup", "--cgroup", f"system.slice:test:{scope}", "--memory-limit", str(64 << 20))
    name = containerd.start(*flags, "--", "sleep", "1000")
    pid = containerd.tasks()[name][0]
    assert f"/system.slice/test-{scope}.scope" in Path(f"/proc/{pid}/cgroup").read_text()
    assert memory_limit(pid) == 64 << 20
    assert f"MemoryMax={64 << 20}" in call("systemctl", "show", f"test-{scope}.scope").ok().stdout
    assert containerd.exec(name, "echo", "up").ok().stdout == "up\n"
    containerd("tasks", "pause", name).ok()
    containerd("tasks", "resume", name).ok()
    containerd("tasks", "rm", "--force", name).ok()
    assert "ActiveState=inactive" in call("systemctl", "show", f"test-{scope}.scope").ok().stdout


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
    name, other = containerd.start("--", "sleep", "1000"), containerd.start("--", "sleep", "1001")
    pid, _ = containerd.tasks()[name]
    containerd.daemon.kill()
    os.kill(pid, 0)
    containerd.socket.unlink(missing_ok=True)
    containerd.daemon.start(containerd.socket)
    wait_for(lambda: containerd("tasks", "ls").status == 0, "the daemon", 20)
    assert containerd.tasks()[name] == (pid, "RUNNING")
    assert containerd.exec(name, "echo", "up").ok().stdout == "up\n"
    containerd("tasks", "pause", other).ok()
    containerd("tasks", "resume", other).ok()
    containerd("tasks", "kill", "--signal", "9", name).ok()
    wait_for(lambda: containerd.tasks()[name][1] == "STOPPED", "the end")
    assert containerd("tasks", "rm", name).ok().status == 0
    containerd("containers", "rm", name).ok()
    assert list(containerd.tasks()) == [other]


def test_cleans_up_after_a_shim_that_was_killed(containerd: Containerd) -> None:
    name = containerd.start("--", "sleep", "1000")
    pid, _ = containerd.tasks()[name]
    cgroup = cgroup_of(pid, "pids")
    shim = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert b"containerd-shim" in Path(f"/proc/{shim}/cmdline").read_bytes()
    os.kill(shim, 9)
    wait_for(lambda: not Path(f"/proc/{pid}").exists() and not cgroup.exists(), "containerd to clean up", 20)
    wait_for(lambda: name not in containerd.tasks(), "the task to go")
    containerd("containers", "rm", name).ok()
