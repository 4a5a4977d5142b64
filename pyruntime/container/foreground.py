"""Staying with a container until it ends: signals, the terminal, the exit status."""

from __future__ import annotations

import _signal
import posix
import select
from _struct import pack

from pyruntime.kernel.libc import NR, buffer, syscall
from pyruntime.kernel.processes import pidfd_open, pidfd_signal, reap_launcher_helper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SIGCHLD, SIGURG, SIGWINCH = 17, 23, 28
SIGKILL, SIGSTOP = 9, 19
# Signals of a fault of our own: the kernel delivers them to whoever caused them, blocked or not.
FAULTS = {4, 5, 7, 8, 11, 31}
SFD_CLOEXEC = posix.O_CLOEXEC
SIGNALFD_SIZE = 128

TIOCGWINSZ, TIOCSWINSZ = 0x5413, 0x5414
CHUNK = 65536
KEEP_UNWRITTEN = 1 << 20


class Signals:
    """All signals that can be passed on, readable from a descriptor from the moment this object exists."""

    __slots__ = ("_before", "descriptor")

    def __init__(self) -> None:
        numbers = [n for n in range(1, 65) if n not in (SIGKILL, SIGSTOP, 32, 33) and n not in FAULTS]
        self._before = _signal.pthread_sigmask(_signal.SIG_BLOCK, numbers)
        mask = sum(1 << (number - 1) for number in numbers)
        self.descriptor = syscall(NR["signalfd4"], -1, pack("Q", mask), 8, SFD_CLOEXEC)

    def read(self) -> list[int]:
        """The numbers of the signals that have arrived."""
        data = posix.read(self.descriptor, SIGNALFD_SIZE * 16)
        return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), SIGNALFD_SIZE)]

    def close(self) -> None:
        posix.close(self.descriptor)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self._before)


def wait(pid: int, terminal: Terminal | None, signals: Signals | None = None) -> int:
    """Wait for `pid`, a child of ours, passing signals on and serving its terminal, which is restored at the end.

    `signals` was made before the program was let go, so that none can be meant for the program and meet us.
    Returns its exit status, 128 + N when signal N ended it.
    """
    reap_launcher_helper()  # where nothing was moved between cgroups, it is still there
    signals = signals or Signals()
    try:
        return _loop(pid, signals, terminal)
    finally:
        if terminal is not None:
            terminal.restore()
        signals.close()


