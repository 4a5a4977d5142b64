"""The runtime with a protection taken out: an attack that is repelled shows nothing until it is seen to succeed.

`@without("kernel/paths.py", code)` on a test in tests/attacks makes it run twice: with the runtime as it is, and with a
copy of it to whose module that code was appended. The fixture `protected` tells the two apart.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent

import pytest

from support.runtime import REPOSITORY

Change = tuple[str, str]

# What no container needs, or what another version of Python wrote.
_LEFT_OUT = shutil.ignore_patterns("schemas", "image", "network", "*.cpython-312*", "*.cpython-313*", ".hot*")


def without(*changes: str) -> pytest.MarkDecorator:
    """module, code, module, code ...: what is appended to which module below pyruntime/."""
    mark: pytest.MarkDecorator = pytest.mark.without(list(zip(changes[::2], changes[1::2], strict=True)))
    return mark


def weaken(directory: Path, changes: Sequence[Change]) -> Path:
    """Copy the runtime to `directory`, append code to its modules, and return the launcher of the copy.

    The originals' times are kept, so that everything that is not changed still comes from the compiled file.
    """
    shutil.copytree(REPOSITORY / "pyruntime", directory / "pyruntime", ignore=_LEFT_OUT)
    (directory / "bin").mkdir()
    launcher = directory / "bin" / "pyruntime"
    shutil.copy(REPOSITORY / "bin" / "pyruntime", launcher)
    for module, code in changes:
        with (directory / "pyruntime" / module).open("r+") as file:  # it must be there
            file.seek(0, os.SEEK_END)
            file.write("\n\n" + dedent(code).strip() + "\n")
    return launcher
