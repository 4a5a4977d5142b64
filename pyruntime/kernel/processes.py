"""Making, finding, signalling and joining processes: clone3(2), pidfd_open(2), setns(2), unshare(2), proc(5)."""

from __future__ import annotations

import posix
import sys
from _struct import pack

from pyruntime.kernel.libc import NR, syscall
from pyruntime.kernel.pids import pidfd_open, pidfd_signal, start_time, stat

__all__ = [  # all that this module is about, and the part of it that stands apart
    "clone", "close_from", "pidfd_open", "pidfd_signal", "prctl", "reap_launcher_helper", "setns", "start_time", "stat",
    "unshare",
]  # fmt: skip

CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_PARENT = 0x00008000

WALL = 0x40000000  # waitpid: children that send no SIGCHLD as well, see clone(2)

PIDFD_NONBLOCK = posix.O_NONBLOCK
NS_GET_NSTYPE = 0xB703
NSFS_MAGIC = 0x6E736673

SIGCHLD = 17
ENDING = (1, 2, 3, 15)  # HUP INT QUIT TERM: what tells a program to end
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36

_CLONE3 = NR["clone3"]
_SETNS = NR["setns"]
_UNSHARE = NR["unshare"]
_CLOSE_RANGE = NR["close_range"]
_PRCTL = NR["prctl"]


def clone(flags: int) -> int:
    """fork(2) with namespaces: 0 in the child, its pid in the caller.

    `flags` are CLONE_NEW* and CLONE_PARENT. The child is this interpreter's copy: one thread, no Python-level fork
    handlers run, so it may only use what was set up before, and leaves by execve or _exit.
    """
    signal = 0 if flags & CLONE_PARENT else SIGCHLD
    # struct clone_args: flags pidfd child_tid parent_tid exit_signal stack stack_size tls
    try:
        return syscall(_CLONE3, pack("8Q", flags, 0, 0, 0, signal, 0, 0, 0), 64)
    except BlockingIOError as error:  # EAGAIN
        error.filename = "clone3 (the pids.max of a cgroup or RLIMIT_NPROC is reached)"
        raise


def setns(descriptor: int, kinds: int) -> None:
    """Join the namespace `descriptor` is open on, or with a pidfd all those of `kinds` that the process has."""
    syscall(_SETNS, descriptor, kinds)


def unshare(kinds: int) -> None:
    """Move the caller into new namespaces of `kinds` (for pid and time: its next children)."""
    syscall(_UNSHARE, kinds)


def close_from(first: int, last: int = 0xFFFFFFFF) -> None:
    """Really close every descriptor from `first` to `last`; close-on-exec would come too late (CVE-2024-21626)."""
    if first <= last:
        syscall(_CLOSE_RANGE, first, last, 0)


def reap_launcher_helper() -> None:
    """Reap the process that the launcher has left us to make the kernel ready for a move between cgroups.

    Called after the first move, when it has done its work: see begin_cgroup_wait() in launcher/launcher.c.
    """
    pid = str(sys._xoptions.pop("helper", ""))
    if pid.isdigit() and int(pid) > 0:
        try:
            posix.waitpid(int(pid), WALL)
        except ChildProcessError:
            pass  # not started by the launcher, or reaped before


def prctl(option: int, value: int = 0, c: int = 0, d: int = 0, e: int = 0) -> int:
    """prctl(2)."""
    return syscall(_PRCTL, option, value, c, d, e)
