"""execve(2) with argument arrays that were laid out beforehand.

`os.execve` encodes, checks and copies its arguments, and takes the environment as a dict, which loses duplicates and
entries without "=". Between loading a seccomp filter and execve no other system call may be needed, so everything
lies ready in memory and one call is made (rule P23).
"""

from __future__ import annotations

import posix
from _struct import pack

from pyruntime.kernel.libc import address, buffer, syscall

_EXECVE = 59 if posix.uname().machine == "x86_64" else 221

TYPE_CHECKING = False
if TYPE_CHECKING:
    pass


class Vector:
    """A NULL-terminated array of C strings."""

    __slots__ = ("_strings", "array")

    def __init__(self, strings: list[bytes]) -> None:
        size = sum(len(string) + 1 for string in strings)
        text = buffer(max(size, 1))
        start = offset = address(text)
        pointers = []
        for string in strings:
            pointers.append(offset)
            offset += len(string) + 1
        view = memoryview(text).cast("B")
        view[: offset - start] = b"".join(string + b"\0" for string in strings)
        self._strings = text  # keeps what the pointers point to
        self.array: object = buffer(8 * (len(pointers) + 1))
        memoryview(self.array).cast("B")[:] = pack(f"{len(pointers) + 1}Q", *pointers, 0)


def execve(path: bytes, arguments: Vector, environment: Vector) -> None:
    """Become the program at `path`. Returns only by raising OSError."""
    syscall(_EXECVE, path, arguments.array, environment.array)
