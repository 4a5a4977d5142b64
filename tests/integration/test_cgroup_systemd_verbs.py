"""The verbs with `--systemd-cgroup` on a host where systemd is the first process; `make vm` has one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.bundles import Config
from support.container import Container, wait_for
from support.runtime import Runtime

pytestmark = pytest.mark.skipif(not Path("/run/systemd/system").is_dir(), reason="systemd is not running here")
Make = Callable[..., Container]

SLEEP = ["sleep", "1000"]
SLICE = f"pyruntimeverbs{os.getpid()}.slice"


@pytest.fixture
def systemd(program: str, tmp_path: Path) -> Runtime:
    return Runtime(program, tmp_path / "state", ["--systemd-cgroup"])


def path(name: str) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        config["linux"]["cgroupsPath"] = f"{SLICE}:pyruntime:{name}"
        config["linux"]["resources"].update(pids={"limit": 31}, memory={"limit": 64 << 20}, cpu={"quota": 50000})

    return change


def show(unit: str, name: str) -> str:
    command = ["systemctl", "show", unit, "--property=" + name, "--value"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_a_life_in_a_scope(container: Make, systemd: Runtime) -> None:
    name = f"life{os.getpid()}"
    unit = f"pyruntime-{name}.scope"
    annotations = {
        "org.systemd.property.TimeoutStopUSec": "uint64 9000000",
        "org.systemd.property.Description": "'x y'",
    }
    one = container(SLEEP, path(name), lambda config: config.update(annotations=annotations), runtime=systemd)
    one.create().ok()
    assert one.proc("cgroup").read_text().strip().endswith(f"/{SLICE}/{unit}")
    assert [show(unit, key) for key in ("ActiveState", "Slice", "Delegate", "TasksMax", "MemoryMax")] == [
        "active", SLICE, "yes", "31", str(64 << 20)]  # fmt: skip
    assert [show(unit, key) for key in ("TimeoutStopUSec", "Description")] == ["9s", "x y"]
    one.start().ok()
    assert one.exec("cat", "/proc/self/cgroup").ok().stdout.strip().endswith(f"/{unit}")
    one.runtime("update", "--pids-limit", "45", one.id).ok()
    assert show(unit, "TasksMax") == "45"
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    assert (one.cgroup("pids") / "pids.max").read_text().strip() == "45"
    one.runtime("pause", one.id).ok()
    assert one.status == "paused"
    one.runtime("resume", one.id).ok()
    one.kill().ok()
    one.wait("stopped")
    one.delete().ok()
    wait_for(lambda: show(unit, "LoadState") == "not-found", "the scope to be gone")


def test_without_a_path_the_scope_is_named_for_the_container(container: Make, systemd: Runtime) -> None:
    one = container(SLEEP, runtime=systemd)
    one.run("--detach").ok()
    inside = one.proc("cgroup").read_text().strip()
    assert one.id in inside and inside.endswith(".scope")
    assert show(inside.rpartition("/")[2], "ActiveState") == "active"


def test_a_path_that_names_no_scope(container: Make, systemd: Runtime) -> None:
    one = container(SLEEP, lambda config: config["linux"].update(cgroupsPath="/not/systemd"), runtime=systemd)
    result = one.create()
    assert result.status != 0 and "slice:prefix:name" in result.stderr
    assert not one.leaks()


def test_a_force_delete_takes_the_scope_along(container: Make, systemd: Runtime) -> None:
    name = f"force{os.getpid()}"
    one = container(SLEEP, path(name), runtime=systemd)
    one.run("--detach").ok()
    one.delete("--force").ok()
    wait_for(lambda: show(f"pyruntime-{name}.scope", "LoadState") == "not-found", "the scope to be gone")
    assert not one.leaks()
