"""The benchmarks. Each is a generator of rounds: one round measures every runtime once, in turn."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from support.bundles import Bundle

from bench import bundles
from bench.measure import Cost, Series, checked, cost, peak, start
from bench.runtimes import Contestant

Figures = dict[str, dict[str, Series]]
"""What is measured (`wall ms`) -> the runtime's name -> its series."""

_ids = itertools.count(1)


def new_id() -> str:
    return f"bench-{os.getpid()}-{next(_ids)}"


class Bench:
    """What all cases need: the runtimes, a directory to work in, the bundles, how often to repeat."""

    def __init__(self, runtimes: list[Contestant], work: Path, rounds: int, full: bool) -> None:
        self.runtimes = runtimes
        self.work = work
        self.rounds = rounds
        self.full = full
        self.rootfs = bundles.rootfs(work)
        self.plain = bundles.plain(work / "plain", self.rootfs)
        self.engine = bundles.engine(work / "engine", self.rootfs)

    def figures(self, *names: str) -> Figures:
        return {name: {runtime.name: Series() for runtime in self.runtimes} for name in names}

    def each(self, rounds: int | None = None) -> Iterator[Contestant]:
        """Every runtime in every round, after one call that does not count; the order turns: none is always first."""
        for runtime in self.runtimes:
            cost(runtime.argv("run", "--bundle", self.plain.path, new_id()))
        for number in range(self.rounds if rounds is None else rounds):
            turn = number % len(self.runtimes)
            yield from self.runtimes[turn:] + self.runtimes[:turn]

    def sleeper(self, bundle: Bundle) -> Bundle:
        """The same bundle, with a program that waits to be killed."""
        config = json.loads(json.dumps(bundle.config))
        config["process"]["args"] = ["/bin/sleep", "1000"]
        path = self.work / f"{bundle.path.name}-sleep"
        path.mkdir(exist_ok=True)
        return Bundle(path, config)


def run(bench: Bench, bundle: Bundle) -> Figures:
    """`run` of /bin/true, from start to end."""
    figures = bench.figures("wall ms", "cpu ms", "peak KiB")
    for runtime in bench.each():
        spent = checked(runtime.argv("run", "--bundle", bundle.path, new_id()))
        figures["wall ms"][runtime.name].add(spent.wall)
        figures["cpu ms"][runtime.name].add(spent.cpu)
    for runtime in bench.each(3):
        figures["peak KiB"][runtime.name].add(peak(runtime.argv("run", "--bundle", bundle.path, new_id())))
    return figures


def verbs(bench: Bench, bundle: Bundle) -> Figures:
    """Each verb of a container's life, and the four of an engine together."""
    names = ("create", "start", "state", "exec", "kill", "delete")
    total = "create+start+kill+delete"
    figures = bench.figures(*(f"{name} {unit}" for name in (*names, total) for unit in ("ms", "cpu ms")))
    sleeper = bench.sleeper(bundle)
    for runtime in bench.each():
        container = new_id()
        calls = {
            "create": ("create", "--bundle", sleeper.path, container),
            "start": ("start", container),
            "state": ("state", container),
            "exec": ("exec", container, "/bin/true"),
            "kill": ("kill", container, "KILL"),
            "delete": ("delete", container),
        }
        spent: dict[str, Cost] = {}
        for name, words in calls.items():
            if name == "delete":
                _until_stopped(runtime, container)
            spent[name] = checked(runtime.argv(*words))
            figures[f"{name} ms"][runtime.name].add(spent[name].wall)
            figures[f"{name} cpu ms"][runtime.name].add(spent[name].cpu)
        life = [spent[name] for name in ("create", "start", "kill", "delete")]
        figures[f"{total} ms"][runtime.name].add(sum(one.wall for one in life))
        figures[f"{total} cpu ms"][runtime.name].add(sum(one.cpu for one in life))
    return figures


def _until_stopped(runtime: Contestant, container: str) -> None:
    """Wait until the killed init is gone, so that `delete` need not wait for it."""
    deadline = time.monotonic() + 10
    document = json.loads(os.popen(" ".join(runtime.argv("state", container))).read() or "{}")
    while document.get("pid") and os.path.exists(f"/proc/{document['pid']}") and time.monotonic() < deadline:
        if _is_zombie(document["pid"]):
            break
        time.sleep(0.001)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def batch(bench: Bench, bundle: Bundle) -> Figures:
    """A hundred `run`s one after the other, and sixteen at a time: milliseconds for each."""
    figures = bench.figures("in a row ms", "16 at once ms")
    count = 100 if bench.full else 32
    for runtime in bench.each(3 if bench.full else 2):
        begin = time.perf_counter()
        for _ in range(count):
            checked(runtime.argv("run", "--bundle", bundle.path, new_id()))
        figures["in a row ms"][runtime.name].add((time.perf_counter() - begin) * 1e3 / count)
        begin = time.perf_counter()
        alive: set[int] = set()
        for _ in range(count):
            while len(alive) >= 16:
                _reap(alive, runtime)
            alive.add(start(runtime.argv("run", "--bundle", bundle.path, new_id())))
        while alive:
            _reap(alive, runtime)
        figures["16 at once ms"][runtime.name].add((time.perf_counter() - begin) * 1e3 / count)
    return figures


