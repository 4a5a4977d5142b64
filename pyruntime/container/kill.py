"""`kill`: a signal for the container's process, or for all of them."""

from __future__ import annotations

import posix

from pyruntime.container import report, store
from pyruntime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.container.context import Context

SIGKILL = 9


class NotRunning(RuntimeFailure):
    """The container's process has ended, maybe just now."""


def kill(context: Context, container_id: str, signal: int, all: bool = False) -> None:
    """Send a signal to the container's process, or with `all` to every process of its cgroup."""
    record = store.open_container(context.root, container_id)
    pid = record.pid()
    if all:
        if record.has_cgroup():
            record.cgroup().kill(signal)
        elif pid:
            send_signal(record, pid, signal)
        return
    shared = not record.data["privatePid"]
    if signal == SIGKILL and shared and record.has_cgroup():
        # Without a pid namespace of its own nothing else would end the container's other processes.
        cgroup = record.cgroup()
        if pid or cgroup.populated():
            cgroup.kill(SIGKILL)
            return
    if not pid:
        raise RuntimeFailure("container not running")
    send_signal(record, pid, signal)
    if signal == SIGKILL and record.has_cgroup():
        thaw(record)


def thaw(record: store.Record) -> None:
    """A frozen process on cgroup v1 does not even die of SIGKILL."""
    try:
        if record.frozen():
            record.cgroup().thaw()
    except (OSError, RuntimeFailure) as error:
        report.warn(f"cannot thaw the killed container: {error}")


def send_signal(record: store.Record, pid: int, signal: int) -> None:
    """Send a signal to the init, and to nobody else. Raises NotRunning, RuntimeFailure."""
    from pyruntime.kernel.pids import pidfd_open, pidfd_signal, start_time

    try:
        pidfd = pidfd_open(pid)
    except ProcessLookupError:
        raise NotRunning("container not running") from None
    try:
        # Opened first, compared then: the descriptor cannot change its process any more, a number can.
        if start_time(pid) != record.data["started"]:
            raise NotRunning("container not running")
        pidfd_signal(pidfd, signal)
    except ProcessLookupError:
        raise NotRunning("container not running") from None
    except OSError as error:
        raise RuntimeFailure(
            f"cannot send signal {signal} to process {pid}: {(error.strerror or '').lower()}"
        ) from None
    finally:
        posix.close(pidfd)
