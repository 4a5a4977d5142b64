"""Each system call of run, create, start, exec and delete fails once.

The verb then does without it, or fails with one line that names what could not be done, and leaves nothing that it did
not find. Which error a call fails with is chosen so that no fallback takes it for "not there".
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable

import pytest
from faults.trial import NONE, Call, Fault, Room, complaints, each, left_behind, sample, traced_here
from support.container import Container
from support.runtime import REPOSITORY

RoomFactory = Callable[..., Room]
pytestmark = traced_here

# They cannot fail, or the interpreter makes them for itself: a failure of its memory is another test's.
NEVER = frozenset(
    "brk close exit exit_group futex getegid geteuid getgid getpid getppid gettid getuid madvise mmap mprotect mremap "
    "munmap rt_sigaction rt_sigprocmask rt_sigreturn sched_yield set_robust_list set_tid_address umask wait4 waitid "
    "arch_prctl rseq uname lseek poll ppoll select clock_nanosleep restart_syscall".split()
)

# The interpreter looks for modules there, at calls that differ from machine to machine.
MODULES = (str(REPOSITORY / "pyruntime"), "/usr/lib/python", "/usr/local/lib/python", f"{REPOSITORY}/.venv")

# Of how many faults the sample takes one.
VERBS = {"run": 40, "create": 40, "start": 8, "exec": 30, "delete": 13, "delete-force": 13}


def faults(role: str, calls: list[Call]) -> list[Fault]:
    """Each call of `role` that can fail; of the same calls in a row (a prctl per capability) the first."""
    found: list[Fault] = []
    before = ""
    for index, (name, text) in enumerate(calls):
        if (
            name not in NEVER
            and not text.startswith(MODULES)
            and "/../pyruntime" not in text
            and (name, before) != ("prctl", "prctl")
        ):
            found.append(Fault(role, str(errno.EIO), index, (name, text)))
        before = name
    return found


def prepared(room: Room, verb: str) -> tuple[Container, list[str]]:
    """A container in the state that the verb wants, and the command line."""
    if verb in ("run", "create"):
        one = room.new()
        flags = ["--detach"] if verb == "run" else []
        return one, [verb, *flags, "--bundle", str(one.bundle.path), one.id]
    one = room.created() if verb in ("start", "delete") else room.running()
    if verb == "delete-force":
        return one, ["delete", "--force", one.id]
    return one, [verb, one.id, *(["true"] if verb == "exec" else [])]


def attempt(room: Room, verb: str, fault: Fault) -> list[str]:
    one, words = prepared(room, verb)
    result = room.traced(fault, [f"{one.bundle.path}/config.json", f"{one.runtime.root}/{one.id}"], *words)
    wrong = []
    if room.traced.hit and room.traced.hit[0] == "execve":
        # The program is there and does not start: a word of its own, on the container's standard error.
        if result.status and not re.fullmatch(r"exec \S+: input/output error\n", result.stderr):
            wrong.append(result.stderr)
    elif result.status:
        statuses = (255,) if verb == "exec" else (1,)
        wrong += complaints(result, statuses)
        if verb in ("run", "create"):
            wrong += [f"left: {thing}" for thing in left_behind(one)]
    elif "Traceback" in result.output:
        wrong.append(result.output)
    elif verb.startswith("delete"):
        wrong += [f"deleted, but: {thing}" for thing in left_behind(one)]
    elif verb in ("run", "create", "start", "exec"):
        expected = ("created",) if verb == "create" else ("running", "stopped")
        if (status := one.status) not in expected:
            wrong.append(f"exit status 0, and the container is {status}")
    removed = one.delete("--force")
    if removed.status:
        wrong.append(f"delete --force: {removed.stderr.strip()}")
    return wrong + left_behind(one)


@pytest.mark.parametrize("verb", VERBS)
def test_a_failing_system_call_is_told_in_one_line_and_leaves_nothing(room: RoomFactory, verb: str) -> None:
    here = room()
    here.warm()
    assert not attempt(here, verb, NONE)
    roles = ["runtime", "child1"] if verb in ("run", "create", "exec") else ["runtime"]
    if verb == "create":
        roles = ["runtime"]  # its child does the same as that of `run`
    calls = here.traced.calls
    chosen = [fault for role in roles for fault in sample(faults(role, calls[role]), VERBS[verb])]
    failures = each(here, chosen, lambda room, fault: attempt(room, verb, fault))
    assert not failures, f"{len(failures)} of {len(chosen)}:\n" + "\n".join(failures)
