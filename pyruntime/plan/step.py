"""What a plan is made of.

A step is one act of setting a container up. Planning makes steps from the checked spec with every path, flag and
number already in the form the kernel takes; applying a step makes the kernel calls and nothing else. Steps that run in
the container's init obey the rules of docs/container-side.md: no import, no name lookup, no codec, no
formatting while they run, which is why everything is computed in `__init__`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

HOST = "host"
"""The step is applied by the runtime process, before the init exists or while it waits."""

INIT = "init"
"""The step is applied by the container's init, inside its new namespaces."""


class Place:
    """Where steps are applied: the descriptors that come into being while the container is set up.

    One object for the runtime and (copied by the clone) the init; -1 means "not there (yet)".
    """

    __slots__ = ("channel", "console", "gate", "proc", "result", "rootfs", "sources")

    def __init__(self) -> None:
        self.rootfs = -1  # the container's root directory: a detached mount, later attached
        self.proc = -1  # a private procfs that the container never sees (fsmount), for every access to /proc
        self.console = -1  # master side of the container's terminal
        self.gate = -1  # what the init waits on for `start`: a FIFO, or -1 to wait on the channel
        self.result = -1  # a FIFO by which a failed startContainer hook reaches `start`
        self.channel: socket | None = None  # to the runtime process (in the init), to the init (in the runtime)
        self.sources: dict[int, int] = {}  # index of a mount in the spec -> detached mount (open_tree) of its source


class Step:
    """One act. Subclasses implement `describe` and `apply`; `side` says who applies it."""

    __slots__ = ()

    side = INIT

    def describe(self) -> str:
        """One line that a person understands, as `pyruntime plan` prints it and as an error quotes it."""
        raise AssertionError(f"{type(self).__name__} does not describe itself")

    def failure(self) -> str:
        """How an error message names the step; where people know a phrase from other runtimes, that phrase."""
        return self.describe()

    def explain(self, _errno: int) -> str:
        """What to say about a failure with this errno beyond the kernel's words, "" for nothing."""
        return ""

    def apply(self, place: Place) -> None:
        """Do it. Raises OSError as the kernel gives it; the caller names the step."""
        raise AssertionError(f"{type(self).__name__} does nothing")
