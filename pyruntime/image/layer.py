"""One layer by itself, in the form overlayfs lays over others: hidden things become its whiteouts and opaque marks.

Most archives describe every directory they use, and such a layer is the same wherever it is used. One that does not
(umoci writes those) takes the missing directories as they are in the layers below, as the flat rootfs would have them;
`depends` says so, and the store then keeps it for this very stack of layers only.
"""

from __future__ import annotations

import os
import stat
from errno import ELOOP, ENODATA, ENOTDIR, ENOTSUP

from pyruntime.image.attributes import ACL_DEFAULT
from pyruntime.image.documents import ImageError
from pyruntime.image.lower import Found, Lower, copy_attributes, copy_up, is_whiteout
from pyruntime.image.tree import Directory, Tree
from pyruntime.kernel.paths import RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS, openat2

_READ_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LINKS = 40


class LayerTree(Tree):
    """The directory of one layer in the store, above `lower`."""

    def __init__(self, root: int, mapped: bool, lower: Lower) -> None:
        super().__init__(root, mapped)
        self.depends = False
        self._create = True
        self._lower = lower
        self._opaque = "user.overlay.opaque" if mapped else "trusted.overlay.opaque"
        self._replaced: set[tuple[int, bytes]] = set()

    def mark(self, parent: Directory, name: bytes) -> None:
        """A directory that takes the place of something hidden or replaced must not let the layers below through."""
        if self._replaced and (parent.inode, name) in self._replaced:
            status = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                self._make_opaque(parent.fd, name)

    def replace(self, parent: Directory, name: bytes) -> None:
        """Remove what has `name` now."""
        self._replaced.add((parent.inode, name))
        super().replace(parent, name)

    def whiteout(self, parent: bytes, name: bytes) -> None:
        """Make overlayfs's whiteout, or an opaque directory where this layer has a directory of that name already."""
        directory = self._merged_directory(parent)
        # Where there is nothing to hide, overlayfs would show its own mark in the listing.
        if directory is None or self._below(directory, name) is None:
            return
        try:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=directory.fd)
        except FileExistsError:
            status = os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                self._make_opaque(directory.fd, name)

    def opaque(self, parent: bytes) -> None:
        """Mark the directory opaque."""
        if not parent:
            # On the root of a layer the kernel does not look for the mark.
            for name in list(self._lower.root.names()):
                self.whiteout(b"", name)
            self.depends = True
            return
        directory = self._merged_directory(parent)
        if directory is not None:
            self._set_opaque(directory.fd)

    def _merged_directory(self, path: bytes) -> Directory | None:
        """The directory at `path` of this layer, which is made if it is in a layer below; None if it is in neither."""
        found = self.existing(path)
        if found is not None:
            return found
        self._create = False
        try:
            fd, real = self.make_parents(path)
            return self._keep(path, fd, real)
        except (FileNotFoundError, NotADirectoryError):
            return None
        finally:
            self._create = True

    def _below(self, directory: Directory, name: bytes) -> Found | None:
        """What the layers below have under `name` in a directory of this layer."""
        self.depends = True
        real = os.readlink(f"/proc/self/fd/{directory.fd}".encode())
        top = os.readlink(f"/proc/self/fd/{self.root}".encode())
        parts = [part for part in real[len(top) :].split(b"/") if part]
        return None if self._hidden_below(parts) else self._lower.lookup([*parts, name])

    def _make_opaque(self, parent: int, name: bytes) -> None:
        fd = os.open(name, _READ_DIRECTORY, dir_fd=parent)
        try:
            self._set_opaque(fd)
        finally:
            os.close(fd)

    def _set_opaque(self, fd: int) -> None:
        try:
            os.setxattr(fd, self._opaque, b"y")
        except OSError as error:
            raise ImageError(f"{self._opaque}: {error.strerror}; the store's file system cannot hold layers") from None

    def make_parents(self, path: bytes) -> tuple[int, bytes]:
        """Make the directories of `path` as the layers below have them."""
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
            target = self._step(done, part)
            if target is None:
                done.append(part)
                continue
            links += 1
            if links > _LINKS:
                raise OSError(ELOOP, os.strerror(ELOOP))
            if target.startswith(b"/"):
                done.clear()
            todo[:0] = target.split(b"/")
        return self._own(done), b"/".join(done)

    def _own(self, parts: list[bytes]) -> int:
        """A directory of this layer that is there; `parts` are real names, no links."""
        resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS
        return openat2(self.root, b"/".join(parts) or b".", os.O_RDONLY | os.O_DIRECTORY, resolve)

    def _step(self, done: list[bytes], part: bytes) -> bytes | None:
        """Have the directory `part` in the directory `done` of this layer; or the target of the link that it is."""
        parent = self._own(done)
        try:
            try:
                status = os.stat(part, dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                return self._from_below(parent, done, part)
            if stat.S_ISDIR(status.st_mode):
                return None
            if stat.S_ISLNK(status.st_mode):
                return os.readlink(part, dir_fd=parent)
            if is_whiteout(status):
                if not self._create:
                    raise FileNotFoundError(part)
                os.unlink(part, dir_fd=parent)
                os.mkdir(part, 0o755, dir_fd=parent)
                self._make_opaque(parent, part)
                return None
            raise OSError(ENOTDIR, os.strerror(ENOTDIR))
        finally:
            os.close(parent)

    def _from_below(self, parent: int, done: list[bytes], part: bytes) -> bytes | None:
        self.depends = True
        found = None if self._hidden_below(done) else self._lower.lookup([*done, part])
        if found is not None and stat.S_ISLNK(found.status.st_mode):
            return os.readlink(found.name, dir_fd=found.directory)
        if found is not None and not stat.S_ISDIR(found.status.st_mode):
            raise OSError(ENOTDIR, os.strerror(ENOTDIR))
        if found is None and not self._create:
            raise FileNotFoundError(part)
        os.mkdir(part, 0o755 if found is None else 0o700, dir_fd=parent)
        if found is not None:
            source = found.open(os.O_RDONLY | os.O_DIRECTORY)
            fd = os.open(part, _READ_DIRECTORY, dir_fd=parent)
            try:
                copy_attributes(source, fd)
                path = b"/".join([*done, part])
                self._keep(path, os.dup(fd), path).setgid = False
                self._put_off(fd)
            finally:
                os.close(source)
                os.close(fd)
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

    def _hidden_below(self, done: list[bytes]) -> bool:
        """Whether an opaque directory of this layer hides what the layers below have under `done`."""
        for depth in range(1, len(done) + 1):
            fd = self._own(done[:depth])
            try:
                if self._opaque in os.listxattr(fd):
                    return True
            finally:
                os.close(fd)
        return False

    def link_source(self, path: bytes, name: bytes) -> Directory:
        """The directory of this layer with the target of a hard link, which is copied up if it lies below."""
        directory = self.directory(path)
        try:
            os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
        except FileNotFoundError:
            found = self._below(directory, name)
            if found is not None:
                copy_up(found, directory.fd, name)
        return directory
