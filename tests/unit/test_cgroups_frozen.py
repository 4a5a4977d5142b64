"""Whether a container counts as paused, by the files of its freezer."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pyruntime.cgroups.frozen import is_frozen


@pytest.mark.parametrize(
    ("state", "asked_here", "paused"),
    [
        ("THAWED", "0", False),
        ("FROZEN", "1", True),
        ("FROZEN", "0", False),  # by a cgroup above
        ("FREEZING", "1", True),  # for ever: a process hangs in the kernel
        ("FREEZING", "0", False),
    ],
)
def test_the_freezer_of_v1(tmp_path: Path, state: str, asked_here: str, paused: bool) -> None:
    (tmp_path / "freezer.state").write_text(state + "\n")
    (tmp_path / "freezer.self_freezing").write_text(asked_here + "\n")
    begun = time.monotonic()
    assert is_frozen({"freezer": str(tmp_path), "pids": "/nowhere"}) is paused
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(("content", "paused"), [("1\n", True), ("0\n", False)])
def test_the_file_of_v2(tmp_path: Path, content: str, paused: bool) -> None:
    (tmp_path / "cgroup.freeze").write_text(content)
    assert is_frozen({"": str(tmp_path)}) is paused


@pytest.mark.parametrize("paths", [{}, {"": ""}, {"": "/nowhere"}, {"freezer": "/nowhere"}, {"pids": "/nowhere"}])
def test_no_cgroup_is_not_frozen(paths: dict[str, str]) -> None:
    assert not is_frozen(paths)
