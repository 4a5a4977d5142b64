"""The flags of a bind mount: those of the options, and what becomes of those that the source has.

Without any flag among the options a bind mount keeps the flags of its source. With one it has exactly those of the
options, like `mount --bind -o`, but for the access time: that stays the source's unless an option sets it. In a
user namespace the flags of the source are locked, as the kernel locks them for whoever has no rights over the mount
(mount_namespaces(7)): options may add to them, and an option that asks for one of them to be gone is an error.
"""

from __future__ import annotations

import posix
from errno import EPERM

from pyruntime.kernel import mounts as m

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.plan.options import Options

# statvfs(3) flag -> attribute
_LOCKED = ((1, m.MOUNT_ATTR_RDONLY), (2, m.MOUNT_ATTR_NOSUID), (4, m.MOUNT_ATTR_NODEV), (8, m.MOUNT_ATTR_NOEXEC))
_ST_NOATIME, _ST_NODIRATIME, _ST_RELATIME = 1024, 2048, 4096
_PLAIN = m.MOUNT_ATTR_RDONLY | m.MOUNT_ATTR_NOSUID | m.MOUNT_ATTR_NODEV | m.MOUNT_ATTR_NOEXEC | m.MOUNT_ATTR_NOSYMFOLLOW
_ATIME = m.MOUNT_ATTR__ATIME | m.MOUNT_ATTR_NODIRATIME


def set_flags(tree: int, options: Options, locked: bool) -> None:
    """Give the detached mount `tree` its flags. Raises OSError."""
    add, clear = options.add & _PLAIN, _PLAIN
    if options.atime:  # no option is relatime: the kernel's default, where any of them is given
        add |= options.add & _ATIME
        clear |= _ATIME
    if locked:
        add = _with_locked(tree, options, add)
        if options.atime:
            clear &= ~_ATIME  # it is the same
            add &= ~_ATIME
    m.set_attributes(tree, add, clear & ~add | (m.MOUNT_ATTR__ATIME if clear & m.MOUNT_ATTR__ATIME else 0))


def _with_locked(tree: int, options: Options, add: int) -> int:
    """`add` with the flags of the source, which must not be lost. Raises PermissionError for what would lose one."""
    flags = posix.fstatvfs(tree).f_flag
    theirs = 0
    for flag, attribute in _LOCKED:
        if flags & flag:
            theirs |= attribute
    if flags & _ST_NOATIME:
        atime = m.MOUNT_ATTR_NOATIME
    else:
        atime = m.MOUNT_ATTR_RELATIME if flags & _ST_RELATIME else m.MOUNT_ATTR_STRICTATIME
    if flags & _ST_NODIRATIME:
        atime |= m.MOUNT_ATTR_NODIRATIME
    gone = theirs & ~add & options.clear
    if gone or (options.atime and options.add & _ATIME != atime):
        failure = m.FilesystemError(EPERM, posix.strerror(EPERM))
        failure.detail = b"in a user namespace the flags of the source cannot be taken away"
        raise failure
    return add | theirs
