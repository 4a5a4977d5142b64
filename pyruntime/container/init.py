"""The container's init, from its first moment to execve.

The process was cloned with everything it needs in memory and does nothing but apply steps in order. From pivot_root
on, files of the container lie where Python would look for its own: an import, a codec, a traceback would run the
image's code as the host's root. So the import system is closed before the first step, hooks end the process at
whatever would open it again, and the only ways out are execve and _exit (docs/container-side.md, rules P9 to P24).
"""

from __future__ import annotations

import _signal
import gc
import posix
import sys
from _struct import pack

from pyruntime.plan.command import CommandError
from pyruntime.plan.lifecycle import FAILED
from pyruntime.plan.step import Place, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

BY_KERNEL = 0  # a system call failed: errno, and what the kernel said beside it
BY_COMMAND = 1  # the program cannot be run: a reason of plan/command.py
BY_US = 2  # a bug of ours: the name of the exception

STDERR = 2
DETAIL = 1000  # bytes, at most, that come out of the container
EXIT_FAILURE = 1
EXIT_LATE = 255  # of a program that could not be executed, as with every other runtime

# Events that mean that code or a library is about to be loaded by name. See the audit events table of Python.
FORBIDDEN_EVENTS = frozenset((
    "import", "compile", "exec", "marshal.loads", "ctypes.dlopen", "subprocess.Popen", "os.fork", "os.forkpty",
    "os.posix_spawn", "os.spawn", "os.system", "os.exec", "socket.getaddrinfo", "socket.gethostbyname",
))  # fmt: skip


def run(steps: list[Step], place: Place, program: bytes) -> NoReturn:
    """Apply `steps`; the last one does not return. `program` is the name of the program for a late error message."""
    number = 0
    status = EXIT_FAILURE
    try:
        die_of_signals()
        close_imports()
        for number, step in enumerate(steps):  # noqa: B007
            step.apply(place)
        _report(place, number, BY_US, 0, b"the last step came back", program)
    except CommandError as error:
        _report(place, number, BY_COMMAND, error.reason, error.detail, program)
    except OSError as error:
        if number == len(steps) - 1:
            # The program is there and cannot be executed. That is the container's own affair, and the same whether
            # anybody still waits for its start or not: a plain line on its standard error.
            status = EXIT_LATE
            _say(program, error.errno or 0)
        else:
            _report(place, number, BY_KERNEL, error.errno or 0, getattr(error, "detail", b""), program)
    except BaseException as error:
        _report(place, number, BY_US, 0, type(error).__name__.encode(), program)
    finally:
        posix._exit(status)


def close_imports() -> None:
    """From here on nothing can be imported, compiled or loaded, and no exception is shown."""
    sys.meta_path = []
    sys.path_hooks = []
    sys.path_importer_cache = {}
    sys.path = []
    sys.excepthook = sys.unraisablehook = _silent
    sys.addaudithook(_audit)


def die_of_signals() -> None:
    """End by signals as any process would. The first process of a pid namespace ignores those without a handler, and
    `kill` must work on a container that is not started yet."""
    for number in (1, 2, 3, 10, 12, 14, 15):  # HUP INT QUIT USR1 USR2 ALRM TERM
        _signal.signal(number, _die)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def _die(number: int, _frame: object) -> None:
    posix._exit(128 + number)


def freeze_memory() -> None:
    """Before the clone: no collection may run in the init, neither for speed (it would touch every page that it
    shares with the runtime) nor to have finalisers close descriptors that mean something else by then."""
    gc.disable()
    gc.freeze()


def _silent(*_: object) -> None:
    posix._exit(EXIT_FAILURE)


def _audit(event: str, _arguments: object) -> None:
    if event in FORBIDDEN_EVENTS:
        posix._exit(EXIT_FAILURE)


def _report(place: Place, number: int, kind: int, errno: int, detail: bytes, program: bytes) -> None:
    """Tell the runtime which step failed; it knows the words. After `start` only the container's stderr is left."""
    try:
        if place.channel is not None:
            place.channel.send(FAILED + pack("iii", number, kind, errno) + detail[:DETAIL])
        elif place.result >= 0 and detail:
            posix.write(place.result, detail)  # to `start`, which waits for it
        else:
            _say(program, errno)
    except OSError:
        pass


def _say(program: bytes, errno: int) -> None:
    """Tell whoever reads the container's standard error why it does not run."""
    try:
        posix.write(STDERR, b"exec " + program[:200] + b": " + _LATE.get(errno, b"failed") + b"\n")
    except OSError:
        pass


# Errors that only execve itself can give, in words prepared beforehand: strerror would ask the locale.
_LATE = {
    1: b"operation not permitted", 2: b"no such file or directory", 5: b"input/output error",
    7: b"argument list too long", 8: b"exec format error", 12: b"cannot allocate memory", 13: b"permission denied",
    21: b"is a directory", 22: b"invalid argument", 26: b"text file busy", 40: b"too many levels of symbolic links",
}  # fmt: skip
