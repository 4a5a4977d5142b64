"""Resource limits: prlimit(2)."""

from __future__ import annotations

from _struct import pack, unpack

from pyruntime.kernel.libc import NR, buffer, syscall

# include/uapi/asm-generic/resource.h
NUMBERS = {
    "RLIMIT_CPU": 0, "RLIMIT_FSIZE": 1, "RLIMIT_DATA": 2, "RLIMIT_STACK": 3, "RLIMIT_CORE": 4, "RLIMIT_RSS": 5,
    "RLIMIT_NPROC": 6, "RLIMIT_NOFILE": 7, "RLIMIT_MEMLOCK": 8, "RLIMIT_AS": 9, "RLIMIT_LOCKS": 10,
    "RLIMIT_SIGPENDING": 11, "RLIMIT_MSGQUEUE": 12, "RLIMIT_NICE": 13, "RLIMIT_RTPRIO": 14, "RLIMIT_RTTIME": 15,
}  # fmt: skip

INFINITY = 0xFFFFFFFFFFFFFFFF

_PRLIMIT = NR["prlimit64"]


def pack_limit(soft: int, hard: int) -> bytes:
    """struct rlimit64."""
    return pack("QQ", soft, hard)


def set_limit(pid: int, resource: int, limit: bytes) -> None:
    """Set one limit of `pid` (0: the caller). EPERM when the hard limit rises without CAP_SYS_RESOURCE."""
    syscall(_PRLIMIT, pid, resource, limit, None)


def get_limit(pid: int, resource: int) -> tuple[int, int]:
    """(soft, hard) of `pid` (0: the caller)."""
    limit = buffer(16)
    syscall(_PRLIMIT, pid, resource, None, limit)
    soft, hard = unpack("QQ", bytes(limit))
    return soft, hard
