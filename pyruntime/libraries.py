"""Where third-party libraries are, for the few verbs that use one.

The interpreter starts without `site`, which would read every .pth file on every start and execute what it says. The
directories are added here when a module is asked for that neither the standard library nor this package has, and only
those that nobody but root or the caller can write to.
"""

from __future__ import annotations

import os
import stat
import sys


def add_to_path() -> None:
    """Append the site-packages of this installation, of a checkout's .venv, of the interpreter and of Debian."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    beside = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for directory in (
        beside,
        f"{beside}/.venv/lib/{version}/site-packages",
        f"{sys.prefix}/lib/{version}/site-packages",
        f"/usr/local/lib/{version}/dist-packages",
        "/usr/lib/python3/dist-packages",
    ):
        if directory not in sys.path and _is_trusted(directory):
            sys.path.append(directory)
    # The stand-in that the launcher has put there knows the name `annotations` alone.
    if "__future__" in sys.modules and sys.modules["__future__"].__spec__ is None:
        del sys.modules["__future__"]


def _is_trusted(directory: str) -> bool:
    try:
        status = os.stat(directory)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid in (0, os.geteuid()) and not status.st_mode & 0o022
