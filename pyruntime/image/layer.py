"""One layer by itself, in the form overlayfs lays over others: hidden things become its whiteouts and opaque marks.

Most archives describe every directory they use and hide nothing; such a layer is the same wherever it is used. Others
depend on what lies below: a directory that is used and not described is taken as it is there, a hard link to an older
file is copied up, and a whiteout is made only where there is something to hide (in a directory that is in one layer
only, overlayfs shows its own marks). `depends` says so, and the store keeps it for this very stack of layers only.
"""

from __future__ import annotations

import os
import stat
from errno import ELOOP, ENODATA, ENOENT, ENOTDIR, ENOTSUP

from pyruntime.image.attributes import ACL_DEFAULT
from pyruntime.image.documents import ImageError
from pyruntime.image.limits import Limits
from pyruntime.image.lower import Lower, Merged, copy_attributes, copy_up, is_opaque, is_whiteout
from pyruntime.image.tar import Entry
from pyruntime.image.tree import NOWHERE, Directory, Tree

_READ_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LINKS = 40
_STEPS = 10_000
_NEST = 256


class _Here:
    """Where a walk has come to: a directory of this layer, and the same one of the layers below (None: not shown)."""

    __slots__ = ("fd", "lower", "parts")

    def __init__(self, fd: int, lower: Merged) -> None:
        self.fd = fd
        self.lower: Merged | None = lower
        self.parts: list[bytes] = []

    def __del__(self) -> None:
        os.close(self.fd)

    def enter(self, fd: int, lower: Merged | None, part: bytes) -> None:
        """Go on into the subdirectory `part`."""
        os.close(self.fd)
        self.fd = fd
        self.lower = lower
        self.parts.append(part)
        if len(self.parts) > Limits.DEPTH:
            raise ImageError(f"directories nested more than {Limits.DEPTH} deep")


