"""Reading what a validation program printed.

Its TAP is too irregular for a TAP parser: plans of 1..0, two documents in one output, JSON in YAML blocks, stray words.
What counts are the `ok` and `not ok` lines, `error` fields, and the exit status.
"""

from __future__ import annotations

import re
from typing import NamedTuple

LINE = re.compile(r"^(not ok|ok)\b(.*)$", re.MULTILINE)
ERROR = re.compile(r'^\s*"?error"?:\s*(.+)$', re.MULTILINE)


class Reading(NamedTuple):
    """What a program said: the verdict, how many assertions held, were skipped, did not hold, and why it is not clean.

    Verdicts: `clean` (asserted something, all of it held, exit status 0), `silent` (asserts nothing and does not
    complain), `complaint` (asserts nothing in TAP but reports an error), `failed`, `aborted` (ended before it
    asserted anything), `timeout`.
    """

    verdict: str
    ok: int
    skipped: int
    not_ok: int
    reason: str


def read(output: str, error: str, status: int | None) -> Reading:
    """Judge a program by its output, its standard error and its exit status (None: it was stopped)."""
    lines = LINE.findall(output)
    good = [rest for word, rest in lines if word == "ok"]
    bad = [rest.strip(" -\t") for word, rest in lines if word == "not ok"]
    skipped = sum("# SKIP" in rest for rest in good)
    told = last_words(error)
    if status is None:
        return Reading("timeout", len(good), skipped, len(bad), f"did not end in time; {told}")
    if bad:
        return Reading("failed", len(good), skipped, len(bad), "; ".join(bad)[:300])
    if status != 0:
        return Reading("failed" if good else "aborted", len(good), skipped, 0, f"exit status {status}: {told}")
    if good:
        return Reading("clean", len(good), skipped, 0, "")
    complaints = ERROR.findall(output)
    if complaints:
        return Reading("complaint", 0, 0, 0, complaints[0].strip().strip('",')[:300])
    return Reading("silent", 0, 0, 0, "")


def last_words(error: str) -> str:
    """The end of standard error on one line."""
    return " ".join(error.split())[-300:] or "no message"
