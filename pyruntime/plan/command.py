"""process.args, env and cwd: finding the program while it can still be told, and running it.

The program is looked up at create, inside the container, as its user would: engines turn the texts of this module
into the exit codes 126 and 127. A file whose interpreter is missing (`#!/bin/gone`, or an ELF file of another
distribution) is found out here too, where execve(2) would only say "no such file" at start.
"""

from __future__ import annotations

import posix
from _struct import pack
from errno import ELOOP, ENAMETOOLONG, ENOENT, ENOSYS, ENOTDIR

from pyruntime.errors import SpecError
from pyruntime.kernel.execve import Vector, execve
from pyruntime.kernel.libc import NR, syscall
from pyruntime.kernel.paths import make_in_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

S_IFMT, S_IFDIR, S_IFREG = 0o170000, 0o040000, 0o100000
AT_FDCWD, AT_EACCESS = -100, 0x200
X_OK = 1
PASSWD_LIMIT = 1 << 20
PT_INTERP = 3
PATH_MAX = 4096
FAR = 1 << 20  # no linker puts the interpreter's name this far into the file

NOT_FOUND = 1  # no such name in PATH
NO_FILE = 2  # the path does not exist
DENIED = 3  # not executable for this user, or not a file
IS_DIRECTORY = 4
NO_INTERPRETER = 5
BAD_CWD = 6
OUTSIDE_CWD = 7
BAD_PATH = 8

_SETFSUID = 122 if posix.uname().machine == "x86_64" else 151
_SETFSGID = 123 if posix.uname().machine == "x86_64" else 152


class CommandError(Exception):
    """The program cannot be run: `reason` is one of the numbers above, `detail` a path to name, for BAD_CWD with an
    errno in front (struct "i")."""

    def __init__(self, reason: int, detail: bytes = b"") -> None:
        self.reason = reason
        self.detail = detail[:180]


