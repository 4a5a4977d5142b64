"""Podman with its usual cgroup manager, systemd, and what it does with checkpoints; `make vm` runs these tests.

With `--runtime pyruntime --runtime runc --runtime crun` each test runs once per runtime, under the same podman.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from engines.engine import IMAGE, call, cgroup_of, memory_limit, need, pids_limit
from engines.podman import MANAGER, Podman
from support.container import wait_for
from support.criu import SECONDS, needs_criu

pytestmark = [
    pytest.mark.skipif(bool(need("podman", "conmon")), reason="podman is not installed"),
    pytest.mark.skipif(MANAGER != "systemd", reason="systemd is not running here"),
]

SLEEP = ("--", "sleep", "1000")
COUNT = ("--", "sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >/count; sleep 0.1; done")
EVERY_TEST_ENDS_QUICKLY = 120.0  # podman is started many times, and the processor may be an emulated one


def show(unit: str, *names: str) -> dict[str, str]:
    """Properties of a unit of systemd."""
    shown = call("systemctl", "show", "--property=" + ",".join(names), unit).ok().stdout
    return dict(line.split("=", 1) for line in shown.splitlines())


def scope(podman: Podman, name: str) -> str:
    return f"libpod-{podman.inspect(name)['Id']}.scope"


def test_a_container_is_a_scope(podman: Podman) -> None:
    podman.start("one", "--memory", "64m", "--cpus", "0.5", "--pids-limit", "50", *SLEEP)
    unit, pid = scope(podman, "one"), podman.pid("one")
    assert unit in str(cgroup_of(pid, "memory")) and "machine.slice" in str(cgroup_of(pid, "memory"))
    wanted = {"ActiveState": "active", "Slice": "machine.slice", "Delegate": "yes", "MemoryMax": str(64 << 20),
              "TasksMax": "50", "CPUQuotaPerSecUSec": "500ms"}  # fmt: skip
    assert show(unit, *wanted) == wanted
    assert (memory_limit(pid), pids_limit(pid)) == (64 << 20, 50)
    podman("update", "--memory", "100m", "--cpus", "0.25", "one").ok()
    assert memory_limit(pid) == 100 << 20
    assert show(unit, "MemoryMax", "CPUQuotaPerSecUSec") == {"MemoryMax": str(100 << 20), "CPUQuotaPerSecUSec": "250ms"}
    call("systemctl", "daemon-reload").ok()
    assert memory_limit(pid) == 100 << 20
    assert podman("exec", "one", "cat", "/proc/self/cgroup").ok().stdout.startswith("0::/")
    stats = json.loads(podman("stats", "--no-stream", "--format", "json", "one").ok().stdout)[0]
    assert stats["name"] == "one" and stats["pids"] == "1"
    podman("pause", "one").ok()
    assert podman.status("one") == "paused"
    podman("unpause", "one").ok()
    podman("stop", "--time", "1", "one").ok()
    assert podman.inspect("one")["State"]["ExitCode"] == 137
    podman("start", "one").ok()
    assert scope(podman, "one") in str(cgroup_of(podman.pid("one"), "memory"))
    podman("rm", "--force", "--time", "0", "one").ok()
    assert show(unit, "ActiveState") == {"ActiveState": "inactive"}


def test_a_slice_of_ones_own(podman: Podman) -> None:
    podman.start("one", "--cgroup-parent", "engine-tests.slice", *SLEEP)
    place = cgroup_of(podman.pid("one"), "memory")
    assert f"/engine.slice/engine-tests.slice/{scope(podman, 'one')}" in str(place)
    podman("rm", "--force", "--time", "0", "one").ok()
    assert not place.exists()


def test_a_pod_is_a_slice(podman: Podman) -> None:
    podman("pod", "create", "--name", "pod", "--infra-image", IMAGE, "--infra-command", "sleep 1000",
           "--network", "none").ok()  # fmt: skip
    podman.start("one", "--pod", "pod", *SLEEP)
    pod = json.loads(podman("pod", "inspect", "pod").ok().stdout)
    assert f"machine-libpod_pod_{pod['Id']}.slice/{scope(podman, 'one')}" in str(cgroup_of(podman.pid("one"), "memory"))


def test_a_container_that_runs_systemd_may_write_its_cgroup(podman: Podman) -> None:
    made = podman.run("--systemd", "always", "--", "sh", "-c",
                      "mkdir /sys/fs/cgroup/init.scope && echo $$ >/sys/fs/cgroup/init.scope/cgroup.procs && "
                      "echo +pids >/sys/fs/cgroup/cgroup.subtree_control && cat /proc/self/cgroup")  # fmt: skip
    assert made.ok().stdout == "0::/init.scope\n"
    told = podman.run("--", "sh", "-c", "mkdir /sys/fs/cgroup/new")
    assert told.status and "Read-only file system" in told.stderr


# Checkpoints


@pytest.fixture
def counting(podman: Podman) -> Podman:
    podman.start("one", *COUNT)
    wait_for(lambda: count(podman) > 3, "the program to count", SECONDS)
    return podman


def count(podman: Podman, name: str = "one") -> int:
    return int(podman("exec", name, "cat", "/count").stdout.strip() or 0)


def goes_on_after(podman: Podman, reached: int, name: str = "one") -> None:
    wait_for(lambda: count(podman, name) > reached, f"the program to go on from {reached}", SECONDS)


@needs_criu
def test_checkpoint_and_restore(counting: Podman, program: str) -> None:
    podman = counting
    _can_save(program)
    reached = count(podman)
    podman("container", "checkpoint", "--leave-running", "--keep", "one").ok()
    assert podman.status("one") == "running"
    podman("container", "checkpoint", "one").ok()
    state = podman.inspect("one")["State"]
    assert (state["Status"], state["Checkpointed"], state["Running"]) == ("exited", True, False)
    podman("container", "restore", "one").ok()
    assert podman.status("one") == "running"
    assert scope(podman, "one") in str(cgroup_of(podman.pid("one"), "memory"))
    goes_on_after(podman, reached)
    podman("stop", "--time", "0", "one").ok()


@needs_criu
def test_a_checkpoint_moves_to_another_container(counting: Podman, program: str, tmp_path: Path) -> None:
    podman = counting
    _can_save(program)
    reached = count(podman)
    flags = ("--compress", "none", "--export", tmp_path / "saved.tar")
    podman("container", "checkpoint", "--pre-checkpoint", *flags[:2], "--export", tmp_path / "pre.tar", "one").ok()
    assert podman.status("one") == "running"
    podman("container", "checkpoint", "--file-locks", *flags, "one").ok()
    podman("rm", "one").ok()
    restore = ("--file-locks", "--import", tmp_path / "saved.tar")
    podman("container", "restore", *restore, "--name", "two", "--print-stats").ok()
    goes_on_after(podman, reached, "two")


def _can_save(program: str) -> None:
    if Path(program).name == "crun" and "CRIU" not in call(program, "--version").ok().stdout:
        pytest.skip("this crun is built without CRIU")
    assert shutil.which("criu")
