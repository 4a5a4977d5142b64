"""dockerd: for each runtime a daemon that knows it as "tested", and finds it as `runc` in its PATH for BuildKit."""

from __future__ import annotations

import json
import os
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
from support.runtime import Result
from support.terminal import Screen

# Debian's client speaks BuildKit by itself; newer ones need the plugin buildx.
CLIENT = "/usr/bin/docker" if os.access("/usr/bin/docker", os.X_OK) else "docker"

pytestmark = pytest.mark.skipif(bool(need("dockerd", "docker")), reason="dockerd is not installed")


class Docker:
    def __init__(self, directory: Path, archive: Path, program: str) -> None:
        for name in ("bin", "tmp", "home"):
            (directory / name).mkdir(parents=True)
        self.directory = directory
        self.socket = directory / "socket"
        self.group = f"engine-{os.getpid()}-{directory.name}"
        (directory / "bin" / "runc").symlink_to(program)
        plain = environment(TMPDIR=str(directory / "tmp"), HOME=str(directory / "home"))
        self.env = {**plain, "DOCKER_HOST": f"unix://{self.socket}"}
        (directory / "daemon.json").write_text(json.dumps({"runtimes": {"tested": {"path": program}}}))
        self.daemon = Daemon(
            directory / "log",
            *("dockerd", "--config-file", directory / "daemon.json", "--default-runtime", "tested"),
            *("--data-root", directory / "data", "--exec-root", directory / "exec", "--pidfile", directory / "pid"),
            *("--host", f"unix://{self.socket}", "--bridge", "none", "--iptables=false"),
            *("--cgroup-parent", f"/{self.group}", "--storage-driver", "overlay2"),
            *(word for one in ULIMITS for word in ("--default-ulimit", one)),
            env={**plain, "PATH": f"{directory}/bin:{plain['PATH']}"},
        )
        try:
            self.daemon.start(self.socket)
            wait_for(lambda: self("version").status == 0, "dockerd to answer", 30)
            self("load", "--input", archive).ok()
        except BaseException:
            self.daemon.stop()
            sweep(directory)
            raise

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
            self.daemon.stop()
            left = [one for one in sweep(self.directory) if "/netns/" not in one]  # dockerd leaves one for "none"
            left += remove_cgroups(self.group)
        return left


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


SLEEP = ("--", "sleep", "1000")


def test_knows_the_runtime(docker: Docker) -> None:
    told = docker("info", "--format", "{{json .}}").ok().stdout
    assert json.loads(told)["DefaultRuntime"] == "tested"


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


@pytest.mark.parametrize("buildkit", ["0", "1"], ids=["classic", "buildkit"])
def test_builds_an_image(docker: Docker, tmp_path: Path, buildkit: str) -> None:
    (tmp_path / "Dockerfile").write_text(
        lines(f"FROM {DOCKER_IMAGE}", "ENV WORD=hello", "COPY file /file", "RUN cat /file >/made && echo $WORD >>/made")
    )
    (tmp_path / "file").write_text("copied\n")
    tag = f"built:{buildkit}"
    env = {**docker.env, "DOCKER_BUILDKIT": buildkit}
    docker("build", "--network", "none", "--tag", tag, tmp_path, env=env).ok()
    assert docker("run", "--rm", tag, "cat", "/made").ok().stdout == "copied\nhello\n"
    (tmp_path / "Dockerfile").write_text(lines(f"FROM {DOCKER_IMAGE}", "RUN exit 9"))
    failed = docker("build", "--network", "none", tmp_path, env=env)
    assert failed.status != 0
    assert "9" in failed.output
