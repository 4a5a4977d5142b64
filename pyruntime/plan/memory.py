"""Starting in very little memory."""

from __future__ import annotations

from pyruntime.kernel.libc import NR, syscall
from pyruntime.plan.lifecycle import HELD
from pyruntime.plan.step import Place, Step

MCL_CURRENT = 1
_MLOCKALL = NR["mlockall"]


class HoldMemory(Step):
    """Have all of our memory before the limit counts it.

    The process shares its pages with the runtime until it writes to them, and a copy is charged to the cgroup that the
    process is in by then: some 400 KiB on the way to execve. So it copies everything first of all, by mlockall(2), and
    the runtime moves it only then: that costs the runtime's cgroup some MiB until the program is executed.
    """

    __slots__ = ()

    def describe(self) -> str:
        return "take the memory that is still needed, before there is a limit"

    def apply(self, place: Place) -> None:
        try:
            syscall(_MLOCKALL, MCL_CURRENT)
        except OSError:
            pass  # RLIMIT_MEMLOCK: then it is as it is
        assert place.channel is not None
        place.channel.send(HELD)
