"""A process that is being set up by its steps, as the runtime sees it: what it says, and how it fails.

The other end is container/init.py; the messages are those of plan/lifecycle.py.
"""

from __future__ import annotations

import _socket
import posix
from _struct import unpack
from errno import ECONNRESET, ENOSYS, ENOTCONN, EPIPE

from pyruntime.container import init
from pyruntime.errors import TOO_OLD, RuntimeFailure
from pyruntime.kernel import processes as p
from pyruntime.plan import command
from pyruntime.plan import lifecycle as life
from pyruntime.plan.step import Place, Step

SOL_SOCKET, SCM_RIGHTS = 1, 1
MESSAGE_LIMIT = 4096
SIGKILL = 9
GONE = (EPIPE, ECONNRESET, ENOTCONN)  # nobody is at the other end any more
PREFIX = "unable to start container process: "


class InitFailed(RuntimeFailure):
    """The process reported a failed step, or died."""


class Child:
    """One process on its way to its program. Used for the init of a container and for exec."""

    __slots__ = ("channel", "command", "console", "holds_memory", "pid", "pidfd", "place", "steps")

    def __init__(self) -> None:
        self.place = Place()
        self.steps: list[Step] = []
        self.command: command.Command | None = None
        self.channel: _socket.socket | None = None
        self.holds_memory = False  # the first step is plan/memory.py: HoldMemory
        self.pid = 0
        self.pidfd = -1
        self.console = -1  # master side of the terminal, once the process has sent it

    def pair(self) -> tuple[_socket.socket, _socket.socket]:
        """The two ends of the channel: (ours, the process')."""
        try:
            return _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        except OSError as error:
            raise RuntimeFailure(f"cannot make a pair of sockets: {words(error.errno or 0)}") from None

    def begin(self, theirs: _socket.socket, ours: _socket.socket) -> None:
        """In the new process: apply the steps. Never returns."""
        ours.close()
        self.place.channel = theirs
        posix.umask(0)
        init.run(self.steps, self.place, self.command.name if self.command else b"")

    def adopt(self, pid: int, theirs: _socket.socket, ours: _socket.socket) -> None:
        """In the runtime: the process is there."""
        theirs.close()
        self.pid = pid
        self.channel = ours
        self.pidfd = p.pidfd_open(pid)

    def await_memory(self) -> None:
        """Before the process is moved to its cgroup: wait until it has its memory, where the cgroup has little."""
        if self.holds_memory:
            message = self.receive()
            if message != life.HELD:
                raise self.failure(message)

    def release(self) -> None:
        """Let it go: to the start FIFO if it is gated, to its program otherwise."""
        assert self.channel is not None
        try:
            self.channel.send(life.GO_START)
        except OSError as error:
            if error.errno not in GONE:
                raise RuntimeFailure(f"cannot speak to the container's init: {words(error.errno or 0)}") from None
            raise InitFailed("container init died while it was waiting to be started") from None

    def await_program(self) -> None:
        """Wait until the program runs: the channel closes on execve. Raises InitFailed when it cannot be executed."""
        message = self.receive()
        if message:
            raise self.failure(message)

    def end(self) -> None:
        """Kill and reap it, if it is there."""
        if self.pid:
            try:
                # A child of ours that is not waited for keeps its number, so that without a pidfd this is safe too.
                p.pidfd_signal(self.pidfd, SIGKILL) if self.pidfd >= 0 else posix.kill(self.pid, SIGKILL)
            except OSError:
                pass
            try:
                self._reap()
            except OSError:
                pass

    def _reap(self) -> int:
        """Wait for its end and return its status.

        A hook that was killed in the container's pid namespace may have become our child (`run` is a subreaper), and
        the init of a namespace ends only when everybody else in it has been reaped: pid_namespaces(7).
        """
        while True:
            pid, status = posix.waitpid(-1, 0)
            if pid == self.pid:
                return status

    def send(self, message: bytes) -> None:
        assert self.channel is not None
        try:
            self.channel.send(message)
        except OSError as error:
            if error.errno not in GONE:
                raise RuntimeFailure(f"cannot speak to the container's init: {words(error.errno or 0)}") from None
            # The init is gone; what it had to say is still to be read.
            raise self.failure(self.receive()) from None

    def receive(self) -> bytes:
        """The next message of the init, b"" when it is gone. Descriptors that come along are kept."""
        assert self.channel is not None
        try:
            message, ancillary, flags, _ = self.channel.recvmsg(MESSAGE_LIMIT, 256, _socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            if error.errno == ECONNRESET:  # it ended without reading all that we had sent
                return b""
            raise RuntimeFailure(f"cannot hear from the container's init: {words(error.errno or 0)}") from None
        received: list[int] = []
        for level, kind, data in ancillary:
            if level == SOL_SOCKET and kind == SCM_RIGHTS:
                received += unpack(f"{len(data) // 4}i", data[: len(data) // 4 * 4])
        names = message[1:] if message[:1] == life.READY else b""
        if flags & _socket.MSG_CTRUNC or len(received) != len(names):
            for descriptor in received:
                posix.close(descriptor)
            raise InitFailed("the init sent descriptors that were not asked for")
        if received:
            self.console = received[0]
        return bytes(message)

    def failure(self, message: bytes) -> InitFailed:
        """What the init said, in words."""
        if message[:1] != life.FAILED or len(message) < 13:
            return InitFailed(PREFIX + self._how_it_died())
        number, kind, code = unpack("iii", message[1:13])
        steps = self.steps
        if not 0 <= number < len(steps):
            return InitFailed(PREFIX + "the init failed before its first step")
        step = steps[number]
        if kind == init.BY_COMMAND:
            assert self.command is not None
            name = self.command.name.decode("utf-8", "replace")
            return InitFailed(PREFIX + command.explain(code, name, message[13:]))
        detail = message[13:].decode("utf-8", "replace")
        if kind == init.BY_US:
            return InitFailed(f"{PREFIX}error during container init: {step.describe()}: internal error: {detail}")
        if isinstance(step, life.Execute):
            return InitFailed(f'{PREFIX}exec: "{step.command.name.decode("utf-8", "replace")}": {words(code)}')
        said = f": {detail}" if detail else ""
        if not code and detail:
            return InitFailed(f"{PREFIX}error during container init: {detail}")
        advice = step.explain(code)
        advice = f": {advice}" if advice else ""
        return InitFailed(f"{PREFIX}error during container init: {step.failure()}{said}: {words(code)}{advice}")

    def _how_it_died(self) -> str:
        if self.pid:
            status = self._reap()
            self.pid = 0
            if posix.WIFSIGNALED(status):
                signal = posix.WTERMSIG(status)
                hint = "; is its memory limit too small?" if signal == SIGKILL else ""
                return f"container init was killed by signal {signal}{hint}"
        return "container init died"


def words(code: int, error: OSError | None = None) -> str:
    """An errno as engines search for it: in small letters."""
    text = posix.strerror(code) if code else str(error or "failed")
    detail = getattr(error, "detail", b"")
    said = f"{detail.decode('utf-8', 'replace')}: " if detail else ""
    return said + text[:1].lower() + text[1:] + (TOO_OLD if code == ENOSYS else "")
