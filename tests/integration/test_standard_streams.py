"""Standard streams that are closed, full or hold nonsense: of the runtime and of the two programs beside it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.container import Container
from support.runtime import REPOSITORY
from support.terminal import ConsoleSocket

Make = Callable[..., Container]

PROGRAMS = ("pyruntime", "pyruntime-image", "pyruntime-bridge")


def close_streams() -> None:
    """Between fork and execve: what a daemon does that knows nobody who listens."""
    os.closerange(0, 3)


def streams_of(pid: int) -> dict[str, str]:
    return {name: os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}


def test_a_container_waits_with_nothing_of_ours_as_a_stream(container: Make) -> None:
    one = container(["sleep", "60"])
    one.create(preexec=close_streams).ok()
    waiting = streams_of(one.pid)
    assert {waiting.pop(number) for number in "012"} == {"/dev/null"}
    assert [os.path.basename(path) for path in waiting.values()] == ["exec.fifo"]
    one.start(preexec=close_streams).ok()
    one.wait("running")
    assert streams_of(one.pid) == dict.fromkeys("012", "/dev/null")


def test_a_terminal_in_place_of_closed_streams(container: Make, tmp_path: Path) -> None:
    one = container(["sleep", "60"], lambda config: config["process"].update(terminal=True))
    with ConsoleSocket(tmp_path / "console") as console:
        one.create("--console-socket", str(console.path), preexec=close_streams).ok()
        console.receive()
        assert streams_of(one.pid)["0"] == "/dev/pts/0"


def test_what_is_said_ends_up_nowhere_else(container: Make) -> None:
    """A warning and an error go to standard error: not into a file that has taken its number."""
    one = container(["/nowhere"], lambda config: config["process"]["capabilities"].update(bounding=["CAP_NO_SUCH"]))
    assert one.run(preexec=close_streams).status == 1
    assert one.leaks() == []


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_that_cannot_be_written_is_no_success(name: str) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [REPOSITORY / "bin" / name, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and "no space left on device" in done.stderr.lower()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_failure_with_all_streams_closed(name: str) -> None:
    done = subprocess.run(
        [REPOSITORY / "bin" / name, "--no-such-flag"], preexec_fn=close_streams, timeout=30, check=False
    )
    assert done.returncode in (1, 2)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "no container id"),
        (b'{"id": ""}', "no container id"),
        (b'{"id": "x", "pid": true}', "not a number"),
        (b'{"id": "x", "pid": 1, "annotations": {"a": 1}}', "not an object of strings"),
    ],
    ids=["empty", "deep", "a list", "no id", "a pid", "annotations"],
)
def test_a_hook_says_what_is_wrong_with_the_state(state: bytes, words: str, tmp_path: Path) -> None:
    command = [str(REPOSITORY / "bin" / "pyruntime-bridge"), "--state-dir", str(tmp_path / "state")]
    done = subprocess.run(command, input=state, capture_output=True, check=False, timeout=30)
    lines = done.stderr.decode().splitlines()
    assert (done.returncode, len(lines)) == (1, 1) and words in lines[0]
    assert not (tmp_path / "state").exists()
