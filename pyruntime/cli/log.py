"""Log lines, in the two formats that engines parse.

The formats are those of the Go library logrus, which every engine was written against: one line per message, `text`
(`time="…" level=error msg="…"`) or `json`. They go to standard error, or to the file of `--log`; an error goes to both,
because conmon reads the one and podman and containerd the other.

At the default level a failing verb writes exactly one JSON object: podman parses the whole file as one document, so
warnings are for the text format only.
"""

from __future__ import annotations

import posix
import sys
import time
from errno import ENOSYS

from pyruntime.errors import TOO_OLD, RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LEVELS = {"error": 0, "warning": 1, "info": 2, "debug": 3}

STDERR = 2
ERROR_LENGTH = 3000  # characters; the reason stands at the end, where it is kept

# Descriptors below this one may be wanted by the container (--preserve-fds): the log file must not sit there.
HIGH_DESCRIPTOR = 1000

_started = time.monotonic()
_level = LEVELS["warning"]
_json = False
_callers = False
_descriptor = -1  # of the --log file, or of the socket of journald or syslog
_sink: Callable[[str, str], bytes] | None = None  # makes the datagram for that socket


def configure(path: str, form: str, level: str | None) -> None:
    """Set the target, the format and the level of everything that follows.

    `path` is empty (standard error), a file, `file:PATH`, `journald:ID` or `syslog:ID`; `form` is empty, `text` or
    `json`; `level` is one of LEVELS, None for the default. Raises RuntimeFailure.
    """
    global _json, _level, _callers, _descriptor, _sink  # noqa: PLW0603
    if form not in ("", "text", "json"):
        raise RuntimeFailure(f"invalid log-format: {form}")
    if level is not None and level not in LEVELS:
        raise RuntimeFailure(f"invalid log-level: {level}: use error, warning or debug")
    _descriptor, _sink = -1, None
    _json = form == "json"
    _level = LEVELS[level or ("error" if _json else "warning")]
    _callers = level == "debug"
    scheme, colon, rest = path.partition(":")
    if colon and scheme in ("journald", "syslog"):
        from pyruntime.cli import system_log

        descriptor, _sink = system_log.connect(scheme, rest)
        _descriptor = _move_up(descriptor)
    elif path:
        _descriptor = _open(rest if colon and scheme == "file" else path)


def _open(path: str) -> int:
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND | posix.O_SYNC | posix.O_CLOEXEC | posix.O_NOCTTY
    try:
        try:
            descriptor = posix.open(path, flags | posix.O_NOFOLLOW, 0o644)
        except OSError:
            # /dev/stderr is a symbolic link, and so may be an administrator's log. A link that another user put there
            # beforehand is a trap: it would have us append to any file (the kernel refuses that in sticky directories
            # only, and only when fs.protected_symlinks is on).
            if _is_foreign_link(path):
                raise RuntimeFailure(
                    f"open {path}: permission denied: a symbolic link that another user made"
                ) from None
            descriptor = posix.open(path, flags, 0o644)
    except OSError as error:
        raise RuntimeFailure(f"open {path}: {reason(error)}") from None
    except ValueError:
        raise RuntimeFailure(f"open {path}: invalid argument: a NUL byte in the path") from None
    return _move_up(descriptor)


def _is_foreign_link(path: str) -> bool:
    try:
        found = posix.lstat(path)
    except OSError:
        return False
    return found.st_mode & 0o170000 == 0o120000 and found.st_uid not in (0, posix.geteuid())


def _move_up(descriptor: int) -> int:
    import fcntl

    try:
        high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, HIGH_DESCRIPTOR)
    except OSError:  # RLIMIT_NOFILE is lower than that
        return descriptor
    posix.close(descriptor)
    return high


def error(message: str) -> None:
    """Log the one error a verb ends with. It always reaches standard error too."""
    if len(message) > ERROR_LENGTH:  # a name in it is as long as somebody liked
        message = f"{message[: ERROR_LENGTH - 500]} [...] {message[-500:]}"
    _log("error", message, 2)
    if _descriptor >= 0:
        from pyruntime.cli import logline

        _write(STDERR, logline.printable(message) + "\n")


def warning(message: str) -> None:
    """Something went wrong and the verb goes on."""
    if _level >= LEVELS["warning"]:
        _log("warning", message, 2)


def debug(message: str) -> None:
    """What is being done, for `--debug`."""
    if _level >= LEVELS["debug"]:
        _log("debug", message, 2)


def descriptor() -> int:
    """The descriptor that log lines go to, -1 for standard error."""
    return _descriptor


def debugging() -> bool:
    return _level >= LEVELS["debug"]


def _log(level: str, message: str, depth: int) -> None:
    from pyruntime.cli import logline

    caller = _caller(depth + 1) if _callers else {}
    target = STDERR if _descriptor < 0 else _descriptor
    if _sink is not None:
        _send(target, _sink(level, logline.printable(message)))
        return
    if _json:
        line = logline.format_json(level, message, logline.timestamp(), caller)
    elif posix.isatty(target):
        line = logline.format_colour(level, message, int(time.monotonic() - _started), caller)
    else:
        line = logline.format_text(level, message, logline.timestamp(), caller)
    _write(target, line + "\n")


def _caller(depth: int) -> dict[str, str]:
    frame = sys._getframe(depth)
    module = str(frame.f_globals.get("__name__", "?"))
    return {
        "func": f"{module}.{frame.f_code.co_qualname}()",
        "file": f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}",
    }


def reason(error: OSError) -> str:
    """The kernel's words for the errno, with the small first letter that engines search for (`no such file …`)."""
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:] + (TOO_OLD if error.errno == ENOSYS else "")


def _write(descriptor: int, line: str) -> None:
    """Write a whole line in one call, so that lines of several runtimes do not mix."""
    _send(descriptor, line.encode("utf-8", "surrogateescape"))


def _send(descriptor: int, data: bytes) -> None:
    """Nobody can be told if it fails."""
    try:
        while data:
            data = data[posix.write(descriptor, data) :]
    except OSError:
        pass
