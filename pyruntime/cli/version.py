"""The text of `--version`, in the form that engines take apart."""

from __future__ import annotations

import sys
from pathlib import Path

import pyruntime
from pyruntime.cli.main import PROGRAM


def text(program: str = PROGRAM) -> str:
    """One item per line. Docker takes the last line that has the word `version`, so no other line may have it, and
    what follows `commit: `. `program` is the name we go by."""
    major, minor, micro = sys.version_info[:3]
    return (
        f"{program} version {pyruntime.VERSION}\ncommit: {commit()}\nspec: {pyruntime.SPEC_VERSION}\n"
        f"python: {major}.{minor}.{micro}\n"
    )


def commit(repository: Path | None = None) -> str:
    """What a checkout stands on; the tag of the version for everything that was installed."""
    git = (repository or Path(pyruntime.__file__).resolve().parent.parent) / ".git"
    try:
        head = (git / "HEAD").read_text(encoding="ascii").strip()
        name = head.removeprefix("ref: ")
        if name == head:
            return head
        if (git / name).is_file():
            return (git / name).read_text(encoding="ascii").strip()
        for line in (git / "packed-refs").read_text(encoding="ascii").split("\n"):
            if line.endswith(f" {name}"):
                return line.partition(" ")[0]
    except (OSError, ValueError):
        pass  # installed, or a checkout that is being changed
    return f"v{pyruntime.VERSION}"
