"""What the container room tells the person at the terminal, beside errors.

The room does not know how log lines look or where they go. The command line sets the two hooks; a program that uses
the room as a library may set its own. They belong to the runtime process: code on the container's side of a fork never
calls them (rule P31 in docs/container-side.md).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def _nobody_listens(message: str) -> None:
    pass


warn: Callable[[str], None] = _nobody_listens
"""Called with one line about something that went wrong and does not stop the verb. Call it as `report.warn(...)`."""

debug: Callable[[str], None] = _nobody_listens
"""Called with one line that explains what is being done; only `--debug` shows it."""

descriptor = -1
"""The descriptor that the log lines go to, to be kept open when all unknown ones are closed; -1 for standard error."""

debugging = False
"""Whether anyone reads the debug lines; ask before building an expensive one."""
