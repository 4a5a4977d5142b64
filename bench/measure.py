"""Start a program, wait for it, and say what it cost."""

from __future__ import annotations

import ctypes
import os
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence

PR_SET_CHILD_SUBREAPER = 36  # prctl(2)

# What engines give a runtime, or less.
ENVIRONMENT: Mapping[str, str] = {"PATH": os.defpath}

# Before each measured call, seconds. On cgroup v1 whoever moves a process first makes the kernel wait for a grace
# period of RCU, and who comes within some milliseconds after that does not wait: without a pause a runtime would be
# measured by who had its turn before it. The case `batch`, about containers that start back to back, goes without.
PAUSE = 0.03

_NULL_IN = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
_NULL_OUT = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)


class Cost:
    """What one call of a program cost, in milliseconds, and its exit status. The CPU time is the program's own and
    that of the children it waited for."""

    __slots__ = ("status", "system", "user", "wall")

    def __init__(self, wall: float, user: float, system: float, status: int) -> None:
        self.wall = wall
        self.user = user
        self.system = system
        self.status = status

    @property
    def cpu(self) -> float:
        return self.user + self.system


def start(argv: Sequence[str], environment: Mapping[str, str] = ENVIRONMENT) -> int:
    """Start a program with null streams, and return its process id."""
    streams = [
        (os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in enumerate((_NULL_IN, _NULL_OUT, _NULL_OUT))
    ]
    return os.posix_spawn(argv[0], list(argv), environment, file_actions=streams)


def cost(argv: Sequence[str], environment: Mapping[str, str] = ENVIRONMENT) -> Cost:
    """Run a program to its end."""
    begin = time.perf_counter()
    pid = start(argv, environment)
    _, status, usage = os.wait4(pid, 0)
    wall = (time.perf_counter() - begin) * 1e3
    return Cost(wall, usage.ru_utime * 1e3, usage.ru_stime * 1e3, os.waitstatus_to_exitcode(status))


def checked(argv: Sequence[str], environment: Mapping[str, str] = ENVIRONMENT, pause: float = PAUSE) -> Cost:
    """Like `cost`, after a pause, for calls that must succeed. Raises RuntimeError with what the program says when
    asked again."""
    time.sleep(pause)
    result = cost(argv, environment)
    if result.status:
        again = subprocess.run(
            list(argv), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=environment
        )
        raise RuntimeError(f"{' '.join(argv)}: exit status {result.status}: {(again.stderr or again.stdout).strip()}")
    return result


def peak(argv: Sequence[str]) -> int:
    """The largest resident set, in KiB, of a program and the children it waited for.

    The kernel counts from before the exec: a child of this process would never show less than this process has. So a
    shell starts the program and ends, and the orphan comes to this process, which is a subreaper.
    """
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    shell = start(["/bin/sh", "-c", '"$@" &', "sh", *argv])
    os.waitpid(shell, 0)
    _, _, usage = os.wait4(-1, 0)
    return usage.ru_maxrss


class Series:
    """The figures of one runtime in one benchmark, one per round."""

    def __init__(self, values: list[float] | None = None) -> None:
        self.values: list[float] = values or []

    def add(self, value: float) -> None:
        self.values.append(value)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def quartiles(self) -> tuple[float, float]:
        return _quartiles(self.values)

    def ratio(self, base: Series) -> tuple[float, float, float]:
        """How many times the figure of `base`: the ratio of the medians, and the quartiles of the rounds' own ratios.

        The rounds are interleaved, so that a disturbance of the machine meets both runtimes of a round.
        """
        ratios = [mine / theirs for mine, theirs in zip(self.values, base.values, strict=False) if theirs]
        if not ratios or not base.median:
            return float("nan"), float("nan"), float("nan")
        return (self.median / base.median, *_quartiles(ratios))


def _quartiles(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


Figures = dict[str, dict[str, Series]]
"""What is measured (`wall ms`) -> the runtime's name -> its series."""

Results = dict[str, Figures]
"""The title of a benchmark -> its figures. A benchmark of one size is called `mounts: 100`."""
