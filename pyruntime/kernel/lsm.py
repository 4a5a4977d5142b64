"""Labels of security modules, set through the process' attr directory in procfs. See proc(5), apparmor(7).

A write that goes to another file than the caller thinks is a container without its profile (CVE-2019-16884,
CVE-2025-52881). So the directory is never `/proc`: it is a procfs that only the runtime has, and the path in it may
not leave that file system or pass a magic link.
"""

from __future__ import annotations

import posix
from errno import EIO

from pyruntime.kernel.paths import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_XDEV, openat2


def set_attribute(proc: int, path: bytes, value: bytes) -> None:
    """Write `value` to the file `path` (such as `thread-self/attr/exec`) of the procfs `proc`, in one call.

    An empty value cannot be written as zero bytes; a single NUL means "none" to SELinux. Raises OSError as the kernel
    gives it, EIO if the attribute does not read back as set.
    """
    fd = openat2(proc, path, posix.O_RDWR, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV)
    try:
        if posix.write(fd, value or b"\0") != max(len(value), 1):
            raise OSError(EIO, "the label was cut off")
        # What comes back depends on the module (AppArmor adds the mode), but it cannot be nothing.
        if value and not posix.pread(fd, 4096, 0):
            raise OSError(EIO, "the label was not taken")
    finally:
        posix.close(fd)


def set_file_label(directory: int, label: bytes) -> None:
    """Give the SELinux context `label` to the directory behind the O_PATH descriptor. Raises OSError."""
    fd = posix.open(b".", posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC, dir_fd=directory)
    try:
        posix.setxattr(fd, b"security.selinux", label)
    finally:
        posix.close(fd)