def _reap(alive: set[int], runtime: Contestant) -> None:
    pid, status = os.wait()
    alive.discard(pid)
    if status:
        raise RuntimeError(f"{runtime.name}: a parallel run failed")


def memory(bench: Bench, bundle: Bundle) -> Figures:
    """The smallest memory limit under which the container starts, and what a created one holds (its PSS)."""
    figures = bench.figures("smallest limit KiB", "created KiB")
    sleeper = bench.sleeper(bundle)
    for runtime in bench.each(1):
        figures["smallest limit KiB"][runtime.name].add(_smallest_limit(bench, bundle, runtime))
        container = new_id()
        checked(runtime.argv("create", "--bundle", sleeper.path, container))
        try:
            pid = json.loads(os.popen(" ".join(runtime.argv("state", container))).read())["pid"]
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            figures["created KiB"][runtime.name].add(float(rollup.split("Pss:")[1].split()[0]))
        finally:
            cost(runtime.argv("delete", "--force", container))
    return figures


def _smallest_limit(bench: Bench, bundle: Bundle, runtime: Contestant) -> float:
    """By halving; a limit counts when three starts in a row succeed."""
    low, high = 64, 32768
    path = bench.work / "limited"
    path.mkdir(exist_ok=True)
    config = json.loads(json.dumps(bundle.config))
    while high - low > 64:
        middle = (low + high) // 2
        config["linux"].setdefault("resources", {})["memory"] = {"limit": middle * 1024}
        limited = Bundle(path, config)
        works = all(cost(_timed(runtime.argv("run", "--bundle", limited.path, new_id()))).status == 0 for _ in range(3))
        low, high = (low, middle) if works else (middle, high)
    return high


def _timed(argv: list[str]) -> list[str]:
    """With a time limit: a starved runtime may hang."""
    return ["/usr/bin/timeout", "--kill-after=1", "10", *argv]


def mounts(bench: Bench) -> dict[str, Figures]:
    """`run` with 1 to 500 bind mounts more."""
    result = {}
    source = bench.work / "source"
    source.mkdir(exist_ok=True)
    for count in (1, 10, 100, 500):

        def add(config: bundles.Config, count: int = count) -> None:
            config["root"]["readonly"] = False
            for number in range(count):
                options = ["rbind", "ro"]
                one = {"destination": f"/tmp/m{number}", "type": "bind", "source": str(source), "options": options}
                config["mounts"].append(one)

        bundle = bundles.plain(bench.work / f"mounts{count}", bench.rootfs, add)
        saved, bench.rounds = bench.rounds, max(3, bench.rounds // 4)
        result[f"{count} mounts"] = {"wall ms": run(bench, bundle)["wall ms"]}
        bench.rounds = saved
    return result


def containers(bench: Bench) -> dict[str, Figures]:
    """`run` and `state` beside 1 to 1,000 created containers in the same state directory."""
    result = {}
    sleeper = bench.sleeper(bench.plain)
    made: dict[str, list[str]] = {runtime.name: [] for runtime in bench.runtimes}
    rounds = max(3, bench.rounds // 4)
    try:
        for count in (1, 10, 100, 1000) if bench.full else (1, 10, 100):
            for runtime in bench.runtimes:
                while len(made[runtime.name]) < count:
                    container = new_id()
                    checked(runtime.argv("create", "--bundle", sleeper.path, container))
                    made[runtime.name].append(container)
            figures = bench.figures("run ms", "state ms")
            for runtime in bench.each(rounds):
                spent = checked(runtime.argv("run", "--bundle", bench.plain.path, new_id()))
                figures["run ms"][runtime.name].add(spent.wall)
                spent = checked(runtime.argv("state", made[runtime.name][0]))
                figures["state ms"][runtime.name].add(spent.wall)
            result[f"{count} containers"] = figures
    finally:
        for runtime in bench.runtimes:
            for container in made[runtime.name]:
                cost(runtime.argv("delete", "--force", container))
    return result


CASES: dict[str, Callable[[Bench], dict[str, Figures]]] = {
    "run": lambda bench: {
        "run, plain bundle": run(bench, bench.plain),
        "run, engine's bundle": run(bench, bench.engine),
    },
    "verbs": lambda bench: {
        "verbs, plain bundle": verbs(bench, bench.plain),
        "verbs, engine's bundle": verbs(bench, bench.engine),
    },
    "batch": lambda bench: {"many runs, plain bundle": batch(bench, bench.plain)},
    "memory": lambda bench: {
        "memory, plain bundle": memory(bench, bench.plain),
        "memory, engine's bundle": memory(bench, bench.engine),
    },
    "mounts": mounts,
    "containers": containers,
}
