"""The mappings of a user namespace for which the configuration has none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyruntime.container import own_mappings
from pyruntime.spec import load


def ranges(inside: int, own: int, subordinate: tuple[int, int] | None) -> list[tuple[int, int, int]]:
    found = own_mappings.around(inside, own, subordinate)
    return [(one["containerID"], one["hostID"], one["size"]) for one in found]


@pytest.mark.parametrize(
    ("inside", "subordinate", "expected"),
    [
        (0, None, [(0, 7, 1)]),
        (1000, None, [(0, 7, 1)]),
        (0, (100000, 10), [(0, 7, 1), (1, 100000, 10)]),
        (3, (100000, 10), [(0, 100000, 3), (3, 7, 1), (4, 100003, 7)]),
        (10, (100000, 10), [(0, 100000, 10), (10, 7, 1)]),
        (1000, (100000, 10), [(0, 100000, 10), (1000, 7, 1)]),
        (0xFFFFFFFE, (1000, 10), [(0, 1000, 10), (0xFFFFFFFE, 7, 1)]),
        (0, (1, 0xFFFFFFFE), [(0, 7, 1), (1, 1, 0xFFFFFFFE)]),
    ],
)
def test_the_caller_and_its_range(
    inside: int, subordinate: tuple[int, int] | None, expected: list[tuple[int, int, int]]
) -> None:
    assert ranges(inside, 7, subordinate) == expected


@pytest.mark.parametrize("subordinate", [None, (100000, 65536), (1, 1)])
@pytest.mark.parametrize("inside", [0, 1, 1000, 65536, 70000])
def test_they_are_mappings_that_a_configuration_may_have(inside: int, subordinate: tuple[int, int] | None) -> None:
    found = own_mappings.around(inside, 0, subordinate)
    document = {
        "ociVersion": "1.3.0",
        "root": {"path": "rootfs"},
        "linux": {"namespaces": [{"type": "user"}], "uidMappings": found, "gidMappings": found},
    }
    assert load.problems(document) == []


def test_the_range_of_this_user(tmp_path: Path) -> None:
    file = tmp_path / "subuid"
    uid = os.geteuid()
    file.write_text(f"nobody-else:5:5\nbroken\n{uid}:x:5\n{uid}:300000:0\n{uid}:200000:1000\n{uid}:400000:1000\n")
    assert own_mappings.granted(str(file)) == (200000, 1000)
    file.write_text("somebody:100000:65536\n")
    assert own_mappings.granted(str(file)) is None
    assert own_mappings.granted(str(tmp_path / "missing")) is None
