"""Put the interpreter out of the container's reach (CVE-2019-5736).

Whatever runs `/proc/self/exe` in a container, or opens `/proc/PID/exe` of a process of ours, holds the file of our
program, and our program is the host's Python. So before a container can see a process of ours, the process replaces
itself by the same interpreter read from a place that nobody can write to, however privileged:

1. It already runs from a read-only super block (`pyruntime seal` makes one) or from a sealed memfd: nothing to do.
2. overlay: a detached overlay of the interpreter's directory with no upper layer. Its super block is read-only for
   good, unlike a read-only bind mount, which whoever holds a descriptor of it can make writable. 0.1 ms of kernel
   time, no memory; needs CAP_SYS_ADMIN.
3. memfd: a copy in memory, sealed against every change. Megabytes for each container until its program is executed.
4. file: a copy without a name, on a disk, where memfds must not be executed (vm.memfd_noexec).
5. None works: refuse.

Each replacement costs the start of an interpreter, so this module is the first that runs and imports only built-in
modules and `kernel/libc.py`. The proof that the replacement happened comes from the kernel, never from a variable or
argument: the option `-X sealed=METHOD` only says which methods need not be tried again.
"""

from __future__ import annotations

import fcntl
import posix
import sys

from pyruntime.errors import RuntimeFailure
from pyruntime.kernel import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

METHODS: tuple[str, ...] = ("overlay", "memfd", "file")

# The variables of the caller that verbs use. Nothing else is carried into the replacement: no LD_* and no PYTHON* that
# the next stage would obey, and no secret that would lie in the memory of a process near the container (P3).
ENVIRONMENT = (
    b"DBUS_SESSION_BUS_ADDRESS", b"HOME", b"LISTEN_FDNAMES", b"LISTEN_FDS", b"LISTEN_PID", b"LOGNAME",
    b"NOTIFY_SOCKET", b"PATH", b"PYRUNTIME_PROFILE", b"TERM", b"TMPDIR", b"TZ", b"USER", b"XDG_RUNTIME_DIR",
)  # fmt: skip

F_SEALS = 0x1 | 0x2 | 0x4 | 0x8  # F_SEAL_SEAL, SHRINK, GROW, WRITE
F_SEAL_EXEC = 0x20
MFD_EXEC = 0x10
ST_RDONLY = 1
SB_RDONLY = 1
AT_EMPTY_PATH = 0x1000
STATX_MNT_ID_UNIQUE = 0x4000
STATMOUNT = 457
STATMOUNT_SB_BASIC = 0x1

FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_SET_FD = 5
FSCONFIG_CMD_CREATE = 6
MOUNT_ATTR_RDONLY_NOSUID_NODEV = 0x1 | 0x2 | 0x4

# A shared libpython is found relative to the executable by some builds; an interpreter this small is only its stub.
STUB_SIZE = 1 << 20


