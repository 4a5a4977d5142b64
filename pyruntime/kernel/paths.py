"""Paths inside a directory that somebody else can change while we walk it.

A rootfs, or a volume in it, may be written by another container at this very moment. Resolving symbolic links
ourselves and then acting on the result loses the race in 1 to 50 percent of the tries (CVE-2021-30465,
CVE-2024-45310). So the kernel resolves: `openat2(2)` with RESOLVE_IN_ROOT treats the directory as `/`, for absolute
links and `..` alike, and what comes back is a descriptor, never a string. Needs Linux 5.6.
"""

from __future__ import annotations

import posix
from _struct import pack
from errno import EAGAIN, EEXIST, ELOOP, ENOENT, ENOTDIR

from pyruntime.kernel.libc import NR, syscall

AT_FDCWD = -100
S_IFMT, S_IFLNK = 0o170000, 0o120000

O_PATH = posix.O_PATH
O_CLOEXEC = posix.O_CLOEXEC
O_NOFOLLOW = posix.O_NOFOLLOW
O_DIRECTORY = posix.O_DIRECTORY

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

MAX_LINKS = 40  # MAXSYMLINKS of the kernel

_OPENAT2 = NR["openat2"]


def openat2(directory: int, path: bytes, flags: int, resolve: int, mode: int = 0) -> int:
    """Open `path` below `directory` under the RESOLVE_* rules. Raises OSError. See openat2(2).

    EAGAIN means that a rename or mount somewhere raced with `..`; the kernel asks to try again.
    """
    how = pack("QQQ", flags | O_CLOEXEC, mode, resolve)
    for attempt in range(128):
        try:
            return syscall(_OPENAT2, directory, path, how, 24)
        except OSError as error:
            if error.errno != EAGAIN or attempt == 127:
                raise
    raise AssertionError("unreachable")


def open_in_root(root: int, path: bytes, flags: int = O_PATH) -> int:
    """Open `path` as a process whose root directory is `root` would see it."""
    return openat2(root, path.lstrip(b"/") or b".", flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)


def clean(path: bytes) -> bytes:
    """`path` as an absolute path without `.`, `..` and doubled slashes, decided by its text alone."""
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            if parts:
                parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/" + b"/".join(parts)


def make_in_root(root: int, path: bytes, directory: bool, mode: int = 0o755) -> int:
    """Open `path` inside `root`, making it and its missing parents: a directory, or else an empty file.

    A dangling symbolic link is followed as the container would follow it, and its target is made. Returns an O_PATH
    descriptor. Raises OSError; ENOTDIR when a parent is a file.
    """
    links = 0
    todo = clean(path)
    while True:
        try:
            return open_in_root(root, todo)
        except OSError as error:
            if error.errno != ENOENT:
                raise
        parts = todo[1:].split(b"/")
        here, depth = _deepest(root, parts)
        try:
            while depth < len(parts):
                name = parts[depth]
                last = depth == len(parts) - 1
                try:
                    if last and not directory:
                        posix.close(openat2(here, name, posix.O_CREAT | posix.O_EXCL | O_NOFOLLOW, 0, mode & 0o644))
                    else:
                        posix.mkdir(name, mode, dir_fd=here)
                except OSError as error:
                    if error.errno != EEXIST:
                        raise
                flags = O_PATH | O_NOFOLLOW | (0 if last and not directory else O_DIRECTORY)
                try:
                    there = openat2(here, name, flags, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
                    if posix.fstat(there).st_mode & S_IFMT == S_IFLNK:  # O_PATH and O_NOFOLLOW open the link itself
                        posix.close(there)
                        raise OSError(ELOOP, posix.strerror(ELOOP))
                except OSError as error:
                    if error.errno not in (ELOOP, ENOTDIR):
                        raise
                    target = _link(here, name)
                    if target is None:
                        raise
                    break
                posix.close(here)
                here = there
                depth += 1
            else:
                result, here = here, -1
                return result
        finally:
            if here >= 0:
                posix.close(here)
        links += 1
        if links > MAX_LINKS:
            raise OSError(ELOOP, posix.strerror(ELOOP))
        base = b"/" if target.startswith(b"/") else b"/" + b"/".join(parts[:depth])
        todo = clean(base + b"/" + target + b"/" + b"/".join(parts[depth + 1 :]))


def _deepest(root: int, parts: list[bytes]) -> tuple[int, int]:
    """The longest prefix of `parts` that exists in `root`: (O_PATH descriptor of it, number of parts)."""
    for depth in range(len(parts) - 1, -1, -1):
        try:
            return open_in_root(root, b"/".join(parts[:depth]), O_PATH | O_DIRECTORY), depth
        except OSError as error:
            if error.errno != ENOENT or not depth:
                raise
    return posix.dup(root), 0


def _link(directory: int, name: bytes) -> bytes | None:
    try:
        return posix.readlink(name, dir_fd=directory)
    except OSError:
        return None
