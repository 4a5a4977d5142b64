"""`--profile` and PYRUNTIME_PROFILE: a timeline that holds every step, in a form that trace viewers read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.container import Container
from support.runtime import LAUNCHER, REPOSITORY, Runtime, compile_launcher

Event = dict[str, Any]


@pytest.fixture(autouse=True)
def only_pyruntime(program: str) -> None:
    if program != str(LAUNCHER):
        pytest.skip("about a flag of pyruntime")


@pytest.fixture
def runtime(program: str, tmp_path: Path) -> Runtime:
    """The launcher itself: an audited runtime is started by another program, which knows of no timeline."""
    return Runtime(program, tmp_path / "state")


def timeline(path: Path) -> list[Event]:
    """The spans of a trace file, after a look at what the format demands of them."""
    document = json.loads(path.read_text())
    names = [event for event in document["traceEvents"] if event["ph"] == "M"]
    spans = [event for event in document["traceEvents"] if event["ph"] == "X"]
    assert len(names) + len(spans) == len(document["traceEvents"])
    assert {event["pid"] for event in spans} == {event["pid"] for event in names}
    for event in spans:
        assert event["name"] and event["dur"] >= 0 and event["ts"] > 0, event
    for pid in {event["pid"] for event in spans}:
        open_until: list[float] = []
        for event in sorted((one for one in spans if one["pid"] == pid), key=lambda one: (one["ts"], -one["dur"])):
            end = event["ts"] + event["dur"]
            while open_until and open_until[-1] <= event["ts"]:
                open_until.pop()
            assert not open_until or end <= open_until[-1] + 0.5, f"{event['name']} outlasts what it is part of"
            open_until.append(end)
    return spans


def processes(path: Path) -> dict[str, int]:
    document = json.loads(path.read_text())
    return {event["args"]["name"]: event["pid"] for event in document["traceEvents"] if event["ph"] == "M"}


def of_kind(spans: list[Event], kind: str) -> list[Event]:
    return [event for event in spans if event["cat"] == kind]


def profiled(runtime: Runtime, path: Path | str) -> Runtime:
    return Runtime(runtime.program, runtime.root, [*runtime.flags, "--profile", str(path)])


def steps_of_plan(one: Container) -> list[str]:
    """What `pyruntime plan` says that the container's process does."""
    document = one.runtime("plan", "--format", "json", "--bundle", one.bundle.path, one.id).ok().json()
    return [step["description"] for step in document if step["side"] == "init"]


def test_the_timeline_of_run_has_all_steps_in_order(container: Callable[..., Container], tmp_path: Path) -> None:
    one = container(["sh", "-c", "exit 7"])
    path = tmp_path / "trace.json"
    path.write_text("an older file, and longer than nothing")
    assert Container(profiled(one.runtime, path), one.bundle, one.id).run().status == 7
    spans = timeline(path)
    assert set(processes(path)) == {"runtime", "container process"}
    inside = [event for event in spans if event["pid"] == processes(path)["container process"]]
    assert [event["name"] for event in of_kind(inside, "step")] == steps_of_plan(one)
    imported = {event["name"] for event in of_kind(spans, "import")}
    assert {"interpreter", "pyruntime.kernel.libc", "pyruntime.container.launch", "_json"} <= imported
    called = {event["name"] for event in of_kind(spans, "call")}
    assert {"cli.main.main", "clone3", "container.launch.Launch._clone"} <= called


@pytest.mark.skipif(not shutil.which("gcc"), reason="no compiler")
def test_the_compiled_launcher_keeps_the_variable(container: Callable[..., Container], tmp_path: Path) -> None:
    one = container(["true"])
    (tmp_path / "bin").mkdir()
    launcher = compile_launcher(tmp_path / "bin" / "pyruntime", "/nowhere")
    (tmp_path / "pyruntime").symlink_to(REPOSITORY / "pyruntime")
    path = tmp_path / "trace.json"
    runtime = Runtime(launcher, one.runtime.root)
    Container(runtime, one.bundle, one.id).run(env={"PYRUNTIME_PROFILE": str(path)}).ok()
    assert of_kind(timeline(path), "step")


def test_each_command_of_an_engine_gets_a_file_of_its_own(container: Callable[..., Container], tmp_path: Path) -> None:
    one = container(["sleep", "1000"])
    directory = tmp_path / "traces"
    directory.mkdir()
    env = {"PYRUNTIME_PROFILE": f"{directory}/"}
    one.create(env=env).ok()
    (created,) = directory.iterdir()
    (waiting,) = [event for event in of_kind(timeline(created), "step") if "returned" in event["args"]]
    # Our side may have written the file while the init was still about to come back from telling us.
    assert waiting["name"] in ("say that the container is created", "wait for start")
    created.unlink()
    one.start(env=env).ok()
    one.exec("true", env=env).ok()
    one.runtime("state", one.id, env=env).ok()
    one.runtime("kill", one.id, "KILL", env=env).ok()
    files = sorted(directory.iterdir())
    assert len(files) == 4
    with_steps = [path for path in files if of_kind(timeline(path), "step")]
    assert len(with_steps) == 1, "exec"
    (last,) = [event for event in of_kind(timeline(with_steps[0]), "step") if "returned" in event["args"]]
    assert last["name"].startswith("execute")


def test_the_init_asks_the_kernel_nothing_for_the_timeline(container: Callable[..., Container], tmp_path: Path) -> None:
    """With no_new_privs the filter is loaded last: a record of its end must not need a system call."""
    calls = ["clock_gettime", "gettimeofday", "time", "getpid", "write", "mmap", "munmap", "msync"]

    def kill_them(config: dict[str, Any]) -> None:
        rules = [{"names": calls, "action": "SCMP_ACT_KILL_PROCESS"}]
        config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}

    one = container(["true"], kill_them)
    path = tmp_path / "trace.json"
    Container(profiled(one.runtime, path), one.bundle, one.id).run().ok()
    names = [event["name"] for event in of_kind(timeline(path), "step")]
    assert any("seccomp" in name for name in names), names


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_made(
    container: Callable[..., Container], tmp_path: Path
) -> None:
    one = container(["true"])
    told = Container(profiled(one.runtime, tmp_path / "missing" / "trace.json"), one.bundle, one.id).run()
    assert told.status == 1
    assert "missing/trace.json: no such file or directory" in told.stderr
    assert profiled(one.runtime, "")("state", one.id).status == 1
    told = one.run(env={"PYRUNTIME_PROFILE": str(tmp_path / "missing" / "trace.json")})
    assert told.status == 0, "the container has run by then"
    assert "cannot write the profile" in told.stderr


def test_a_relative_file_is_one_of_the_caller(container: Callable[..., Container], tmp_path: Path) -> None:
    one = container(["true"])
    told = profiled(one.runtime, "here.json")("run", "--bundle", one.bundle.path, one.id, cwd=tmp_path)
    assert told.status == 0
    assert timeline(tmp_path / "here.json")
    assert os.listdir(tmp_path).count("here.json") == 1
