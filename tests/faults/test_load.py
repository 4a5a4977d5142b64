"""The parts of `make soak` with small numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import soak
from faults.trial import EVERYTHING


@pytest.fixture
def place(program: str, tmp_path: Path) -> Iterator[soak.Place]:
    here = soak.Place(tmp_path / "soak", program)
    yield here
    here.remove_all()


def check(figures: soak.Figures) -> None:
    assert not figures["errors"], figures
    assert not figures["left"], figures


def test_in_a_row(place: soak.Place) -> None:
    check(soak.in_a_row(place, 100 if EVERYTHING else 15))


def test_alive_at_once(place: soak.Place) -> None:
    check(soak.alive_at_once(place, 50 if EVERYTHING else 12))


def test_racing_for_one_id(place: soak.Place) -> None:
    check(soak.racing_for_one_id(place, 3 if EVERYTHING else 1))


def test_verbs_at_once(place: soak.Place) -> None:
    check(soak.verbs_at_once(place, 10 if EVERYTHING else 2, seed=7))
