"""`--log journald:ID` and `--log syslog:ID`."""

from __future__ import annotations

import os
import socket

from pyruntime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

JOURNAL = "/run/systemd/journal/socket"
SYSLOG = "/dev/log"

# syslog(3): LOG_USER in the upper bits, the priority in the lower three.
FACILITY = 1 << 3
PRIORITIES = {"error": 3, "warning": 4, "info": 6, "debug": 7}


def connect(scheme: str, identifier: str) -> tuple[int, Callable[[str, str], bytes]]:
    """A socket connected to `journald` or `syslog`, and a function (level, message) that makes a datagram for it.

    `identifier` is the name under which the lines are filed.

    Raises RuntimeFailure when the daemon's socket is not there.
    """
    name = identifier or "pyruntime"
    path = JOURNAL if scheme == "journald" else SYSLOG
    form = journal_datagram if scheme == "journald" else syslog_datagram
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        connection.connect(path)
    except OSError as error:
        connection.close()
        raise RuntimeFailure(f"--log {scheme}:{identifier}: connect {path}: {(error.strerror or '').lower()}") from None
    return connection.detach(), lambda level, message: form(name, level, message)


def journal_datagram(name: str, level: str, message: str) -> bytes:
    """One entry in the journal's native protocol: a field per line; the message has no newline (logline.printable)."""
    fields = {"MESSAGE": message, "PRIORITY": str(PRIORITIES[level]), "SYSLOG_IDENTIFIER": name.replace("\n", " ")}
    return "".join(f"{key}={value}\n" for key, value in fields.items()).encode("utf-8", "surrogateescape")


def syslog_datagram(name: str, level: str, message: str) -> bytes:
    """The traditional form (RFC 3164) without a time, which the daemon adds."""
    return f"<{FACILITY | PRIORITIES[level]}>{name}[{os.getpid()}]: {message}".encode("utf-8", "surrogateescape")
