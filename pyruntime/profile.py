"""A timeline of one command, of its imports, steps and function calls, in all processes that are ours.

`pyruntime --profile FILE VERB ...`, or the variable PYRUNTIME_PROFILE for a runtime that an engine starts, writes what
Perfetto (https://ui.perfetto.dev) and chrome://tracing show. Without them this module is not even loaded: it puts
itself around functions while their modules load, and into a few places of the interpreter.

* Records lie in memory that is shared with the children. A container's init may neither write a file nor keep a
  descriptor; what it has recorded until it became the program is read by the runtime. Each clone gives the child half
  of the memory that its parent has left, so nothing is ever locked.
* A record needs no system call (the clock is read in the vDSO): it would not survive the seccomp filter that the init
  loads before its last call.
* The clock is the calendar's. The monotonic one jumps for a child in a new time namespace.
* Calls shorter than SHORTEST are forgotten at once, but a record costs half a microsecond itself: what calls many small
  functions looks slower than it is. Figures to publish come from `make bench`.
"""

from __future__ import annotations

import mmap
import posix
import sys
import time
from _struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

VARIABLE = b"PYRUNTIME_PROFILE"
BEGUN = b"PYRUNTIME_PROFILE_BEGUN"
"""Set by ourselves for a program that goes on where this one ends: the time (ns) at which it was replaced, and the word
"more" when the file has a part already."""

SHORTEST = 10_000  # ns
SIZE = 1 << 26  # bytes; a page that holds no record is not there

# A record: kind, beginning and end (ns; 0 for a call that did not return), a value, length of the name; the name.
RECORD = Struct("<BqqqH")
END = Struct("<q")
NONE, CALL, IMPORT, STEP, CHILD = range(5)
CATEGORIES = {CALL: "call", IMPORT: "import", STEP: "step"}

clock = time.time_ns


class Recorder:
    """Where this process writes its records: between `position` and `limit` of the shared memory, from `first` on."""

    __slots__ = ("first", "limit", "memory", "position")

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, SIZE)
        self.first = self.position = 0
        self.limit = SIZE

    def enter(self, kind: int, name: bytes, value: int = 0, end: int = 0) -> int:
        """Begin a record and return its place, -1 when the memory is full."""
        at = self.position
        after = at + RECORD.size + len(name)
        if after >= self.limit:
            return -1
        RECORD.pack_into(self.memory, at, kind, clock(), end, value, len(name))
        self.memory[at + RECORD.size : after] = name
        self.memory[after] = NONE  # a forgotten record may have been longer
        self.position = after
        return at

    def leave(self, at: int) -> None:
        """End the record at `at`, or forget it. One that a parent of this process has begun is the parent's."""
        if at < self.first:
            return
        now = clock()
        kind, begin, _, _, length = RECORD.unpack_from(self.memory, at)
        if kind == CALL and now - begin < SHORTEST and self.position == at + RECORD.size + length:
            self.position = at
            self.memory[at] = NONE
        else:
            END.pack_into(self.memory, at + 9, now)

    def read(self, start: int) -> list[tuple[int, int, int, int, str]]:
        """What the process that began at `start` has recorded: (kind, begin, end, value, name)."""
        found = []
        while self.memory[start] != NONE:
            kind, begin, end, value, length = RECORD.unpack_from(self.memory, start)
            start += RECORD.size
            found.append((kind, begin, end, value, self.memory[start : start + length].decode("utf-8", "replace")))
            start += length
        return found


recorder = Recorder()
instrumented: set[str] = set()
steps: dict[int, Any] = {}  # id() -> step; a child has the same objects at the same places


def timed(function: Callable[..., Any], name: bytes) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        at = recorder.enter(CALL, name)
        try:
            return function(*arguments, **named)
        finally:
            recorder.leave(at)

    return call


def timed_step(function: Callable[..., Any], name: bytes) -> Callable[..., Any]:
    """For Step.apply: the record names the object."""

    def apply(step: Any, place: Any) -> Any:
        at = recorder.enter(STEP, name, id(step))
        try:
            return function(step, place)
        finally:
            recorder.leave(at)

    return apply


def timed_clone(function: Callable[..., int]) -> Callable[..., int]:
    """For kernel/processes.clone: the child gets the upper half of the memory that is left."""

    def clone(*arguments: Any, **named: Any) -> int:
        at = recorder.enter(CALL, b"clone3")
        half = (recorder.position + recorder.limit) // 2
        pid = function(*arguments, **named)
        if pid == 0:
            recorder.first = recorder.position = half
        else:
            recorder.leave(at)
            recorder.limit = half
            recorder.enter(CHILD, b"", half, pid)
        return pid

    return clone


def instrument(module: ModuleType | None) -> None:
    """Put a clock around every function and method of a module of ours that has just been loaded."""
    name = getattr(module, "__name__", "")
    if not name.startswith("pyruntime") or name in instrumented:
        return
    instrumented.add(name)
    if name == "pyruntime.kernel.libc":
        return  # clone comes back from it in two processes, one of which must not touch the other's records
    if name == "pyruntime.plan.step":
        vars(module)["Step"].__new__ = staticmethod(new_step)
    short = name[len("pyruntime.") :]
    function = type(instrument)
    for key, value in list(vars(module).items()):
        if getattr(value, "__module__", "") != name:
            continue
        if name == "pyruntime.kernel.processes" and key == "clone":
            setattr(module, key, timed_clone(value))
        elif type(value) is function:
            setattr(module, key, timed(value, f"{short}.{key}".encode()))
        elif isinstance(value, type):
            for attribute, method in list(vars(value).items()):
                if type(method) is function and attribute[:2] != "__":
                    around = timed_step if attribute == "apply" and is_step(value) else timed
                    setattr(value, attribute, around(method, f"{short}.{key}.{attribute}".encode()))


