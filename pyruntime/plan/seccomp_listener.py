"""linux.seccomp.listenerPath: giving the listener of SCMP_ACT_NOTIFY to its agent. See seccomp_unotify(2).

The descriptor comes into being in the container's process in the moment it loads the filter. From then on every call
it makes, even the sendmsg(2) that would hand the descriptor over, may be one that waits for the agent, who has no
descriptor yet. So a helper process that shares the table of descriptors, but not the filter, is started first, sees
the descriptor appear and sends it. This way NOTIFY works for every system call, as the default action too. The
connection is made by the runtime process beforehand, so that a missing agent fails `create`.
"""

from __future__ import annotations

import _socket
import posix
from _json import encode_basestring_ascii
from _struct import pack
from errno import EBADF, ETIMEDOUT
from fcntl import F_GETFD, fcntl
from time import sleep

from pyruntime.errors import RuntimeFailure, SpecError
from pyruntime.kernel.libc import path as checked
from pyruntime.kernel.processes import clone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.kernel.seccomp import Program

CLONE_FILES = 0x00000400

_TRIES = 100_000  # of 50 microseconds each, at least: 5 seconds for one system call of the other process


def listener_path(section: dict[str, Any], annotations: dict[str, str]) -> str:
    """Where the agent listens. Raises SpecError if that is nowhere to be found."""
    path = section.get("listenerPath") or annotations.get("run.oci.seccomp.receiver") or ""
    if not path:
        raise SpecError("linux.seccomp.listenerPath", "a rule with SCMP_ACT_NOTIFY needs it: the agent's socket")
    return path


def process_state(version: str, pid: int, metadata: str, state: str) -> bytes:
    """The "container process state" of the runtime spec. `state` is the container's state, as JSON text."""
    fields = [f'"ociVersion":{encode_basestring_ascii(version)}', '"fds":["seccompFd"]', f'"pid":{pid}']
    if metadata:
        fields.append(f'"metadata":{encode_basestring_ascii(metadata)}')
    return ("{" + ",".join([*fields, f'"state":{state}']) + "}").encode("ascii")


class Listener:
    """A connection to the agent at `path`, whose descriptor `connection` the container's process has to keep open.

    That process also has to set `state` (see `process_state`) before it loads the filter: the state has the process'
    pid in it, so the runtime process can only say it after the process was made.
    """

    __slots__ = ("_socket", "connection", "path", "state")

    def __init__(self, path: str) -> None:
        """Connect. Raises RuntimeFailure."""
        self.path = path
        self.state = b""
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        # The address of a socket ends at 107 bytes; the path of an open descriptor is always short enough.
        descriptor = -1
        try:
            descriptor = posix.open(checked(path), posix.O_PATH | posix.O_CLOEXEC)
            self._socket.connect(f"/proc/self/fd/{descriptor}")
        except (OSError, ValueError) as error:
            self._socket.close()
            reason = posix.strerror(error.errno or 0).lower() if isinstance(error, OSError) else str(error)
            raise RuntimeFailure(
                f"linux.seccomp.listenerPath: failed to connect with seccomp agent at {path}: {reason}"
            ) from None
        finally:
            if descriptor >= 0:
                posix.close(descriptor)
        self.connection = self._socket.fileno()

    def close(self) -> None:
        """In the runtime process: the container's process has its own connection, whose end the agent waits for."""
        self._socket.close()

    def load(self, program: Program) -> None:
        """In the container's process: load `program` and see its listener sent off. Raises OSError.

        Neither the connection nor the listener is open any more afterwards.
        """
        # The kernel gives the lowest free number, so the helper can know what to wait for.
        number = posix.open(b"/", posix.O_PATH | posix.O_CLOEXEC)
        posix.close(number)
        helper = clone(CLONE_FILES)
        if helper == 0:
            status = 255
            try:
                status = self._send(number)
            finally:
                posix._exit(status)
        try:
            program.load()
        except OSError:
            posix.kill(helper, 9)
            posix.waitpid(helper, 0)
            raise
        try:
            _, result = posix.waitpid(helper, 0)
        except OSError:
            # The filter forbids waiting. The helper is harmless, and becomes a zombie of the container's.
            return
        if result:
            raise OSError(result >> 8, posix.strerror(result >> 8))

    def _send(self, number: int) -> int:
        """In the helper: the errno of what went wrong, 0 if nothing did."""
        try:
            for _ in range(_TRIES):
                try:
                    fcntl(number, F_GETFD)
                    break
                except OSError as error:
                    if error.errno != EBADF:
                        return error.errno or 255
                sleep(0.00005)
            else:
                return ETIMEDOUT
            rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, pack("i", number))]
            sent = self._socket.sendmsg([self.state], rights, _socket.MSG_NOSIGNAL)
            while sent < len(self.state):
                sent += self._socket.send(self.state[sent:], _socket.MSG_NOSIGNAL)
        except OSError as error:
            return error.errno or 255
        finally:
            # The table is shared: this closes both for the container's process too, which may not be able to. If
            # nothing was sent, calls that already wait for the agent fail now, with ENOSYS, instead of never.
            try:
                posix.close(number)
            except OSError:
                pass  # it never came
            self._socket.close()
        return 0
