"""Removes a directory tree whose shape somebody else chose.

`shutil.rmtree` recurses, and a hostile layer can nest directories beyond any stack and any number of descriptors (a
symbolic link to a deep directory, and more depth below it). Here a subdirectory that is not empty is moved up into the
top of the tree before its turn comes: two descriptors and no recursion, whatever the depth. A mount in the tree ends it
with EBUSY; what is mounted there is not ours to remove.
"""

from __future__ import annotations

import os
import secrets
from errno import EBUSY, EEXIST, EISDIR, ENOENT, ENOTEMPTY, EPERM

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def _remove_shallow(parent: int, name: bytes) -> bool:
    """Remove a file or an empty directory; False if it is a directory with something in it."""
    try:
        os.unlink(name, dir_fd=parent)
        return True
    except OSError as error:
        if error.errno == ENOENT:
            return True
        if error.errno not in (EISDIR, EPERM):
            raise
    try:
        os.rmdir(name, dir_fd=parent)
        return True
    except OSError as error:
        if error.errno not in (ENOTEMPTY, EEXIST):
            raise
    return False


def _open(parent: int, name: bytes) -> int:
    fd = os.open(name, _DIRECTORY, dir_fd=parent)
    if os.fstat(fd).st_dev != os.fstat(parent).st_dev:
        os.close(fd)
        raise OSError(EBUSY, os.strerror(EBUSY), name)
    return fd


def remove(parent: int, name: bytes) -> None:
    """Remove `name` in the directory `parent`, whatever it is. Nothing there is no error. Raises OSError."""
    while not _remove_shallow(parent, name):
        top = _open(parent, name)
        try:
            _empty(top)
        finally:
            os.close(top)


def _empty(top: int) -> None:
    prefix = b".removing-" + secrets.token_hex(8).encode()
    serial = 0
    while children := os.listdir(top):
        for child in map(os.fsencode, children):
            if _remove_shallow(top, child):
                continue
            directory = _open(top, child)
            try:
                for inner in map(os.fsencode, os.listdir(directory)):
                    if not _remove_shallow(directory, inner):
                        serial += 1
                        os.rename(inner, b"%s-%d" % (prefix, serial), src_dir_fd=directory, dst_dir_fd=top)
            finally:
                os.close(directory)
            _remove_shallow(top, child)
