"""The same tests run on v1, on v2, and on the cgroup2 of a hybrid host."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.cgroups import NATIVE, Place, hosts


@pytest.fixture(params=hosts())
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """On every kind of hierarchy that this host has."""
    one = Place(request.param, request.node.name.split("[")[0])
    yield one
    one.clean()


@pytest.fixture
def native(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Where the controllers are."""
    one = Place(NATIVE, request.node.name.split("[")[0])
    yield one
    one.clean()
