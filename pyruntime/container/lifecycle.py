"""The verbs on a container as a whole. Runtime spec, "Operations" and "Lifecycle"; runc where the spec is silent."""

from __future__ import annotations

import posix

from pyruntime.container import report, store
from pyruntime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.container.launch import Launch
    from pyruntime.container.notify_socket import Proxy
    from pyruntime.plan.step import Step

SIGKILL = 9
WAIT_FOR_DEATH = 10.0  # seconds, as every other runtime does
PR_SET_CHILD_SUBREAPER = 36

PIDFD_RECEIVER = "run.oci.pidfd_receiver"
"""crun's annotation: the same as --pidfd-socket, for engines that cannot pass flags."""


class NotRunning(RuntimeFailure):
    """The container's process has ended, maybe just now."""


class Context:
    """Where and how the verbs work: the global flags."""

    __slots__ = ("cgroup_manager", "debug", "root", "rootless", "systemd_cgroup")

    def __init__(
        self, root: str, systemd_cgroup: bool = False, rootless: str = "auto", cgroup_manager: str | None = None,
        debug: bool = False,
    ) -> None:  # fmt: skip
        self.root = root
        self.systemd_cgroup = systemd_cgroup
        self.rootless = rootless  # "auto", "true" or "false"
        self.cgroup_manager = cgroup_manager
        self.debug = debug


class CreateOptions:
    """The flags of `create` and `run`."""

    __slots__ = (
        "config", "console_socket", "detach", "keep", "no_new_keyring", "no_pivot", "no_subreaper", "pid_file",
        "pidfd_socket", "preserve_fds", "process_cwd",
    )  # fmt: skip

    def __init__(self) -> None:
        self.config: str | None = None
        self.console_socket: str | None = None
        self.pidfd_socket: str | None = None
        self.pid_file: str | None = None
        self.no_pivot = self.no_new_keyring = self.detach = self.keep = self.no_subreaper = False
        self.preserve_fds = 0
        self.process_cwd: str | None = None


def create(context: Context, container_id: str, bundle: str, options: CreateOptions) -> None:
    """Make a container that waits for `start`. Raises RuntimeFailure, and then leaves nothing behind."""
    from pyruntime.container import setup

    launch = setup.launch(context, container_id, bundle, options, detached=True, gated=True)
    _hand_over(launch, options)
    try:
        launch.release()
    except BaseException:
        launch.undo()
        raise


def run(context: Context, container_id: str, bundle: str, options: CreateOptions) -> int:
    """create, start and, unless detached, wait and delete. Returns the exit status to leave with."""
    from pyruntime.container import setup

    if not options.detach and not options.no_subreaper:
        # Orphans of the container that escape its pid namespace come back to us, and not to whoever runs us.
        from pyruntime.kernel.processes import prctl

        prctl(PR_SET_CHILD_SUBREAPER, 1)
    launch = setup.launch(context, container_id, bundle, options, detached=options.detach, gated=False)
    _hand_over(launch, options)
    assert launch.record is not None
    terminal = signals = None
    try:
        launch.allow_interruptions()
        if not options.detach:
            from pyruntime.container import foreground

            terminal = foreground.Terminal(launch.console) if launch.console >= 0 else None
        proxy = _notify_proxy(launch.record)
        if not options.detach and not launch.runs_hooks_at_start():
            # What comes now may already be meant for the program. A hook that hangs must be interruptible.
            signals = foreground.Signals()
        launch.release()
        launch.await_program()
        _poststart(launch.record, launch.pid)
        if proxy is not None:
            proxy.forward(launch.pid, launch.pidfd)
        launch.hold_interruptions()  # they are the container's from here on
    except BaseException:
        if terminal is not None:
            terminal.restore()
        launch.undo()
        raise
    if options.detach:
        return 0
    try:
        status = foreground.wait(launch.pid, terminal, signals)
    except BaseException:
        launch.end()  # nobody would be there to take its output, or its end
        raise
    finally:
        if not options.keep:
            destroy(launch.record)
    return status


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
        proxy = _notify_proxy(record)
        result = _result_of_hooks(record)
        _open_gate(record)
        if result is not None and (failure := _read_all(result)):
            raise RuntimeFailure(failure.decode("utf-8", "replace"))
        _poststart(record, pid)
        if proxy is not None:
            proxy.forward(pid)
    finally:
        posix.close(lock)


def _notify_proxy(record: store.Record) -> Proxy | None:
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


def _poststart(record: store.Record, pid: int) -> None:
    """The poststart hooks. One that fails stops the container (runtime spec 1.3.0, "Lifecycle", step 9)."""
    entries = record.data["hooks"].get("poststart")
    if not entries:
        return
    from pyruntime.container import hooks
    from pyruntime.container.launch import state_document

    try:
        hooks.follow_annotations(record.data["annotations"])
        hooks.run_hooks("poststart", entries, state_document(record, store.RUNNING, pid), record.data["bundle"])
    except RuntimeFailure:
        _kill_all(record, pid)
        raise


def state(context: Context, container_id: str) -> dict[str, Any]:
    """The state document of a container."""
    return store.open_container(context.root, container_id).describe()


def kill(context: Context, container_id: str, signal: int, all: bool = False) -> None:
    """Send a signal to the container's process, or with `all` to every process of its cgroup."""
    record = store.open_container(context.root, container_id)
    pid = record.pid()
    if all:
        if _has_cgroup(record):
            record.cgroup().kill(signal)
        elif pid:
            _signal(record, pid, signal)
        return
    shared = not record.data["privatePid"]
    if signal == SIGKILL and shared and _has_cgroup(record):
        # Without a pid namespace of its own nothing else would end the container's other processes.
        cgroup = record.cgroup()
        if pid or cgroup.populated():
            cgroup.kill(SIGKILL)
            return
    if not pid:
        raise RuntimeFailure("container not running")
    _signal(record, pid, signal)
    if signal == SIGKILL and _has_cgroup(record):
        _thaw(record)