def new_step(kind: type, *_: Any, **__: Any) -> Any:
    """Keep every step until the end, when it is asked for its description."""
    step: Any = object.__new__(kind)
    steps[id(step)] = step
    return step


def is_step(kind: type) -> bool:
    return any(base.__module__ == "pyruntime.plan.step" for base in kind.__mro__)


def install(main: dict[str, Any]) -> None:
    """From now on everything that is loaded is timed. `main` are the globals of __main__.py."""
    bootstrap: Any = sys.modules["_frozen_importlib"]
    system: Any = posix
    find_and_load, execute, execve = bootstrap._find_and_load, exec, posix.execve

    def load(name: str, importer: object) -> ModuleType:
        at = recorder.enter(IMPORT, name.encode())
        try:
            module: ModuleType = find_and_load(name, importer)
        finally:
            recorder.leave(at)
        instrument(sys.modules.get(name))
        return module

    def execute_module(code: Any, namespace: dict[str, Any]) -> None:
        # load_hot() runs the modules of the hot path itself
        name = namespace["__name__"]
        at = recorder.enter(IMPORT, name.encode())
        try:
            execute(code, namespace)
        finally:
            recorder.leave(at)
        instrument(sys.modules.get(name))

    def replace(path: Any, argv: list[str], environment: dict[bytes, bytes]) -> None:
        write()
        go_on = {VARIABLE: posix.environ[VARIABLE], BEGUN: b"%d more" % clock()}
        execve(path, argv, {**environment, **go_on})

    bootstrap._find_and_load = load
    main["exec"] = execute_module
    system.execve = replace


def of(start: Callable[[], int], main: dict[str, Any]) -> Callable[[], int]:
    """`start` of __main__.py, timed."""

    def run() -> int:
        before = posix.environ.get(BEGUN)
        begun = int(before.split()[0]) if before else clock() - time.process_time_ns()
        at = recorder.enter(IMPORT, b"interpreter")
        RECORD.pack_into(recorder.memory, at, IMPORT, begun, clock(), 0, len(b"interpreter"))
        install(main)
        status = start()
        write()
        return status

    return run


def restart(path: str) -> None:
    """For --profile: become this command anew with the variable set. Returns in a process that has it already.

    Raises OSError when the file cannot be written.
    """
    if VARIABLE in posix.environ:
        return
    from pyruntime.kernel import seal

    target = path.encode("utf-8", "surrogateescape")
    if not path.endswith("/"):
        posix.close(posix.open(target, posix.O_WRONLY | posix.O_CREAT | posix.O_CLOEXEC, 0o644))
    posix.environ[VARIABLE] = target
    exe = posix.open("/proc/self/exe", posix.O_RDONLY | posix.O_CLOEXEC)
    environment = {**posix.environ, BEGUN: b"%d" % clock(), **seal.library_path(exe)}
    posix.execve(exe, sys.orig_argv, environment)


def events() -> list[dict[str, Any]]:
    """All processes' records as trace events, times in microseconds."""
    now = clock()
    found: list[dict[str, Any]] = []
    queue = [(0, posix.getpid(), "runtime")]
    while queue:
        start, pid, process = queue.pop()
        for kind, begin, end, value, name in recorder.read(start):
            if kind == CHILD:
                queue.append((value, end, "child"))
                continue
            if kind == STEP and process == "child":
                process = "container process"
            event: dict[str, Any] = {"ph": "X", "pid": pid, "tid": pid, "cat": CATEGORIES[kind], "name": name}
            event["ts"] = begin / 1000
            event["dur"] = ((end or now) - begin) / 1000
            if kind == STEP:
                event["args"] = {"step": name}
                event["name"] = describe(value, name)
            if not end:
                event["args"] = {**event.get("args", {}), "returned": False}
            found.append(event)
        found.append({"ph": "M", "pid": pid, "tid": pid, "name": "process_name", "args": {"name": process}})
    return found


def describe(number: int, name: str) -> str:
    step = steps.get(number)
    return name if step is None else str(step.describe())


def write() -> None:
    """Write the file; a part that an earlier program of this process wrote is kept. Never raises."""
    path = posix.environ[VARIABLE].decode("utf-8", "surrogateescape")
    if path.endswith("/"):
        path += f"{posix.getpid()}.json"
    document: dict[str, Any] = {"traceEvents": events(), "displayTimeUnit": "ms"}
    document["otherData"] = {"command": " ".join(sys.argv[1:])}
    import json

    try:
        if posix.environ.get(BEGUN, b"").endswith(b"more"):
            with open(path) as file:
                document["traceEvents"] = json.load(file)["traceEvents"] + document["traceEvents"]
        with open(path, "w") as file:
            json.dump(document, file)
    except OSError as error:
        sys.stderr.write(f"pyruntime: cannot write the profile {path}: {error.strerror}\n")
