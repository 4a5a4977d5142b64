"""The steps between the init and the runtime: waiting for each other, the terminal, the hooks, the program.

The two talk over a SOCK_SEQPACKET pair. Runtime to init: one byte per permission (GO_*). Init to runtime: one byte
that says what happened, with its payload: HELD, MOUNTED, READY (with descriptors), FAILED. End of file at the runtime
means that the program is running (the socket closes on execve) or that the init died; at the init, that the runtime
died.
"""

from __future__ import annotations

import posix
from _struct import pack
from errno import ECHILD, ECONNRESET, EINVAL, EIO, ENXIO

from pyruntime.kernel import mounts as m
from pyruntime.kernel.filesystems import DEVPTS_SUPER_MAGIC, PROC_SUPER_MAGIC, filesystem_type
from pyruntime.kernel.libc import NR, buffer, syscall
from pyruntime.kernel.paths import O_DIRECTORY, O_PATH, open_in_root
from pyruntime.kernel.processes import CLONE_NEWCGROUP, close_from, unshare
from pyruntime.plan.command import Command
from pyruntime.plan.namespaces import join_all
from pyruntime.plan.step import Place, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.plan.seccomp_listener import Listener

GO_MAPPED = b"m"
GO_CGROUP = b"c"
GO_HOOKS = b"h"
GO_START = b"s"
HELD = b"L"
MOUNTED = b"M"
READY = b"R"
FAILED = b"E"

TIOCSPTLCK = 0x40045431
TIOCGPTPEER = 0x5441
TIOCSWINSZ = 0x5414
TIOCSCTTY = 0x540E
CONSOLE_MAJOR = 5
NULL_DEVICE = posix.makedev(1, 3)
PTMX_INODE = 2  # in every devpts
PROC_ROOT_INODE = 1  # PROC_ROOT_INO of the kernel
S_IFMT, S_IFCHR = 0o170000, 0o020000

_IOCTL = NR["ioctl"]


class WaitFor(Step):
    """Wait for the runtime process."""

    __slots__ = ("listener", "message", "reason")

    def __init__(self, message: bytes, reason: str, listener: Listener | None = None) -> None:
        self.message = message
        self.reason = reason
        self.listener = listener  # gets what follows the message: the state for the seccomp agent

    def describe(self) -> str:
        return f"wait until {self.reason}"

    def apply(self, place: Place) -> None:
        assert place.channel is not None
        message = place.channel.recv(1 << 20)
        if message[:1] != self.message:
            raise OSError(ECHILD, "the runtime is gone")
        if self.listener is not None:
            self.listener.state = message[1:]


class JoinNamespaces(Step):
    """Enter the namespaces that are given by path."""

    __slots__ = ("descriptors", "order", "words")

    def __init__(self, descriptors: dict[str, int], order: list[str], words: str) -> None:
        self.descriptors = descriptors  # filled by OpenNamespaces
        self.order = order
        self.words = words

    def describe(self) -> str:
        return f"join the {self.words} namespaces"

    def apply(self, place: Place) -> None:
        join_all(self.descriptors, self.order)


class BecomeRoot(Step):
    """Be uid 0 and gid 0 of the user namespace, so that files made for the container have an owner that is mapped."""

    __slots__ = ("setgroups",)

    def __init__(self, setgroups: bool) -> None:
        self.setgroups = setgroups

    def describe(self) -> str:
        return "become root of the user namespace"

    def apply(self, place: Place) -> None:
        for call, count in (("setresgid", 3), ("setresuid", 3)):
            try:
                syscall(NR[call], *([0] * count))
            except OSError as error:
                if error.errno != EINVAL:  # id 0 is not mapped: then we stay who we are
                    raise
        if self.setgroups:
            try:
                syscall(NR["setgroups"], 0, None)
            except PermissionError:
                pass
        # Changing ids resets it, and now nobody has to open our /proc/PID/uid_map any more.
        syscall(NR["prctl"], 4, 0)  # PR_SET_DUMPABLE


class NewCgroupNamespace(Step):
    """A cgroup namespace rooted at the container's cgroup, which the init has entered by now."""

    __slots__ = ()

    def describe(self) -> str:
        return "make the cgroup namespace"

    def apply(self, place: Place) -> None:
        unshare(CLONE_NEWCGROUP)


