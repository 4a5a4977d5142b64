"""What the layers below show when they lie on top of each other, read without mounting them.

A layer of its own in the store sometimes needs to know what is under it: a directory that its archive uses and does
not describe, a hard link to an older file, a symbolic link on the way. See Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from errno import ELOOP, ENODATA, ENOTSUP

from pyruntime.image.attributes import kept
from pyruntime.image.documents import ImageError, text

OPAQUE_XATTRS = ("trusted.overlay.opaque", "user.overlay.opaque")
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LINKS = 40


def is_whiteout(status: os.stat_result) -> bool:
    """Whether a directory entry is overlayfs's mark for "not there"."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(directory: int) -> bool:
    """Whether an open directory of a layer hides what is under it."""
    for name in OPAQUE_XATTRS:
        try:
            if os.getxattr(directory, name) == b"y":
                return True
        except OSError as error:
            if error.errno not in (ENODATA, ENOTSUP):
                raise
    return False


class Found:
    """Something of the merged tree: `directory` holds it under `name` (in the uppermost layer that has it)."""

    __slots__ = ("_holder", "directory", "merged", "name", "status")

    def __init__(
        self, holder: Merged, directory: int, name: bytes, status: os.stat_result, merged: Merged | None
    ) -> None:
        self._holder = holder  # keeps `directory` open
        self.directory = directory
        self.name = name
        self.status = status
        self.merged = merged  # of a directory: itself

    def open(self, flags: int) -> int:
        """Open it, never through a link."""
        return os.open(self.name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.directory)


class Merged:
    """One directory of the merged tree: the same directory of several layers, the uppermost first."""

    def __init__(self, layers: list[int]) -> None:
        self.layers = layers

    def __del__(self) -> None:
        for fd in self.layers:
            os.close(fd)

    def child(self, name: bytes) -> Found | None:
        """What `name` is here, None if nothing or hidden."""
        first: tuple[int, os.stat_result] | None = None
        below: list[int] = []
        for layer in self.layers:
            try:
                status = os.stat(name, dir_fd=layer, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if is_whiteout(status):
                break
            if first is None:
                first = (layer, status)
                if not stat.S_ISDIR(status.st_mode):
                    break
            elif not stat.S_ISDIR(status.st_mode):
                break
            fd = os.open(name, _OPEN, dir_fd=layer)
            below.append(fd)
            if is_opaque(fd):
                break
        if first is None:
            return None
        return Found(self, first[0], name, first[1], Merged(below) if below else None)

    def names(self) -> Iterator[bytes]:
        """The names in this directory, hidden ones left out."""
        seen: set[bytes] = set()
        for layer in self.layers:
            for name in map(os.fsencode, os.listdir(layer)):
                if name not in seen:
                    seen.add(name)
                    if self.child(name) is not None:
                        yield name

    def copy(self, target: int) -> None:
        """Copy what is in this directory into the open directory `target`, with owner, mode and times of this one."""
        for name in self.names():
            found = self.child(name)
            if found is None:
                continue
            if found.merged is None:
                copy_up(found, target, name)
                continue
            os.mkdir(name, 0o700, dir_fd=target)
            inner = os.open(name, _OPEN, dir_fd=target)
            try:
                found.merged.copy(inner)
            finally:
                os.close(inner)
        copy_attributes(self.layers[0], target)


class Lower:
    """The merged tree of `layers`, descriptors of their top directories, the uppermost first, which it copies."""

    def __init__(self, layers: list[int]) -> None:
        self.root = Merged([os.dup(fd) for fd in layers])

    def lookup(self, parts: list[bytes]) -> Found | None:
        """What `parts` is in the merged tree; no link is followed."""
        here = self.root
        for part in parts[:-1]:
            found = here.child(part)
            if found is None or found.merged is None:
                return None
            here = found.merged
        return here.child(parts[-1])

    def resolve(self, path: bytes) -> Found | None:
        """What `path` is to a process whose root is the merged tree: links are followed inside it."""
        done: list[bytes] = []
        todo = path.split(b"/")
        links = 0
        while todo:
            part = todo.pop(0)
            if part in (b"", b"."):
                continue
            if part == b"..":
                if done:
                    done.pop()
                continue
            found = self.lookup([*done, part])
            if found is None:
                return None
            if not stat.S_ISLNK(found.status.st_mode):
                done.append(part)
                continue
            links += 1
            if links > _LINKS:
                raise OSError(ELOOP, os.strerror(ELOOP))
            target = os.readlink(found.name, dir_fd=found.directory)
            if target.startswith(b"/"):
                done.clear()
            todo[:0] = target.split(b"/")
        return self.lookup(done) if done else None


def copy_attributes(source: int, target: int) -> None:
    """Give `target` owner, mode, times and extended attributes of `source`; both are open."""
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    for attribute in os.listxattr(source):
        if kept(os.fsencode(attribute)):
            os.setxattr(target, attribute, os.getxattr(source, attribute))
    os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))


def copy_up(found: Found, directory: int, name: bytes) -> None:
    """Copy something of a layer below, which is no directory, to `name` in `directory`."""
    kind = stat.S_IFMT(found.status.st_mode)
    if kind == stat.S_IFREG:
        source = found.open(os.O_RDONLY | os.O_NONBLOCK)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        target = os.open(name, flags, 0o600, dir_fd=directory)
        try:
            while os.sendfile(target, source, None, 1 << 20):
                pass
            copy_attributes(source, target)
        finally:
            os.close(source)
            os.close(target)
        return
    if kind == stat.S_IFLNK:
        os.symlink(os.readlink(found.name, dir_fd=found.directory), name, dir_fd=directory)
    elif kind == stat.S_IFDIR:
        raise ImageError(f"a hard link to the directory {text(name)}")
    else:
        os.mknod(name, found.status.st_mode, found.status.st_rdev, dir_fd=directory)
    times = (found.status.st_mtime_ns, found.status.st_mtime_ns)
    os.chown(name, found.status.st_uid, found.status.st_gid, dir_fd=directory, follow_symlinks=False)
    os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)
