"""dockerd: for each runtime a daemon that knows it as "tested", and finds it as `runc` in its PATH for BuildKit."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engines.engine import (
    DOCKER_IMAGE,
    ULIMITS,
    Daemon,
    call,
    cpu_quota,
    environment,
    lines,
    memory_limit,
    need,
    pids_limit,
    remove_cgroups,
    status_field,
    sweep,
)
from support.container import wait_for
from support.runtime import LAUNCHER, Result
from support.terminal import Screen

# Debian's client speaks BuildKit by itself; newer ones need the plugin buildx.
CLIENT = "/usr/bin/docker" if os.access("/usr/bin/docker", os.X_OK) else "docker"

SLEEP = ("--", "sleep", "1000")

pytestmark = pytest.mark.skipif(bool(need("dockerd", "docker", "ip", "nsenter")), reason="dockerd is not installed")


class Docker:
    def __init__(self, directory: Path, archive: Path, program: str) -> None:
        for name in ("bin", "tmp", "home"):
            (directory / name).mkdir(parents=True)
        self.directory = directory
        self.socket = directory / "socket"
        self.group = f"engine-{os.getpid()}-{directory.name}"
        # As docs/engines.md tells to make it.
        (directory / "bin" / "runc").symlink_to(LAUNCHER if Path(program).name == LAUNCHER.name else program)
        plain = environment(TMPDIR=str(directory / "tmp"), HOME=str(directory / "home"))
        self.env = {**plain, "DOCKER_HOST": f"unix://{self.socket}"}
        runtimes = {"tested": {"path": program}, "talking": {"path": program, "runtimeArgs": ["--debug"]}}
        (directory / "daemon.json").write_text(json.dumps({"runtimes": runtimes, "live-restore": True}))
        self.netns = self.group  # where its bridge is
        call("ip", "netns", "add", self.netns).ok()
        self.daemon = Daemon(
            directory / "log",
            *("nsenter", f"--net=/run/netns/{self.netns}"),
            *("dockerd", "--config-file", directory / "daemon.json", "--default-runtime", "tested"),
            *("--data-root", directory / "data", "--exec-root", directory / "exec", "--pidfile", directory / "pid"),
            *("--host", f"unix://{self.socket}", "--add-runtime", f"added={program}", "--iptables=false"),
            *("--cgroup-parent", f"/{self.group}", "--storage-driver", "overlay2"),
            *(word for one in ULIMITS for word in ("--default-ulimit", one)),
            env={**plain, "PATH": f"{directory}/bin:{plain['PATH']}"},
        )
        try:
            self.start_daemon()
            self("load", "--input", archive).ok()
        except BaseException:
            self.end()
            raise

    def crash(self) -> None:
        """Kill it. Its containerd, which is told to die with it, takes a moment."""
        containerd = Path("/proc") / (self.directory / "exec" / "containerd" / "containerd.pid").read_text()
        self.daemon.kill()
        wait_for(lambda: not containerd.exists(), "the end of containerd")

    def start_daemon(self) -> None:
        self.socket.unlink(missing_ok=True)
        self.daemon.start(self.socket)
        wait_for(lambda: self("version").status == 0, "dockerd to answer", 30)

    def argv(self, *arguments: str | Path) -> list[str]:
        return [CLIENT, *map(str, arguments)]

    def __call__(self, *arguments: str | Path, **options: Any) -> Result:
        options.setdefault("env", self.env)
        return call(*self.argv(*arguments), **options)

    def run(self, *arguments: str | Path, **options: Any) -> Result:
        at = arguments.index("--")
        return self("run", "--rm", *arguments[:at], DOCKER_IMAGE, *arguments[at + 1 :], **options)

    def start(self, name: str, *arguments: str | Path) -> Result:
        at = arguments.index("--")
        return self("run", "--detach", "--name", name, *arguments[:at], DOCKER_IMAGE, *arguments[at + 1 :]).ok()

    def state(self, name: str) -> dict[str, Any]:
        document = json.loads(self("container", "inspect", name).ok().stdout)[0]["State"]
        assert isinstance(document, dict)
        return document

    def clean(self) -> None:
        if names := self("ps", "--all", "--quiet").ok().stdout.split():
            self("rm", "--force", "--volumes", *names).ok()

    def close(self) -> list[str]:
        try:
            self.clean()
        finally:
            left = self.end()
        return left

    def end(self) -> list[str]:
        """End the daemon, then what it has left, of which this is a list."""
        self.daemon.stop()
        # dockerd leaves one for "none", and what a killed one has mounted its successor mounts once more.
        left = [one for one in sweep(self.directory) if "/netns/" not in one and not one.endswith("/data")]
        subprocess.run(["ip", "netns", "del", self.netns], check=False)
        return left + remove_cgroups(self.group)


@pytest.fixture(scope="session")
def dockers(engine_directory: Path, archive: Path) -> Iterator[Callable[[str], Docker]]:
    running: dict[str, Docker] = {}

    def get(program: str) -> Docker:
        if program not in running:
            running[program] = Docker(engine_directory / f"docker{len(running)}", archive, program)
        return running[program]

    yield get
    left = [one for docker in running.values() for one in docker.close()]
    assert not left, f"dockerd left behind: {left}"


@pytest.fixture
def docker(dockers: Callable[[str], Docker], program: str) -> Iterator[Docker]:
    docker = dockers(program)
    yield docker
    docker.clean()


def test_knows_the_runtime(docker: Docker) -> None:
    told = json.loads(docker("info", "--format", "{{json .}}").ok().stdout)
    assert told["DefaultRuntime"] == "tested"
    assert {"tested", "talking", "added"} <= set(told["Runtimes"])


@pytest.mark.parametrize("name", ["added", "talking"], ids=["of a flag", "with arguments"])
def test_runs_what_is_added_as_a_runtime(docker: Docker, name: str) -> None:
    docker.start("one", "--runtime", name, *SLEEP)
    assert json.loads(docker("inspect", "one").ok().stdout)[0]["HostConfig"]["Runtime"] == name
    assert docker("exec", "one", "echo", "up").ok().stdout == "up\n"
    docker("stop", "--time", "0", "one").ok()
    assert docker.run("--runtime", name, "--", "nothing-of-this-name").status != 0


def test_runs_a_command_and_passes_its_output_and_status(docker: Docker) -> None:
    told = docker.run("--env", "ONE=1", "--", "sh", "-c", "echo $ONE $OF_IMAGE; echo complaint >&2; exit 7")
    assert (told.status, told.stdout, told.stderr) == (7, "1 yes\n", "complaint\n")
    assert docker.run("-i", "--", "cat", stdin=b"in\n").ok().stdout == "in\n"


def test_gives_a_terminal(docker: Docker) -> None:
    screen = Screen(30, 100)
    try:
        process = screen.spawn(docker.argv("run", "--rm", "-it", DOCKER_IMAGE, "sh"), env=docker.env)
        screen.until("# ")
        screen.type("tty; echo done-$((40+2))\n")
        assert "/dev/pts/0" in screen.until("done-42")
        screen.type("exit 3\n")
        assert process.wait(20) == 3
    finally:
        screen.close()


@pytest.mark.parametrize(
    ("command", "status"), [("nothing-of-this-name", 127), ("/no/such/file", 127), ("/etc/passwd", 126)]
)
def test_says_why_a_command_cannot_be_run(docker: Docker, command: str, status: int) -> None:
    assert docker.run("--", command).status == status


def test_executes_in_a_running_container(docker: Docker) -> None:
    docker.start("one", *SLEEP)
    told = docker("exec", "--env", "TWO=2", "--workdir", "/tmp", "--user", "1000:2000", "one", "sh", "-c",
                  "echo $TWO; pwd; id -u; id -g; exit 5")  # fmt: skip
    assert (told.status, told.stdout) == (5, lines("2", "/tmp", "1000", "2000"))
    assert docker("exec", "-i", "one", "cat", stdin=b"in\n").ok().stdout == "in\n"
    assert docker("exec", "one", "nothing-of-this-name").status in (126, 127)


def test_stops_politely_and_by_force(docker: Docker) -> None:
    docker.start("one", "--", "sh", "-c", "trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.1; done")
    wait_for(lambda: "up" in docker("logs", "one").stdout, "the trap")
    docker("stop", "--time", "20", "one").ok()
    assert docker.state("one")["ExitCode"] == 9
    assert docker("logs", "one").ok().stdout == "up\nbye\n"
    docker.start("two", *SLEEP)
    docker("stop", "--time", "1", "two").ok()
    assert docker.state("two")["ExitCode"] == 137
    docker("start", "two").ok()
    docker("restart", "--time", "0", "two").ok()
    docker("kill", "two").ok()
    assert docker.state("two")["Status"] == "exited"


def test_pauses(docker: Docker) -> None:
    docker.start("one", "--", "sh", "-c", "while :; do echo tick; sleep 0.05; done")
    docker("pause", "one").ok()
    time.sleep(0.2)
    before = docker("logs", "one").stdout
    time.sleep(0.3)
    assert docker("logs", "one").stdout == before
    docker("unpause", "one").ok()
    wait_for(lambda: docker("logs", "one").stdout != before, "ticking to go on")


def test_limits_and_updates_the_limits(docker: Docker) -> None:
    docker.start("one", "--memory", "64m", "--cpus", "0.5", "--pids-limit", "50", *SLEEP)
    pid = docker.state("one")["Pid"]
    assert (memory_limit(pid), cpu_quota(pid), pids_limit(pid)) == (64 << 20, (50000, 100000), 50)
    docker("update", "--memory", "100m", "--memory-swap", "200m", "--pids-limit", "60", "--cpus", "0.25", "one").ok()
    assert (memory_limit(pid), cpu_quota(pid), pids_limit(pid)) == (100 << 20, (25000, 100000), 60)


def test_runs_in_the_smallest_memory_that_docker_permits(docker: Docker) -> None:
    assert docker.run("--memory", "6m", "--", "echo", "small").ok().stdout == "small\n"


@pytest.mark.usefixtures("all_hierarchies_mounted")
def test_shows_statistics_and_processes(docker: Docker) -> None:
    docker.start("one", *SLEEP)
    stats = json.loads(docker("stats", "--no-stream", "--format", "{{json .}}", "one").ok().stdout)
    assert (stats["Name"], stats["PIDs"]) == ("one", "1")
    assert "sleep 1000" in docker("top", "one").ok().stdout


def test_restarts_by_its_policy(docker: Docker) -> None:
    docker.start("one", "--restart", "on-failure:2", "--", "sh", "-c", "echo try; exit 1")
    wait_for(lambda: docker("logs", "one").stdout.count("try") == 3, "two restarts", 20)
    docker.start("two", "--restart", "always", *SLEEP)
    pid = docker.state("two")["Pid"]
    os.kill(pid, 9)
    wait_for(lambda: docker.state("two")["Running"] and docker.state("two")["Pid"] not in (0, pid), "a restart", 20)


def test_confines(docker: Docker) -> None:
    told = docker.run("--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges", "--tmpfs", "/scratch",
                      "--", "sh", "-c", "touch /new; touch /scratch/new && cat /proc/self/status")  # fmt: skip
    assert "Read-only file system" in told.stderr
    assert int(status_field(told.ok().stdout, "CapEff"), 16) == 0
    assert status_field(told.stdout, "NoNewPrivs") == "1"
    assert status_field(told.stdout, "Seccomp") == "2"


def test_mounts_volumes_devices_and_sets_names(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    told = docker.run("--volume", f"{tmp_path}:/host:ro", "--device", "/dev/null:/dev/zilch", "--hostname", "myself",
                      "--sysctl", "kernel.msgmax=4321", "--init", "--",
                      "sh", "-c",
                      "cat /host/file /proc/sys/kernel/msgmax; hostname; : >/dev/zilch; cat /proc/1/comm")  # fmt: skip
    assert told.ok().stdout == lines("from the host", "4321", "myself", "docker-init")


def test_executes_with_a_terminal(docker: Docker) -> None:
    docker.start("one", *SLEEP)
    screen = Screen(31, 101)
    try:
        process = screen.spawn(docker.argv("exec", "-it", "one", "sh"), env=docker.env)
        screen.until("# ")
        screen.type("stty size; echo done-$((40+2))\n")
        assert "31 101" in screen.until("done-42")
        for rows in range(32, 62):  # the client may not yet be listening for the first change
            screen.resize(rows, 102)
            screen.type("sleep 0.1; stty size; echo done-$((40+2))\n")
            if f"{rows} 102" in screen.until("done-42"):
                break
        else:
            pytest.fail("the terminal in the container kept its size")
        screen.type("exit 4\n")
        assert process.wait(20) == 4
    finally:
        screen.close()


def test_connects_containers(docker: Docker) -> None:
    docker.start("one", "--", "sh", "-c", "while :; do echo hello | nc -l -p 8080; done")
    networks = json.loads(docker("inspect", "one").ok().stdout)[0]["NetworkSettings"]["Networks"]
    address = networks["bridge"]["IPAddress"]
    ask = ("--", "nc", "-w", "2", address, "8080")
    wait_for(lambda: docker.run(*ask).stdout == "hello\n", "an answer of the other container", 20)
    told = docker.run("--network", "container:one", "--", "nc", "-w", "2", "127.0.0.1", "8080")
    assert told.ok().stdout == "hello\n"
    assert "eth0" not in docker.run("--network", "none", "--", "ls", "/sys/class/net").ok().stdout


def test_shares_namespaces(docker: Docker) -> None:
    docker.start("one", "--ipc", "shareable", "--", "sh", "-c", "echo shared >/dev/shm/file; exec sleep 1000")
    shared = ("--pid", "container:one", "--ipc", "container:one")
    told = docker.run(*shared, "--", "sh", "-c", "ps -o args; cat /dev/shm/file").ok().stdout
    assert "sleep 1000" in told
    assert told.endswith("shared\n")
    # Without a pid namespace of its own: its children end with it because the runtime is asked to kill them all.
    docker.start("two", "--pid", "host", "--", "sh", "-c", "sleep 1001 & echo $!; exec sleep 1000")
    wait_for(lambda: docker("logs", "two").stdout, "the child")
    child = Path(f"/proc/{docker('logs', 'two').stdout.strip()}")
    assert child.exists()
    docker("stop", "--time", "0", "two").ok()
    wait_for(lambda: not child.exists(), "the end of the child")


def test_tells_whether_it_is_healthy(docker: Docker) -> None:
    docker.start(
        "one", "--health-cmd", "test -e /healthy", "--health-interval", "200ms", "--health-retries", "1", *SLEEP
    )
    docker("exec", "one", "touch", "/healthy").ok()
    wait_for(lambda: docker.state("one")["Health"]["Status"] == "healthy", "health", 20)
    docker("exec", "one", "rm", "/healthy").ok()
    wait_for(lambda: docker.state("one")["Health"]["Status"] == "unhealthy", "illness", 20)


def test_copies_and_commits(docker: Docker, tmp_path: Path) -> None:
    docker.start("one", *SLEEP)
    (tmp_path / "file").write_text("in\n")
    docker("cp", tmp_path / "file", "one:/file").ok()
    docker("exec", "one", "sh", "-c", "echo more >>/file").ok()
    docker("cp", "one:/file", tmp_path / "back").ok()
    assert (tmp_path / "back").read_text() == "in\nmore\n"
    docker("commit", "one", "committed:1").ok()  # which pauses it meanwhile
    assert docker.state("one")["Status"] == "running"
    assert docker("run", "--rm", "committed:1", "cat", "/file").ok().stdout == "in\nmore\n"


@pytest.mark.usefixtures("all_hierarchies_mounted")
def test_says_that_memory_ran_out(docker: Docker) -> None:
    docker.start("one", "--memory", "32m", "--memory-swap", "32m", "--", "tail", "/dev/zero")
    assert docker("wait", "one").ok().stdout == "137\n"
    assert docker.state("one")["OOMKilled"]


def test_is_privileged_or_has_a_profile_of_its_own(docker: Docker, tmp_path: Path) -> None:
    told = docker.run("--privileged", "--", "sh", "-c", "grep CapEff /proc/self/status; mount -t tmpfs none /tmp").ok()
    known = (1 << 38) - 1  # by this docker; the kernel has more
    assert (
        int(told.stdout.split()[1], 16)
        == int(status_field(Path("/proc/self/status").read_text(), "CapEff"), 16) & known
    )
    profile = '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}'
    (tmp_path / "profile.json").write_text(profile)
    told = docker.run("--security-opt", f"seccomp={tmp_path}/profile.json", "--", "mkdir", "/new")
    assert "Operation not permitted" in told.stderr
    told = docker.run("--security-opt", "seccomp=unconfined", "--user", "1000", "--group-add", "3000",
                      "--", "sh", "-c", "grep Seccomp: /proc/self/status; id -u; id -G")  # fmt: skip
    seccomp, user, *groups = told.ok().stdout.split()[1:]
    assert (seccomp, user, "3000" in groups) == ("0", "1000", True)


def test_containers_outlive_a_restart_of_the_daemon(docker: Docker) -> None:
    docker.start(
        "one", "--", "sh", "-c", "trap 'echo bye; exit 9' TERM; n=0; while :; do echo $((n+=1)); sleep 0.1; done"
    )
    docker.start("two", "--restart", "always", *SLEEP)
    pids = {name: docker.state(name)["Pid"] for name in ("one", "two")}
    docker.crash()
    os.kill(pids["two"], 9)  # nobody is there to start it again
    docker.start_daemon()
    assert docker.state("one")["Pid"] == pids["one"]
    assert docker("exec", "one", "echo", "up").ok().stdout == "up\n"
    docker("stop", "--time", "20", "one").ok()
    assert docker.state("one")["ExitCode"] == 9
    wait_for(
        lambda: docker.state("two")["Running"] and docker.state("two")["Pid"] not in (0, pids["two"]), "its start", 20
    )


@pytest.mark.parametrize("buildkit", ["0", "1"], ids=["classic", "buildkit"])
def test_builds_an_image(docker: Docker, tmp_path: Path, buildkit: str) -> None:
    (tmp_path / "Dockerfile").write_text(
        lines(f"FROM {DOCKER_IMAGE}", "ENV WORD=hello", "COPY file /file", "RUN cat /file >/made && echo $WORD >>/made")
    )
    (tmp_path / "file").write_text("copied\n")
    tag = f"built:{buildkit}"
    env = {**docker.env, "DOCKER_BUILDKIT": buildkit}
    docker("build", "--tag", tag, tmp_path, env=env).ok()
    assert docker("run", "--rm", tag, "cat", "/made").ok().stdout == "copied\nhello\n"
    (tmp_path / "Dockerfile").write_text(lines(f"FROM {DOCKER_IMAGE}", "RUN exit 9"))
    failed = docker("build", tmp_path, env=env)
    assert failed.status != 0
    assert "9" in failed.output
