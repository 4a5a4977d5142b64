"""User and group mappings of a user namespace: written by the runtime, from outside. See user_namespaces(7)."""

from __future__ import annotations

import posix

from pyruntime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.spec.types import IdMapping

MAX_EXTENTS = 340  # UID_GID_MAP_MAX_EXTENTS


def lines(mappings: list[IdMapping]) -> bytes:
    """The mappings as uid_map and gid_map take them, in one write."""
    return b"".join(b"%d %d %d\n" % (one["containerID"], one["hostID"], one["size"]) for one in mappings)


def write_mappings(pid: int, uids: list[IdMapping], gids: list[IdMapping], privileged: bool) -> None:
    """Give the user namespace of process `pid` its mappings.

    A privileged caller writes the files itself; anybody else is helped by newuidmap(1) and newgidmap(1), or maps just
    its own id. Raises RuntimeFailure.
    """
    if privileged:
        _write(pid, "uid_map", lines(uids))
        _write(pid, "gid_map", lines(gids))
        return
    from pyruntime.container.rootless import map_unprivileged

    map_unprivileged(pid, uids, gids)


def _write(pid: int, name: str, text: bytes) -> None:
    try:
        descriptor = posix.open(f"/proc/{pid}/{name}", posix.O_WRONLY | posix.O_CLOEXEC)
        try:
            posix.write(descriptor, text)
        finally:
            posix.close(descriptor)
    except OSError as error:
        hint = f": more than {MAX_EXTENTS} mappings, or ranges that overlap" if error.errno == 22 else ""
        raise RuntimeFailure(
            f"cannot write {name} of the user namespace: {(error.strerror or '').lower()}{hint}"
        ) from None


class MappedNamespace:
    """A user namespace that exists only to carry the mappings of an id-mapped mount."""

    __slots__ = ("_descriptor", "_gids", "_uids")

    def __init__(self, uids: list[IdMapping], gids: list[IdMapping]) -> None:
        self._uids = uids
        self._gids = gids
        self._descriptor = -1

    def descriptor(self) -> int:
        """The namespace, open; made at the first call, with the help of a process that ends at once."""
        if self._descriptor >= 0:
            return self._descriptor
        from pyruntime.kernel.processes import CLONE_NEWUSER, clone

        wait, release = posix.pipe2(posix.O_CLOEXEC)
        pid = clone(CLONE_NEWUSER)
        if pid == 0:
            posix.close(release)
            posix.read(wait, 1)
            posix._exit(0)
        try:
            _write(pid, "uid_map", lines(self._uids))
            _write(pid, "gid_map", lines(self._gids))
            self._descriptor = posix.open(f"/proc/{pid}/ns/user", posix.O_RDONLY | posix.O_CLOEXEC)
        finally:
            posix.close(wait)
            posix.close(release)
            posix.waitpid(pid, 0)
        return self._descriptor
