"""libseccomp.so.2: from rules to a BPF program. See seccomp_rule_add(3).

Only the compiler of the library is used, the program is loaded by ourselves. The library is opened in the runtime
process and nowhere else: dlopen in a process that sees a container's files would run the container's code.
"""

from __future__ import annotations

import posix
from _struct import pack, unpack

from pyruntime.errors import RuntimeFailure
from pyruntime.kernel.libc import NR, as_int, function, load, read_memory, syscall

NAME = "libseccomp.so.2"

UNKNOWN = -1  # __NR_SCMP_ERROR: no architecture has a system call of this name
X32 = 0x4000003E  # SCMP_ARCH_X32; the only token that is not the kernel's AUDIT_ARCH_* value
X86_64 = 0xC000003E
S390 = (0x00000016, 0x80000016)  # s390 and s390x

_ATTRIBUTE_NNP = 3  # SCMP_FLTATR_CTL_NNP
_ATTRIBUTE_OPTIMIZE = 8  # SCMP_FLTATR_CTL_OPTIMIZE
_MFD_CLOEXEC = 1


class Library:
    """The open library. Raises RuntimeFailure if it is not installed."""

    __slots__ = (
        "_arch_add", "_arch_native", "_arch_resolve", "_attr_set", "_export", "_init", "_release", "_resolve",
        "_resolve_in", "_rule_add", "_version",
    )  # fmt: skip

    def __init__(self) -> None:
        try:
            library = load(NAME)
        except OSError as error:
            raise RuntimeFailure(
                f"linux.seccomp: {error}; install libseccomp (Debian: libseccomp2), which compiles the filter"
            ) from None
        self._version = function("seccomp_version", 0, library)
        self._init = function("seccomp_init", 1, library)
        self._release = function("seccomp_release", 1, library)
        self._attr_set = function("seccomp_attr_set", 3, library)
        self._arch_native = function("seccomp_arch_native", 0, library)
        self._arch_resolve = function("seccomp_arch_resolve_name", 1, library)
        self._arch_add = function("seccomp_arch_add", 2, library)
        self._resolve = function("seccomp_syscall_resolve_name", 1, library)
        self._resolve_in = function("seccomp_syscall_resolve_name_arch", 2, library)
        self._rule_add = function("seccomp_rule_add_array", 5, library)
        self._export = function("seccomp_export_bpf", 2, library)

    def version(self) -> tuple[int, int, int]:
        """(major, minor, micro)."""
        major, minor, micro = unpack("3I", read_memory(self._version(), 12))
        return major, minor, micro

    def native_architecture(self) -> int:
        """The SCMP_ARCH_* token of this machine."""
        return int(self._arch_native()) & 0xFFFFFFFF

    def architecture(self, name: str) -> int:
        """The token of a name such as `x86_64`, 0 if this version of the library does not know it."""
        return int(self._arch_resolve(name.encode())) & 0xFFFFFFFF

    def number(self, name: bytes, architecture: int | None = None) -> int:
        """The number of a system call. UNKNOWN if there is none at all, other negative numbers if only elsewhere."""
        if architecture is None:
            return as_int(self._resolve(name))
        return as_int(self._resolve_in(architecture, name))

    def filter(self, default_action: int) -> Rules:
        """An empty filter. Raises RuntimeFailure if the kernel does not have the action."""
        context = self._init(default_action)
        if not context:
            raise RuntimeFailure(
                f"linux.seccomp.defaultAction: libseccomp or the kernel does not support action {default_action:#x}"
            )
        return Rules(self, context)


class Rules:
    """A filter under construction, a scmp_filter_ctx. The negative results of the library become OSError."""

    __slots__ = ("_context", "_library")

    def __init__(self, library: Library, context: int) -> None:
        self._library = library
        self._context = context
        # The library would set no_new_privs by itself otherwise; it is only told so that its own checks agree.
        self._checked(library._attr_set(context, _ATTRIBUTE_NNP, 0))

    def close(self) -> None:
        self._library._release(self._context)
        self._context = 0

    def add_architecture(self, token: int) -> None:
        """EEXIST for one that is there already, EDOM for one of the other byte order."""
        self._checked(self._library._arch_add(self._context, token))

    def use_binary_tree(self) -> None:
        """Find a system call by halving instead of going through the list. Ignored by libseccomp before 2.5."""
        self._library._attr_set(self._context, _ATTRIBUTE_OPTIMIZE, 2)

    def add(self, action: int, number: int, conditions: list[tuple[int, int, int, int]]) -> None:
        """`action` for `number` when every condition, (argument, operator, a, b), holds."""
        array = b"".join(pack("IiQQ", *condition) for condition in conditions)
        self._checked(self._library._rule_add(self._context, action, number, len(conditions), array or None))

    def program(self) -> bytes:
        """The BPF program."""
        # A memory file and not a pipe: a large program would fill the pipe while nobody reads.
        memory = syscall(NR["memfd_create"], b"seccomp", _MFD_CLOEXEC)
        try:
            self._checked(self._library._export(self._context, memory))
            return posix.pread(memory, posix.fstat(memory).st_size, 0)
        finally:
            posix.close(memory)

    @staticmethod
    def _checked(result: int) -> None:
        code = as_int(result)
        if code < 0:
            raise OSError(-code, posix.strerror(-code))


def where() -> bytes:
    """The path of the library that this process has open, as the dynamic loader found it; empty if it is not open."""
    descriptor = posix.open("/proc/self/maps", posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        text = b""
        while chunk := posix.read(descriptor, 65536):
            text += chunk
    finally:
        posix.close(descriptor)
    for line in text.split(b"\n"):
        directory, slash, name = line[line.find(b"/") :].rpartition(b"/")
        if slash and name.startswith(b"libseccomp.so"):
            return directory + b"/" + NAME.encode()
    return b""