class Command:
    """The program of a container or of an exec, as bytes ready for the kernel."""

    __slots__ = (
        "_bypass", "arguments", "candidates", "cwd", "environment", "gid", "groups", "home", "name", "path", "strings",
        "uid",
    )  # fmt: skip

    def __init__(self, process: dict[str, Any], extra_env: list[str] | None = None) -> None:
        args = process["args"]
        self.name = _raw(args[0], "process.args[0]")
        self.arguments = Vector([_raw(word, f"process.args[{number}]") for number, word in enumerate(args)])
        variables = [_raw(entry, f"process.env[{number}]") for number, entry in enumerate(process.get("env") or [])]
        for number, entry in enumerate(variables):
            if entry.find(b"=") < 1:
                why = "name cannot be empty" if entry[:1] == b"=" else "missing '='"
                raise SpecError(f"process.env[{number}]", f"invalid environment variable: {why}")
        variables += [entry.encode() for entry in extra_env or []]
        self.strings = _without_duplicates(variables)
        self.home = not any(entry[:5] == b"HOME=" and len(entry) > 5 for entry in self.strings)
        if self.home:
            self.strings = [entry for entry in self.strings if entry != b"HOME="]
        self.environment = Vector(self.strings)
        self.cwd = _raw(process["cwd"], "process.cwd")
        user = process.get("user") or {}
        self.uid: int = user.get("uid", 0)
        self.gid: int = user.get("gid", 0)
        groups: list[int] = user.get("additionalGids") or []
        self.groups = pack(f"{len(groups)}I", *groups)
        effective = (process.get("capabilities") or {}).get("effective") or ()
        self._bypass = self.uid == 0 or "CAP_DAC_OVERRIDE" in effective
        self.path = b""
        if b"/" in self.name:
            self.candidates = [self.name]
        else:
            # Without PATH nothing is found, as in runc and crun. An empty element is the current directory, execvp(3).
            search = next((entry[5:] for entry in self.strings if entry[:5] == b"PATH="), b"")
            self.candidates = [(folder or b".") + b"/" + self.name for folder in search.split(b":")] if search else []

    def make_directory(self, root: int) -> None:
        """Make cwd if it is missing: images name one that they do not have, and rely on it. Not where a dangling link
        points, which may be to a volume that somebody has forgotten."""
        try:
            posix.stat(self.cwd)
        except FileNotFoundError:
            try:
                posix.lstat(self.cwd)
                raise CommandError(BAD_CWD, pack("i", ENOENT) + self.cwd) from None
            except OSError:
                pass
            try:
                posix.close(make_in_root(root, self.cwd, True))
            except OSError as error:
                raise CommandError(BAD_CWD, pack("i", error.errno or 0) + self.cwd) from None
        except OSError:
            pass  # entering it will tell

    def enter_directory(self) -> None:
        """Enter cwd, and see that it lies inside the root (CVE-2024-21626)."""
        try:
            posix.chdir(self.cwd)
        except PermissionError:
            # A directory that only the user may enter, on a filesystem that does not trust root (NFS root_squash).
            try:
                self._as_user(lambda: posix.chdir(self.cwd))
            except OSError as error:
                raise CommandError(BAD_CWD, pack("i", error.errno or 0) + self.cwd) from None
        except OSError as error:
            raise CommandError(BAD_CWD, pack("i", error.errno or 0) + self.cwd) from None
        try:
            # The kernel says "(unreachable)" for a directory outside the root, and libc turns that into ENOENT.
            inside = posix.getcwdb()[:1] == b"/"
        except OSError:
            inside = False
        if not inside:
            raise CommandError(OUTSIDE_CWD, self.cwd)

    def find_home(self) -> None:
        """Set HOME from the container's /etc/passwd where the configuration leaves it out."""
        if self.home:
            self.environment = Vector([*self.strings, b"HOME=" + _home_of(self.uid)])

    def find(self, interpreter: bool = True) -> None:
        """Find the program and see that it can be run; with `interpreter` also what interprets it. Raises
        CommandError."""
        failure: CommandError | None = None
        for candidate in self.candidates:
            try:
                status = posix.stat(candidate)
                if status.st_mode & S_IFMT == S_IFDIR:
                    raise CommandError(IS_DIRECTORY, candidate)
                self._may_execute(candidate)
                if status.st_mode & S_IFMT != S_IFREG:
                    raise CommandError(DENIED, candidate)
                if interpreter:
                    _check_interpreter(candidate)
            except OSError as error:
                if error.errno in (ELOOP, ENAMETOOLONG):
                    failure = failure or CommandError(BAD_PATH, posix.strerror(error.errno).encode())
                elif error.errno not in (ENOENT, ENOTDIR):
                    failure = failure or CommandError(DENIED, candidate)
            except CommandError as error:
                if error.reason == NO_INTERPRETER:
                    raise
                failure = failure or error
            else:
                self.path = candidate
                return
        if b"/" not in self.name and (failure is None or failure.reason == IS_DIRECTORY):
            raise CommandError(NOT_FOUND)
        raise failure or CommandError(NO_FILE)

    def _may_execute(self, path: bytes) -> None:
        try:
            if self._bypass:
                syscall(NR["faccessat2"], AT_FDCWD, path, X_OK, AT_EACCESS)
            else:
                self._as_user(lambda: syscall(NR["faccessat2"], AT_FDCWD, path, X_OK, AT_EACCESS))
        except OSError as error:
            if error.errno != ENOSYS:  # hidden by a filter around us: execve will tell
                raise

    def _as_user(self, action: object) -> None:
        """Do `action` with the file access rights of the container's user."""
        before = posix.getgroups()
        own_gid = posix.getegid()
        try:
            syscall(NR["setgroups"], len(self.groups) // 4, self.groups)
        except OSError:
            pass  # denied in a user namespace; then the caller's groups stay for the program as well
        syscall(_SETFSGID, self.gid)
        syscall(_SETFSUID, self.uid)
        try:
            action()  # type: ignore[operator]
        finally:
            syscall(_SETFSUID, posix.geteuid())
            syscall(_SETFSGID, own_gid)
            try:
                syscall(NR["setgroups"], len(before), pack(f"{len(before)}I", *before))
            except OSError:
                pass

    def run(self) -> None:
        """Become the program. Returns only by raising OSError."""
        execve(self.path, self.arguments, self.environment)


def _raw(text: str, path: str) -> bytes:
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise SpecError(path, "not valid text") from None
    if b"\0" in raw:
        raise SpecError(path, "holds a NUL character")
    return raw


def _without_duplicates(variables: list[bytes]) -> list[bytes]:
    """Of several values for one name the last counts, at its place, as with every other runtime."""
    last = {entry.partition(b"=")[0]: index for index, entry in enumerate(variables)}
    return [entry for index, entry in enumerate(variables) if last[entry.partition(b"=")[0]] == index]


def _read(path: bytes, size: int) -> bytes:
    """The beginning of a regular file of the container; b"" for anything else. It can neither block nor be endless."""
    descriptor = posix.open(path, posix.O_RDONLY | posix.O_NONBLOCK | posix.O_CLOEXEC | posix.O_NOCTTY)
    try:
        if posix.fstat(descriptor).st_mode & S_IFMT != S_IFREG:
            return b""
        chunks = []
        while size > 0:
            chunk = posix.read(descriptor, size)
            if not chunk:
                break
            chunks.append(chunk)
            size -= len(chunk)
        return b"".join(chunks)
    finally:
        posix.close(descriptor)


def _home_of(uid: int) -> bytes:
    """The home directory of `uid` in /etc/passwd of the container, "/" without one. Never by NSS, which would load
    a library of the container into this process."""
    try:
        text = _read(b"/etc/passwd", PASSWD_LIMIT)
    except OSError:
        return b"/"
    wanted = b"%d" % uid
    for line in text.split(b"\n"):
        fields = line.split(b":")
        if len(fields) >= 6 and fields[2] == wanted and fields[5] and b"\0" not in fields[5]:
            return fields[5]
    return b"/"


def _check_interpreter(path: bytes) -> None:
    """See that what would interpret the file exists."""
    try:
        head = _read(path, 4096)
    except OSError:
        return  # executable but not readable: only the kernel can tell
    interpreter = b""
    if head[:2] == b"#!":
        words = head[2:256].split(b"\n", 1)[0].split()
        interpreter = words[0] if words else b""
    elif head[:4] == b"\x7fELF":
        interpreter = _elf_interpreter(path, head)
    if interpreter:
        try:
            posix.stat(interpreter)
        except (FileNotFoundError, NotADirectoryError):
            raise CommandError(NO_INTERPRETER, interpreter) from None
        except OSError:
            pass


def _elf_interpreter(path: bytes, head: bytes) -> bytes:
    """PT_INTERP of a little-endian ELF file, b"" if there is none. See elf(5).

    Numbers are cut out of the bytes: a slice beyond their end is empty, where an unpack would raise.
    """

    def number(at: int, size: int) -> int:
        return int.from_bytes(head[at : at + size], "little")

    wide = head[4:5] == b"\x02"
    table, size, count = (
        (number(32, 8), number(54, 2), number(56, 2)) if wide else (number(28, 4), number(42, 2), number(44, 2))
    )
    for index in range(min(count, 64)):
        at = table + index * size
        if number(at, 4) != PT_INTERP:
            continue
        where, length = (number(at + 8, 8), number(at + 32, 8)) if wide else (number(at + 4, 4), number(at + 16, 4))
        if not 0 < length < PATH_MAX or where > FAR:
            return b""
        if where + length > len(head):
            try:
                head = _read(path, where + length)
            except OSError:
                return b""
        return head[where : where + length].split(b"\0", 1)[0]
    return b""


def explain(reason: int, name: str, said: bytes) -> str:
    """What engines look for, by the reason of a CommandError and its detail."""
    if reason == BAD_CWD:
        why = posix.strerror(int.from_bytes(said[:4], "little")).lower()
        return f'chdir to cwd ("{said[4:].decode("utf-8", "replace")}") set in config.json failed: {why}'
    detail = said.decode("utf-8", "replace")
    if reason == NOT_FOUND:
        return f'exec: "{name}": executable file not found in $PATH'
    if reason == NO_FILE:
        return f'exec: "{name}": stat {name}: no such file or directory'
    if reason == IS_DIRECTORY:
        return f'exec: "{name}": permission denied: {detail} is a directory'
    if reason == DENIED:
        return f'exec: "{name}": permission denied'
    if reason == BAD_PATH:
        return f'exec: "{name}": stat {name}: {detail.lower()}'
    if reason == NO_INTERPRETER:
        return f'exec: "{name}": its interpreter {detail}: no such file or directory'
    return f"current working directory {detail} is outside of container mount namespace root"
