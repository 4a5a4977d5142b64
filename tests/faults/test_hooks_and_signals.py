"""Hooks that hang, flood, or pull the floor away, and signals to the runtime while it is at work."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.test_killed import moments
from faults.trial import NONE, Fault, Room, complaints, each, left_behind, sample, traced_here
from support.bundles import Config
from support.container import wait_for

RoomFactory = Callable[..., Room]


def hooked(kind: str, script: str, timeout: int | None = None) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        entry = {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}
        config["hooks"] = {kind: [{**entry, "timeout": timeout} if timeout else entry]}

    return change


def unique(seconds: int) -> str:
    """A duration for sleep(1) that is this test's alone."""
    return f"{seconds}.{os.getpid()}{time.monotonic_ns()}"


def alive(marker: str) -> list[int]:
    """Processes with `marker` on their command line."""
    found = []
    for directory in Path("/proc").iterdir():
        try:
            if directory.name.isdigit() and marker.encode() in (directory / "cmdline").read_bytes():
                found.append(int(directory.name))
        except OSError:
            pass
    return [pid for pid in found if pid != os.getpid()]


CREATING = ["prestart", "createRuntime", "createContainer"]


@pytest.mark.parametrize("kind", CREATING)
def test_a_hook_that_hangs_ends_at_its_timeout(room: RoomFactory, kind: str) -> None:
    marker = unique(3600)
    here = room(["true"], hooked(kind, f"sleep {marker} & sleep {marker}; true", timeout=1))
    one = here.new()
    before = time.monotonic()
    result = one.create()
    assert time.monotonic() - before < 6
    assert not complaints(result), result
    assert f"{kind} hook #0" in result.stderr and "ran past specified timeout of 1s" in result.stderr
    assert not left_behind(one)
    assert not alive(marker), "the hook and what it started are ended"


@pytest.mark.parametrize("kind", CREATING)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_runtime_told_to_end_takes_a_hanging_hook_along(room: RoomFactory, kind: str, number: int) -> None:
    marker = unique(3601)
    here = room(["true"], hooked(kind, f"sleep {marker}; true"))
    one = here.new()
    with here.runtime.popen("create", "--bundle", one.bundle.path, one.id, stdout=subprocess.DEVNULL) as process:
        wait_for(lambda: alive(f"sleep\0{marker}"), "the hook to run")
        os.kill(process.pid, number)
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 128 + number, errors
    assert errors.count(b"level=error") == 1 and b"interrupted" in errors, errors
    assert not left_behind(one)
    assert not alive(marker)


@pytest.mark.parametrize("kind", [*CREATING, "poststart", "poststop"])
def test_a_hook_that_floods_does_not_hold_anybody_up(room: RoomFactory, kind: str) -> None:
    script = "head -c 30000000 /dev/zero | tr '\\0' x; head -c 30000000 /dev/zero | tr '\\0' y >&2"
    here = room(["true"], hooked(kind, script, timeout=20))
    one = here.new()
    result = one.run(timeout=40)
    assert result.status == 0 and len(result.output) < 200, result.output[:500]
    assert not left_behind(one)


def test_a_hook_that_floods_and_fails_is_quoted_shortly(room: RoomFactory) -> None:
    here = room(["true"], hooked("createRuntime", "head -c 3000000 /dev/zero | tr '\\0' x; echo the end; exit 3"))
    one = here.new()
    result = one.create()
    assert not complaints(result), result
    assert "exit status 3" in result.stderr and "the end" in result.stderr and len(result.stderr) < 2000
    assert not left_behind(one)


@pytest.mark.parametrize("kind", CREATING)
def test_a_daemon_of_a_hook_that_keeps_its_streams_holds_nobody_up(room: RoomFactory, kind: str) -> None:
    marker = unique(3602)
    here = room(["true"], hooked(kind, f"setsid sleep {marker} & exit 0"))
    one = here.new()
    before = time.monotonic()
    try:
        one.run().ok()
        assert time.monotonic() - before < 5
    finally:
        for pid in alive(f"sleep\0{marker}"):
            os.kill(pid, signal.SIGKILL)
    assert not left_behind(one)


@pytest.mark.parametrize("kind", ["prestart", "createRuntime"])
def test_a_hook_that_kills_the_init(room: RoomFactory, kind: str) -> None:
    here = room(["true"], hooked(kind, 'kill -9 $(sed "s/.*\\"pid\\": *\\([0-9]*\\).*/\\1/")'))
    one = here.new()
    result = one.create()
    assert not complaints(result), result
    assert "killed by signal 9" in result.stderr
    assert not left_behind(one)


def test_a_hook_that_removes_the_state_directory(room: RoomFactory) -> None:
    here = room(["true"])
    here.warm()
    one = here.new()
    hooked("createRuntime", f"rm -rf {here.runtime.root}/{one.id}")(here.bundle.config)
    here.bundle.write()
    result = one.create()
    assert not complaints(result), result
    assert not left_behind(one)


def test_a_hook_that_removes_the_bundle(room: RoomFactory) -> None:
    here = room(["true"])
    hooked("createRuntime", f"rm -rf {here.bundle.path}/*")(here.bundle.config)
    here.bundle.write()
    one = here.new()
    result = one.create()
    assert not complaints(result), result
    assert not left_behind(one)


def test_a_bundle_that_disappears_later(room: RoomFactory) -> None:
    """Everything that a created container needs is held or kept: of its files only what is open is still there."""
    here = room(["sleep", "1000"])
    created, running = here.created(), here.running()
    subprocess.run(["rm", "-rf", here.bundle.path], check=True)
    assert (created.status, running.status) == ("created", "running")
    failed = here.runtime("exec", running.id, "true")
    assert failed.status == 255 and not complaints(failed, (255,)), failed
    assert created.start().status in (0, 1)
    running.kill("KILL").ok()
    running.wait("stopped")
    running.delete().ok()
    created.delete("--force").ok()
    assert not left_behind(created) and not left_behind(running)


@traced_here
@pytest.mark.parametrize("verb", ["create", "run"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_any_moment_undoes_it_or_comes_too_late(room: RoomFactory, verb: str, number: int) -> None:
    here = room()
    here.warm()

    def attempt(room: Room, fault: Fault) -> list[str]:
        one = room.new()
        flags = ["--detach"] if verb == "run" else []
        words = [verb, *flags, "--bundle", str(one.bundle.path), one.id]
        result = room.traced(fault, [f"{one.runtime.root}/{one.id}"], *words)
        wrong = []
        if fault.action == "record" or result.status == 0:
            # Too late: then it is as if there had been no signal.
            if (status := one.status) != ("created" if verb == "create" else "running"):
                wrong.append(f"exit status {result.status}, and the container is {status}")
            if verb == "create" and (started := one.start()).status:
                wrong.append(f"start: {started.stderr}")
        elif result.status == -number or (result.status == 128 + number and "level=error" not in result.stderr):
            pass  # before there was anything to undo
        else:
            wrong += complaints(result, (128 + number,))
        if result.status:
            wrong += [f"left: {thing}" for thing in left_behind(one)]
        wrong += [] if (done := one.delete("--force")).status == 0 else [done.stderr]
        return wrong + left_behind(one)

    assert not attempt(here, NONE)
    faults = [
        Fault("runtime", f"stop:{int(number)}", kill.index, kill.call)
        for kill in moments("runtime", here.traced.calls["runtime"])
    ]
    chosen = sample(faults, 40) if number == signal.SIGTERM else faults[7::60]
    failures = each(here, chosen, attempt)
    assert not failures, "\n".join(failures)
