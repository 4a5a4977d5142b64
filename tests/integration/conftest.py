"""Fixtures of the tests on real containers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.mountinfo import HostMounts


@pytest.fixture
def host_mounts() -> Iterator[HostMounts]:
    """Makes mounts on the host and takes them away after the test."""
    made = HostMounts()
    yield made
    made.close()
