"""The mount API of Linux 5.2 and later: mounts as descriptors, attached by descriptor.

No function here takes a path of the container: a mount is made detached, given its attributes, and attached to a
directory that is already open, so nothing can be swapped between two steps (CVE-2021-30465, CVE-2025-31133,
CVE-2026-115521). See fsopen(2), fsconfig(2), fsmount(2), open_tree(2), move_mount(2), mount_setattr(2).
"""

from __future__ import annotations

import posix
from _struct import pack
from errno import EINVAL

from pyruntime.kernel.libc import NR, syscall
from pyruntime.kernel.paths import RESOLVE_IN_ROOT, openat2

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
AT_SYMLINK_NOFOLLOW = 0x100
AT_NO_AUTOMOUNT = 0x800

OPEN_TREE_CLONE = 0x1
OPEN_TREE_CLOEXEC = posix.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_SYMLINKS = 0x10
MOVE_MOUNT_T_EMPTY_PATH = 0x40

FSOPEN_CLOEXEC = 0x1
FSMOUNT_CLOEXEC = 0x1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_SET_FD = 5
FSCONFIG_CMD_CREATE = 6
FSCONFIG_CMD_RECONFIGURE = 7
FSPICK_CLOEXEC = 0x1
FSPICK_EMPTY_PATH = 0x8

MOUNT_ATTR_RDONLY = 0x00000001
MOUNT_ATTR_NOSUID = 0x00000002
MOUNT_ATTR_NODEV = 0x00000004
MOUNT_ATTR_NOEXEC = 0x00000008
MOUNT_ATTR__ATIME = 0x00000070
MOUNT_ATTR_RELATIME = 0x00000000
MOUNT_ATTR_NOATIME = 0x00000010
MOUNT_ATTR_STRICTATIME = 0x00000020
MOUNT_ATTR_NODIRATIME = 0x00000080
MOUNT_ATTR_IDMAP = 0x00100000
MOUNT_ATTR_NOSYMFOLLOW = 0x00200000

FSCONFIG_VALUE_MAX = 255  # bytes, fs/fsopen.c

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20

MNT_DETACH = 2

_OPEN_TREE = NR["open_tree"]
_MOVE_MOUNT = NR["move_mount"]
_FSOPEN = NR["fsopen"]
_FSCONFIG = NR["fsconfig"]
_FSMOUNT = NR["fsmount"]
_FSPICK = NR["fspick"]
_MOUNT_SETATTR = NR["mount_setattr"]
_MOUNT = NR["mount"]
_UMOUNT2 = NR["umount2"]
_PIVOT_ROOT = NR["pivot_root"]


def open_tree(directory: int, path: bytes, recursive: bool = False, nofollow: bool = False) -> int:
    """A detached copy of the mount at `path` (with its submounts if `recursive`): the first half of a bind mount."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    flags |= AT_SYMLINK_NOFOLLOW if nofollow else 0
    return syscall(_OPEN_TREE, directory, path, flags)


def clone_tree(descriptor: int, recursive: bool = False) -> int:
    """A detached copy of the mount that `descriptor` lies on, rooted at `descriptor`."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    return syscall(_OPEN_TREE, descriptor, b"", flags)


def attach(tree: int, target: int) -> None:
    """Attach a detached mount on top of the file or directory that `target` is open on."""
    syscall(_MOVE_MOUNT, tree, b"", target, b"", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)


def attach_at(tree: int, path: bytes) -> None:
    """Attach a mount at a path of the caller's own root, following links: for paths nobody else can change."""
    syscall(_MOVE_MOUNT, tree, b"", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS)


def set_attributes(
    descriptor: int, add: int = 0, clear: int = 0, propagation: int = 0, recursive: bool = False, userns: int = 0
) -> None:
    """Set and clear MOUNT_ATTR_* of the mount at `descriptor`; `userns` is the descriptor for MOUNT_ATTR_IDMAP."""
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    syscall(_MOUNT_SETATTR, descriptor, b"", flags, pack("QQQQ", add, clear, propagation, userns), 32)


def set_propagation(path: bytes, propagation: int, recursive: bool) -> None:
    """Set MS_SHARED, MS_SLAVE, MS_PRIVATE or MS_UNBINDABLE for the mount at a path of the caller's own root."""
    flags = AT_RECURSIVE if recursive else 0
    syscall(_MOUNT_SETATTR, AT_FDCWD, path, flags, pack("QQQQ", 0, 0, propagation, 0), 32)


class FilesystemError(OSError):
    """A filesystem refused its configuration; `detail` is what the filesystem itself said, if it said something."""

    detail: bytes = b""


