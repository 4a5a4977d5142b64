"""seccomp(2): loading a filter, and asking what the kernel has."""

from __future__ import annotations

from _struct import pack
from errno import EFAULT

from pyruntime.kernel.libc import NR, address, buffer, syscall

FLAG_TSYNC = 1 << 0
FLAG_LOG = 1 << 1
FLAG_SPEC_ALLOW = 1 << 2
FLAG_NEW_LISTENER = 1 << 3
FLAG_TSYNC_ESRCH = 1 << 4
FLAG_WAIT_KILLABLE_RECV = 1 << 5

RET_KILL_PROCESS = 0x80000000
RET_KILL_THREAD = 0x00000000
RET_TRAP = 0x00030000
RET_ERRNO = 0x00050000
RET_USER_NOTIF = 0x7FC00000
RET_TRACE = 0x7FF00000
RET_LOG = 0x7FFC0000
RET_ALLOW = 0x7FFF0000

_SET_MODE_FILTER = 1
_GET_ACTION_AVAIL = 2
_SECCOMP = NR["seccomp"]


class Program:
    """A BPF program laid out in memory, so that loading it is one system call and nothing else."""

    __slots__ = ("_code", "_flags", "_header", "_where")

    def __init__(self, program: bytes, flags: int) -> None:
        self._code = buffer(len(program))
        memoryview(self._code).cast("B")[:] = program
        # struct sock_fprog: the number of instructions, and where they are
        self._header = buffer(16)
        memoryview(self._header).cast("B")[:] = pack("HP", len(program) // 8, address(self._code))
        self._where = address(self._header)
        self._flags = flags

    def load(self) -> int:
        """Load it for the caller, for good. Returns the listener's descriptor (close-on-exec) or 0.

        EACCES: neither no_new_privs nor CAP_SYS_ADMIN. EINVAL: the kernel lacks one of the flags.
        """
        return syscall(_SECCOMP, _SET_MODE_FILTER, self._flags, self._where)


def action_available(action: int) -> bool:
    """Whether the kernel has a SECCOMP_RET_* action."""
    try:
        syscall(_SECCOMP, _GET_ACTION_AVAIL, 0, pack("I", action))
    except OSError:
        return False
    return True


def flag_available(flag: int) -> bool:
    """Whether the kernel has a filter flag: it looks at flags first (EINVAL), at the missing program later (EFAULT)."""
    needed = FLAG_NEW_LISTENER if flag == FLAG_WAIT_KILLABLE_RECV else 0
    try:
        syscall(_SECCOMP, _SET_MODE_FILTER, flag | needed, None)
    except OSError as error:
        return error.errno == EFAULT
    return False
