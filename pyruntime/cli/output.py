"""Writing results to standard output.

Straight to descriptor 1 and unbuffered: nothing is left to flush when the interpreter ends, so a closed or read-only
standard output can never turn a success into a failure afterwards.
"""

from __future__ import annotations

import posix

from pyruntime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

STDOUT = 1


class OutputClosed(Exception):
    """The reader of standard output has gone (`pyruntime list | head -1`): there is nobody left to tell."""


def write(text: str) -> None:
    """Write all of `text`. Raises OutputClosed, or RuntimeFailure when the output cannot take it (a full disk)."""
    data = text.encode("utf-8", "backslashreplace")
    try:
        while data:
            data = data[posix.write(STDOUT, data) :]
    except BrokenPipeError:
        raise OutputClosed from None
    except OSError as error:
        _failed(error)


def _failed(error: OSError) -> NoReturn:
    raise RuntimeFailure(f"write to standard output: {(error.strerror or '').lower()}") from None
