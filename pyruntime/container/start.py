"""`start`: let the program of a created container go. Runtime spec, "Lifecycle", steps 7 to 9."""

from __future__ import annotations

import posix

from pyruntime.container import store
from pyruntime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.container.context import Context
    from pyruntime.container.notify_socket import Proxy


def start(context: Context, container_id: str) -> None:
    """Run the program of a created container."""
    record = store.open_container(context.root, container_id)
    lock = record.lock()
    try:
        status, pid = record.status()
        if status == store.STOPPED:
            raise RuntimeFailure("cannot start a container that has stopped")
        if status == store.RUNNING:
            raise RuntimeFailure("cannot start an already running container")
        if status == store.PAUSED:
            raise RuntimeFailure("cannot start a container in the paused state")
        if status != store.CREATED:
            raise RuntimeFailure("cannot start a container that is still being created")
        if not record.data["hasProcess"]:
            raise RuntimeFailure("cannot start a container without a process: config.json had none")
        proxy = notify_proxy(record)
        result = _result_of_hooks(record)
        _open_gate(record)
        try:
            if result is not None and (failure := _read_all(result)):
                raise RuntimeFailure(failure.decode("utf-8", "replace"))
            poststart(record, pid)
        except RuntimeFailure:
            # A hook has failed: "stop the container, and continue the lifecycle at step 12", which destroys it.
            from pyruntime.container.delete import destroy, end

            end(record, pid)
            destroy(record)
            raise
        if proxy is not None:
            proxy.forward(pid)
    finally:
        posix.close(lock)


def notify_proxy(record: store.Record) -> Proxy | None:
    """For a container made with $NOTIFY_SOCKET: who passes its READY=1 on."""
    host = record.data.get("notify")
    if not host:
        return None
    from pyruntime.container.notify_socket import Proxy

    return Proxy(record.directory, host)


def _result_of_hooks(record: store.Record) -> int | None:
    """Where the init reports a failed startContainer hook, opened before it can have failed."""
    if not record.data["startHooks"]:
        return None
    return posix.open(f"{record.directory}/{store.RESULT}", posix.O_RDONLY | posix.O_NONBLOCK | posix.O_CLOEXEC)


def _read_all(descriptor: int) -> bytes:
    """What was written; the writer has closed it, by execve or by its end."""
    try:
        return posix.read(descriptor, 4096)
    except BlockingIOError:
        return b""
    finally:
        posix.close(descriptor)


def _open_gate(record: store.Record) -> None:
    """Write the byte the init waits for, and wait until the program is executed: then the FIFO loses its reader."""
    import select

    gate = record.open_gate()
    if gate < 0:
        raise RuntimeFailure("cannot start a container that has stopped")
    try:
        posix.write(gate, b"s")
        poll = select.poll()
        poll.register(gate, 0)  # POLLERR is always reported
        poll.poll()
    except BrokenPipeError:
        pass
    except OSError as error:
        raise RuntimeFailure(
            f"cannot write to {record.directory}/{store.START}: {(error.strerror or '').lower()}"
        ) from None
    finally:
        posix.close(gate)


def poststart(record: store.Record, pid: int) -> None:
    """The poststart hooks. One that fails stops the container (runtime spec 1.3.0, "Lifecycle", step 9)."""
    entries = record.data["hooks"].get("poststart")
    if not entries:
        return
    from pyruntime.container import hooks

    try:
        hooks.follow_annotations(record.data["annotations"])
        hooks.run_hooks("poststart", entries, record.state_text(store.RUNNING, pid), record.data["bundle"])
    except RuntimeFailure:
        from pyruntime.container.delete import end

        end(record, pid)
        raise
