"""The benchmarks of size: memory, and what it costs when there is more of something."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from support.bundles import Bundle

from bench import bundles
from bench.cases import Bench, at_once, new_id
from bench.measure import Results, checked, cost
from bench.runtimes import Contestant

STEP = 64  # KiB; the precision of the smallest memory limit

# The limits of getrlimit(2), which any process may lower.
LIMITS = (
    "AS", "CORE", "CPU", "DATA", "FSIZE", "LOCKS", "MEMLOCK", "MSGQUEUE", "NICE", "NOFILE", "NPROC", "RSS", "RTPRIO",
    "RTTIME", "SIGPENDING", "STACK",
)  # fmt: skip


def memory(bench: Bench) -> Results:
    """The smallest memory limit under which the container starts, and what a created one holds (its PSS)."""
    results = {}
    for title, bundle in bench.bundles.items():
        figures = bench.figures("smallest limit KiB", "created KiB")
        sleeper = bench.sleeper(bundle)
        pid_file = bench.work / "pid"
        for runtime in bench.each(1):
            figures["smallest limit KiB"][runtime.name].add(_smallest_limit(bench, bundle, runtime))
            container = new_id()
            checked(runtime.argv("create", "--bundle", sleeper.path, "--pid-file", pid_file, container))
            try:
                rollup = Path(f"/proc/{pid_file.read_text()}/smaps_rollup").read_text()
                figures["created KiB"][runtime.name].add(float(rollup.split("Pss:")[1].split()[0]))
            finally:
                cost(runtime.argv("delete", "--force", container))
        results[f"memory, {title}"] = figures
    return results


def _smallest_limit(bench: Bench, bundle: Bundle, runtime: Contestant) -> float:
    """By halving; a limit counts when three starts in a row succeed."""
    low, high = 64, 32768
    path = bench.work / "limited"
    path.mkdir(exist_ok=True)
    config = json.loads(json.dumps(bundle.config))
    while high - low > STEP:
        middle = (low + high) // 2
        config["linux"].setdefault("resources", {})["memory"] = {"limit": middle * 1024}
        limited = Bundle(path, config)
        works = all(_starts(runtime, limited) for _ in range(3))
        low, high = (low, middle) if works else (middle, high)
    return high


def _starts(runtime: Contestant, bundle: Bundle) -> bool:
    """With a time limit: a starved runtime may hang. What it leaves behind then is removed."""
    container = new_id()
    command = ["/usr/bin/timeout", "--kill-after=1", "5"]
    if cost([*command, *runtime.argv("run", "--bundle", bundle.path, container)]).status == 0:
        return True
    cost([*command, *runtime.argv("delete", "--force", container)])
    return False


class Growing:
    """`run` of the plain bundle with more and more of something in its configuration."""

    def __init__(self, what: str, sizes: tuple[int, ...], grow: Callable[..., None]) -> None:
        self.what = what
        self.sizes = sizes
        self.grow = grow

    def __call__(self, bench: Bench) -> Results:
        made = {}
        for size in self.sizes:
            directory = bench.work / f"{self.what.replace(' ', '-')}{size}"
            made[size] = bundles.plain(directory, bench.rootfs, partial(self.grow, size=size, bench=bench))
        results = {f"{self.what}: {size}": bench.figures("run ms") for size in self.sizes}
        for runtime in bench.each(max(3, bench.rounds // 4)):
            for size, bundle in made.items():
                spent = checked(runtime.argv("run", "--bundle", bundle.path, new_id()))
                results[f"{self.what}: {size}"]["run ms"][runtime.name].add(spent.wall)
        return results


def _mounts(config: bundles.Config, size: int, bench: Bench) -> None:
    source = bench.work / "source"
    source.mkdir(exist_ok=True)
    for number in range(size):
        target = bench.rootfs / "tmp" / f"m{number}"
        target.mkdir(exist_ok=True)
        one = {"destination": f"/tmp/m{number}", "type": "bind", "source": str(source), "options": ["rbind", "ro"]}
        config["mounts"].append(one)


def _rlimits(config: bundles.Config, size: int, bench: Bench) -> None:
    import resource

    config["process"]["rlimits"] = []
    for name in LIMITS[:size]:
        number = getattr(resource, f"RLIMIT_{name}", None)
        soft, hard = resource.getrlimit(number) if number is not None else (0, 0)
        unlimited = (1 << 64) - 1
        one = {
            "type": f"RLIMIT_{name}",
            "soft": unlimited if soft < 0 else soft,
            "hard": unlimited if hard < 0 else hard,
        }
        config["process"]["rlimits"].append(one)


def _rules(config: bundles.Config, size: int, bench: Bench) -> None:
    """Rules with a condition, which cannot be merged into one; they forbid what nobody does."""
    rules = []
    for number in range(size):
        condition = {"index": 1 + number // 200 % 5, "value": 1_000_000 + number, "op": "SCMP_CMP_EQ"}
        name = ("ioctl", "fcntl", "prctl", "socket", "personality")[number % 5]
        rules.append({"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": [condition]})
    config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}


mounts = Growing("mounts", (1, 10, 100, 500), _mounts)
rlimits = Growing("rlimits", (1, 4, 16), _rlimits)
rules = Growing("seccomp rules", (1, 10, 100, 1000), _rules)


def containers(bench: Bench) -> Results:
    """`run` and `state` beside 1 to 1,000 running containers in the same state directory.

    One runtime after the other: five thousand containers at a time would measure the kernel. So these figures compare
    a runtime with itself.
    """
    sizes = (1, 10, 100, 1000) if bench.full else (1, 10, 100)
    results = {f"containers: {size}": bench.figures("run ms", "state ms") for size in sizes}
    sleeper = bench.sleeper(bench.plain)
    for runtime in bench.runtimes:
        made: list[str] = []
        try:
            for size in sizes:
                new = [new_id() for _ in range(size - len(made))]
                made += new
                failed = at_once([runtime.argv("run", "--detach", "--bundle", sleeper.path, one) for one in new])
                for command in failed:
                    cost(runtime.argv("delete", "--force", command[-1]))
                    checked(command)
                for number in range(max(3, bench.rounds // 4) + 1):
                    ran = checked(runtime.argv("run", "--bundle", bench.plain.path, new_id()))
                    asked = checked(runtime.argv("state", made[0]))
                    if number:  # the first one does not count
                        results[f"containers: {size}"]["run ms"][runtime.name].add(ran.wall)
                        results[f"containers: {size}"]["state ms"][runtime.name].add(asked.wall)
        finally:
            at_once([runtime.argv("delete", "--force", one) for one in made])
    return results
