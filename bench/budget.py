"""Where the time of each verb goes: the interpreter, our modules, our rooms, waiting, and the kernel.

The parts come from timelines (`--profile`), each span less what happens inside it, so they add up to the profiled time;
that is longer than the real one, which stands beside it. Processor time comes from the kernel, without any tracing. The
system calls come from strace, whose own cost is in each of them: they show the order, not the amount.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from bench.cases import BARE, INTERPRETER, VERBS, Bench, new_id, until_dead
from bench.measure import ENVIRONMENT, Figures, Results, Series, checked
from bench.runtimes import OURS, Contestant

SHOWN = OURS[1]
CALLS = 6
"""How many system calls of each verb are named."""

# Functions in which the runtime waits for another process. What else waits counts as work of its room.
WAITS = ("container.child.Child.receive", "container.foreground._loop", "container.delete.end")

PARTS = ("interpreter", "modules", "cli", "spec", "plan", "cgroups", "container", "kernel", "waiting")


def budget(bench: Bench) -> Results:
    """The parts of each verb of `pyruntime+seal`, with podman's bundle."""
    runtime = next(one for one in bench.runtimes if one.name == SHOWN)
    trace = bench.work / "trace.json"
    results: Results = {f"budget: {verb}": {} for verb in ("run", *VERBS)}
    for _ in range(bench.rounds):
        for verb, call in Life(bench, runtime).items():
            figures = results[f"budget: {verb}"]
            spent = checked(runtime.argv(*call))
            for name, value in (("wall", spent.wall), ("user cpu", spent.user), ("system cpu", spent.system)):
                _add(figures, f"{name} ms", value)
    for _ in range(max(3, bench.rounds // 2)):
        for verb, call in Life(bench, runtime).items():
            checked(runtime.argv(*call), {**ENVIRONMENT, "PYRUNTIME_PROFILE": str(trace)})
            for name, value in parts_of(trace).items():
                _add(results[f"budget: {verb}"], f"{name} ms", value)
    if shutil.which("strace"):
        for verb, call in Life(bench, runtime).items():
            if verb != "create":  # strace would wait for the container
                for name, value in _calls(bench.work / "strace", runtime.argv(*call)).items():
                    _add(results[f"budget: {verb}"], f"{name}() ms", value)
    floor: Figures = {}
    for _ in range(bench.rounds):
        spent = checked(BARE)
        for name, value in (("wall", spent.wall), ("user cpu", spent.user), ("system cpu", spent.system)):
            _add(floor, f"{name} ms", value)
    return {f"budget: {INTERPRETER}": floor, **results}


class Life:
    """The calls of a container's life, one after the other: the caller carries each out before it asks for the next."""

    def __init__(self, bench: Bench, runtime: Contestant) -> None:
        self.bench = bench
        self.runtime = runtime

    def items(self) -> Any:
        bundle = self.bench.bundles["podman's bundle"]
        sleeper = self.bench.sleeper(bundle)
        pid_file = self.bench.work / "pid"
        one = new_id()
        yield "run", ("run", "--bundle", bundle.path, new_id())
        create = ("create", "--bundle", sleeper.path, "--pid-file", pid_file, one)
        pid_file.unlink(missing_ok=True)
        yield "create", create
        if not pid_file.exists():  # the caller does not want it
            checked(self.runtime.argv(*create))
        yield "start", ("start", one)
        yield "state", ("state", one)
        yield "exec", ("exec", one, "/bin/true")
        yield "kill", ("kill", one, "KILL")
        until_dead(int(pid_file.read_text()))
        yield "delete", ("delete", one)


def _add(figures: Figures, name: str, value: float) -> None:
    figures.setdefault(name, {SHOWN: Series()})[SHOWN].add(value)


def parts_of(path: Path) -> dict[str, float]:
    """The time of the runtime process of a timeline by part, in milliseconds."""
    events = json.loads(path.read_text())["traceEvents"]
    pid = next(event["pid"] for event in events if event["ph"] == "M" and event["args"]["name"] == "runtime")
    spans = sorted(
        (event for event in events if event["ph"] == "X" and event["pid"] == pid),
        key=lambda event: (event["ts"], -event["dur"]),
    )
    parts = dict.fromkeys(PARTS, 0.0)
    around: list[tuple[float, str]] = []  # spans that are open: (their end, their part)
    for event in spans:
        while around and around[-1][0] <= event["ts"]:
            around.pop()
        part = _part(event)
        if around:
            parts[around[-1][1]] -= event["dur"] / 1e3
            if around[-1][1] == "modules":
                part = "modules"  # what a module calls while it is loaded
        parts[part] += event["dur"] / 1e3
        around.append((event["ts"] + event["dur"], part))
    return parts


def _part(event: dict[str, Any]) -> str:
    name = str(event["name"])
    if event["cat"] == "import":
        return "interpreter" if name == "interpreter" else "modules"
    if event["cat"] == "step":
        return "plan"
    if name in WAITS:
        return "waiting"
    room = name.split(".", 1)[0]
    return room if room in PARTS else "kernel"


def _calls(record: Path, argv: list[str]) -> dict[str, float]:
    """The longest system calls of the runtime process: the name, and the milliseconds of all its calls together."""
    command = ["strace", "-f", "-T", "-qq", "-s", "0", "-e", "signal=none", "-o", str(record), *argv]
    null = subprocess.DEVNULL
    subprocess.run(command, stdin=null, stdout=null, stderr=null, check=True, env=dict(ENVIRONMENT), timeout=60)
    lines = record.read_text().splitlines()
    pid = lines[0].split()[0]
    found: dict[str, float] = {}
    for line in lines:
        match = re.match(rf"{pid} +(?:<\.\.\. )?(\w+).*<([\d.]+)>$", line)
        if match:
            found[match[1]] = found.get(match[1], 0.0) + float(match[2]) * 1e3
    return dict(sorted(found.items(), key=lambda item: -item[1])[:CALLS])