def _loop(pid: int, signals: Signals, terminal: Terminal | None) -> int:
    pidfd = pidfd_open(pid)
    poll = select.poll()
    poll.register(signals.descriptor, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    if terminal is not None:
        terminal.register(poll)
    while True:
        events = dict(poll.poll())
        if signals.descriptor in events:
            for number in signals.read():
                _pass_on(number, pid, pidfd, terminal)
        if terminal is not None:
            terminal.serve(events)
        if pidfd in events:
            break
    if terminal is not None:
        terminal.drain()
    posix.close(pidfd)
    _, status = posix.waitpid(pid, 0)
    return 128 + posix.WTERMSIG(status) if posix.WIFSIGNALED(status) else posix.WEXITSTATUS(status)


def _pass_on(number: int, pid: int, pidfd: int, terminal: Terminal | None) -> None:
    if number == SIGCHLD:
        _reap_others(pid)
    elif number == SIGWINCH and terminal is not None:
        terminal.resize()
    elif number != SIGURG:
        try:
            pidfd_signal(pidfd, number)
        except OSError:
            pass  # it has just ended


def _reap_others(pid: int) -> None:
    """We are the reaper of what outlives its parent in the container; the container's own process is left alone."""
    while True:
        try:
            found = posix.waitid(posix.P_ALL, 0, posix.WEXITED | posix.WNOHANG | posix.WNOWAIT)
            if found is None or found.si_pid == pid:
                return
            posix.waitpid(found.si_pid, posix.WNOHANG)
        except ChildProcessError:
            return


class Terminal:
    """Our own terminal (or pipes) on one side, the container's terminal on the other.

    Made before the container's program starts, so that its first look at the window size and its first newline are
    right; `restore()` must be called on every way out.
    """

    __slots__ = ("_attributes", "_master", "_open", "_own", "_poll", "_to_master", "_to_output")

    def __init__(self, master: int) -> None:
        self._master = master
        self._own = own_terminal()
        self._attributes: list[Any] | None = None
        self._to_master = b""
        self._to_output = b""
        self._open = True
        self._poll: Any = None
        posix.set_blocking(master, False)
        without_newline_translation(master)
        if self._own >= 0:
            import termios

            self.resize()
            self._attributes = termios.tcgetattr(self._own)
            raw = termios.tcgetattr(self._own)
            raw[0] &= ~(
                termios.BRKINT | termios.ICRNL | termios.INPCK | termios.ISTRIP | termios.IXON | termios.IGNBRK
                | termios.PARMRK | termios.INLCR | termios.IGNCR
            )  # fmt: skip
            # OPOST stays: our terminal turns newlines into CR LF, and the container's does not, see below.
            raw[2] = raw[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
            raw[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN | termios.ISIG)
            raw[6][termios.VMIN], raw[6][termios.VTIME] = 1, 0
            termios.tcsetattr(self._own, termios.TCSANOW, raw)

    def register(self, poll: Any) -> None:
        self._poll = poll
        poll.register(self._master, select.POLLIN)
        try:
            poll.register(0, select.POLLIN)
        except OSError:
            pass

    def serve(self, events: dict[int, int]) -> None:
        """Copy what has arrived, in both directions."""
        if 0 in events and self._poll is not None:
            try:
                data = posix.read(0, CHUNK)
            except OSError:
                data = b""
            if data:
                self._to_master += data
            else:
                self._poll.unregister(0)
        if self._master in events and self._open:
            if events[self._master] & (select.POLLIN | select.POLLHUP):
                self._take()
            if events[self._master] & select.POLLOUT or self._to_master:
                self._give()
        elif self._to_master:
            self._give()
        if self._open and self._poll is not None:
            self._poll.modify(self._master, select.POLLIN | (select.POLLOUT if self._to_master else 0))

    def _take(self) -> bool:
        """From the container to our output. False when there is nothing (more)."""
        try:
            data = posix.read(self._master, CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # EIO: nobody has the other side open any more
            data = b""
        if not data:
            self._open = False
            if self._poll is not None:
                self._poll.unregister(self._master)
            return False
        while data:
            try:
                data = data[posix.write(1, data) :]
            except BlockingIOError:
                select.select([], [1], [])
            except OSError:
                break  # nobody reads; the container goes on all the same
        return True

    def _give(self) -> None:
        try:
            self._to_master = self._to_master[posix.write(self._master, self._to_master) :]
        except BlockingIOError:
            self._to_master = self._to_master[-KEEP_UNWRITTEN:]
        except OSError:
            self._to_master = b""

    def drain(self) -> None:
        """The last words of a container that has ended."""
        while self._open and self._take():
            pass

    def resize(self) -> None:
        """Give the container's terminal the size of ours, if ours has one: a serial line does not know it."""
        if self._own < 0:
            return
        size = buffer(8)
        try:
            syscall(NR["ioctl"], self._own, TIOCGWINSZ, size)
            if any(bytes(size)[:4]):  # rows and columns
                syscall(NR["ioctl"], self._master, TIOCSWINSZ, size)
        except OSError:
            pass

    def restore(self) -> None:
        """Put our own terminal back as it was, on every way out."""
        if self._attributes is not None:
            import termios

            try:
                termios.tcsetattr(self._own, termios.TCSANOW, self._attributes)
            except termios.error:
                pass  # the terminal itself is gone
        posix.close(self._master)


def own_terminal() -> int:
    """The terminal that we were started from: one of our standard streams, or the controlling terminal; -1 if none."""
    for descriptor in (2, 1, 0):
        if posix.isatty(descriptor):
            return descriptor
    try:
        return posix.open("/dev/tty", posix.O_RDWR | posix.O_CLOEXEC | posix.O_NOCTTY)
    except OSError:
        return -1


def without_newline_translation(master: int) -> None:
    """Our own terminal turns newlines into CR LF already, and who reads a pipe or a file wants lines as they are."""
    import termios

    attributes = termios.tcgetattr(master)
    attributes[1] &= ~termios.ONLCR
    termios.tcsetattr(master, termios.TCSANOW, attributes)
