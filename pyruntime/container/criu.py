"""Talking to CRIU, which saves and restores processes: `criu swrk`, a server for one request. See https://criu.org/RPC.

The messages are protocol buffers (images/rpc.proto of CRIU). Of that format we need numbers, strings and messages
inside messages, which is less code than a library for it would be to load.
"""

from __future__ import annotations

import _socket
import os

from pyruntime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# criu_req_type
DUMP, RESTORE, PRE_DUMP, NOTIFY = 1, 2, 4, 6
KINDS = {DUMP: "DUMP", RESTORE: "RESTORE", PRE_DUMP: "PRE_DUMP"}
# criu_cg_mode
CGROUP_MODES = {"ignore": 0, "soft": 3, "full": 4, "strict": 5, "": 6}

# Numbers of criu_opts that we use.
FIELDS = {
    "images_dir_fd": 1, "pid": 2, "leave_running": 3, "ext_unix_sk": 4, "tcp_established": 5, "evasive_devices": 6,
    "shell_job": 7, "file_locks": 8, "log_level": 9, "log_file": 10, "ps": 11, "notify_scripts": 12, "root": 13,
    "parent_img": 14, "track_mem": 15, "auto_dedup": 16, "work_dir_fd": 17, "link_remap": 18, "manage_cgroups": 24,
    "cg_root": 25, "rst_sibling": 26, "inherit_fd": 27, "manage_cgroups_mode": 34, "external": 37, "empty_ns": 38,
    "freeze_cgroup": 44, "tcp_skip_in_flight": 46, "lazy_pages": 48, "status_fd": 49, "orphan_pts_master": 50,
    "config_file": 51, "tcp_close": 52, "lsm_profile": 53, "lsm_mount_context": 63,
}  # fmt: skip

Value = int | str | bytes
DIRECTORIES = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
SOL_SOCKET, SCM_RIGHTS = 1, 1
SOCKET = 3  # where `criu swrk 3` finds its end


def varint(number: int) -> bytes:
    """A number in groups of seven bits, the lowest first; a negative one as 64 bits of two's complement."""
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, value: Value) -> bytes:
    """One field of a message: a number (also for bool and enum), or a string or message with its length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    raw = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(raw)) + raw


def parse(data: bytes) -> dict[int, list[int | bytes]]:
    """A message as {field number: values}. Raises RuntimeFailure when it is cut off or uses a type CRIU does not."""
    fields: dict[int, list[int | bytes]] = {}
    at = 0
    try:
        while at < len(data):
            key, at = _read_varint(data, at)
            value: int | bytes
            if key & 7 == 0:
                value, at = _read_varint(data, at)
            elif key & 7 == 2:
                size, at = _read_varint(data, at)
                if at + size > len(data):
                    raise IndexError
                value, at = data[at : at + size], at + size
            else:
                raise IndexError
            fields.setdefault(key >> 3, []).append(value)
    except IndexError:
        raise RuntimeFailure("criu sent a message that cannot be understood") from None
    return fields


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7


class Options:
    """criu_opts, field by field."""

    def __init__(self) -> None:
        self._encoded: list[bytes] = []

    def set(self, name: str, value: Value | None) -> None:
        """Set (or, where it may be repeated, add) a field; None and "" leave it out."""
        if value is not None and value not in ("", b""):
            self._encoded.append(field(FIELDS[name], value))

    def encode(self) -> bytes:
        return b"".join(self._encoded)


class Notification:
    """CRIU has come to a point where we may act: its name, a pid, and a descriptor for `orphan-pts-master`."""

    def __init__(self, script: str, pid: int, descriptor: int) -> None:
        self.script = script
        self.pid = pid
        self.descriptor = descriptor


def find(path: str | None) -> str:
    """The criu program. Raises RuntimeFailure."""
    search = os.environb.get(b"PATH", b"").decode("utf-8", "surrogateescape").split(":")
    candidates = (
        [path] if path and "/" in path else [f"{folder}/{path or 'criu'}" for folder in (*search, *DIRECTORIES)]
    )
    for candidate in candidates:
        if candidate.startswith("/") and os.access(candidate, os.X_OK):
            return candidate
    raise RuntimeFailure(f"{path or 'criu'} is not installed: checkpoint and restore need CRIU 3.15 or newer")


class Server:
    """One `criu swrk`. `pid` is the process; it waits for the request, so that it can be put into a cgroup first."""

    def __init__(self, program: str, descriptors: dict[int, int], streams: bool) -> None:
        """`descriptors` maps numbers in CRIU's process (4 and above) to ours. `streams`: it gets our standard streams,
        for the processes that it restores; otherwise it has none, and what it has to say is in its log."""
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        self._socket = ours
        self.pid = os.fork()
        if self.pid == 0:
            try:
                if not streams:
                    nothing = os.open("/dev/null", os.O_RDWR)
                    for number in (0, 1, 2):
                        os.dup2(nothing, number)
                high = 100 + len(descriptors)
                moved = {number: os.dup2(old, high + number) for number, old in descriptors.items()}
                os.dup2(theirs.fileno(), SOCKET)
                for number, there in moved.items():
                    os.dup2(there, number)
                last = max([SOCKET, *descriptors])
                os.closerange(last + 1, high + last + 1)
                os.execve(program, ["criu", "swrk", str(SOCKET)], os.environ)
            except BaseException as error:
                os.write(2, f"cannot start {program}: {error}\n".encode())
            finally:
                os._exit(127)
        theirs.close()

    def request(self, kind: int, options: Options, notify: Callable[[Notification], None]) -> int:
        """Make the request and answer CRIU's notifications. Returns the pid of a restored process, else 0."""
        self._socket.send(field(1, kind) + field(2, options.encode()))
        while True:
            data, ancillary, _, _ = self._socket.recvmsg(1 << 16, 256, _socket.MSG_CMSG_CLOEXEC)
            if not data:
                raise RuntimeFailure(f"criu failed: type {KINDS[kind]}: it ended without an answer")
            answer = parse(data)
            if not answer.get(2, [0])[0]:
                raise RuntimeFailure(f"criu failed: type {KINDS[kind]} errno {int(answer.get(7, [0])[0])}")
            if answer[1][0] != NOTIFY:
                restored = parse(_bytes(answer[4][0])) if 4 in answer else {}
                return int(restored.get(1, [0])[0])
            inner = parse(_bytes(answer[5][0])) if 5 in answer else {}
            script = _bytes(inner.get(1, [b""])[0]).decode("utf-8", "replace")
            descriptor = -1
            for level, what, rights in ancillary:
                if level == SOL_SOCKET and what == SCM_RIGHTS and len(rights) >= 4:
                    descriptor = int.from_bytes(rights[:4], "little", signed=True)
            notify(Notification(script, int(inner.get(2, [0])[0]), descriptor))
            self._socket.send(field(1, NOTIFY) + field(3, 1))

    def close(self) -> None:
        """End it, if it has not ended already."""
        self._socket.close()
        try:
            os.waitpid(self.pid, 0)
        except ChildProcessError:
            pass


def _bytes(value: int | bytes) -> bytes:
    return value if isinstance(value, bytes) else b""


def explain(log: str) -> str:
    """The last error of a CRIU log, for people; "" if there is none."""
    try:
        with open(log, "rb") as file:
            lines = [line for line in file.read().split(b"\n") if b"Error" in line]
    except OSError:
        return ""
    # "Dumping FAILED." and the like follow the reason.
    lines = [line for line in lines if b" FAILED." not in line and b" failed with -" not in line] or lines
    return f": {lines[-1].decode('utf-8', 'replace').strip()}" if lines else ""
