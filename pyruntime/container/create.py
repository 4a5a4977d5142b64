"""`create` and `run`: a container from its bundle. Runtime spec, "Operations" and "Lifecycle"."""

from __future__ import annotations

import posix

from pyruntime.container import handover, interruptions, setup
from pyruntime.container.start import notify_proxy, poststart
from pyruntime.kernel import processes as p

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.container.context import Context
    from pyruntime.container.launch import Launch
    from pyruntime.plan.step import Step

PIDFD_RECEIVER = "run.oci.pidfd_receiver"
"""crun's annotation: the same as --pidfd-socket, for engines that cannot pass flags."""


class CreateOptions:
    """The flags of `create` and `run`."""

    __slots__ = (
        "config", "console_socket", "detach", "keep", "no_new_keyring", "no_pivot", "no_subreaper", "pid_file",
        "pidfd_socket", "preserve_fds",
    )  # fmt: skip

    def __init__(self) -> None:
        self.config: str | None = None
        self.console_socket: str | None = None
        self.pidfd_socket: str | None = None
        self.pid_file: str | None = None
        self.no_pivot = self.no_new_keyring = self.detach = self.keep = self.no_subreaper = False
        self.preserve_fds = 0


def create(context: Context, container_id: str, bundle: str, options: CreateOptions) -> None:
    """Make a container that waits for `start`. Raises RuntimeFailure, and then leaves nothing behind."""
    launch = setup.launch(context, container_id, bundle, options, detached=True, gated=True)
    _hand_over(launch, options)
    try:
        launch.release()
    except BaseException:
        launch.undo()
        raise


def run(context: Context, container_id: str, bundle: str, options: CreateOptions) -> int:
    """create, start and, unless detached, wait and delete. Returns the exit status to leave with."""
    if not options.detach and not options.no_subreaper:
        # Orphans of the container that escape its pid namespace come back to us, and not to whoever runs us.
        p.prctl(p.PR_SET_CHILD_SUBREAPER, 1)
    launch = setup.launch(context, container_id, bundle, options, detached=options.detach, gated=False)
    _hand_over(launch, options)
    assert launch.record is not None
    terminal = signals = None
    try:
        interruptions.allow()
        if not options.detach:
            from pyruntime.container import foreground

            terminal = foreground.Terminal(launch.console) if launch.console >= 0 else None
        proxy = notify_proxy(launch.record)
        if not options.detach and not launch.runs_hooks_at_start():
            # What comes now may already be meant for the program. A hook that hangs must be interruptible.
            signals = foreground.Signals()
        launch.release()
        launch.await_program()
        poststart(launch.record, launch.pid)
        if proxy is not None:
            proxy.forward(launch.pid, launch.pidfd)
        interruptions.hold()  # they are the container's from here on
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
            from pyruntime.container.delete import destroy

            destroy(launch.record)
    return status


def preview(context: Context, container_id: str, bundle: str, options: CreateOptions) -> list[Step]:
    """The steps that `run` would take. Changes nothing and needs no privileges."""
    return setup.preview(context, container_id, bundle, options)


def _hand_over(launch: Launch, options: CreateOptions) -> None:
    """Give the caller what it asked for: the terminal, a pidfd, the pid."""
    assert launch.record is not None
    try:
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
