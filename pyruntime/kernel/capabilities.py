"""Capabilities of the calling process: capset(2), the bounding and ambient sets of prctl(2). See capabilities(7)."""

from __future__ import annotations

from _struct import pack

from pyruntime.kernel.libc import NR, syscall

# include/uapi/linux/capability.h; a capability is named here once and is this bit of every set.
NUMBERS = {
    "CAP_CHOWN": 0, "CAP_DAC_OVERRIDE": 1, "CAP_DAC_READ_SEARCH": 2, "CAP_FOWNER": 3, "CAP_FSETID": 4, "CAP_KILL": 5,
    "CAP_SETGID": 6, "CAP_SETUID": 7, "CAP_SETPCAP": 8, "CAP_LINUX_IMMUTABLE": 9, "CAP_NET_BIND_SERVICE": 10,
    "CAP_NET_BROADCAST": 11, "CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_IPC_LOCK": 14, "CAP_IPC_OWNER": 15,
    "CAP_SYS_MODULE": 16, "CAP_SYS_RAWIO": 17, "CAP_SYS_CHROOT": 18, "CAP_SYS_PTRACE": 19, "CAP_SYS_PACCT": 20,
    "CAP_SYS_ADMIN": 21, "CAP_SYS_BOOT": 22, "CAP_SYS_NICE": 23, "CAP_SYS_RESOURCE": 24, "CAP_SYS_TIME": 25,
    "CAP_SYS_TTY_CONFIG": 26, "CAP_MKNOD": 27, "CAP_LEASE": 28, "CAP_AUDIT_WRITE": 29, "CAP_AUDIT_CONTROL": 30,
    "CAP_SETFCAP": 31, "CAP_MAC_OVERRIDE": 32, "CAP_MAC_ADMIN": 33, "CAP_SYSLOG": 34, "CAP_WAKE_ALARM": 35,
    "CAP_BLOCK_SUSPEND": 36, "CAP_AUDIT_READ": 37, "CAP_PERFMON": 38, "CAP_BPF": 39, "CAP_CHECKPOINT_RESTORE": 40,
}  # fmt: skip

PR_SET_KEEPCAPS = 8
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

_HEADER = pack("Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, the calling thread
_CAPSET = NR["capset"]
_PRCTL = NR["prctl"]


def pack_sets(effective: int, permitted: int, inheritable: int) -> bytes:
    """Three sets, as bit masks, in the form `set_capabilities` takes."""
    low, high = 0xFFFFFFFF, 32
    return pack(
        "6I",
        effective & low, permitted & low, inheritable & low,
        effective >> high, permitted >> high, inheritable >> high,
    )  # fmt: skip


def set_capabilities(sets: bytes) -> None:
    """Replace the effective, permitted and inheritable sets. EPERM when a set would grow where it may not."""
    syscall(_CAPSET, _HEADER, sets)


def drop_bounding(number: int) -> None:
    """Take one capability out of the bounding set, for good. Needs CAP_SETPCAP."""
    syscall(_PRCTL, PR_CAPBSET_DROP, number)


def keep_capabilities(keep: int) -> None:
    """Whether the permitted set survives when the last user id becomes non-zero (1) or not (0)."""
    syscall(_PRCTL, PR_SET_KEEPCAPS, keep)


def clear_ambient() -> None:
    syscall(_PRCTL, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)


def raise_ambient(number: int) -> None:
    """Put one capability into the ambient set. EPERM unless it is permitted and inheritable."""
    syscall(_PRCTL, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number)


def set_no_new_privileges() -> None:
    """From now on no execve gains anything: no setuid bits, no file capabilities."""
    syscall(_PRCTL, PR_SET_NO_NEW_PRIVS, 1)
