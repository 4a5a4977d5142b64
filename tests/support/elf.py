"""Tiny static x86_64 programs: a file header, one segment, and the machine code that a test wants to run."""

from __future__ import annotations

import struct
from pathlib import Path

BASE = 0x400000
HEADERS = 64 + 56


def program(code: bytes) -> bytes:
    """An ELF file that starts at the first byte of `code`."""
    size = HEADERS + len(code)
    header = struct.pack(
        "<4s5B7x2HI3QI6H", b"\x7fELF", 2, 1, 1, 0, 0, 2, 62, 1, BASE + HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    return header + struct.pack("<2I6Q", 1, 5, 0, BASE, BASE, size, size, 4096) + code


def call(number: int, entry: str = "syscall") -> bytes:
    """Code that makes the system call `number` with the arguments in the registers; the result is in eax."""
    gate = {"syscall": b"\x0f\x05", "int80": b"\xcd\x80"}[entry]
    return b"\xb8" + struct.pack("<I", number) + gate  # mov eax, number


EXIT_WITH_RESULT = b"\x89\xc7" + call(60)  # mov edi, eax; exit
EXIT_WITH_ERRNO = b"\xf7\xd8" + EXIT_WITH_RESULT  # neg eax; ...

SHOW_EUID = program(call(107) + EXIT_WITH_RESULT)
"""Exits with the low byte of its effective user id."""


def put(path: Path, code: bytes, mode: int = 0o755) -> None:
    """A program file in place of whatever is at `path` (and not where a link there points)."""
    path.unlink(missing_ok=True)
    path.write_bytes(code)
    path.chmod(mode)