def protect(script: str, arguments: list[str]) -> None:
    """Return if this process may be seen by a container; otherwise replace it by one that may.

    `script` and `arguments` are what the interpreter is started with again. Raises RuntimeFailure if no method works.
    """
    failures: list[str] = []
    try:
        exe = posix.open("/proc/self/exe", posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            tried = str(sys._xoptions.get("sealed", ""))
            if is_sealed(exe, unlinked=tried == "file"):
                posix.environ.pop(b"LD_LIBRARY_PATH", None)
                return
            methods = METHODS
            if tried in METHODS:
                failures.append(f"{tried}: the kernel does not confirm it")
                methods = METHODS[METHODS.index(tried) + 1 :]
            _replace(exe, methods, [script, *arguments], failures)
        finally:
            posix.close(exe)
    except OSError as error:
        failures.append(f"/proc/self/exe: {error.strerror}")
    raise RuntimeFailure(
        "the interpreter cannot be protected from the container (CVE-2019-5736): "
        + "; ".join(failures)
        + ". Run `pyruntime seal` once as root, or allow executable memfds (sysctl vm.memfd_noexec)"
    )


def _replace(exe: int, methods: tuple[str, ...], command: list[str], failures: list[str]) -> None:
    """Execute a protected copy of `exe` by the first method that works. Returns only if none does."""
    environment = {name: posix.environ[name] for name in ENVIRONMENT if name in posix.environ}
    environment.update(library_path(exe))
    helper = ["-X", f"helper={sys._xoptions['helper']}"] if "helper" in sys._xoptions else []  # it is still our child
    for method in methods:
        argv = [sys.executable, "-I", "-S", "-E", "-B", "-X", "utf8", "-X", "sealed=" + method, *helper, *command]
        for replacement in _REPLACEMENTS[method](exe, failures):
            try:
                posix.execve(replacement, argv, environment)
            except OSError as error:
                failures.append(f"{method}: {error.strerror}")
            posix.close(replacement)


def is_sealed(exe: int, unlinked: bool = False) -> bool:
    """Whether the open executable cannot be written by anybody.

    A read-only *mount* is not enough, its super block must be read-only: the flag of a mount can be cleared by a
    container with CAP_SYS_ADMIN that gets hold of it. `unlinked` also accepts a file that has no name, which only
    this process uses.
    """
    try:
        if fcntl.fcntl(exe, fcntl.F_GET_SEALS) & F_SEALS == F_SEALS:
            return True
    except OSError:
        pass  # not a memfd
    if unlinked and posix.fstat(exe).st_nlink == 0:
        return True
    if not posix.fstatvfs(exe).f_flag & ST_RDONLY:
        return False
    attached = _super_block_read_only(exe)
    if attached is not None:
        return attached
    # Mounted nowhere: the detached overlay of ours, whose root is the interpreter's directory. An overlay that is a
    # container's root (a runtime in a container, in a mount namespace left behind) shows a longer path.
    from pyruntime.kernel import filesystems

    where = posix.readlink("/proc/self/exe")
    return where.rfind("/") == 0 and filesystems.filesystem_type(exe) == filesystems.OVERLAYFS_SUPER_MAGIC


def _super_block_read_only(descriptor: int) -> bool | None:
    """Whether the super block under `descriptor` is read-only; None if it is on no mount of this namespace."""
    try:
        statx = libc.buffer(256)
        libc.syscall(libc.NR["statx"], descriptor, b"", AT_EMPTY_PATH, STATX_MNT_ID_UNIQUE, statx)
        if int.from_bytes(bytes(statx)[0:4], sys.byteorder) & STATX_MNT_ID_UNIQUE:
            mount = bytes(statx)[144:152]
            request = (24).to_bytes(8, sys.byteorder) + mount + STATMOUNT_SB_BASIC.to_bytes(8, sys.byteorder)
            answer = libc.buffer(512)
            libc.syscall(STATMOUNT, request, answer, 512, 0)
            flags = bytes(answer)[32:36]
            return bool(int.from_bytes(flags, sys.byteorder) & SB_RDONLY)
    except OSError as error:
        if error.errno == 2:  # ENOENT
            return None
    return _super_block_read_only_by_table(descriptor)


def _super_block_read_only_by_table(descriptor: int) -> bool | None:
    """The same where statmount(2) is missing (before Linux 6.8) or forbidden."""
    info = _read(f"/proc/self/fdinfo/{descriptor}")
    mount = info[info.index(b"mnt_id:") + 7 :].split(None, 1)[0]
    for line in _read("/proc/self/mountinfo").split(b"\n"):
        if line.split(b" ", 1)[0] == mount:
            return b"ro" in line.rpartition(b" ")[2].split(b",")
    return None


def overlay_mount(directory: str) -> int:
    """A detached read-only overlay of `directory`. Raises OSError, for one where the caller is not privileged.

    Without an upper layer the kernel wants at least two lower ones: the second is an empty tmpfs. Layers named by
    descriptor (Linux 6.13) may be detached and have any path; before that, the second is the package's directory.
    """
    call, number = libc.syscall, libc.NR
    context = call(number["fsopen"], b"overlay", 1)
    opened = [context]
    try:
        try:
            layer = posix.open(directory, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
            opened.append(layer)
            empty = call(number["fsopen"], b"tmpfs", 1)
            opened.append(empty)
            call(number["fsconfig"], empty, FSCONFIG_CMD_CREATE, 0, 0, 0)
            tmpfs = call(number["fsmount"], empty, 1, MOUNT_ATTR_RDONLY_NOSUID_NODEV)
            opened.append(tmpfs)
            call(number["fsconfig"], context, FSCONFIG_SET_FD, b"lowerdir+", 0, layer)
            call(number["fsconfig"], context, FSCONFIG_SET_FD, b"lowerdir+", 0, tmpfs)
        except OSError:
            second = __file__.rpartition("/")[0]
            lower = ":".join(part.replace("\\", "\\\\").replace(":", "\\:") for part in (directory, second))
            call(number["fsconfig"], context, FSCONFIG_SET_STRING, b"lowerdir", libc.path(lower), 0)
        call(number["fsconfig"], context, FSCONFIG_SET_STRING, b"source", b"pyruntime", 0)
        call(number["fsconfig"], context, FSCONFIG_SET_FLAG, b"ro", 0, 0)
        call(number["fsconfig"], context, FSCONFIG_CMD_CREATE, 0, 0, 0)
        return call(number["fsmount"], context, 1, MOUNT_ATTR_RDONLY_NOSUID_NODEV)
    finally:
        for descriptor in opened:
            posix.close(descriptor)


def _overlay(exe: int, failures: list[str]) -> Iterator[int]:
    directory, _, name = posix.readlink(f"/proc/self/fd/{exe}").rpartition("/")
    try:
        mount = overlay_mount(directory or "/")
        try:
            replacement = posix.open(name, posix.O_PATH | posix.O_NOFOLLOW | posix.O_CLOEXEC, dir_fd=mount)
        finally:
            posix.close(mount)
    except OSError as error:
        failures.append(f"overlay: {error.strerror}")
        return
    # The path may have been replaced since this process was started from it (an upgrade, or a file mounted over it).
    if posix.fstat(replacement).st_size == posix.fstat(exe).st_size:
        yield replacement
    else:
        posix.close(replacement)
        failures.append("overlay: the interpreter was replaced")


def _memfd(exe: int, failures: list[str]) -> Iterator[int]:
    copy = -1
    for flag in (MFD_EXEC, 0):  # without MFD_EXEC newer kernels complain, older ones (before 6.3) do not know it
        try:
            copy = posix.memfd_create("pyruntime", posix.MFD_CLOEXEC | posix.MFD_ALLOW_SEALING | flag)
            break
        except OSError as error:
            failures.append(f"memfd: {error.strerror}")
            if error.errno != 22:  # EINVAL
                return
    if copy < 0:
        return
    try:
        _copy(exe, copy)
        try:
            fcntl.fcntl(copy, fcntl.F_ADD_SEALS, F_SEAL_EXEC)
        except OSError:
            pass  # since Linux 6.3; the mode bits alone are no danger
        fcntl.fcntl(copy, fcntl.F_ADD_SEALS, F_SEALS)
    except OSError as error:
        failures.append(f"memfd: {error.strerror}")
        posix.close(copy)
        return
    yield copy


def _file(exe: int, failures: list[str]) -> Iterator[int]:
    runtime = posix.environ.get(b"XDG_RUNTIME_DIR", b"").decode("utf-8", "surrogateescape")
    for directory in (runtime, "/run", "/var/tmp", "/tmp", "/dev/shm"):
        if not directory.startswith("/"):
            continue
        try:
            copy = posix.open(directory, posix.O_TMPFILE | posix.O_RDWR | posix.O_EXCL | posix.O_CLOEXEC, 0o700)
            try:
                _copy(exe, copy)
                # Nobody may have it open for writing when it is executed (ETXTBSY).
                replacement = posix.open(f"/proc/self/fd/{copy}", posix.O_PATH | posix.O_CLOEXEC)
            finally:
                posix.close(copy)
        except OSError as error:
            failures.append(f"file in {directory}: {error.strerror}")
            continue
        yield replacement


_REPLACEMENTS = {"overlay": _overlay, "memfd": _memfd, "file": _file}


def _copy(source: int, target: int) -> None:
    posix.fchmod(target, 0o555)
    size = posix.fstat(source).st_size
    done = 0
    while done < size:
        count = posix.sendfile(target, source, done, size - done)
        if count == 0:
            raise OSError(5, "the interpreter became shorter while it was copied")
        done += count


def library_path(exe: int) -> dict[bytes, bytes]:
    """LD_LIBRARY_PATH for an interpreter whose libpython is a library beside it (RUNPATH $ORIGIN): a copy of the
    executable has no such neighbour."""
    if posix.fstat(exe).st_size > STUB_SIZE:
        return {}
    for line in _read("/proc/self/maps").split(b"\n"):
        if b"/libpython" in line:
            return {b"LD_LIBRARY_PATH": line[line.index(b"/") :].rpartition(b"/")[0]}
    return {}


def _read(path: str) -> bytes:
    """A file of procfs: its size is unknown until its end."""
    descriptor = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        parts = []
        while part := posix.read(descriptor, 65536):
            parts.append(part)
        return b"".join(parts)
    finally:
        posix.close(descriptor)
