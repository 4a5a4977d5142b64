"""Signals that tell the runtime to end while it sets a container up: what was begun is undone first."""

from __future__ import annotations

import _signal

from pyruntime.errors import RuntimeFailure
from pyruntime.kernel import processes as p


class Interrupted(RuntimeFailure):
    """The runtime was told to end while it was setting a container up."""


def raise_them() -> None:
    """Have signals that end us undo what we have begun first."""
    for number in p.ENDING:
        if _signal.getsignal(number) != _signal.SIG_IGN:  # nohup(1), or a background job: the caller knows better
            _signal.signal(number, _interrupt)


def ignore() -> None:
    """From here on we are cleaning up, and that is not to be left half done."""
    for number in p.ENDING:
        _signal.signal(number, _signal.SIG_IGN)


def _interrupt(number: int, _frame: object) -> None:
    raise Interrupted(f"interrupted by signal {number}", 128 + number)


def hold() -> None:
    """Let signals that end us wait until they are allowed again."""
    _signal.pthread_sigmask(_signal.SIG_BLOCK, p.ENDING)


def allow() -> None:
    """Have signals that end us raise Interrupted, one that waits at once."""
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, p.ENDING)
