"""One fault, one container: run a verb with a fault in it, and see what is left."""

from __future__ import annotations

import concurrent.futures
import errno
import json
import os
import queue
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
from support.bundles import Bundle, Config
from support.container import Container
from support.runtime import Result, Runtime

TRACER = Path(__file__).with_name("tracer.py")
EVERYTHING = os.environ.get("FAULTS") == "all"
"""Go through all faults and not only through a sample."""

traced_here = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the tracer knows the registers of x86-64 only")

WORKERS = 4
Call = tuple[str, str]
BARE = re.compile(r'msg="(?:[a-z ]+ failed: )?([^":]+)"')
WORDS = {os.strerror(number).lower() for number in errno.errorcode}
SETTLE = 3.0  # seconds that processes get to notice that their runtime is gone, and the kernel to take them down


class Fault:
    """What happens to whom, at which of its calls. Actions: see tracer.py."""

    def __init__(self, role: str, action: str, index: int, call: Call = ("", "")) -> None:
        self.role, self.action, self.index, self.call = role, action, index, call

    def __repr__(self) -> str:
        return f"{self.action} {self.role} at {self.index}: {self.call[0]}({self.call[1]})"


NONE = Fault("runtime", "record", 0)


class Traced:
    """A runtime whose every verb runs under the tracer."""

    def __init__(self, runtime: Runtime, directory: Path) -> None:
        self.runtime = runtime
        self.report = directory / "trace.json"
        self.calls: dict[str, list[Call]] = {}
        self.hit: Call | None = None

    def __call__(self, fault: Fault, markers: Sequence[str | Path], *words: str | Path, timeout: float = 20) -> Result:
        """Run a verb with the fault. Afterwards `calls` says what was called and `hit` where the fault was."""
        self.report.unlink(missing_ok=True)
        options = [
            self.report,
            fault.role,
            fault.action,
            f"{fault.index}:{fault.call[0]}",
            ",".join(map(str, markers)),
            "--",
        ]
        program = [sys.executable, "-I", "-S", str(TRACER), *map(str, options), *self.runtime.program]
        result = Runtime(program, self.runtime.root, self.runtime.flags)(*words, timeout=timeout)
        assert self.report.exists(), f"the tracer failed: {result}"
        document = json.loads(self.report.read_text())
        self.calls = {role: [(name, text) for name, text in calls] for role, calls in document["calls"].items()}
        self.hit = tuple(document["hit"]) if document["hit"] else None
        return result


only_all = pytest.mark.skipif(not EVERYTHING, reason="takes long: set FAULTS=all")


def sample(faults: Iterable[Fault], every: int) -> list[Fault]:
    """All of them, or each `every`-th in the usual run: always the same ones."""
    chosen = list(faults)
    return chosen if EVERYTHING else chosen[every // 2 :: every]


def left_behind(container: Container, timeout: float = SETTLE) -> list[str]:
    """What is left of a container that should be gone: also temporary files in the state directory."""
    deadline = time.monotonic() + timeout
    while True:
        found = container.leaks()
        found += [f"file {path}" for path in strangers(container.runtime.root)]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.01)


def strangers(root: Path) -> list[Path]:
    """What lies in a state root without being a container or the directory of compiled filters."""
    try:
        return [path for path in root.iterdir() if path.name != ".filters" and not (path / "state.json").exists()]
    except FileNotFoundError:
        return []


def complaints(result: Result, statuses: Sequence[int] = (1,)) -> list[str]:
    """What is wrong with how a verb failed: the status, no or more than one error, a traceback."""
    wrong = []
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if "level=error" in line]
    if result.status not in statuses:
        wrong.append(f"exit status {result.status}")
    if len(errors) != 1:
        wrong.append(f"{len(errors)} lines of error")
    if "Traceback" in result.output or "internal error" in result.output or 'File "' in result.output:
        wrong.append("a failure of ours and not of the system")
    if any((found := BARE.search(line)) and found[1] in WORDS for line in errors):
        wrong.append("says nothing about what failed")
    if [line for line in lines if "level=" not in line]:
        wrong.append("lines that are no log lines")
    return [f"{', '.join(wrong)}: {result.stderr.strip()[:500]!r}"] if wrong else []


