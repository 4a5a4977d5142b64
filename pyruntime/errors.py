"""The failures that people and engines see.

Every failure that is the user's or the host's (and not a bug of ours) is raised as one of these; the CLI turns it
into one log line and an exit status. The text is one line: what failed, on which step and path, why, what to do.
"""

from __future__ import annotations

TOO_OLD = "; Linux 5.12 or newer is needed, and no seccomp filter around the runtime that hides its system calls"
"""What to add to ENOSYS."""


class RuntimeFailure(Exception):
    """A verb cannot be carried out. `str()` is the one-line message; `status` the exit status of the program."""

    status = 1

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class SpecError(RuntimeFailure):
    """The configuration is wrong. `path` names the field (`linux.resources.memory.limit`), `reason` says why."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.path = path
        self.reason = reason
