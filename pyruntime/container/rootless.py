"""Id mappings for a user namespace that an ordinary user has made. See newuidmap(1), subuid(5), user_namespaces(7)."""

from __future__ import annotations

import os

from pyruntime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.spec.types import IdMapping

# Engines may start us without PATH.
DIRECTORIES = ("/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/local/sbin")


def map_unprivileged(pid: int, uids: list[IdMapping], gids: list[IdMapping]) -> None:
    """Write the mappings of process `pid`. Raises RuntimeFailure.

    A mapping of just our own id the kernel allows us to write ourselves, once setgroups(2) is denied in the namespace.
    Anything else needs the set-uid programs of the uidmap package, which look into /etc/subuid and /etc/subgid.
    """
    if _only(uids, os.geteuid()):
        _write(pid, "uid_map", uids)
    else:
        _help("newuidmap", pid, uids)
    if _only(gids, os.getegid()):
        _put(f"/proc/{pid}/setgroups", b"deny")
        _write(pid, "gid_map", gids)
    else:
        _help("newgidmap", pid, gids)


def denies_setgroups(gids: list[IdMapping]) -> bool:
    """Whether a user namespace that we make with these mappings will have setgroups(2) denied."""
    return os.geteuid() != 0 and _only(gids, os.getegid())


def _only(mappings: list[IdMapping], own: int) -> bool:
    return len(mappings) == 1 and mappings[0]["size"] == 1 and mappings[0]["hostID"] == own


def _write(pid: int, name: str, mappings: list[IdMapping]) -> None:
    one = mappings[0]
    _put(f"/proc/{pid}/{name}", b"%d %d %d\n" % (one["containerID"], one["hostID"], one["size"]))


def _put(path: str, text: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise RuntimeFailure(f"cannot write {path}: {(error.strerror or '').lower()}") from None


def _help(name: str, pid: int, mappings: list[IdMapping]) -> None:
    program = _find(name)
    numbers = [str(number) for one in mappings for number in (one["containerID"], one["hostID"], one["size"])]
    read, write = os.pipe()
    child = os.posix_spawn(
        program,
        [name, str(pid), *numbers],
        {"LC_ALL": "C"},
        file_actions=[(os.POSIX_SPAWN_DUP2, write, 2), (os.POSIX_SPAWN_CLOSE, write), (os.POSIX_SPAWN_CLOSE, read)],
    )
    os.close(write)
    said = b""
    while chunk := os.read(read, 4096):
        said = (said + chunk)[-4096:]
    os.close(read)
    _, status = os.waitpid(child, 0)
    if status:
        file = "/etc/subuid" if name == "newuidmap" else "/etc/subgid"
        detail = said.decode("utf-8", "replace").strip().replace("\n", "; ")
        raise RuntimeFailure(f"{name} failed: {detail or f'status {status}'} (does {file} give this user the range?)")


def _find(name: str) -> str:
    path = os.environb.get(b"PATH", b"").decode("utf-8", "surrogateescape")
    for folder in (*filter(None, path.split(":")), *DIRECTORIES):
        candidate = f"{folder}/{name}"
        if os.access(candidate, os.X_OK):
            return candidate
    raise RuntimeFailure(f"{name} is not installed (package uidmap): without it a user can map only its own id")
