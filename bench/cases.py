"""The benchmarks of verbs. Each measures every runtime once in each round, in turn."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

from support.bundles import Bundle

from bench import bundles
from bench.engines import Engines
from bench.measure import Cost, Figures, Results, Series, checked, cost, peak, start
from bench.runtimes import Contestant

INTERPRETER = "bare interpreter"
"""The series of an interpreter that does nothing, beside those of the runtimes: what each verb of ours starts with."""

BARE = ["/usr/bin/python3", "-I", "-S", "-E", "-B", "-X", "utf8", "-c", "pass"]
VERBS = ("create", "start", "state", "exec", "kill", "delete")
LIFE = ("create", "start", "kill", "delete")

_ids = itertools.count(1)


def new_id() -> str:
    return f"bench-{os.getpid()}-{next(_ids)}"


class Bench:
    """What all cases need: the runtimes, a directory to work in, the bundles, the engines, how often to repeat."""

    def __init__(self, runtimes: list[Contestant], work: Path, engines: Engines, rounds: int, full: bool) -> None:
        self.runtimes = runtimes
        self.work = work
        self.engines = engines
        self.rounds = rounds
        self.full = full
        self.rootfs = bundles.rootfs(work)
        self.plain = bundles.plain(work / "plain", self.rootfs)
        self.bundles = {"plain bundle": self.plain}
        self.sources: dict[str, str] = {}
        for title, name in (("podman's bundle", "podman"), ("containerd's bundle", "ctr")):
            config = engines.configuration(name)
            self.sources[title] = "written by the engine of this machine" if config else "stored in the repository"
            directory = work / f"{name}-bundle"
            self.bundles[title] = bundles.engine(directory, self.rootfs, config or bundles.stored(name))

    def figures(self, *names: str) -> Figures:
        return {name: {runtime.name: Series() for runtime in self.runtimes} for name in names}

    def each(self, rounds: int) -> Iterator[Contestant]:
        """Every runtime in every round, after one call that does not count; the order turns: none is always first."""
        for runtime in self.runtimes:
            cost(runtime.argv("run", "--bundle", self.plain.path, new_id()))
        for number in range(rounds):
            turn = number % len(self.runtimes)
            yield from self.runtimes[turn:] + self.runtimes[:turn]

    def sleeper(self, bundle: Bundle) -> Bundle:
        return bundles.sleeper(bundle, self.work / f"{bundle.path.name}-sleep")


def run(bench: Bench) -> Results:
    """`run` of /bin/true, from start to end, of each bundle; what it takes of processor and memory."""
    results = {f"run, {title}": _run(bench, bundle, bench.rounds) for title, bundle in bench.bundles.items()}
    for title, bundle in bench.bundles.items():
        figures = bench.figures("peak KiB")
        for runtime in bench.each(3):
            figures["peak KiB"][runtime.name].add(peak(runtime.argv("run", "--bundle", bundle.path, new_id())))
        results[f"run, {title}"].update(figures)
    return results


def _run(bench: Bench, bundle: Bundle, rounds: int) -> Figures:
    figures = bench.figures("wall ms", "cpu ms")
    for runtime in bench.each(rounds):
        spent = checked(runtime.argv("run", "--bundle", bundle.path, new_id()))
        figures["wall ms"][runtime.name].add(spent.wall)
        figures["cpu ms"][runtime.name].add(spent.cpu)
    return figures


def verbs(bench: Bench) -> Results:
    """Each verb of a container's life, and the four of an engine together."""
    return {f"verbs, {title}": _verbs(bench, bundle) for title, bundle in bench.bundles.items()}


def _verbs(bench: Bench, bundle: Bundle) -> Figures:
    total = "+".join(LIFE)
    figures = bench.figures(*(f"{name} {unit}" for unit in ("ms", "cpu ms") for name in (*VERBS, total)))
    figures[f"{INTERPRETER} ms"] = {INTERPRETER: Series()}
    sleeper = bench.sleeper(bundle)
    pid_file = bench.work / "pid"
    for runtime in bench.each(bench.rounds):
        container = new_id()
        calls = {
            "create": ("create", "--bundle", sleeper.path, "--pid-file", pid_file, container),
            "start": ("start", container),
            "state": ("state", container),
            "exec": ("exec", container, "/bin/true"),
            "kill": ("kill", container, "KILL"),
            "delete": ("delete", container),
        }
        spent: dict[str, Cost] = {}
        for name in VERBS:
            if name == "delete":
                until_dead(int(pid_file.read_text()))
            spent[name] = checked(runtime.argv(*calls[name]))
            figures[f"{name} ms"][runtime.name].add(spent[name].wall)
            figures[f"{name} cpu ms"][runtime.name].add(spent[name].cpu)
        figures[f"{total} ms"][runtime.name].add(sum(spent[name].wall for name in LIFE))
        figures[f"{total} cpu ms"][runtime.name].add(sum(spent[name].cpu for name in LIFE))
        if runtime is bench.runtimes[-1]:
            figures[f"{INTERPRETER} ms"][INTERPRETER].add(checked(BARE).wall)
    return figures


def until_dead(pid: int) -> None:
    """Wait until the killed init is gone (or a zombie that nobody reaps), so that `delete` need not wait for it."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except OSError:
            return
        time.sleep(0.001)


def batch(bench: Bench) -> Results:
    """A hundred `run`s one after the other, and sixteen at a time: milliseconds for each."""
    figures = bench.figures("in a row ms", "16 at once ms", "16 at once, failed")
    count = 100 if bench.full else 32
    for runtime in bench.each(3 if bench.full else 2):
        command = ("run", "--bundle", bench.plain.path)
        begin = time.perf_counter()
        for _ in range(count):
            checked(runtime.argv(*command, new_id()), pause=0)
        figures["in a row ms"][runtime.name].add((time.perf_counter() - begin) * 1e3 / count)
        begin = time.perf_counter()
        failed = at_once([runtime.argv(*command, new_id()) for _ in range(count)])
        figures["16 at once ms"][runtime.name].add((time.perf_counter() - begin) * 1e3 / count)
        figures["16 at once, failed"][runtime.name].add(len(failed))
        at_once([runtime.argv("delete", "--force", run[-1]) for run in failed])
    return {f"many runs ({count}), plain bundle": figures}


def at_once(commands: list[list[str]]) -> list[list[str]]:
    """Carry out the commands, sixteen at a time. Returns those that have failed: not every runtime is made for this."""
    alive: dict[int, list[str]] = {}
    failed = []
    for command in [*commands, None]:
        while len(alive) >= 16 or (command is None and alive):
            pid, status = os.wait()
            ended = alive.pop(pid, [])
            if status and ended:
                failed.append(ended)
        if command is not None:
            alive[start(command)] = command
    return failed


def engines(bench: Bench) -> Results:
    """`podman run --rm` and `ctr run --rm` of an image, end to end."""
    results = {}
    for name in bench.engines.names():
        figures = bench.figures("wall ms")
        for runtime in bench.runtimes:
            checked(*bench.engines.run(name, runtime.program, new_id()))
        for runtime in bench.each(max(5, bench.rounds // 3)):
            spent = checked(*bench.engines.run(name, runtime.program, new_id()))
            figures["wall ms"][runtime.name].add(spent.wall)
        results[f"{name} run"] = figures
    return results
