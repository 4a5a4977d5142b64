"""Makes a directory complete or not at all.

Everything is put into a sibling `.NAME.unpacking-…` first, which is locked as long as its maker lives, and one rename
(or exchange) makes it the bundle. A maker that was killed leaves only that sibling; the next one for the same name
finds it unlocked and removes it.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from errno import EEXIST, ENOTEMPTY

from pyruntime.image.documents import ImageError, text
from pyruntime.image.removal import remove
from pyruntime.kernel import libc

_INFIX = b".unpacking-"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_RENAME_EXCHANGE = 2


def _mounted_below(path: bytes) -> bytes | None:
    """A mount point at or below `path`, a real path. See proc(5) for the escapes of mountinfo."""
    escaped = path.replace(b"\\", rb"\134").replace(b" ", rb"\040").replace(b"\t", rb"\011").replace(b"\n", rb"\012")
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            point = line.split(b" ")[4]
            if point == escaped or point.startswith(escaped + b"/"):
                return point
    return None


class Target:
    """The directory `path` in the making. Use as a context manager; without `commit()` nothing of it remains.

    With `replace` an existing directory gives way; with `collide` one that somebody else made meanwhile is as good as
    ours. `fd` is the directory to fill. It belongs to us alone.
    """

    def __init__(self, path: str, replace: bool = False, collide: bool = False) -> None:
        full = os.path.abspath(path)
        self.path = full
        self._replace = replace
        self._collide = collide
        self._name = os.fsencode(os.path.basename(full))
        self._prefix = b"." + self._name[:200] + _INFIX
        self._committed = False
        try:
            self._parent = os.open(os.path.dirname(full), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ImageError(f"{path}: {text(os.path.dirname(full))}: {error.strerror}") from None
        if not self._name:
            raise ImageError(f"{path}: not a place for a bundle")
        self._work = b""
        self.fd = -1

    def __enter__(self) -> Target:
        if not self._collide:
            self._refuse_existing()
        self._sweep()
        while self.fd < 0:
            self._work = self._prefix + secrets.token_hex(6).encode()
            try:
                os.mkdir(self._work, 0o700, dir_fd=self._parent)
                fd = os.open(self._work, _DIRECTORY, dir_fd=self._parent)
                fcntl.flock(fd, fcntl.LOCK_EX)
                # Before it was locked, somebody else may have taken it for a dead one and removed it.
                if os.fstat(fd).st_nlink:
                    self.fd = fd
                else:
                    os.close(fd)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise ImageError(f"{text(self.path)}: {error.strerror}") from None
        os.fchmod(self.fd, 0o700)  # a set-group-id bit or a default ACL of the parent is not for us
        self._drop_acls()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if not self._committed:
                remove(self._parent, self._work)
        finally:
            for fd in (self.fd, self._parent):
                if fd >= 0:
                    os.close(fd)

    def _drop_acls(self) -> None:
        for name in ("system.posix_acl_default", "system.posix_acl_access"):
            try:
                os.removexattr(self.fd, name)
            except OSError:
                pass

    def _refuse_existing(self) -> None:
        try:
            there = os.open(self._name, _DIRECTORY, dir_fd=self._parent)
        except FileNotFoundError:
            return
        except OSError as error:
            raise ImageError(f"{text(self.path)}: {error.strerror}") from None
        try:
            if os.listdir(there) and not self._replace:
                raise ImageError(f"{text(self.path)}: exists and is not empty; --force replaces it")
            mounted = _mounted_below(os.readlink(f"/proc/self/fd/{there}").encode("utf-8", "surrogateescape"))
            if mounted:
                raise ImageError(f"{text(self.path)}: in use, {text(mounted)} is mounted; `umount` it first")
        finally:
            os.close(there)

    def _sweep(self) -> None:
        """Remove what a killed predecessor left."""
        for entry in os.listdir(self._parent):
            name = os.fsencode(entry)
            if not name.startswith(self._prefix):
                continue
            try:
                fd = os.open(name, _DIRECTORY, dir_fd=self._parent)
            except OSError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(self._parent, name)
            except BlockingIOError:
                continue  # its maker is alive
            finally:
                os.close(fd)

    def sync(self) -> None:
        """Have the file system write everything down."""
        os.fsync(self.fd)
        if libc.as_int(libc.function("syncfs", 1)(self.fd)):
            raise ImageError(f"{text(self.path)}: {os.strerror(libc.errno())}")

    def commit(self, path: str | None = None) -> None:
        """Make it the directory (or another one, `path`). Raises ImageError if the name is taken meanwhile."""
        place: int | None = self._parent if path is None else None
        try:
            os.rename(self._work, self._name if path is None else path, src_dir_fd=self._parent, dst_dir_fd=place)
            self._committed = True
        except OSError as error:
            if error.errno not in (ENOTEMPTY, EEXIST) or not (self._replace or self._collide):
                raise ImageError(f"{text(path or self.path)}: {error.strerror}") from None
        if not self._committed and not self._collide:
            self._exchange()
            self._committed = True

    def _exchange(self) -> None:
        # At every moment the name stands for the old bundle or the new one. See renameat2(2).
        call = libc.function("renameat2", 5)
        if libc.as_int(call(self._parent, self._work, self._parent, self._name, _RENAME_EXCHANGE)):
            raise ImageError(f"{text(self.path)}: {os.strerror(libc.errno())}")
        remove(self._parent, self._work)