class OpenProcfs(Step):
    """A procfs of our own. Whatever the image or another container does to /proc, this one stays what it is."""

    __slots__ = ("whole",)

    def __init__(self, whole: bool) -> None:
        self.whole = whole  # with /proc/sys, for sysctls

    def describe(self) -> str:
        return "open a procfs that the container cannot see"

    def apply(self, place: Place) -> None:
        options: list[tuple[bytes, bytes | None]] = [] if self.whole else [(b"subset", b"pid")]
        try:
            place.proc = m.new_filesystem(b"proc", options)
        except PermissionError:
            # A user namespace may only mount procfs where an unmasked one is in sight, or the pid namespace is not
            # its own. Then /proc must do: the caller's, and for exec the container's. It must be the root of a procfs,
            # and who uses it crosses no mount and no magic link in it (kernel/lsm.py, plan/system.py).
            place.proc = posix.open(b"/proc", O_PATH | O_DIRECTORY | posix.O_CLOEXEC)
            if filesystem_type(place.proc) != PROC_SUPER_MAGIC or posix.fstat(place.proc).st_ino != PROC_ROOT_INODE:
                raise


class ReportMounted(Step):
    """Tell the runtime that the mount namespace is ready for prestart, createRuntime and createContainer hooks."""

    __slots__ = ()

    def describe(self) -> str:
        return "say that the mounts are ready"

    def apply(self, place: Place) -> None:
        assert place.channel is not None
        place.channel.send(MOUNTED)


class OpenTerminal(Step):
    """Make a terminal on the container's own devpts, and make it ours: stdin, stdout, stderr, /dev/console.

    The master is opened through a descriptor of the container's /dev/pts that was checked to be a devpts, and the
    other side by ioctl, so that nothing in /dev can be swapped for something else meanwhile (CVE-2025-52565).
    """

    __slots__ = ("console", "size")

    def __init__(self, size: tuple[int, int] | None, console: bool) -> None:
        self.size = pack("HHHH", size[0], size[1], 0, 0) if size else None
        self.console = console  # also on /dev/console: for the init, not for exec

    def describe(self) -> str:
        return "open a terminal" + (" and attach it to /dev/console" if self.console else "")

    def apply(self, place: Place) -> None:
        try:
            pts = open_in_root(place.rootfs, b"/dev/pts", O_PATH | O_DIRECTORY)
            ptmx = posix.open(b"ptmx", O_PATH | posix.O_NOFOLLOW | posix.O_CLOEXEC, dir_fd=pts)
        except FileNotFoundError:
            # Not ENOENT: engines would take that for a missing program.
            failure = m.FilesystemError(ENXIO, posix.strerror(ENXIO))
            failure.detail = b"the container has no /dev/pts/ptmx: a terminal needs a devpts on /dev/pts"
            raise failure from None
        status = posix.fstat(ptmx)
        if (
            filesystem_type(ptmx) != DEVPTS_SUPER_MAGIC
            or status.st_ino != PTMX_INODE
            or status.st_mode & S_IFMT != S_IFCHR
            or posix.major(status.st_rdev) != CONSOLE_MAJOR
        ):
            failure = m.FilesystemError(ENXIO, posix.strerror(ENXIO))
            failure.detail = b"/dev/pts/ptmx is not the terminal multiplexer of a devpts"
            raise failure
        posix.close(ptmx)
        master = posix.open(b"ptmx", posix.O_RDWR | posix.O_NOCTTY | posix.O_NOFOLLOW | posix.O_CLOEXEC, dir_fd=pts)
        posix.close(pts)
        if self.size:
            syscall(_IOCTL, master, TIOCSWINSZ, self.size)
        syscall(_IOCTL, master, TIOCSPTLCK, buffer(4))
        slave = syscall(_IOCTL, master, TIOCGPTPEER, posix.O_RDWR | posix.O_NOCTTY | posix.O_CLOEXEC)
        if self.console:
            self._attach(place.rootfs, slave)
        posix.setsid()
        syscall(_IOCTL, slave, TIOCSCTTY, 0)
        for descriptor in (0, 1, 2):
            posix.dup2(slave, descriptor)
        posix.close(slave)
        place.console = master

    @staticmethod
    def _attach(root: int, slave: int) -> None:
        dev = open_in_root(root, b"/dev", O_PATH | O_DIRECTORY)
        flags = posix.O_CREAT | posix.O_EXCL | posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_CLOEXEC
        try:
            posix.close(posix.open(b"console", flags, 0o666, dir_fd=dev))
        except FileExistsError:
            pass
        target = posix.open(b"console", O_PATH | posix.O_NOFOLLOW | posix.O_CLOEXEC, dir_fd=dev)
        tree = m.clone_tree(slave)
        m.attach(tree, target)
        for descriptor in (dev, target, tree):
            posix.close(descriptor)


class NewSession(Step):
    """setsid(2): the container's processes are not in the session of whoever called the runtime."""

    __slots__ = ()

    def describe(self) -> str:
        return "start a session"

    def apply(self, place: Place) -> None:
        try:
            posix.setsid()
        except PermissionError:
            pass  # already the leader of a session


