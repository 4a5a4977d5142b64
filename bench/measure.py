"""Start a program, wait for it, and say what it cost."""

from __future__ import annotations

import ctypes
import os
import statistics
import time
from collections.abc import Sequence

PR_SET_CHILD_SUBREAPER = 36  # prctl(2)

_NULL_IN = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
_NULL_OUT = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)


class Cost:
    """What one call of a program cost, in milliseconds, and its exit status."""

    __slots__ = ("cpu", "status", "wall")

    def __init__(self, wall: float, cpu: float, status: int) -> None:
        self.wall = wall
        self.cpu = cpu
        self.status = status


def start(argv: Sequence[str], errors: int = _NULL_OUT) -> int:
    """Start a program with null streams and the environment that engines give, and return its process id."""
    streams = [
        (os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in enumerate((_NULL_IN, _NULL_OUT, errors))
    ]
    return os.posix_spawn(argv[0], list(argv), {"PATH": os.defpath}, file_actions=streams)


def cost(argv: Sequence[str]) -> Cost:
    """Run a program to its end. The CPU time is its own and that of the children it waited for."""
    begin = time.perf_counter()
    pid = start(argv)
    _, status, usage = os.wait4(pid, 0)
    wall = (time.perf_counter() - begin) * 1e3
    return Cost(wall, (usage.ru_utime + usage.ru_stime) * 1e3, os.waitstatus_to_exitcode(status))


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


def checked(argv: Sequence[str]) -> Cost:
    """Like `cost`, for calls that must succeed. Raises RuntimeError with what the program said."""
    result = cost(argv)
    if result.status:
        import subprocess

        again = subprocess.run(list(argv), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        raise RuntimeError(f"{' '.join(argv)}: exit status {result.status}: {(again.stderr or again.stdout).strip()}")
    return result


class Series:
    """The figures of one runtime in one benchmark, one per round."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def add(self, value: float) -> None:
        self.values.append(value)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def quartiles(self) -> tuple[float, float]:
        if len(self.values) < 2:
            return self.values[0], self.values[0]
        low, _, high = statistics.quantiles(self.values, n=4)
        return low, high

    def ratio(self, base: Series) -> tuple[float, float, float]:
        """How many times the figure of `base`: the ratio of the medians, and the quartiles of the rounds' own ratios.

        The rounds are interleaved, so that a disturbance of the machine meets both runtimes of a round.
        """
        ratios = [mine / theirs for mine, theirs in zip(self.values, base.values, strict=False) if theirs]
        if len(ratios) < 2 or not base.median:
            value = self.median / base.median if base.median else float("nan")
            return value, value, value
        low, _, high = statistics.quantiles(ratios, n=4)
        return self.median / base.median, low, high