def _thaw(record: store.Record) -> None:
    """A frozen process on cgroup v1 does not even die of SIGKILL."""
    cgroup = record.cgroup()
    if cgroup.driver == "v1" or cgroup.frozen():
        try:
            if cgroup.frozen():
                cgroup.thaw()
        except (OSError, RuntimeFailure) as error:
            report.warn(f"cannot thaw the killed container: {error}")


def _signal(record: store.Record, pid: int, signal: int) -> None:
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


def _has_cgroup(record: store.Record) -> bool:
    return bool(record.data["cgroup"].get("paths"))


def delete(context: Context, container_id: str, force: bool = False) -> None:
    """Remove a container that is stopped, or created; with `force` whatever it does."""
    try:
        record = store.open_container(context.root, container_id)
    except store.NoContainer:
        # A runtime that was killed in its first milliseconds leaves a directory without a state.
        if force and store.has_config(context.root, container_id):
            _delete_damaged(context, container_id)
            return
        store.remove_directory(f"{context.root}/{container_id}")
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
            _kill_all(record, pid)
        elif pid:
            raise RuntimeFailure(f"cannot delete container {container_id} that is not stopped: {status}")
        destroy(record)
    finally:
        posix.close(lock)


def _delete_damaged(context: Context, container_id: str) -> None:
    from pyruntime.container import damaged

    damaged.delete(context, container_id)


def _kill_all(record: store.Record, pid: int) -> None:
    """End the init, and what shares its cgroup if it has no pid namespace; wait until it is gone."""
    from time import monotonic, sleep

    from pyruntime.kernel.pids import pidfd_open, stat

    try:
        pidfd = pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        _signal(record, pid, SIGKILL)
    except NotRunning:
        posix.close(pidfd)
        return
    if _has_cgroup(record):
        _thaw(record)
    import select

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)  # readable when the process has ended, reaped or not
    deadline = monotonic() + WAIT_FOR_DEATH
    while not poll.poll(100):
        if monotonic() > deadline:
            posix.close(pidfd)
            raise RuntimeFailure("container init still running")
        if stat(pid)[0] in (b"Z", b"X", b""):
            break
        sleep(0)
    posix.close(pidfd)


def destroy(record: store.Record) -> None:
    """Undo what create did, then run the poststop hooks. Runtime spec, "Lifecycle", steps 12 and 13."""
    if _has_cgroup(record):
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
        from pyruntime.container.launch import state_document

        document = state_document(record, store.STOPPED, 0)
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
                report.warn(f"error running poststop hook #{number}: {failure}")


def listing(context: Context) -> list[dict[str, Any]]:
    """The states of all containers below the root; one that cannot be read is reported and left out."""
    documents = []
    for container_id in store.list_ids(context.root):
        try:
            record = store.open_container(context.root, container_id)
            document = record.describe()
            document["owner"] = _owner(record.directory)
        except store.NoContainer:
            report.warn(f"{context.root}/{container_id}: no state there (yet)")
            continue
        except OSError as error:
            report.warn(f"load container {container_id}: {error.filename or ''}: {error.strerror}")
            continue
        except RuntimeFailure as error:
            report.warn(f"load container {container_id}: {error}")
            continue
        documents.append(document)
    return documents


def _owner(directory: str) -> str:
    uid = posix.stat(directory).st_uid
    try:
        import pwd

        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def ps(context: Context, container_id: str) -> list[int]:
    """The pids of every process of the container, as the runtime sees them."""
    record = store.open_container(context.root, container_id)
    if _has_cgroup(record):
        return record.cgroup().pids()
    pid = record.pid()
    return [pid] if pid else []


def pause(context: Context, container_id: str) -> None:
    """Freeze every process of the container."""
    record = store.open_container(context.root, container_id)
    status, _ = record.status()
    if status not in (store.RUNNING, store.CREATED):
        raise RuntimeFailure("container not running")
    record.cgroup().freeze()


def resume(context: Context, container_id: str) -> None:
    """Thaw a paused container."""
    record = store.open_container(context.root, container_id)
    status, _ = record.status()
    if status != store.PAUSED:
        raise RuntimeFailure("container not paused")
    record.cgroup().thaw()


def preview(context: Context, container_id: str, bundle: str, options: CreateOptions) -> list[Step]:
    """The steps that `run` would take. Changes nothing and needs no privileges."""
    from pyruntime.container import setup

    return setup.preview(context, container_id, bundle, options)


def _hand_over(launch: Launch, options: CreateOptions) -> None:
    """Give the caller what it asked for: the terminal, a pidfd, the pid."""
    assert launch.record is not None
    try:
        from pyruntime.container import handover

        if options.console_socket and launch.console >= 0:
            handover.send_console(options.console_socket, launch.console)
            posix.close(launch.console)
            launch.console = -1
        if options.pidfd_socket:
            handover.send_descriptor(options.pidfd_socket, launch.pidfd, b"standard")
        if receiver := launch.record.data["annotations"].get(PIDFD_RECEIVER):
            handover.send_descriptor(receiver, launch.pidfd, b"standard")
        if options.pid_file:
            handover.write_pid(options.pid_file, launch.pid)
    except BaseException:
        launch.undo()
        raise