def after_a_kill(container: Container) -> list[str]:
    """`state`, `list` and `delete --force` of a container whose runtime was killed, and what is left after them."""
    wrong = []
    state = container.runtime("state", container.id, timeout=15)
    if state.status == 0:
        document = state.json()
        if document["status"] not in ("creating", "created", "running", "paused", "stopped"):
            wrong.append(f"state: {document}")
    elif "does not exist" not in state.stderr:
        wrong.append(f"state: {state.stderr.strip()}")
    listing = container.runtime("list", timeout=15)
    if listing.status != 0:
        wrong.append(f"list: {listing.stderr.strip()}")
    deleted = container.runtime("delete", "--force", container.id, timeout=30)
    if deleted.status != 0:
        wrong.append(f"delete --force: {deleted.stderr.strip()}")
    return wrong + left_behind(container)


class Room:
    """Makes containers on one bundle, one after the other, in a state directory of its own."""

    def __init__(self, runtime: Runtime, bundle: Bundle, directory: Path) -> None:
        self.runtime, self.bundle, self.directory = runtime, bundle, directory
        self.traced = Traced(runtime, directory)
        self.made: list[Container] = []
        self.others: list[Room] = []

    def beside(self) -> Room:
        """Another room, for another thread."""
        directory = self.directory / f"beside{len(self.others)}"
        directory.mkdir()
        runtime = Runtime(self.runtime.program, directory / "state", self.runtime.flags)
        self.others.append(Room(runtime, self.bundle, directory))
        return self.others[-1]

    def warm(self) -> None:
        """Have what is made once per state directory: the directory, compiled filters."""
        one = self.new()
        one.create().ok()
        one.delete("--force").ok()

    def new(self) -> Container:
        self.made.append(Container(self.runtime, self.bundle))
        return self.made[-1]

    def created(self) -> Container:
        one = self.new()
        one.create().ok()
        return one

    def running(self) -> Container:
        one = self.created()
        one.start().ok()
        return one

    def end(self) -> None:
        for other in self.others:
            other.end()
        for one in self.made:
            if left_behind(one, 0):
                one.remove()


def each(room: Room, faults: Sequence[Fault], attempt: Callable[[Room, Fault], list[str]]) -> list[str]:
    """What is wrong after each of the faults, a few tried at a time: most of the time goes by in waiting."""
    rooms: queue.SimpleQueue[Room] = queue.SimpleQueue()
    workers = min(WORKERS, 1 + len(faults) // 4)
    for _ in range(workers):
        beside = room.beside()
        beside.warm()
        rooms.put(beside)

    missed = []

    def one(fault: Fault) -> list[str]:
        here = rooms.get()
        try:
            found = [f"{fault} {here.traced.hit}: {thing}" for thing in attempt(here, fault)]
            if here.traced.hit is None:
                missed.append(fault)
            return found
        except Exception as error:
            return [f"{fault}: {error!r}"]
        finally:
            rooms.put(here)

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        failures = [line for lines in pool.map(one, faults) for line in lines]
    # One life may have a call or two less than the one that was recorded. Without a fault it is to succeed, no more.
    if len(missed) > 1 + len(faults) // 10:
        failures.append(f"of {len(faults)} faults {len(missed)} never came: {missed}")
    return failures


def rich(config: Config) -> None:
    """A configuration with something of everything that is set up: limits, a filter, ids, devices, a bind mount."""
    linux = config["linux"]
    linux["namespaces"].append({"type": "cgroup"})
    linux["resources"].update(memory={"limit": 1 << 27}, pids={"limit": 100}, cpu={"shares": 512})
    rules = [{"names": ["add_key", "keyctl", "ptrace"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]
    linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}
    linux["sysctl"] = {"net.ipv4.ip_forward": "0"}
    linux["devices"] = [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666}]
    config["process"]["oomScoreAdj"] = 100
    config["process"]["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [2000]}
    binding = {"destination": "/etc/hosts", "type": "bind", "source": "/etc/hosts", "options": ["rbind", "ro"]}
    config["mounts"].append(binding)


Change = Callable[[Config], object]
