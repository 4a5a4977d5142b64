"""Copy a directory tree between two descriptors, for `tmpcopyup`.

Both ends are walked by descriptor and no symbolic link is ever followed, so what the image holds decides the names
and contents of the copy and nothing else (CVE-2024-5154 is the class).
"""

from __future__ import annotations

import posix
from errno import ENODATA, EOPNOTSUPP, EPERM

S_IFMT, S_IFDIR, S_IFREG, S_IFLNK = 0o170000, 0o040000, 0o100000, 0o120000


def copy_tree(source: int, destination: int, mode: bool = True) -> None:
    """Copy the contents, owner and (with `mode`) mode of directory `source` into directory `destination`. Descriptors
    with O_PATH are enough."""
    source = posix.open(b".", posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC, dir_fd=source)
    destination = posix.open(b".", posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC, dir_fd=destination)
    try:
        for name in posix.listdir(source):
            _copy(source, destination, name.encode("utf-8", "surrogateescape"))
        _attributes(source, destination, mode)
    finally:
        posix.close(source)
        posix.close(destination)


def _copy(source: int, destination: int, name: bytes) -> None:
    status = posix.stat(name, dir_fd=source, follow_symlinks=False)
    kind = status.st_mode & S_IFMT
    if kind == S_IFDIR:
        posix.mkdir(name, 0o700, dir_fd=destination)
        inner = posix.open(name, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_NOFOLLOW | posix.O_CLOEXEC, dir_fd=source)
        there = posix.open(
            name, posix.O_PATH | posix.O_DIRECTORY | posix.O_NOFOLLOW | posix.O_CLOEXEC, dir_fd=destination
        )
        copy_tree(inner, there)
        posix.close(inner)
        posix.close(there)
    elif kind == S_IFREG:
        flags = posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_NONBLOCK | posix.O_CLOEXEC
        inner = posix.open(name, flags, dir_fd=source)
        there = posix.open(
            name, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o600, dir_fd=destination
        )
        while posix.sendfile(there, inner, None, 1 << 20):
            pass
        _attributes(inner, there)
        posix.close(inner)
        posix.close(there)
    elif kind == S_IFLNK:
        posix.symlink(posix.readlink(name, dir_fd=source), name, dir_fd=destination)
        posix.chown(name, status.st_uid, status.st_gid, dir_fd=destination, follow_symlinks=False)
    else:
        posix.mknod(name, status.st_mode, status.st_rdev, dir_fd=destination)
        posix.chown(name, status.st_uid, status.st_gid, dir_fd=destination, follow_symlinks=False)


def _attributes(source: int, destination: int, mode: bool = True) -> None:
    status = posix.fstat(source)
    posix.chown(destination, status.st_uid, status.st_gid)
    if mode:
        posix.chmod(destination, status.st_mode & 0o7777)
    for name in posix.listxattr(source):
        try:
            posix.setxattr(destination, name, posix.getxattr(source, name))
        except OSError as error:
            # A tmpfs has no user.* attributes before Linux 6.6, and a user namespace may not set trusted.*.
            if error.errno not in (EOPNOTSUPP, EPERM, ENODATA):
                raise
    posix.utime(destination, ns=(status.st_atime_ns, status.st_mtime_ns))
