"""Making, finding, signalling and joining processes: clone3(2), pidfd_open(2), setns(2), unshare(2), proc(5)."""

from __future__ import annotations

import posix
import sys
from _struct import pack

from pyruntime.kernel.libc import NR, syscall

CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_PARENT = 0x00008000
CLONE_INTO_CGROUP = 0x200000000

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
_PIDFD_OPEN = NR["pidfd_open"]
_PIDFD_SEND_SIGNAL = NR["pidfd_send_signal"]
_CLOSE_RANGE = NR["close_range"]
_PRCTL = NR["prctl"]


def clone(flags: int, cgroup: int = -1) -> int:
    """fork(2) with namespaces: 0 in the child, its pid in the caller.

    `flags` are CLONE_NEW* and CLONE_PARENT; `cgroup` is the descriptor of a cgroup v2 directory to be born in. The
    child is this interpreter's copy: one thread, no Python-level fork handlers run, so it may only use what was set
    up before, and leaves by execve or _exit.
    """
    signal = 0 if flags & CLONE_PARENT else SIGCHLD
    if cgroup >= 0:
        flags |= CLONE_INTO_CGROUP
    # struct clone_args: flags pidfd child_tid parent_tid exit_signal stack stack_size tls set_tid set_tid_size cgroup
    try:
        return syscall(_CLONE3, pack("11Q", flags, 0, 0, 0, signal, 0, 0, 0, 0, 0, max(cgroup, 0)), 88)
    except BlockingIOError as error:  # EAGAIN
        error.filename = "clone3 (the pids.max of a cgroup or RLIMIT_NPROC is reached)"
        raise


def setns(descriptor: int, kinds: int) -> None:
    """Join the namespace `descriptor` is open on, or with a pidfd all those of `kinds` that the process has."""
    syscall(_SETNS, descriptor, kinds)


def unshare(kinds: int) -> None:
    """Move the caller into new namespaces of `kinds` (for pid and time: its next children)."""
    syscall(_UNSHARE, kinds)


def pidfd_open(pid: int) -> int:
    """A descriptor that means this process and no later one with the same number."""
    return syscall(_PIDFD_OPEN, pid, 0)


def pidfd_signal(pidfd: int, signal: int) -> None:
    """Send `signal` to the process of `pidfd`. Raises ProcessLookupError when it is gone."""
    syscall(_PIDFD_SEND_SIGNAL, pidfd, signal, None, 0)


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


def start_time(pid: int) -> int:
    """When the process started, in clock ticks since boot, or 0 if it is gone or a zombie.

    Together with the pid this names a process for good: a reused pid has another start time. proc(5), field 22.
    """
    state, started = stat(pid)
    return 0 if state in (b"Z", b"X", b"") else started


def stat(pid: int) -> tuple[bytes, int]:
    """(state letter, start time) of a process; (b"", 0) if there is none. The name may hold spaces and parentheses.

    Raises OSError when it cannot be told (no descriptors left, say): not to know is not to be gone.
    """
    path = f"/proc/{pid}/stat"
    try:
        descriptor = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b"", 0
    try:
        text = posix.read(descriptor, 4096)
    except ProcessLookupError:
        return b"", 0
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        posix.close(descriptor)
    fields = text[text.rfind(b")") + 2 :].split(b" ")
    if len(fields) < 20:
        return b"", 0
    return fields[0], int(fields[19])
