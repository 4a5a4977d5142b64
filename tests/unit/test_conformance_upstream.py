"""Reading the output of validation programs, and what the suite knows about them."""

from __future__ import annotations

import pytest

from conformance.upstream import programs, tap


@pytest.mark.parametrize(
    ("output", "status", "verdict"),
    [
        ("TAP version 13\nok 1 - a\nok 2 - b # SKIP not here\n1..2\n", 0, "clean"),
        ("TAP version 13\nok 1 - a\nnot ok 2 - b\n1..2\n", 0, "failed"),
        ("TAP version 13\nok 1 - a\n1..1\nTAP version 13\nnot ok 1 - b\n1..1\n", 0, "failed"),
        ("TAP version 13\nok 1 - a\n1..1\n", 1, "failed"),
        ("TAP version 13\n1..0\n", 0, "silent"),
        ('TAP version 13\n1..0\n  ---\n  {\n    "error": "hook came late"\n  }\n  ...\n', 0, "complaint"),
        ("", 1, "aborted"),
        ("TAP version 13\nok 1 - a\n", None, "timeout"),
        ("<nil>\nokay then\nTAP version 13\nok 1 - a\n1..1\n", 0, "clean"),
    ],
)
def test_verdict(output: str, status: int | None, verdict: str) -> None:
    """Lines, error fields and the exit status decide; plans do not."""
    assert tap.read(output, "", status).verdict == verdict


def test_counts_and_reason() -> None:
    """Skipped assertions count as held and are counted; the reason names what failed, or the end of standard error."""
    reading = tap.read("ok 1 - a # SKIP x\nok 2 - b\nnot ok 3 - this one\n", "noise", 0)
    assert (reading.ok, reading.skipped, reading.not_ok, reading.reason) == (2, 1, 1, "3 - this one")
    assert "went wrong" in tap.read("", "it\nwent  wrong\n", 2).reason


def test_programs_that_share_a_cgroup_are_not_run_side_by_side() -> None:
    """Every program about cgroups belongs to the group that runs one after the other."""
    table = programs.known()
    assert len(table) == 58
    assert all(row.group == "cgroup" for name, row in table.items() if "cgroups" in name)
    assert all(row.best for row in table.values())
