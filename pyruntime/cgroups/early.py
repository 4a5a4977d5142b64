"""Waiting for the kernel before there is anything to wait for.

Moving a process to another cgroup v1 takes `cgroup_threadgroup_rwsem` for writing. After a quiet moment the first to
take it waits for an RCU grace period, 5 to 15 ms, which is as long as everything else that `create` does; those who
come within the next milliseconds do not wait. So a child takes it, by moving itself to where it is already, while the
runtime still reads the configuration and plans. A process that is born in its cgroup (clone3, cgroup v2) needs none of
this. Nothing depends on the child: without it, add() waits itself.
"""

from __future__ import annotations

import posix

from pyruntime.cgroups.host import UNIFIED, detect
from pyruntime.errors import RuntimeFailure
from pyruntime.kernel import cgroupfs


def begin() -> int:
    """Start the child; its pid, for `finish`. 0 if there is none."""
    try:
        pid = posix.fork()
    except OSError:
        return 0
    if pid == 0:
        try:
            _take()
        finally:
            posix._exit(0)
    return pid


def finish(pid: int) -> None:
    """Reap the child. To be called after add(), which the child has let through by then."""
    if pid:
        try:
            posix.waitpid(pid, 0)
        except OSError:
            pass  # SIGCHLD is ignored, so the kernel has reaped it


def _take() -> None:
    """Move ourselves to our own cgroup, in any one v1 hierarchy: the lock is the same for all."""
    try:
        host = detect()
        if host.unified:
            return
        for name in host.mounts:
            if name != UNIFIED:
                cgroupfs.write(None, host.own_directory(name) + "/cgroup.procs", b"0")
                return
    except (OSError, RuntimeFailure):
        pass  # not allowed to: then add() is not either, or waits
