"""The one door to system calls that the `os` module does not have.

Built on `_ctypes`, the C core of `ctypes`: importing it costs 0.5 ms where `ctypes` costs 3.6 ms, and every hot verb
pays for it. Three rules live here so that no caller can forget them:

* every argument is converted to a full machine word (an untyped ctypes integer is cut to 32 bits);
* a `bytes` argument that is a path or a name goes through `path()` first: ctypes stops at a NUL byte, so
  `b"allowed\\0/../x"` would open `allowed`;
* a result of -1 becomes an `OSError` with the errno of this call.

The functions hold the GIL while the kernel works (`FUNCFLAG_PYTHONAPI`): the runtime has one thread, and the child of
a raw `clone` must not depend on a lock taken in its parent.
"""

from __future__ import annotations

import _ctypes
import posix

from pyruntime.errors import RuntimeFailure

FUNCFLAG_CDECL = 0x1
FUNCFLAG_PYTHONAPI = 0x4
FUNCFLAG_USE_ERRNO = 0x8

PATH_MAX = 4096


class _Long(_ctypes._SimpleCData):  # type: ignore[type-arg]
    _type_ = "l"


class _Pointer(_ctypes._SimpleCData):  # type: ignore[type-arg]
    _type_ = "P"


class _Char(_ctypes._SimpleCData):  # type: ignore[type-arg]
    _type_ = "c"


class _Function(_ctypes.CFuncPtr):
    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_PYTHONAPI | FUNCFLAG_USE_ERRNO
    _restype_ = _Long


_process = _ctypes.dlopen(None, 0x2)  # type: ignore[arg-type]  # RTLD_NOW on the program itself: libc is in it
_syscall = _Function(_ctypes.dlsym(_process, "syscall"))
_syscall.argtypes = (_Long, _Pointer, _Pointer, _Pointer, _Pointer, _Pointer, _Pointer)

_machine = posix.uname().machine

# Numbers below 424 differ between architectures; from 424 on they are the same everywhere.
# Sources: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h of Linux.
_X86_64 = {
    "clone": 56, "pivot_root": 155, "mount": 165, "umount2": 166, "sethostname": 170, "setdomainname": 171,
    "capget": 125, "capset": 126, "personality": 135, "prctl": 157, "keyctl": 250, "ioprio_set": 251,
    "unshare": 272, "setns": 308, "set_mempolicy": 238, "sched_setattr": 314, "seccomp": 317, "bpf": 321,
    "execveat": 322, "statx": 332, "setgroups": 116, "setresgid": 119, "setresuid": 117, "prlimit64": 302,
    "sched_setaffinity": 203, "ioctl": 16, "mknodat": 259, "name_to_handle_at": 303, "rt_sigprocmask": 14,
    "memfd_create": 319, "signalfd4": 289, "rt_sigaction": 13, "ioprio_get": 252,
    "sched_getattr": 315, "add_key": 248, "mlockall": 151,
}  # fmt: skip
_GENERIC = {
    "clone": 220, "pivot_root": 41, "mount": 40, "umount2": 39, "sethostname": 161, "setdomainname": 162,
    "capget": 90, "capset": 91, "personality": 92, "prctl": 167, "keyctl": 219, "ioprio_set": 30,
    "unshare": 97, "setns": 268, "set_mempolicy": 237, "sched_setattr": 274, "seccomp": 277, "bpf": 280,
    "execveat": 281, "statx": 291, "setgroups": 159, "setresgid": 149, "setresuid": 147, "prlimit64": 261,
    "sched_setaffinity": 122, "ioctl": 29, "mknodat": 33, "name_to_handle_at": 264, "rt_sigprocmask": 135,
    "memfd_create": 279, "signalfd4": 74, "rt_sigaction": 134, "ioprio_get": 31,
    "sched_getattr": 275, "add_key": 217, "mlockall": 230,
}  # fmt: skip
_UNIFIED = {
    "pidfd_send_signal": 424, "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432,
    "fspick": 433, "pidfd_open": 434, "clone3": 435, "close_range": 436, "openat2": 437, "pidfd_getfd": 438,
    "faccessat2": 439, "mount_setattr": 442, "fchmodat2": 452,
}  # fmt: skip

NR: dict[str, int] = {**(_X86_64 if _machine == "x86_64" else _GENERIC), **_UNIFIED}
_NAMES = {number: name for name, number in NR.items()}


def syscall(
    number: int, a: object = 0, b: object = 0, c: object = 0, d: object = 0, e: object = 0, f: object = 0
) -> int:
    """Make the system call `number` (see `NR`) and return its result.

    Arguments are integers, `bytes` (passed as a pointer, read only), arrays from `buffer()`, or None for NULL.
    Raises OSError with the kernel's errno, and the name of the call in place of a path. See syscall(2).
    """
    result: int = _syscall(number, a, b, c, d, e, f)
    if result == -1:
        errno = _ctypes.get_errno()
        raise OSError(errno, posix.strerror(errno), _NAMES.get(number))
    return result


def function(name: str, arguments: int, library: int | None = None) -> _Function:
    """A function of libc (or of `library`, a handle of `load()`) that takes words and pointers and returns a long.

    Errors are the caller's to check: `errno()` gives the errno that the last call left. The upper half of what a C
    `int` function returns is undefined; `as_int` cuts it off.
    """
    call = _Function(_ctypes.dlsym(_process if library is None else library, name))
    call.argtypes = (_Pointer,) * arguments
    return call


def as_int(result: int) -> int:
    """The C `int` in the lower half of a returned word."""
    return ((result & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000


def load(name: str) -> int:
    """dlopen `name` and return a handle for `function()`. Only before the container's files are reachable (P10)."""
    handle: int = _ctypes.dlopen(name, 0x2)
    return handle


def errno() -> int:
    """The errno left by the last foreign call of this module."""
    value: int = _ctypes.get_errno()
    return value


_array_types: dict[int, type[_ctypes.Array[_Char]]] = {}


def buffer(size: int) -> _ctypes.Array[_Char]:
    """`size` zero bytes that the kernel may write to. `bytes(buffer)` reads them back."""
    array = _array_types.get(size)
    if array is None:
        array = _array_types[size] = type("Array", (_ctypes.Array,), {"_type_": _Char, "_length_": size})
    return array()


def address(array: _ctypes.Array[_Char]) -> int:
    """Where the bytes of a `buffer()` lie, for structures that hold a pointer."""
    where: int = _ctypes.addressof(array)
    return where


def read_memory(where: int, size: int) -> bytes:
    """`size` bytes that a foreign function gave the address of."""
    return bytes(type(buffer(size)).from_address(where))


def path(value: str | bytes) -> bytes:
    """A path or name as the kernel takes it. Raises RuntimeFailure for a NUL byte or for PATH_MAX bytes and more."""
    raw = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    if b"\0" in raw:
        raise RuntimeFailure(f"a NUL byte in a path: {raw[:60]!r}")
    if len(raw) >= PATH_MAX:
        raise RuntimeFailure(f"a path of {len(raw)} bytes, where {PATH_MAX - 1} are the most: {raw[:60]!r}...")
    return raw
