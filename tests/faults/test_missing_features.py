"""Kernel features that are not there: each is taken away from all processes of a verb.

What has a way around it works as before. What has none (the runtime needs Linux 5.12, docs/security.md) fails before
anything is left, and the error says which kernel it takes.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.trial import Room, complaints, left_behind, only_all, rich
from support.runtime import Result, Runtime

RoomFactory = Callable[..., Room]

pytestmark = pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")

# call: what takes its place
WAYS_AROUND = {
    "memfd_create": "a sealed interpreter in an overlay or an unlinked file",
    "statx": "the mount's id from /proc/self/fdinfo",
    "execveat": "execve of /proc/self/fd/N",
    "name_to_handle_at": "the mount table",
    "faccessat2": "execve itself says whether a program may be run",
    "keyctl": "no session keyring: the kernel has none (CONFIG_KEYS)",
    "sched_getattr": "what it would be asked for is not configured",
    "bpf": "the devices controller of cgroup v1; on v2 there is no other way",
    "pidfd_send_signal": "nobody is sent a signal in a life without trouble",
}
NEEDED = {
    "run": [
        "clone3", "close_range", "openat2", "fsopen", "fsconfig", "fsmount", "open_tree", "move_mount",
        "mount_setattr", "pidfd_open", "seccomp",
    ],
    "exec": ["clone3", "close_range", "pidfd_open", "setns", "seccomp"],
    "kill": ["pidfd_open", "pidfd_send_signal"],
}  # fmt: skip
LOOK = (
    "cut -d' ' -f5,6 /proc/self/mountinfo | grep -v cgroup; id; ls -l /dev;"
    " grep -E 'Cap|Seccomp:|NoNewPrivs' /proc/self/status"
)


def without(call: str, runtime: Runtime, error: str = "ENOSYS") -> Runtime:
    """The runtime, with `call` failing in all its processes and in the container's."""
    options = ["-f", "-qq", "-e", "signal=none", "-e", f"trace={call}", "-o", "/dev/null"]
    return Runtime(["strace", *options, "-e", f"inject={call}:error={error}", *runtime.program], runtime.root)


def stripped(result: Result) -> str:
    """What a container saw, less what differs from one to the next."""
    return re.sub(r"\w{3} +\d+ \d\d:\d\d|pts/\d+", "", result.stdout)


@pytest.fixture
def look(room: RoomFactory) -> Room:
    here = room(["sh", "-c", LOOK])
    here.warm()
    return here


@pytest.mark.parametrize("call", WAYS_AROUND)
def test_there_is_a_way_around(look: Room, call: str) -> None:
    if call == "bpf" and not Path("/sys/fs/cgroup/devices").exists():
        pytest.skip("cgroup v2 has no other way to deny devices")
    expected = stripped(look.new().run().ok())
    assert "Seccomp:\t2" in expected
    one = look.new()
    one.runtime = without(call, look.runtime)
    result = one.run(timeout=30)
    assert result.status == 0, result
    assert stripped(result) == expected
    one.runtime = look.runtime
    assert not left_behind(one)


@pytest.mark.parametrize("call", NEEDED["run"])
def test_what_cannot_be_done_without_is_told(look: Room, call: str) -> None:
    one = look.new()
    one.runtime = without(call, look.runtime)
    result = one.run(timeout=30)
    assert not complaints(result), result
    assert "function not implemented" in result.stderr and "Linux 5.12 or newer is needed" in result.stderr, result
    one.runtime = look.runtime
    assert not left_behind(one)


@pytest.mark.parametrize("call", NEEDED["run"])
@only_all
def test_a_filter_that_denies_is_told_as_well(look: Room, call: str) -> None:
    """As an engine's default profile does with calls that it does not know."""
    one = look.new()
    one.runtime = without(call, look.runtime, "EPERM")
    result = one.run(timeout=30)
    assert not complaints(result), result
    assert "operation not permitted" in result.stderr
    one.runtime = look.runtime
    assert not left_behind(one)


@pytest.mark.parametrize("verb", ["exec", "kill"])
def test_other_verbs(room: RoomFactory, verb: str) -> None:
    here = room(["sleep", "1000"], rich)
    one = here.running()
    words = [verb, one.id, "true" if verb == "exec" else "KILL"]
    for call in NEEDED[verb]:
        result = without(call, here.runtime)(*words, timeout=30)
        assert not complaints(result, (255,) if verb == "exec" else (1,)), result
        assert "function not implemented" in result.stderr, result
        assert one.status == "running"
    one.delete("--force").ok()
    assert not left_behind(one)


def test_no_way_to_protect_the_interpreter(look: Room) -> None:
    """Without any of overlay, memfd and an unlinked file a container would get at the host's interpreter: no."""
    one = look.new()
    calls = "fsopen,memfd_create,execveat"
    options = ["-f", "-qq", "-e", "signal=none", "-e", f"trace={calls}", "-o", "/dev/null"]
    one.runtime = Runtime(
        ["strace", *options, "-e", f"inject={calls}:error=EPERM", *look.runtime.program], look.runtime.root
    )
    if (
        subprocess.run(["findmnt", "/run/pyruntime-interpreter"], check=False, stdout=subprocess.DEVNULL).returncode
        == 0
    ):
        pytest.skip("the interpreter is sealed for the whole host")
    result = one.run(timeout=30)
    assert result.status == 1 and not complaints(result), result
    assert left_behind(one) == []
