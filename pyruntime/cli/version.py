"""The text of `--version`, in the form that engines take apart."""

from __future__ import annotations

import sys

import pyruntime
from pyruntime.cli.main import PROGRAM


def text() -> str:
    """One item per line. Docker takes the last line that has the word `version`, so no other line may have it."""
    major, minor, micro = sys.version_info[:3]
    return f"{PROGRAM} version {pyruntime.VERSION}\nspec: {pyruntime.SPEC_VERSION}\npython: {major}.{minor}.{micro}\n"
