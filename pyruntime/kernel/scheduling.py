"""How the kernel schedules a process: sched(7), ioprio_set(2), sched_setaffinity(2), set_mempolicy(2)."""

from __future__ import annotations

from _struct import pack

from pyruntime.kernel.libc import NR, syscall

IOPRIO_WHO_PROCESS = 1
IOPRIO_CLASS_SHIFT = 13

MAX_CPUS = 65536
"""Most CPUs or NUMA nodes a list may name; a sanity limit well above every kernel's NR_CPUS."""

_SCHED_SETATTR = NR["sched_setattr"]
_SCHED_SETAFFINITY = NR["sched_setaffinity"]
_IOPRIO_SET = NR["ioprio_set"]
_SET_MEMPOLICY = NR["set_mempolicy"]
_PERSONALITY = NR["personality"]


def pack_attributes(
    policy: int, flags: int, nice: int, priority: int, runtime: int, deadline: int, period: int
) -> bytes:
    """struct sched_attr of sched_setattr(2); the times are in nanoseconds."""
    # The last two words are the utilisation clamps, which the OCI spec has flags but no values for.
    return pack("IIQiIQQQII", 56, policy, flags, nice, priority, runtime, deadline, period, 0, 0)


def set_scheduler(attributes: bytes) -> None:
    """Set policy and parameters of the calling thread."""
    syscall(_SCHED_SETATTR, 0, attributes, 0)


def set_io_priority(value: int) -> None:
    """`value` is class << 13 | level. Of the caller; its children inherit it."""
    syscall(_IOPRIO_SET, IOPRIO_WHO_PROCESS, 0, value)


def set_affinity(pid: int, mask: bytes) -> None:
    """Let `pid` (0: the caller) run on the CPUs of `mask` only. CPUs outside its cpuset or the machine are ignored.

    `os.sched_setaffinity` is not used because it takes a set of numbers and cannot say "all there will ever be".
    """
    syscall(_SCHED_SETAFFINITY, pid, len(mask), mask)


def set_memory_policy(mode: int, nodes: bytes) -> None:
    """NUMA policy of the caller. `nodes` is a bit mask, `mode` an MPOL_* value with its MPOL_F_* flags."""
    # The kernel takes one bit off the length it is told, see get_nodes() in mm/mempolicy.c.
    syscall(_SET_MEMPOLICY, mode, nodes or None, len(nodes) * 8 + 1 if nodes else 0)


def set_personality(value: int) -> None:
    syscall(_PERSONALITY, value)


def mask_of(text: str) -> bytes:
    """The bit mask of a list such as `0-3,7`, in whole 64-bit words. Raises ValueError, with a reason for people."""
    bits = 0
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        low = _number(first, part)
        high = _number(last, part) if dash else low
        if high < low:
            raise ValueError(f"the range {part.strip()!r} runs backwards")
        bits |= (1 << (high + 1)) - (1 << low)
    return bits.to_bytes((bits.bit_length() + 63) // 64 * 8, "little")


def _number(text: str, part: str) -> int:
    # isdigit() alone would take Arabic and superscript digits, int() a sign or an underscore.
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) < MAX_CPUS):
        raise ValueError(f"{part!r} is not a number or range of numbers below {MAX_CPUS}")
    return int(text)
