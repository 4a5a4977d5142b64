"""Many containers: in a row, at once, racing, and ill-treated by many verbs at a time; no error and no leak.

    python -m tests.faults.soak [--seconds N] [--row N] [--alive N] [--program PROGRAM]

prints a table of figures and leaves with 1 if anything went wrong. The tests run the same parts with small numbers.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

from support.bundles import Bundle, default_config, find_busybox, make_busybox_rootfs  # noqa: E402
from support.container import Container  # noqa: E402
from support.runtime import Result, Runtime  # noqa: E402

Figures = dict[str, object]
PROGRAM = str(REPOSITORY / "bin" / "pyruntime")
WORKERS = 8

# What one of two verbs that meet on a container may say: that the other one was first.
TOO_LATE = (
    "does not exist", "not running", "stopped container", "is not stopped", "has stopped", "already running",
    "already exists", "is gone", "still being created", "container init died", "killed by signal", "paused",
    "no such file or directory", "no such process", "not paused",
)  # fmt: skip


class Host:
    """What containers leave traces in, counted. Of processes and namespaces only ours: the machine has others."""

    def __init__(self, here: Place) -> None:
        self.here = here

    def count(self) -> Counter[str]:
        """Everything that is left of this place's containers, by kind."""
        found: Counter[str] = Counter()
        prefix = self.here.prefix
        for directory in Path("/proc").iterdir():
            if directory.name.isdigit() and self._ours(directory):
                found["processes"] += 1
        for mount, names in self._cgroups():
            found["cgroups"] += sum(prefix in name for name in names) if mount else 0
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        found["mounts"] = sum(str(self.here.directory) in line or prefix in line for line in lines)
        root = self.here.runtime.root
        found["files"] = sum(1 for path in root.rglob("*") if ".filters" not in path.parts) if root.exists() else 0
        return found

    def _ours(self, directory: Path) -> bool:
        try:
            return self.here.prefix.encode() in (directory / "cmdline").read_bytes() or str(self.here.directory) in str(
                (directory / "root").readlink()
            )
        except OSError:
            return False

    @staticmethod
    def _cgroups() -> Iterator[tuple[str, list[str]]]:
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            if after.startswith(("cgroup ", "cgroup2 ")):
                for directory, names, _ in os.walk(before.split()[4]):
                    yield directory, names


def memory() -> int:
    """Kibibytes that the kernel holds for objects of its own (slab that is not reclaimable), for a trend."""
    text = Path("/proc/meminfo").read_text()
    return int(text.partition("SUnreclaim:")[2].split()[0])


class Place:
    """A bundle and a state directory, and containers whose ids start with `prefix`."""

    def __init__(self, directory: Path, program: str = PROGRAM) -> None:
        self.directory = directory
        self.prefix = f"soak-{os.getpid()}-{os.urandom(3).hex()}"
        self.runtime = Runtime(program, directory / "state")
        busybox = find_busybox()
        assert busybox is not None, "needs a static busybox: apt-get install busybox-static"
        bundle = directory / "bundle"
        bundle.mkdir(parents=True)
        make_busybox_rootfs(bundle / "rootfs", busybox)
        config = default_config(["sleep", "1000"])
        config["linux"]["resources"].update(memory={"limit": 1 << 27}, pids={"limit": 200})
        self.bundle = Bundle(bundle, config)
        short = directory / "short"
        short.mkdir()
        config = default_config(["true"])
        config["root"]["path"] = str(bundle / "rootfs")
        self.short = Bundle(short, config)
        self.numbers = iter(range(1 << 30))

    def new(self, bundle: Bundle | None = None) -> Container:
        return Container(self.runtime, bundle or self.bundle, f"{self.prefix}-{next(self.numbers)}")

    def remove_all(self) -> None:
        for path in self.runtime.root.glob(f"{self.prefix}*"):
            self.runtime("delete", "--force", path.name)


