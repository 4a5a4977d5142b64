"""How a case ends: it returns (passed), or raises one of the two exceptions here."""

from __future__ import annotations

from typing import NamedTuple, NoReturn


class Failed(AssertionError):
    """The runtime does not do what the requirement says; the message says what was seen instead."""


class Skipped(Exception):
    """The case cannot be judged on this host or with this runtime; the message says why."""


class Outcome(NamedTuple):
    """The verdict on one case: `passed`, `failed` or `skipped`, the reason (empty if passed), the time in seconds."""

    verdict: str
    reason: str
    seconds: float


def fail(reason: str) -> NoReturn:
    """End the case as failed."""
    raise Failed(reason)


def skip(reason: str) -> NoReturn:
    """End the case as skipped."""
    raise Skipped(reason)


def require(condition: object, reason: str) -> None:
    """Fail with `reason` unless `condition` holds."""
    if not condition:
        raise Failed(reason)


def equal(seen: object, wanted: object, what: str) -> None:
    """Fail unless `seen == wanted`."""
    if seen != wanted:
        raise Failed(f"{what}: expected {wanted!r}, saw {seen!r}")
