"""Writes the entries of a layer into a directory, and nowhere else.

Every name is resolved by the kernel below a descriptor of the root (`openat2`, RESOLVE_IN_ROOT): `..`, absolute names
and links, also ones swapped between two entries, end inside it. What exists is removed before its successor is made
with O_EXCL; nothing is ever opened for writing that another entry made. A directory stays open while entries go into
it, so an ordinary file costs four system calls. Times, and modes and default ACLs that would rub off on new files, are
set on directories at the very end. OCI image-spec layer.md, "Applying Changesets".
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from errno import EINVAL, ELOOP, ENOENT, ENOTDIR

from pyruntime.image.attributes import ACL_DEFAULT, Attributes
from pyruntime.image.documents import ImageError, text
from pyruntime.image.limits import LimitError
from pyruntime.image.names import split
from pyruntime.image.removal import remove
from pyruntime.image.tar import (
    BLOCK_DEVICE,
    CHARACTER,
    DIRECTORY,
    FIFO,
    HARD_LINK,
    REGULAR,
    SYMLINK,
    Archive,
    Entry,
    padding,
)
from pyruntime.kernel.paths import make_in_root, open_in_root

_READ_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_OPEN_DIRECTORY = _READ_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_DIRECTORIES = 64

NOWHERE = (ENOENT, ENOTDIR, ELOOP)
"""What the kernel says of a path that leads to no directory."""

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
_WHITEOUT_META = b".wh..wh."

_SPECIAL = {CHARACTER: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK, FIFO: stat.S_IFIFO}


class Directory:
    """An open directory that entries are being put into; closed when nobody holds it any more."""

    __slots__ = ("fd", "inode", "path", "setgid")

    def __init__(self, fd: int, status: os.stat_result, path: bytes = b"") -> None:
        self.fd = fd
        self.path = path
        self.inode = status.st_ino
        self.setgid = bool(status.st_mode & stat.S_ISGID)

    def __del__(self) -> None:
        os.close(self.fd)


class _Later:
    """What a directory gets when everything is in place."""

    __slots__ = ("acl", "mode", "mtime", "path")

    def __init__(self, path: bytes, mtime: int, mode: int | None, acl: bytes | None) -> None:
        self.path = path
        self.mtime = mtime
        self.mode = mode
        self.acl = acl


class Tree:
    """The directory behind the descriptor `root`.

    `mapped` says that we are in a user namespace: device nodes cannot be made there and are left out.
    """

    def __init__(self, root: int, mapped: bool) -> None:
        self.root = root
        self.attributes = Attributes(mapped)
        self.devices_left_out = 0
        self.owners_left_out = 0
        self.root_described = False
        self._mapped = mapped
        self._top = os.readlink(b"/proc/self/fd/%d" % root)
        self._uid = os.geteuid()
        self._gid = os.getegid()
        self._open: dict[bytes, Directory] = {}
        self._later: dict[int, _Later] = {}

    # What a subclass does differently for an overlay layer.

    def begin_layer(self) -> None:
        """A new layer begins."""

    def mark(self, parent: Directory, name: bytes) -> None:
        """`name` in `parent` is of this layer."""

    def whiteout(self, parent: bytes, name: bytes) -> None:
        """Hide `name` of the layers below."""
        raise NotImplementedError

    def opaque(self, parent: bytes) -> None:
        """Hide everything that the layers below have in the directory."""
        raise NotImplementedError

    def make_parents(self, path: bytes) -> int:
        """Make a directory that an entry needs and no entry described. Returns a descriptor that can be read."""
        made = make_in_root(self.root, path, directory=True)
        try:
            return os.open(f"/proc/self/fd/{made}", _READ_DIRECTORY | os.O_CLOEXEC)
        finally:
            os.close(made)

    def link_source(self, path: bytes, name: bytes) -> Directory:
        """The directory that holds the target of a hard link."""
        return self.directory(path)

    # Directories

    def directory(self, path: bytes) -> Directory:
        """The directory at `path`, made if it is missing, kept open for the next entries."""
        found = self._open.get(path)
        if found is not None:
            return found
        try:
            return self._keep(path, open_in_root(self.root, path, _READ_DIRECTORY))
        except (FileNotFoundError, NotADirectoryError):
            return self._keep(path, self.make_parents(path), new=True)

    def _keep(self, path: bytes, fd: int, new: bool = False) -> Directory:
        """Hold a directory open for further entries with names in `path`."""
        status = os.fstat(fd)
        # `path` may lead through a link that a later entry replaces, or that is in a layer below only.
        try:
            real = os.readlink(b"/proc/self/fd/%d" % fd)[len(self._top) + 1 :]
        except OSError:  # deeper than PATH_MAX
            real = path
        directory = Directory(fd, status, real)
        if new or directory.inode not in self._later:
            # Putting files into it is no change of it: only an entry of its own may change its times.
            self._later[directory.inode] = _Later(directory.path, status.st_mtime_ns, None, None)
        if len(self._open) >= _OPEN_DIRECTORIES:
            del self._open[next(iter(self._open))]
        self._open[path] = directory
        return directory

    def forget(self) -> None:
        """Close the open directories: a directory or a link went away, so their paths may mean something else now."""
        self._open.clear()

    def existing(self, path: bytes) -> Directory | None:
        """The directory at `path`, or None. Nothing is made."""
        found = self._open.get(path)
        if found is not None:
            return found
        try:
            return self._keep(path, open_in_root(self.root, path, _READ_DIRECTORY))
        except OSError as error:
            if error.errno not in NOWHERE:
                raise
            return None

    def replace(self, parent: Directory, name: bytes) -> None:
        """Remove what has `name` now."""
        status = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
        if stat.S_ISREG(status.st_mode):
            os.unlink(name, dir_fd=parent.fd)
            return
        self.forget()
        remove(parent.fd, name)

    # Entries

    def apply(self, archive: Archive, after: Callable[[], None] = lambda: None) -> None:
        """Write all entries of `archive`. Raises ImageError that names the entry."""
        while (entry := archive.next()) is not None:
            try:
                self._write(entry, archive)
            except LimitError:
                raise
            except ImageError as error:
                raise ImageError(f"{text(entry.name[:200])}: {error}") from None
            except OSError as error:
                raise ImageError(f"{text(entry.name[:200])}: {error.strerror}") from error
            except (OverflowError, ValueError) as error:
                raise ImageError(f"{text(entry.name[:200])}: {error}") from None
            after()

    def _write(self, entry: Entry, archive: Archive) -> None:
        path, name = split(entry.name)
        if name.startswith(WHITEOUT):
            self._whiteout(entry, path, name)
            archive.reader.skip(entry.size + padding(entry.size))
            entry.size = 0
            return
        if b"/" + WHITEOUT in b"/" + path:
            raise ImageError("a directory whose name says it is a whiteout")
        if not name:
            if entry.kind != DIRECTORY:
                raise ImageError("the root of the image is not a directory")
            self.describe(self.directory(b""), entry)
            self.root_described = True
            return
        kind = entry.kind
        if kind == REGULAR:
            self._file(self.directory(path), name, entry, archive)
        elif kind == DIRECTORY:
            self._directory(path, name, entry)
        elif kind == SYMLINK:
            self._symlink(self.directory(path), name, entry)
        elif kind == HARD_LINK:
            self._hard_link(path, name, entry)
        else:
            self._special(self.directory(path), name, entry)

    def _whiteout(self, entry: Entry, path: bytes, name: bytes) -> None:
        if name == OPAQUE:
            self.opaque(path)
        elif not name.startswith(_WHITEOUT_META):  # aufs kept notes of its own under that name
            hidden = name[len(WHITEOUT) :]
            if hidden in (b"", b".", b".."):
                raise ImageError("a whiteout that names nothing")
            self.whiteout(path, hidden)

    def _chown(self, target: int | bytes, entry: Entry, parent: int | None = None) -> None:
        try:
            os.chown(target, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=parent is None)
        except OSError as error:
            if error.errno != EINVAL or not self._mapped:
                raise
            self.owners_left_out += 1  # an id that the namespace does not have

    def _owner(self, entry: Entry, parent: Directory) -> bool:
        """Whether a new file has another owner than the one the entry asks for."""
        return entry.uid != self._uid or entry.gid != self._gid or parent.setgid

    def _file(self, parent: Directory, name: bytes, entry: Entry, archive: Archive) -> None:
        mode = entry.mode
        try:
            fd = os.open(name, _CREATE, mode, dir_fd=parent.fd)
        except FileExistsError:
            self.replace(parent, name)
            fd = os.open(name, _CREATE, mode, dir_fd=parent.fd)
        self.mark(parent, name)
        try:
            if entry.pieces is None:
                self._data(fd, entry.size, archive)
            else:
                stored = 0
                for offset, length in entry.pieces:
                    os.lseek(fd, offset, os.SEEK_SET)
                    self._copy(fd, length, archive)
                    stored += length
                os.ftruncate(fd, entry.size)
                archive.reader.skip(padding(stored))
            if self._owner(entry, parent):
                self._chown(fd, entry)
            if mode & 0o6000:  # write(2) and chown(2) take these away
                os.fchmod(fd, mode)
            if entry.xattrs is not None:
                self.attributes.apply(fd, entry.xattrs)
            os.utime(fd, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(fd)

    def _data(self, fd: int, size: int, archive: Archive) -> None:
        if size:
            self._copy(fd, size, archive)
            archive.reader.skip(padding(size))

    @staticmethod
    def _copy(fd: int, size: int, archive: Archive) -> None:
        def write(portion: memoryview) -> None:
            while True:
                written = os.write(fd, portion)
                if written == len(portion):
                    return
                portion = portion[written:]

        archive.reader.pump(size, write)

    def _directory(self, path: bytes, name: bytes, entry: Entry) -> None:
        parent = self.directory(path)
        new = True
        try:
            os.mkdir(name, 0o700, dir_fd=parent.fd)
        except FileExistsError:
            status = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
            new = not stat.S_ISDIR(status.st_mode)
            if new:
                self.replace(parent, name)
                os.mkdir(name, 0o700, dir_fd=parent.fd)
        self.mark(parent, name)
        full = path + b"/" + name if path else name
        directory = self._open.get(full)
        if directory is None or new:
            directory = self._keep(full, os.open(name, _OPEN_DIRECTORY, dir_fd=parent.fd), new)
        self.describe(directory, entry, new)

    def describe(self, directory: Directory, entry: Entry, new: bool = False) -> None:
        """Give a directory what its entry says."""
        fd = directory.fd
        if not new:
            self.attributes.clear(fd)
        self._chown(fd, entry)
        directory.setgid = False
        # A set-group-id directory hands its group to new files, and a default ACL its entries: both come last.
        later = entry.mode if entry.mode & stat.S_ISGID else None
        os.fchmod(fd, entry.mode & ~stat.S_ISGID)
        acl = None
        if entry.xattrs is not None:
            acl = entry.xattrs.pop(ACL_DEFAULT, None)
            self.attributes.apply(fd, entry.xattrs)
        self._later[directory.inode] = _Later(directory.path, entry.mtime, later, acl)

    def _symlink(self, parent: Directory, name: bytes, entry: Entry) -> None:
        if not entry.link:
            raise ImageError("a symbolic link to nothing")
        try:
            os.symlink(entry.link, name, dir_fd=parent.fd)
        except FileExistsError:
            self.replace(parent, name)
            os.symlink(entry.link, name, dir_fd=parent.fd)
        self.mark(parent, name)
        if self._owner(entry, parent):
            self._chown(name, entry, parent.fd)
        os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent.fd, follow_symlinks=False)

    def _hard_link(self, path: bytes, name: bytes, entry: Entry) -> None:
        source_path, source_name = split(entry.link)
        if not source_name:
            raise ImageError("a hard link to the root directory")
        try:
            source = self.link_source(source_path, source_name)
            target = os.stat(source_name, dir_fd=source.fd, follow_symlinks=False)
            if stat.S_ISDIR(target.st_mode):
                raise ImageError(f"a hard link to the directory {text(entry.link)}")
            parent = self.directory(path)
            try:
                os.link(source_name, name, src_dir_fd=source.fd, dst_dir_fd=parent.fd, follow_symlinks=False)
            except FileExistsError:
                there = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
                if there.st_ino != target.st_ino:
                    self.replace(parent, name)  # which may remove the target: it lay in a directory of this name
                    os.link(source_name, name, src_dir_fd=source.fd, dst_dir_fd=parent.fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            raise ImageError(f"a hard link to {text(entry.link)}, which is not there") from None
        self.mark(parent, name)

    def _special(self, parent: Directory, name: bytes, entry: Entry) -> None:
        kind = _SPECIAL[entry.kind]
        if kind == stat.S_IFCHR and not entry.major and not entry.minor:
            raise ImageError("a character device 0:0, which overlayfs takes for a whiteout")
        if kind != stat.S_IFIFO and self._mapped:
            self.devices_left_out += 1
            return
        device = os.makedev(entry.major, entry.minor) if kind != stat.S_IFIFO else 0
        try:
            os.mknod(name, kind | entry.mode, device, dir_fd=parent.fd)
        except FileExistsError:
            self.replace(parent, name)
            os.mknod(name, kind | entry.mode, device, dir_fd=parent.fd)
        self.mark(parent, name)
        if self._owner(entry, parent):
            self._chown(name, entry, parent.fd)
        if entry.mode & 0o6000 or entry.xattrs:
            # A device must not be opened, that may set hardware in motion: O_PATH only holds it.
            held = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent.fd)
            try:
                os.chmod(f"/proc/self/fd/{held}", entry.mode)
                self.attributes.apply(f"/proc/self/fd/{held}", entry.xattrs or {})
            finally:
                os.close(held)
        os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent.fd, follow_symlinks=False)

    def finish(self) -> None:
        """Set what had to wait. Raises OSError."""
        self.forget()
        for inode, later in self._later.items():
            try:
                fd = open_in_root(self.root, later.path, _READ_DIRECTORY)
            except OSError as error:
                if error.errno not in NOWHERE:
                    raise
                continue  # a later entry removed it
            try:
                if os.fstat(fd).st_ino != inode:
                    continue
                if later.acl is not None:
                    self.attributes.apply(fd, {ACL_DEFAULT: later.acl})
                if later.mode is not None:
                    os.fchmod(fd, later.mode)
                os.utime(fd, ns=(later.mtime, later.mtime))
            finally:
                os.close(fd)
        self._later.clear()