def leftovers(place: Place) -> Counter[str]:
    """What is left, after the kernel had a few seconds to take down what has ended."""
    host = Host(place)
    deadline = time.monotonic() + 5
    while (found := +host.count()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def in_a_row(place: Place, count: int) -> Figures:
    """`run` to the end, one after the other."""
    errors: list[str] = []
    before, begin = memory(), time.monotonic()
    times: list[float] = []
    for _ in range(count):
        one = time.monotonic()
        result = place.new(place.short).run()
        times.append(time.monotonic() - one)
        if result.status or result.output:
            errors.append(repr(result))
    times.sort()
    return {
        "containers": count, "seconds": round(time.monotonic() - begin, 1),
        "median ms": round(times[len(times) // 2] * 1000, 1), "99 % ms": round(times[int(len(times) * 0.99)] * 1000, 1),
        "kernel memory KiB": memory() - before, "errors": errors, "left": leftovers(place),
    }  # fmt: skip


def alive_at_once(place: Place, count: int) -> Figures:
    """Create and start them, a few at a time; ask all, exec in all; delete all."""
    errors: list[str] = []
    ones = [place.new() for _ in range(count)]

    def all_of(what: str, act: Callable[[Container], Result]) -> float:
        begin = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
            errors.extend(f"{what}: {result}" for result in pool.map(act, ones) if result.status)
        return round(time.monotonic() - begin, 1)

    figures: Figures = {"containers": count}
    figures["create s"] = all_of("create", lambda one: one.create())
    figures["start s"] = all_of("start", lambda one: one.start())
    listed = place.runtime("list", "--format", "json").ok().json()
    running = sum(entry["status"] == "running" for entry in listed)
    if running != count:
        errors.append(f"{running} are running")
    figures["exec s"] = all_of("exec", lambda one: one.exec("true"))
    figures["delete s"] = all_of("delete", lambda one: one.delete("--force"))
    return {**figures, "errors": errors, "left": leftovers(place)}


def racing_for_one_id(place: Place, rounds: int, racers: int = 32) -> Figures:
    """Creates of one id at once: one wins, the others say why, and leave what the winner made."""
    errors: list[str] = []
    begin = time.monotonic()
    for _ in range(rounds):
        one = place.new()
        with concurrent.futures.ThreadPoolExecutor(racers) as pool:
            results = list(pool.map(Container.create, [one] * racers))
        winners = [result for result in results if result.status == 0]
        if len(winners) != 1:
            errors.append(f"{len(winners)} won: {results}")
        errors += [repr(r) for r in results if r.status and "container with given ID already exists" not in r.stderr]
        if one.status != "created":
            errors.append(f"the winner's container is {one.status}")
        for result in (one.start(), one.exec("true"), one.delete("--force")):
            if result.status:
                errors.append(repr(result))
    seconds = round(time.monotonic() - begin, 1)
    return {"rounds": rounds, "racers": racers, "seconds": seconds, "errors": errors, "left": leftovers(place)}


def verbs_at_once(place: Place, rounds: int, seed: int) -> Figures:
    """exec, kill, pause, resume, update, state, list and delete of one container at the same time."""
    errors: list[str] = []
    dice = random.Random(seed)
    begin = time.monotonic()
    calls: Counter[str] = Counter()
    for _ in range(rounds):
        one = place.new()
        for result in (one.create(), one.start()):
            if result.status:
                errors.append(repr(result))
        lines = [
            *[["exec", one.id, "true"]] * 4, ["state", one.id], ["list"], ["ps", one.id], ["pause", one.id],
            ["resume", one.id], ["update", "--pids-limit", "150", one.id], ["events", "--stats", one.id],
            ["kill", one.id, "CONT"], ["kill", one.id, "KILL"], ["delete", "--force", one.id], ["delete", one.id],
        ]  # fmt: skip
        dice.shuffle(lines)

        def late(words: list[str], wait: float) -> tuple[list[str], Result]:
            # What ends the container comes a little later, or there would be little for the others to meet.
            time.sleep(wait + 0.06 * (words[0] == "delete" or words[-1] == "KILL"))
            return words, place.runtime(*words)

        with concurrent.futures.ThreadPoolExecutor(len(lines)) as pool:
            done = list(pool.map(late, lines, [dice.random() * 0.08 for _ in lines]))
        for words, result in done:
            calls["failed" if result.status else "succeeded"] += 1
            bad = result.status and not any(reason in result.stderr.lower() for reason in TOO_LATE)
            if bad and words[0] == "exec" and result.status in (128 + 9, 255) and not result.stderr:
                bad = False  # it ran, and was killed
            if bad or "Traceback" in result.output or "internal error" in result.output:
                errors.append(f"{words}: {result}")
        place.runtime("resume", one.id)
        last = one.delete("--force")
        if last.status:
            errors.append(repr(last))
    seconds = round(time.monotonic() - begin, 1)
    return {"rounds": rounds, "seconds": seconds, **calls, "seed": seed, "errors": errors, "left": leftovers(place)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--row", type=int, default=1000, metavar="N", help="containers in a row")
    parser.add_argument("--alive", type=int, default=100, metavar="N", help="containers alive at once")
    parser.add_argument("--races", type=int, default=5, metavar="N", help="rounds of 32 creates of one id")
    parser.add_argument("--verbs", type=int, default=20, metavar="N", help="rounds of many verbs on one container")
    parser.add_argument("--seconds", type=float, default=0, metavar="N", help="go on with all of it for so long")
    parser.add_argument("--program", default=PROGRAM, help="the runtime (default: this checkout's)")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="pyruntime-soak-"))
    place = Place(directory, options.program)
    end = time.monotonic() + options.seconds
    bad = False
    seed = random.randrange(1 << 30)
    try:
        while True:
            parts: dict[str, Callable[[], Figures]] = {
                "in a row": lambda: in_a_row(place, options.row),
                "alive at once": lambda: alive_at_once(place, options.alive),
                "racing for one id": lambda: racing_for_one_id(place, options.races),
                "verbs at once": lambda seed=seed: verbs_at_once(place, options.verbs, seed),  # type: ignore[misc]
            }
            for name, part in parts.items():
                figures = part()
                errors, left = figures.pop("errors"), figures.pop("left")
                assert isinstance(errors, list) and isinstance(left, Counter)
                shown = ", ".join(f"{key} {value}" for key, value in figures.items())
                print(f"{name}: {shown}, errors {len(errors)}, left {dict(left)}", flush=True)
                for error in errors[:5]:
                    print(f"  {error}", flush=True)
                bad = bad or bool(errors or left)
            seed += 1
            if time.monotonic() >= end:
                return int(bad)
    finally:
        place.remove_all()
        subprocess.run(["umount", "--recursive", directory], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