class ReopenNull(Step):
    """Where a standard stream is the host's /dev/null, put the container's in its place.

    Otherwise a mount of the host stays referred to from inside, and CRIU cannot save the process. A container that has
    no null device at that path keeps the host's: what lies there instead is not to be opened (CVE-2026-88264).
    """

    __slots__ = ()

    def describe(self) -> str:
        return "let the standard streams be the container's /dev/null where they are the host's"

    def apply(self, place: Place) -> None:
        theirs = [number for number in (0, 1, 2) if _is_null(number)]
        if not theirs:
            return
        try:
            found = open_in_root(place.rootfs, b"/dev/null", O_PATH | posix.O_NOFOLLOW)
        except OSError:
            return
        try:
            if _is_null(found):
                flags = posix.O_RDWR | posix.O_NOFOLLOW | posix.O_NONBLOCK | posix.O_NOCTTY
                null = open_in_root(place.rootfs, b"/dev/null", flags)
                if _is_null(null):
                    posix.set_blocking(null, True)
                    for number in theirs:
                        posix.dup2(null, number)
                posix.close(null)
        except PermissionError:
            pass  # on a mount with nodev
        finally:
            posix.close(found)


def _is_null(descriptor: int) -> bool:
    try:
        status = posix.fstat(descriptor)
    except OSError:
        return False
    return status.st_mode & S_IFMT == S_IFCHR and status.st_rdev == NULL_DEVICE


class MakeDirectory(Step):
    """Make the working directory where it is missing, before anything turns read-only."""

    __slots__ = ("command",)

    def __init__(self, command: Command) -> None:
        self.command = command

    def describe(self) -> str:
        return f"make the working directory {self.command.cwd.decode('utf-8', 'replace')} if it is missing"

    def apply(self, place: Place) -> None:
        self.command.make_directory(place.rootfs)


class FindProgram(Step):
    """Enter the working directory and find the program."""

    __slots__ = ("command",)

    def __init__(self, command: Command) -> None:
        self.command = command

    def describe(self) -> str:
        where, what = (text.decode("utf-8", "replace") for text in (self.command.cwd, self.command.name))
        return f"enter {where} and find {what}"

    def apply(self, place: Place) -> None:
        self.command.enter_directory()
        self.command.find_home()
        # A missing interpreter is what execve tells, in one plain line on standard error as every other runtime does;
        # but `create` is the last moment at which an engine can be told.
        self.command.find(place.gate >= 0)


class CloseDescriptors(Step):
    """Really close every descriptor but those the program gets and the ones we still need ourselves."""

    __slots__ = ("extra", "passed")

    def __init__(self, passed: int, extra: int = -1) -> None:
        self.passed = passed  # how many after 0, 1 and 2 go to the program
        self.extra = extra  # the connection to the seccomp agent

    def describe(self) -> str:
        return "close all other descriptors"

    def apply(self, place: Place) -> None:
        assert place.channel is not None
        first = 3 + self.passed
        kept = [place.channel.fileno(), place.gate, place.result, place.console, self.extra]
        kept.sort()
        for descriptor in kept:
            if descriptor >= first:
                close_from(first, descriptor - 1)
                first = descriptor + 1
        close_from(first)
        place.rootfs = place.proc = -1


class ReportReady(Step):
    """Hand the terminal over and say that everything but the program is there."""

    __slots__ = ()

    def describe(self) -> str:
        return "say that the container is created"

    def apply(self, place: Place) -> None:
        assert place.channel is not None
        if place.console < 0:
            place.channel.send(READY)
            return
        place.channel.sendmsg([READY + b"c"], [(1, 1, pack("i", place.console))])  # SOL_SOCKET, SCM_RIGHTS
        posix.close(place.console)
        place.console = -1


class WaitForStart(Step):
    """Wait for `start`, which writes one byte into the FIFO of the state directory (or sends it, for `run`)."""

    __slots__ = ()

    def describe(self) -> str:
        return "wait for start"

    def apply(self, place: Place) -> None:
        assert place.channel is not None
        if place.gate < 0:
            if place.channel.recv(8) != GO_START:
                raise OSError(ECONNRESET, "the runtime is gone")
            return
        # The runtime confirms that the container is on record; if it died before, so do we.
        if place.channel.recv(8) != GO_START:
            raise OSError(ECONNRESET, "the runtime is gone")
        place.channel.close()
        place.channel = None
        # The FIFO is open for reading and writing, so it never ends; it closes on execve, which is how `start` learns
        # that the program runs.
        if posix.read(place.gate, 1) != b"s":
            raise OSError(EIO, "the start FIFO was damaged")


class Execute(Step):
    """Become the program."""

    __slots__ = ("command",)

    def __init__(self, command: Command) -> None:
        self.command = command

    def describe(self) -> str:
        return f"execute {self.command.name.decode('utf-8', 'replace')}"

    def apply(self, place: Place) -> None:
        self.command.run()
