"""Making and removing what a container has in the state root."""

from __future__ import annotations

import os
import posix
from pathlib import Path

import pytest

from pyruntime.container import directories


def test_two_creates_make_the_root_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one comes first wherever there is a chance."""
    root = tmp_path / "a" / "b"
    real = posix.mkdir

    def late(path: str, mode: int) -> None:
        if path == str(root) and root.parent.exists() and not root.exists():
            real(path, mode)
        real(path, mode)

    monkeypatch.setattr(posix, "mkdir", late)
    directories.claim(str(root), "web")
    assert (root / "web").is_dir()


def test_a_file_with_the_longest_name_there_is(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    directories.write_file(str(path), b"1")
    assert path.read_bytes() == b"1" and os.listdir(tmp_path) == [path.name]


def test_a_file_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        directories.write_file(f"{tmp_path}/none/pid", b"1")
    assert caught.value.filename == f"cannot write {tmp_path}/none/pid"
