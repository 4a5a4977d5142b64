"""process.rlimits and process.oomScoreAdj. See prlimit(2) and proc(5).

Limits are set by the container's process itself, last, when nothing of ours can stumble over them any more. But by
then it has dropped CAP_SYS_RESOURCE, and in a user namespace it never had it. So the runtime process raises the hard
limits of the waiting process first (`raise_hard_limits`), which disturbs nobody.
"""

from __future__ import annotations

import posix
from errno import EACCES, EPERM

from pyruntime.errors import RuntimeFailure, SpecError
from pyruntime.kernel.limits import INFINITY, NUMBERS, get_limit, pack_limit, set_limit
from pyruntime.plan.step import Place, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


LITTLE_MEMORY = 4 << 20
"""Bytes of linux.resources.memory.limit that the last steps of our own could exceed."""


def has_little_memory(linux: Any) -> bool:
    """Whether plan/memory.py has to help the container to start."""
    limit: Any = ((linux.get("resources") or {}).get("memory") or {}).get("limit") or 0
    return bool(0 < limit < LITTLE_MEMORY)


def in_words(value: int) -> str:
    return "unlimited" if value == INFINITY else str(value)


def _why(error: OSError) -> str:
    return posix.strerror(error.errno or 0).lower()


class SetLimit(Step):
    """One resource limit of the container's process."""

    __slots__ = ("_limit", "hard", "name", "resource", "soft")

    def __init__(self, name: str, soft: int, hard: int) -> None:
        self.name = name
        self.resource = NUMBERS[name]
        self.soft = soft
        self.hard = hard
        self._limit = pack_limit(soft, hard)

    def describe(self) -> str:
        return f"limit {self.name} to {in_words(self.soft)}, at most {in_words(self.hard)}"

    def explain(self, errno: int) -> str:
        return "raising a hard limit needs CAP_SYS_RESOURCE" if errno == EPERM else ""

    def apply(self, place: Place) -> None:
        set_limit(0, self.resource, self._limit)


def limit_steps(rlimits: list[dict[str, Any]]) -> list[SetLimit]:
    """The steps for process.rlimits. Raises SpecError for an unknown or repeated type, or soft above hard."""
    steps = []
    seen = set()
    for index, entry in enumerate(rlimits):
        path = f"process.rlimits[{index}]"
        name, soft, hard = entry["type"], entry["soft"], entry["hard"]
        if name not in NUMBERS:
            raise SpecError(f"{path}.type", f"{name!r} is not a resource limit of this kernel")
        if name in seen:
            raise SpecError(f"{path}.type", f"{name} is given twice")
        if soft > hard:
            raise SpecError(f"{path}.soft", f"{in_words(soft)} is above the hard limit, {in_words(hard)}")
        seen.add(name)
        steps.append(SetLimit(name, soft, hard))
    return steps


def raise_hard_limits(pid: int, limits: list[SetLimit]) -> None:
    """In the runtime process: let `pid` reach the hard limits that `limits` will set. Raises RuntimeFailure."""
    for limit in limits:
        soft, hard = get_limit(pid, limit.resource)
        if limit.hard <= hard:
            continue
        try:
            set_limit(pid, limit.resource, pack_limit(soft, limit.hard))
        except OSError as error:
            hint = "; raising a hard limit needs CAP_SYS_RESOURCE in the first user namespace"
            raise RuntimeFailure(
                f"process.rlimits: cannot raise the hard limit of {limit.name} from {in_words(hard)} to "
                f"{in_words(limit.hard)}: {_why(error)}{hint if error.errno == EPERM else ''}"
            ) from None


def write_oom_score(process: int, value: int) -> None:
    """In the runtime process: set oom_score_adj of the process whose /proc directory is open as `process`.

    Before it becomes non-dumpable, for then its files in /proc belong to root. Raises RuntimeFailure.
    """
    try:
        descriptor = posix.open("oom_score_adj", posix.O_WRONLY | posix.O_CLOEXEC, dir_fd=process)
        try:
            posix.write(descriptor, b"%d" % value)
        finally:
            posix.close(descriptor)
    except OSError as error:
        hint = "; going below the inherited value needs CAP_SYS_RESOURCE" if error.errno in (EACCES, EPERM) else ""
        raise RuntimeFailure(f"process.oomScoreAdj: cannot set {value}: {_why(error)}{hint}") from None