class LayerTree(Tree):
    """The directory of one layer in the store, above `lower`."""

    def __init__(self, root: int, mapped: bool, lower: Lower) -> None:
        super().__init__(root, mapped)
        self.depends = False
        self._lower = lower
        self._opaque = "user.overlay.opaque" if mapped else "trusted.overlay.opaque"
        self._replaced: set[tuple[int, bytes]] = set()
        self._described: set[int] = set()  # inodes of directories that have an entry of their own

    # What the archive says

    def mark(self, parent: Directory, name: bytes) -> None:
        """A directory that takes the place of something hidden or replaced must not let the layers below through."""
        if self._replaced and (parent.inode, name) in self._replaced:
            status = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                self._hide_below(parent.fd, name)

    def describe(self, directory: Directory, entry: Entry, new: bool = False) -> None:
        """Give a directory what its entry says."""
        self._described.add(directory.inode)
        super().describe(directory, entry, new)

    def replace(self, parent: Directory, name: bytes) -> None:
        """Remove what has `name` now."""
        self._replaced.add((parent.inode, name))
        super().replace(parent, name)

    def whiteout(self, parent: bytes, name: bytes) -> None:
        """Make overlayfs's whiteout, or an opaque directory where this layer has a directory of that name already."""
        here = self._find(parent)
        if here is None:
            return
        self.depends = True
        if here.lower is not None and here.lower.child(name) is not None:
            self._whiteout_in(here.fd, name)

    def _find(self, path: bytes) -> _Here | None:
        """The directory at `path`, if this layer or one below has it."""
        try:
            return self._walk(path, create=False)
        except OSError as error:
            if error.errno not in NOWHERE:
                raise
            return None

    def _whiteout_in(self, directory: int, name: bytes) -> None:
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=directory)
            return
        if not stat.S_ISDIR(status.st_mode):
            return
        if self._hide_below(directory, name) and status.st_ino not in self._described:
            # It was there to hold whiteouts only.
            os.rmdir(name, dir_fd=directory)
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=directory)

    def opaque(self, parent: bytes) -> None:
        """Hide all that the layers below have in the directory."""
        here = self._find(parent)
        if here is None:
            return
        if here.parts:
            self._make_opaque(here.fd)
        elif here.lower is not None:
            # On the root of a layer the kernel does not look for the mark.
            self.depends = True
            for name in list(here.lower.names()):
                self._whiteout_in(here.fd, name)

    def _hide_below(self, parent: int, name: bytes) -> bool:
        """Make the directory opaque; whether it is empty then."""
        fd = os.open(name, _READ_DIRECTORY, dir_fd=parent)
        try:
            return self._make_opaque(fd)
        finally:
            os.close(fd)

    def _make_opaque(self, fd: int) -> bool:
        if is_opaque(fd):
            return not os.listdir(fd)
        try:
            os.setxattr(fd, self._opaque, b"y")
        except OSError as error:
            raise ImageError(f"{self._opaque}: {error.strerror}; the store's file system cannot hold layers") from None
        self.forget()
        return self._drop_marks(fd, 0)

    def _drop_marks(self, directory: int, depth: int) -> bool:
        """Remove whiteouts that hide nothing any more, and directories of only those; whether nothing is left."""
        if depth > _NEST:
            raise ImageError(f"a whiteout of directories nested more than {_NEST} deep")
        empty = True
        for name in map(os.fsencode, os.listdir(directory)):
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if is_whiteout(status):
                os.unlink(name, dir_fd=directory)
                continue
            if stat.S_ISDIR(status.st_mode):
                fd = os.open(name, _READ_DIRECTORY, dir_fd=directory)
                try:
                    bare = self._drop_marks(fd, depth + 1)
                finally:
                    os.close(fd)
                if bare and status.st_ino not in self._described:
                    os.rmdir(name, dir_fd=directory)
                    continue
            empty = False
        return empty

    # Directories without an entry

    def make_parents(self, path: bytes) -> int:
        """Make the directories of `path` as the layers below have them."""
        here = self._walk(path, create=True)  # it closes its descriptor when nobody holds it
        return os.dup(here.fd)

    def link_source(self, path: bytes, name: bytes) -> Directory:
        """The directory of this layer with the target of a hard link, which is copied up if it lies below."""
        directory = self.directory(path)
        try:
            os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
        except FileNotFoundError:
            self.depends = True
            here = self._walk(path, create=True)
            found = None if here.lower is None else here.lower.child(name)
            if found is not None:
                copy_up(found, here.fd, name)
        return directory

    def _walk(self, path: bytes, create: bool) -> _Here:
        """Go to the directory `path`, following links in this layer and below.

        A directory that only the layers below have is made as it is there, one that nobody has only with `create`.
        Raises OSError.
        """
        here = _Here(os.dup(self.root), self._lower.root)
        todo = path.split(b"/")[::-1]
        links = steps = 0
        while todo:
            steps += 1
            if links > _LINKS or steps > _STEPS:
                raise OSError(ELOOP, os.strerror(ELOOP))
            part = todo.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                todo.extend(here.parts[-2::-1])
                here = _Here(os.dup(self.root), self._lower.root)
                continue
            target = self._step(here, part, create)
            if target is not None:
                links += 1
                todo.extend(target.split(b"/")[::-1])
                if target.startswith(b"/"):
                    here = _Here(os.dup(self.root), self._lower.root)
        return here

    def _step(self, here: _Here, part: bytes, create: bool) -> bytes | None:
        """Go into `part`, or return the target of the link that it is."""
        try:
            status = os.stat(part, dir_fd=here.fd, follow_symlinks=False)
        except FileNotFoundError:
            return self._step_below(here, part, create)
        if stat.S_ISDIR(status.st_mode):
            fd = os.open(part, _READ_DIRECTORY, dir_fd=here.fd)
            found = None if here.lower is None or is_opaque(fd) else here.lower.child(part)
            here.enter(fd, None if found is None else found.merged, part)
            return None
        if stat.S_ISLNK(status.st_mode):
            return os.readlink(part, dir_fd=here.fd)
        if not is_whiteout(status):
            raise OSError(ENOTDIR, os.strerror(ENOTDIR))
        if not create:
            raise OSError(ENOENT, os.strerror(ENOENT))
        os.unlink(part, dir_fd=here.fd)
        os.mkdir(part, 0o755, dir_fd=here.fd)
        self._hide_below(here.fd, part)
        here.enter(os.open(part, _READ_DIRECTORY, dir_fd=here.fd), None, part)
        return None

    def _step_below(self, here: _Here, part: bytes, create: bool) -> bytes | None:
        self.depends = True
        found = None if here.lower is None else here.lower.child(part)
        if found is None:
            if not create:
                raise OSError(ENOENT, os.strerror(ENOENT))
            os.mkdir(part, 0o755, dir_fd=here.fd)
            here.enter(os.open(part, _READ_DIRECTORY, dir_fd=here.fd), None, part)
            return None
        if stat.S_ISLNK(found.status.st_mode):
            return os.readlink(found.name, dir_fd=found.directory)
        if found.merged is None:
            raise OSError(ENOTDIR, os.strerror(ENOTDIR))
        os.mkdir(part, 0o700, dir_fd=here.fd)
        here.enter(os.open(part, _READ_DIRECTORY, dir_fd=here.fd), found.merged, part)
        copy_attributes(found.merged.layers[0], here.fd)
        self._keep(b"/".join(here.parts), os.dup(here.fd), new=True).setgid = False
        self._put_off(here.fd)
        return None

    def _put_off(self, fd: int) -> None:
        """Take from a copied directory what would rub off on new files until the end, see `Tree`."""
        status = os.fstat(fd)
        later = self._later[status.st_ino]
        if status.st_mode & stat.S_ISGID:
            later.mode = stat.S_IMODE(status.st_mode)
            os.fchmod(fd, later.mode & ~stat.S_ISGID)
        try:
            later.acl = os.getxattr(fd, ACL_DEFAULT)
            os.removexattr(fd, ACL_DEFAULT)
        except OSError as error:
            if error.errno not in (ENODATA, ENOTSUP):
                raise
