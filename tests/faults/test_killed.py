"""The runtime, or what it clones, is killed before each system call that changes anything.

Whatever the moment: `state` and `list` answer, `delete --force` removes, and nothing remains.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from faults.trial import NONE, Fault, Room, after_a_kill, complaints, each, left_behind, sample, traced_here
from support.container import Container

RoomFactory = Callable[..., Room]
pytestmark = traced_here

# Between two of these nothing changes that anybody else could see, so a kill at either is the same kill.
WITHOUT_EFFECT = frozenset(
    "access brk close fcntl fstat futex getcwd getdents64 getegid geteuid getgid getpid getrandom gettid getuid ioctl "
    "lseek lstat madvise mmap mprotect mremap munmap newfstatat exit_group pread64 readlink readlinkat rt_sigaction "
    "rt_sigreturn sched_getaffinity stat statfs fstatfs statx sysinfo umask uname openat2 fsconfig fsopen".split()
)


def moments(role: str, calls: list[tuple[str, str]]) -> list[Fault]:
    """A kill at each call of `role` that matters; of the same calls in a row (a prctl per capability) the first."""
    found: list[Fault] = []
    before = ""
    for index, (name, text) in enumerate(calls):
        if name not in WITHOUT_EFFECT and (name, text) != ("prctl", before):
            found.append(Fault(role, "kill", index, (name, text)))
        before = "" if name == "prctl" else name
    return found


def created(room: Room) -> Container:
    return room.created()


def running(room: Room) -> Container:
    return room.running()


def paused(room: Room) -> Container:
    one = room.running()
    room.runtime("pause", one.id).ok()
    return one


def new(room: Room) -> Container:
    return room.new()


# verb: (what is there before, the words after the id)
VERBS: dict[str, tuple[Callable[[Room], Container], list[str]]] = {
    "create": (new, []),
    "run": (new, []),
    "start": (created, []),
    "exec": (running, ["true"]),
    "kill": (running, ["KILL"]),
    "pause": (running, []),
    "resume": (paused, []),
    "update": (running, []),
    "delete": (created, []),
    "delete-force": (paused, []),
}
EVERY = {
    "create": 20,
    "run": 20,
    "exec": 25,
    "update": 25,
    "delete": 15,
    "delete-force": 15,
}  # of how many the sample takes


def words(verb: str, one: Container, after: list[str]) -> list[str]:
    name = verb.partition("-")[0]
    flags: list[str] = {
        "create": ["--bundle", str(one.bundle.path)],
        "run": ["--bundle", str(one.bundle.path), "--detach"],
        "update": ["--memory", "67108864", "--pids-limit", "50", "--cpu-share", "300"],
        "delete-force": ["--force"],
    }.get(verb, [])
    return [name, *flags, one.id, *after]


def markers(one: Container) -> list[str]:
    return [f"{one.bundle.path}/config.json", f"{one.runtime.root}/{one.id}"]


def go(room: Room, verb: str, fault: Fault) -> list[str]:
    """Do the verb with the fault and look at what is left of the container."""
    prepare, after = VERBS[verb]
    one = prepare(room)
    result = room.traced(fault, markers(one), *words(verb, one, after))
    if fault.action == "record":
        result.ok()
    wrong = []
    if fault.action != "record" and room.traced.hit is None:
        wrong += ["did not get that far"] if result.status else []
    elif fault.role == "runtime":
        if fault.action != "record" and result.status != 128 + 9:
            wrong.append(f"exit status {result.status}")
    elif verb in ("create", "run") and result.status == 0:
        # Killed after the last word to the runtime: nobody can tell it from a program that ends at once.
        if (status := one.status) != "stopped":
            wrong.append(f"now the container is {status}")
    elif verb in ("create", "run"):
        # The runtime lives: it says what happened, and cleans up itself.
        wrong += complaints(result)
        wrong += [f"before delete: {thing}" for thing in left_behind(one)]
    elif verb == "exec":
        wrong += complaints(result, (255,)) if result.status != 128 + 9 else []
        if (status := one.status) != "running":
            wrong.append(f"now the container is {status}")
        wrong += strays(one)
    return wrong + after_a_kill(one)


def strays(one: Container) -> list[str]:
    """Processes that are in the container beside its first one."""
    deadline = time.monotonic() + 3
    while True:
        pids = one.runtime("ps", "--format", "json", one.id).ok().json()
        if len(pids) == 1 or time.monotonic() > deadline:
            return [] if len(pids) == 1 else [f"left in the container: {pids}"]


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_killed_at_any_moment_leaves_nothing_that_delete_does_not_remove(room: RoomFactory, verb: str) -> None:
    here = room()
    here.warm()
    wrong = go(here, verb, NONE)
    assert not wrong
    roles = ["runtime"] if verb not in ("create", "run", "exec") else ["runtime", "child1"]
    calls = {role: here.traced.calls[role] for role in roles}
    assert all(len(made) > 3 for made in calls.values()), calls
    faults = [fault for role in roles for fault in sample(moments(role, calls[role]), EVERY.get(verb, 7))]
    if verb == "run":
        # Up to the last word from the runtime its process does what that of `create` does.
        last = max(index for index, (name, _) in enumerate(calls["child1"]) if name == "recvfrom")
        faults = [fault for fault in faults if fault.role == "runtime" or fault.index >= last]
    failures = each(here, faults, lambda room, fault: go(room, verb, fault))
    assert not failures, f"{len(failures)} of {len(faults)}:\n" + "\n".join(failures)
