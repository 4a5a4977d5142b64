"""What a plan is made of.

A step is one act of setting a container up. Planning makes steps from the checked spec with every path, flag and
number already in the form the kernel takes; applying a step makes the kernel calls and nothing else. Steps that run in
the container's init obey the container-side rules (docs/security.md): no import, no name lookup, no codec, no
formatting while they run, which is why everything is computed in `__init__`.
"""

from __future__ import annotations

HOST = "host"
"""The step is applied by the runtime process, before the init exists or while it waits."""

INIT = "init"
"""The step is applied by the container's init, inside its new namespaces."""


class Place:
    """Where steps are applied: the descriptors and facts that come into being while the container is set up.

    One object per process that applies steps; -1 means "not there (yet)".
    """

    __slots__ = ("bundle", "cgroup", "console", "dev", "proc", "rootfs", "sources", "sync")

    def __init__(self) -> None:
        self.rootfs = -1  # O_PATH descriptor of the container's root directory
        self.proc = -1  # a private procfs that the container never sees (fsmount), for every access to /proc
        self.dev = -1  # O_PATH descriptor of /dev of the container, once it is mounted
        self.bundle = -1  # O_PATH descriptor of the bundle directory
        self.console = -1  # master side of the container's terminal
        self.sync = -1  # socket between init and the runtime
        self.cgroup = -1
        self.sources: dict[int, int] = {}  # index of a mount in the spec -> detached mount (open_tree) of its source


class Step:
    """One act. Subclasses set `side` and implement `describe` and `apply`."""

    __slots__ = ()

    side = INIT

    def describe(self) -> str:
        """One line that a person understands, as `pyruntime plan` prints it and as an error quotes it."""
        raise AssertionError(f"{type(self).__name__} does not describe itself")

    def apply(self, place: Place) -> None:
        """Do it. Raises OSError as the kernel gives it; the caller names the step."""
        raise AssertionError(f"{type(self).__name__} does nothing")
