"""`delete`: remove a container. Runtime spec, "Lifecycle", steps 10 to 13; runc where the spec is silent."""

from __future__ import annotations

import posix

from pyruntime.container import directories, report, store
from pyruntime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.container.context import Context

SIGKILL = 9
WAIT_FOR_DEATH = 10.0  # seconds, as every other runtime does


def delete(context: Context, container_id: str, force: bool = False) -> None:
    """Remove a container that is stopped, or created; with `force` whatever it does."""
    try:
        record = store.open_container(context.root, container_id)
    except store.NoContainer:
        # A runtime that was killed in its first milliseconds leaves a directory without a state.
        if force and directories.has_config(context.root, container_id):
            _delete_damaged(context, container_id)
            return
        directories.remove_directory(f"{context.root}/{container_id}")
        if force:
            return
        raise
    except store.Damaged:
        if not force:
            raise
        _delete_damaged(context, container_id)
        return
    lock = record.lock()
    try:
        status, pid = record.status()
        if status in (store.CREATED, store.CREATING) or (force and pid):
            end(record, pid)
        elif pid:
            raise RuntimeFailure(f"cannot delete container {container_id} that is not stopped: {status}")
        destroy(record)
    finally:
        posix.close(lock)


def _delete_damaged(context: Context, container_id: str) -> None:
    from pyruntime.container import damaged

    damaged.delete(context, container_id)


def end(record: store.Record, pid: int) -> None:
    """End the init, and what shares its cgroup if it has no pid namespace; wait until it is gone."""
    import select
    from time import monotonic

    from pyruntime.container.kill import NotRunning, send_signal, thaw
    from pyruntime.kernel.pids import pidfd_open, stat

    try:
        pidfd = pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        send_signal(record, pid, SIGKILL)
        if record.has_cgroup():
            thaw(record)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)  # readable when the process has ended, reaped or not
        deadline = monotonic() + WAIT_FOR_DEATH
        while not poll.poll(100) and stat(pid)[0] not in (b"Z", b"X", b""):
            if monotonic() > deadline:
                raise RuntimeFailure("container init still running")
    except NotRunning:
        pass
    finally:
        posix.close(pidfd)


def destroy(record: store.Record) -> None:
    """Undo what create did, then run the poststop hooks. Runtime spec, "Lifecycle", steps 12 and 13."""
    if record.has_cgroup():
        cgroup = record.cgroup()
        if not record.data["privatePid"] and cgroup.exists():
            cgroup.kill(SIGKILL)
        cgroup.destroy()
    if record.data.get("intelRdt"):
        from pyruntime.container import resctrl

        resctrl.remove(record.data["intelRdt"])
    entries = record.data["hooks"].get("poststop")
    document = b""
    if entries:
        document = record.state_text(store.STOPPED, 0)
    record.remove()
    if entries:
        from pyruntime.container import hooks

        try:
            hooks.follow_annotations(record.data["annotations"])
        except RuntimeFailure as error:
            report.warn(str(error))
        for number, entry in enumerate(entries):
            # A failing poststop hook is logged, the others still run, and the container is deleted all the same.
            hook = hooks.Hook("poststop", number, entry)
            failure = hooks.run_hook(hook, document, record.data["bundle"].encode("utf-8", "surrogateescape"), None)
            if failure:
                report.warn(hooks.poststop_warning(number, failure))
