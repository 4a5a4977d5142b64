"""Fixtures of the fault tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults.trial import Change, Room, rich
from support.bundles import Bundle
from support.runtime import Runtime

RoomFactory = Callable[..., Room]


@pytest.fixture
def room(runtime: Runtime, bundle: Callable[..., Bundle], tmp_path: Path) -> Iterator[RoomFactory]:
    """make(args, *changes): a room of containers on a new bundle; they sleep and have something of everything."""
    rooms: list[Room] = []

    def make(args: list[str] | None = None, *changes: Change) -> Room:
        new = Room(runtime, bundle(args or ["sleep", "1000"], *(changes or (rich,))), tmp_path)
        rooms.append(new)
        return new

    yield make
    for one in rooms:
        one.end()
