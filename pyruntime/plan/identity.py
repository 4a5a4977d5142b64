"""process.user → steps: standard streams, supplementary groups, group, user, umask. See credentials(7).

Everything is by number. A name is never looked up, and a number is never cut to 32 bits, where 4294967296 would be
root (CVE-2024-40635).
"""

from __future__ import annotations

import posix
from _struct import pack
from errno import EINVAL, EPERM, EROFS

from pyruntime.errors import SpecError
from pyruntime.kernel.libc import NR, syscall
from pyruntime.kernel.processes import PR_SET_DUMPABLE, prctl
from pyruntime.plan.step import Place, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT_UMASK = 0o022
MAX_GROUPS = 65536  # NGROUPS_MAX of the kernel
HIGHEST_ID = 0xFFFFFFFE  # 4294967295 means "no change" to the kernel

_SETGROUPS = NR["setgroups"]
_SETRESGID = NR["setresgid"]
_SETRESUID = NR["setresuid"]
_NULL_DEVICE = posix.makedev(1, 3)


def checked_id(value: int, path: str) -> int:
    """`value` if it can be a user or group id. Raises SpecError."""
    if type(value) is not int or not 0 <= value <= HIGHEST_ID:
        raise SpecError(path, f"{value!r} is not an id; ids go from 0 to {HIGHEST_ID}")
    return value


def check_mapped(
    user: dict[str, Any], uid_mappings: list[dict[str, int]], gid_mappings: list[dict[str, int]], groups: bool
) -> None:
    """Whether the ids of `user` exist in a user namespace with these mappings (none: not known). Raises SpecError."""
    uid, gid = user.get("uid", 0), user.get("gid", 0)
    if not _is_mapped(uid, uid_mappings):
        raise SpecError("process.user.uid", f"cannot setuid to unmapped uid {uid} in user namespace")
    if not _is_mapped(gid, gid_mappings):
        raise SpecError("process.user.gid", f"cannot setgid to unmapped gid {gid} in user namespace")
    for index, group in enumerate((user.get("additionalGids") or ()) if groups else ()):
        if not _is_mapped(group, gid_mappings):
            raise SpecError(f"process.user.additionalGids[{index}]", f"group {group} is not mapped in user namespace")


def _is_mapped(value: int, mappings: list[dict[str, int]]) -> bool:
    return not mappings or any(
        mapping["containerID"] <= value < mapping["containerID"] + mapping["size"] for mapping in mappings
    )


class OwnStandardStreams(Step):
    """Give stdin, stdout and stderr to the container's user, so that it can open /dev/stdout again by name.

    Only the owner changes; the group is the business of whoever made the terminal. Never /dev/null: that inode
    belongs to the host.
    """

    __slots__ = ("_uid",)

    def __init__(self, uid: int) -> None:
        self._uid = uid

    def describe(self) -> str:
        return f"give the standard streams to user {self._uid}"

    def apply(self, place: Place) -> None:
        for descriptor in (0, 1, 2):
            try:
                now = posix.fstat(descriptor)
                if now.st_uid != self._uid and now.st_rdev != _NULL_DEVICE:
                    posix.chown(descriptor, self._uid, -1)
            except OSError as error:
                # Not mapped in this user namespace, or on a read-only file system: then the stream stays as it is.
                # EBADF: the caller closed it.
                if error.errno not in (EINVAL, EPERM, EROFS, 9):
                    raise


class SetGroups(Step):
    """The supplementary groups, exactly: with none given the caller's are dropped, not kept (CVE-2022-2989)."""

    __slots__ = ("_count", "_groups", "_list")

    def __init__(self, groups: list[int]) -> None:
        self._groups = groups
        self._list = pack(f"{len(groups)}I", *groups)
        self._count = len(groups)

    def describe(self) -> str:
        return f"set the supplementary groups to {self._groups}"

    def explain(self, errno: int) -> str:
        return "every group has to be mapped in the user namespace" if errno == EINVAL else ""

    def apply(self, place: Place) -> None:
        syscall(_SETGROUPS, self._count, self._list)


class SetGroup(Step):
    """Real, effective and saved group id."""

    __slots__ = ("_gid",)

    def __init__(self, gid: int) -> None:
        self._gid = gid

    def describe(self) -> str:
        return f"become group {self._gid}"

    def explain(self, errno: int) -> str:
        return f"cannot setgid to unmapped gid {self._gid} in user namespace" if errno == EINVAL else ""

    def apply(self, place: Place) -> None:
        syscall(_SETRESGID, self._gid, self._gid, self._gid)


class SetUser(Step):
    """Real, effective and saved user id."""

    __slots__ = ("_uid",)

    def __init__(self, uid: int) -> None:
        self._uid = uid

    def describe(self) -> str:
        return f"become user {self._uid}"

    def explain(self, errno: int) -> str:
        return f"cannot setuid to unmapped uid {self._uid} in user namespace" if errno == EINVAL else ""

    def apply(self, place: Place) -> None:
        syscall(_SETRESUID, self._uid, self._uid, self._uid)
        # A change of ids sets the dumpable flag to fs.suid_dumpable, which may be 1; then a process of the container
        # could open our descriptors until execve (CVE-2016-9962).
        prctl(PR_SET_DUMPABLE, 0)


class SetUmask(Step):
    __slots__ = ("_umask",)

    def __init__(self, umask: int) -> None:
        self._umask = umask

    def describe(self) -> str:
        return f"set the umask to {self._umask:04o}"

    def apply(self, place: Place) -> None:
        posix.umask(self._umask)
