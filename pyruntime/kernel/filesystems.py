"""What kind of filesystem a descriptor lies on: fstatfs(2)."""

from __future__ import annotations

import posix
from _struct import unpack_from

from pyruntime.kernel.libc import buffer, syscall

PROC_SUPER_MAGIC = 0x9FA0
SYSFS_MAGIC = 0x62656572
DEVPTS_SUPER_MAGIC = 0x1CD1
CGROUP_SUPER_MAGIC = 0x27E0EB
CGROUP2_SUPER_MAGIC = 0x63677270
TMPFS_MAGIC = 0x01021994
NSFS_MAGIC = 0x6E736673
OVERLAYFS_SUPER_MAGIC = 0x794C7630

_FSTATFS = 138 if posix.uname().machine == "x86_64" else 44
_room = buffer(256)  # struct statfs is 120 bytes; one buffer for all calls, there is one thread


def filesystem_type(descriptor: int) -> int:
    """The magic number of the filesystem that `descriptor` lies on. Raises OSError. See statfs(2)."""
    syscall(_FSTATFS, descriptor, _room)
    kind: int = unpack_from("q", _room)[0]
    return kind