def new_filesystem(
    kind: bytes, options: list[tuple[bytes, bytes | None]], source: bytes | None = None, attributes: int = 0
) -> int:
    """Make a filesystem of type `kind` and return its detached mount.

    `options` are (name, value) pairs, value None for a bare word. Raises FilesystemError with the kernel's words.
    """
    context = syscall(_FSOPEN, kind, FSOPEN_CLOEXEC)
    try:
        if source is not None:
            syscall(_FSCONFIG, context, FSCONFIG_SET_STRING, b"source", source, 0)
        for name, value in options:
            if value is None:
                syscall(_FSCONFIG, context, FSCONFIG_SET_FLAG, name, None, 0)
            else:
                syscall(_FSCONFIG, context, FSCONFIG_SET_STRING, name, value, 0)
        syscall(_FSCONFIG, context, FSCONFIG_CMD_CREATE, None, None, 0)
        return syscall(_FSMOUNT, context, FSMOUNT_CLOEXEC, attributes)
    except OSError as error:
        raise _explained(error, context) from None
    finally:
        posix.close(context)


def reconfigure(mount: int, options: list[tuple[bytes, bytes | None]]) -> None:
    """Change the options of the filesystem (not of the mount) at `mount`: the remount of mount(2)."""
    context = syscall(_FSPICK, mount, b"", FSPICK_CLOEXEC | FSPICK_EMPTY_PATH)
    try:
        for name, value in options:
            if value is None:
                syscall(_FSCONFIG, context, FSCONFIG_SET_FLAG, name, None, 0)
            else:
                syscall(_FSCONFIG, context, FSCONFIG_SET_STRING, name, value, 0)
        syscall(_FSCONFIG, context, FSCONFIG_CMD_RECONFIGURE, None, None, 0)
    except OSError as error:
        raise _explained(error, context) from None
    finally:
        posix.close(context)


def _explained(error: OSError, context: int) -> FilesystemError:
    """The error with the last message that the filesystem left in its context, "e tmpfs: Bad value for 'size'"."""
    explained = FilesystemError(error.errno, error.strerror)
    try:
        while True:
            message = posix.read(context, 1024)
            if message[:2] == b"e ":
                explained.detail = message[2:].strip()
    except OSError:  # ENODATA: no more messages
        pass
    return explained


def umount(path: bytes, flags: int = MNT_DETACH) -> None:
    """umount2(2) of a path of the caller's own root."""
    syscall(_UMOUNT2, path, flags)


def mount(source: bytes | None, target: bytes, kind: bytes | None, flags: int, data: bytes | None = None) -> None:
    """mount(2), for what the descriptor API cannot do."""
    syscall(_MOUNT, source, target, kind, flags, data)


def mount_over(
    target: int, kind: bytes, options: list[tuple[bytes, bytes | None]], source: bytes | None, attributes: int = 0
) -> int:
    """As `new_filesystem` and `attach` in one, by mount(2): returns what is then mounted on `target`.

    fsconfig(2) takes at most 255 bytes of a value, and the layers of an overlay are longer; mount(2) takes a page.
    """
    words = []
    for name, value in options:
        splits = b'"' if name == b"context" else b","
        if splits in name + (value or b"").replace(b"\\,", b""):
            # In one text with the others it would end the option, and what follows would be one of its own
            # (CVE-2024-9407). Overlayfs understands a comma with a backslash.
            failure = FilesystemError(EINVAL, posix.strerror(EINVAL))
            failure.detail = b"the option " + name + b" holds a comma or a quote, which would split it"
            raise failure
        if name == b"context" and value is not None:
            words.append(name + b'="' + value + b'"')  # its categories are separated by commas
        elif name not in (b"ro", b"rw"):
            words.append(name if value is None else name + b"=" + value)
    flags = MS_RDONLY if (b"ro", None) in options else 0
    here = posix.open(b".", posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
    try:
        posix.fchdir(target)
        mount(source or kind, b".", kind, flags, b",".join(words))
    finally:
        posix.fchdir(here)
        posix.close(here)
    # `..` of a root is the root again, with what is mounted on it.
    tree = openat2(target, b"..", posix.O_PATH | posix.O_DIRECTORY, RESOLVE_IN_ROOT)
    if attributes:
        set_attributes(tree, attributes)
    return tree


def pivot_root() -> None:
    """pivot_root(".", "."): the current directory becomes the root, the old root is stacked on top of it.

    The following umount(b".") removes the old root. See "pivot_root(".", ".")" in pivot_root(2).
    """
    syscall(_PIVOT_ROOT, b".", b".")
