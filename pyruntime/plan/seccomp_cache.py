"""Compiled seccomp filters, kept from one container to the next.

Compiling an engine's default profile takes longer than everything else that `create` does. The result depends on the
profile, the kernel, and libseccomp; all of that is written into the entry in full and compared in full, so the short
hash in the file name may collide as it likes. An entry is taken only from a directory that nobody else can write, and
if its checksum is right; anything else counts as absent, and is compiled again.
"""

from __future__ import annotations

import _imp
import posix
from errno import ENOENT

FORMAT = 2
MAX_ENTRIES = 64
MAX_SIZE = 1 << 20

_MAGIC = b"pyruntime seccomp filter\n"


def _hash(data: bytes) -> bytes:
    # SipHash, the interpreter's own checksum for .pyc files: always built in, where hashlib costs milliseconds. It
    # finds damage. It need not stop forgery, which the directory's owner and mode do.
    return _imp.source_hash(FORMAT, data)


class Cache:
    """The directory `path`, made if it is missing. Never raises: without a usable directory nothing is kept."""

    __slots__ = ("_directory",)

    def __init__(self, path: str) -> None:
        self._directory = -1
        flags = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_NOFOLLOW | posix.O_CLOEXEC
        try:
            try:
                self._directory = posix.open(path, flags)
            except FileNotFoundError:
                posix.mkdir(path, 0o700)
                self._directory = posix.open(path, flags)
            if not _ours(posix.fstat(self._directory), 0o040000):
                self.close()
        except OSError:
            pass

    def close(self) -> None:
        if self._directory >= 0:
            posix.close(self._directory)
            self._directory = -1

    def find(self, key: bytes) -> bytes | None:
        """The program kept for `key`, if it is still the one that compiling would give."""
        if self._directory < 0:
            return None
        try:
            descriptor = posix.open(
                _hash(key).hex(),
                posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_NONBLOCK | posix.O_CLOEXEC,
                dir_fd=self._directory,
            )
        except OSError:
            return None
        try:
            status = posix.fstat(descriptor)
            if not _ours(status, 0o100000) or status.st_size > MAX_SIZE:
                return None
            text = posix.read(descriptor, status.st_size)
        except OSError:
            return None
        finally:
            posix.close(descriptor)
        head = len(_MAGIC) + 8
        body = text[head:]
        if text[:head] != _MAGIC + _hash(body):
            return None
        parts = body.split(b"\0", 3)
        if len(parts) != 4 or parts[0] != key or parts[2] != identity(parts[1]):
            return None
        program = parts[3]
        return program if program and len(program) % 8 == 0 else None

    def keep(self, key: bytes, library: bytes, program: bytes) -> None:
        """Keep `program`, made from `key` by the library at the path `library`."""
        if self._directory < 0 or b"\0" in key or b"\0" in library:
            return
        body = key + b"\0" + library + b"\0" + identity(library) + b"\0" + program
        name = _hash(key).hex()
        temporary = f"{name}.{posix.getpid()}"
        try:
            self._make_room()
            flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_NOFOLLOW | posix.O_CLOEXEC
            descriptor = posix.open(temporary, flags, 0o600, dir_fd=self._directory)
            try:
                text = _MAGIC + _hash(body) + body
                if posix.write(descriptor, text) != len(text):
                    raise OSError
            finally:
                posix.close(descriptor)
            # No fsync: after a crash of the machine the checksum is wrong and the filter is compiled again.
            posix.replace(temporary, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except OSError:
            try:
                posix.unlink(temporary, dir_fd=self._directory)
            except OSError:
                pass

    def _make_room(self) -> None:
        """Forget everything when there are too many entries: profiles that differ each time are not worth keeping."""
        names = posix.listdir(self._directory)
        if len(names) >= MAX_ENTRIES:
            for name in names:
                try:
                    posix.unlink(name, dir_fd=self._directory)
                except OSError as error:
                    if error.errno != ENOENT:
                        raise


def identity(path: bytes) -> bytes:
    """What changes when the file at `path` is replaced; empty if there is none."""
    try:
        status = posix.stat(path)
    except (OSError, ValueError):
        return b""
    return b"%d:%d:%d:%d" % (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _ours(status: posix.stat_result, kind: int) -> bool:
    return status.st_mode & 0o170000 == kind and status.st_uid == posix.geteuid() and not status.st_mode & 0o022
