"""linux.intelRdt of real containers. The file system is a directory: real ones need a processor that has it.

What is left of the real thing is the kernel's part; the runtime and its verbs are the true ones.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import fake_resctrl
from support.bundles import Change, Config
from support.container import Container
from support.fake_resctrl import FakeResctrl
from support.runtime import REPOSITORY, Runtime

Make = Callable[..., Container]
Given = tuple[FakeResctrl, Callable[..., Container]]


@pytest.fixture
def given(container: Make, tmp_path: Path) -> Iterator[Given]:
    """The tree, and a maker of containers whose runtime takes it for resctrl."""
    tree = FakeResctrl(tmp_path / "resctrl").build()
    program = ["/usr/bin/python3", "-I", "-S", fake_resctrl.__file__, str(tree.root), str(REPOSITORY)]

    def make(section: dict[str, Any], *changes: Change) -> Container:
        def change(config: Config) -> None:
            config["linux"]["intelRdt"] = section

        return container(["sleep", "60"], change, *changes, runtime=Runtime(program, tmp_path / "rdt-state"))

    yield tree, make


def test_from_create_to_delete(given: Given) -> None:
    tree, make = given
    one = make({"l3CacheSchema": "L3:0=f", "enableMonitoring": True})
    one.create().ok()
    assert tree.groups() == [one.id, f"{one.id}/mon_groups/{one.id}"]
    assert tree.tasks(one.id) == tree.tasks(f"{one.id}/mon_groups/{one.id}") == [one.pid]
    assert "L3:0=f;1=fffff" in (tree.root / one.id / "schemata").read_text()
    one.start().ok()
    one.runtime("update", "--mem-bw-schema", "MB:0=40", one.id).ok()
    assert "MB:0=40;1=100" in (tree.root / one.id / "schemata").read_text()
    data = one.runtime("events", "--stats", one.id).ok().json()["data"]["intel_rdt"]
    assert data["l3_cache_schema"] == "L3:0=f;1=fffff"
    assert data["mbm_stats"][0]["mbm_total_bytes"] == 1001
    one.kill().ok()
    one.wait("stopped")
    one.delete().ok()
    assert tree.groups() == []


def test_exec_joins_the_class(given: Given) -> None:
    """A process of exec is a child of the runtime, not of the container, so it inherits no class."""
    tree, make = given
    one = make({"enableMonitoring": True})
    one.run("--detach").ok()
    pid_file = one.bundle.path / "exec-pid"
    one.exec("--detach", f"--pid-file={pid_file}", "sleep", "60").ok()
    added = int(pid_file.read_text())
    assert tree.tasks(one.id) == tree.tasks(f"{one.id}/mon_groups/{one.id}") == [one.pid, added]


def test_a_failed_create_leaves_no_class(given: Given) -> None:
    tree, make = given
    one = make({"closID": "gold", "schemata": ["L9:0=1"]})
    result = one.create()
    assert result.status == 1
    assert "Unknown or unsupported resource name 'L9'" in result.stderr
    assert (tree.groups(), one.leaks()) == ([], [])


def test_a_later_failure_leaves_no_class(given: Given) -> None:
    tree, make = given

    def failing_hook(config: Config) -> None:
        config["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}

    one = make({"closID": "gold", "schemata": ["L3:0=1"], "enableMonitoring": True}, failing_hook)
    assert one.create().status == 1
    assert (tree.groups(), one.leaks()) == ([], [])


def test_a_named_class_outlives_the_container(given: Given) -> None:
    tree, make = given
    one = make({"closID": "gold", "l3CacheSchema": "L3:0=ff", "enableMonitoring": True})
    one.run("--detach").ok()
    assert tree.groups() == ["gold", f"gold/mon_groups/{one.id}"]
    one.delete("--force").ok()
    assert tree.groups() == ["gold"]
    two = make({"closID": "gold", "l3CacheSchema": "L3:0=fe"})
    result = two.create()
    assert result.status == 1
    assert "gold exists with L3:0=ff, asked for fe" in result.stderr


def test_without_resctrl_there_is_an_error(container: Make) -> None:
    if "resctrl" in subprocess.run(["mount"], capture_output=True, text=True, check=True).stdout:
        pytest.skip("resctrl is mounted here")
    one = container(["true"], lambda config: config["linux"].update(intelRdt={}))
    result = one.create()
    assert result.status == 1
    assert "resctrl is not mounted" in result.stderr
