"""linux.namespaces: which to make, which to join, and in what order.

One clone3(2) makes the init with all its new namespaces, except:

* cgroup: made by unshare(2) once the init is in its cgroup, because a cgroup namespace is rooted where its maker is;
* time: unshare(2) puts only later children into it, and its offsets must be written before the first of them; so an
  extra process makes it and is gone before the container starts;
* when the user namespace is joined by path, the new ones must be made after joining, to belong to it;
* when it is new and others are joined, these belong to somebody else and must be joined before it is made: in it, we
  have no privilege over them.
"""

from __future__ import annotations

import posix

from pyruntime.errors import RuntimeFailure
from pyruntime.kernel import processes as p
from pyruntime.kernel.libc import path as checked_path
from pyruntime.plan.step import HOST, Place, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.spec.types import Namespace, TimeOffset

KINDS = {
    "user": p.CLONE_NEWUSER, "mount": p.CLONE_NEWNS, "pid": p.CLONE_NEWPID, "network": p.CLONE_NEWNET,
    "ipc": p.CLONE_NEWIPC, "uts": p.CLONE_NEWUTS, "cgroup": p.CLONE_NEWCGROUP, "time": p.CLONE_NEWTIME,
}  # fmt: skip

FILES = {"user": "user", "mount": "mnt", "pid": "pid", "network": "net", "ipc": "ipc", "uts": "uts", "cgroup": "cgroup",
         "time": "time"}  # fmt: skip
"""Names of the files in /proc/PID/ns."""


class Namespaces:
    """What `linux.namespaces` asks for. `new` are CLONE_NEW* bits, `paths` those to join."""

    __slots__ = ("new", "paths", "time_offsets")

    def __init__(self, entries: list[Namespace], offsets: dict[str, TimeOffset]) -> None:
        self.new = 0
        self.paths: dict[str, bytes] = {}
        for entry in entries:
            kind = entry["type"]
            if path := entry.get("path"):
                self.paths[kind] = checked_path(path)
            else:
                self.new |= KINDS[kind]
        self.time_offsets = b"".join(
            b"%s %d %d\n" % (clock.encode(), offset.get("secs", 0), offset.get("nanosecs", 0))
            for clock, offset in offsets.items()
        )

    def has(self, kind: str) -> bool:
        """Whether the container has a namespace of this kind that is not the runtime's own by default."""
        return bool(self.new & KINDS[kind]) or kind in self.paths

    def describe(self) -> str:
        """The namespaces in words."""
        new = [kind for kind, bit in KINDS.items() if self.new & bit]
        words = f"clone the init with new namespaces: {', '.join(new)}" if new else "clone the init"
        if self.paths:
            words += "; join " + ", ".join(f"{kind} of {path.decode()}" for kind, path in self.paths.items())
        return words

    def order(self) -> list[str]:
        """Joined kinds in the order to enter them: the user namespace last but one try, see join_all()."""
        return [kind for kind in ("cgroup", "ipc", "uts", "network", "mount", "time") if kind in self.paths]


class OpenNamespaces(Step):
    """Open the namespaces to join and see that each is of the kind it is listed as."""

    __slots__ = ("descriptors", "paths")
    side = HOST

    def __init__(self, paths: dict[str, bytes]) -> None:
        self.paths = paths
        self.descriptors: dict[str, int] = {}

    def describe(self) -> str:
        return "open the namespaces to join: " + ", ".join(path.decode() for path in self.paths.values())

    def apply(self, place: Place) -> None:
        import fcntl

        for kind, path in self.paths.items():
            # O_NONBLOCK: a FIFO there must not hang us.
            try:
                descriptor = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)
            except OSError as error:
                raise RuntimeFailure(f"cannot open {kind} namespace {path.decode()}: {_lower(error)}") from None
            self.descriptors[kind] = descriptor
            try:
                found = fcntl.ioctl(descriptor, p.NS_GET_NSTYPE)
            except OSError:
                raise RuntimeFailure(f"{path.decode()} is not a namespace (wanted: {kind})") from None
            if found & 0xFFFFFFFF != KINDS[kind]:
                actual = next((name for name, bit in KINDS.items() if bit == found & 0xFFFFFFFF), hex(found))
                raise RuntimeFailure(f"{path.decode()} is a namespace of kind {actual}, not {kind}")


def _lower(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def join_all(descriptors: dict[str, int], order: list[str]) -> None:
    """Enter the opened namespaces (all but pid, which counts for children only).

    Three passes, as a namespace may belong to the user namespace that is joined or to an outer one: everything with
    the privileges we have, then the user namespace, then what was refused before.
    """
    refused = []
    for kind in order:
        try:
            p.setns(descriptors[kind], KINDS[kind])
        except PermissionError:
            if "user" not in descriptors:
                raise
            refused.append(kind)
    if "user" in descriptors:
        p.setns(descriptors["user"], p.CLONE_NEWUSER)
        for kind in refused:
            p.setns(descriptors[kind], KINDS[kind])
