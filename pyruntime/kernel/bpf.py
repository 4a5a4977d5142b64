"""Classic BPF as seccomp runs it: a tiny assembler with labels. See seccomp(2) and linux/filter.h.

A program is a row of 8-byte instructions (struct sock_filter) with one accumulator. It reads 32-bit words of struct
seccomp_data, the system call at hand, and returns what is to happen.
"""

from __future__ import annotations

from _struct import pack

MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS

NUMBER_OFFSET = 0  # of struct seccomp_data
ARCHITECTURE_OFFSET = 4
ARGUMENTS_OFFSET = 16  # six of 64 bits

LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
RETURN = 0x06  # BPF_RET | BPF_K
JUMP = 0x05  # BPF_JMP | BPF_JA
IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
IF_GREATER = 0x25  # BPF_JMP | BPF_JGT | BPF_K
IF_NOT_LESS = 0x35  # BPF_JMP | BPF_JGE | BPF_K
IF_ANY_BIT = 0x45  # BPF_JMP | BPF_JSET | BPF_K


class Assembler:
    """Collects instructions; a jump names a label, which may come later. Jumps go forward only."""

    __slots__ = ("_code", "_labels")

    def __init__(self) -> None:
        self._code: list[tuple[int, str, str, int]] = []
        self._labels: dict[str, int] = {}

    def label(self, name: str) -> None:
        """The next instruction is called `name`."""
        self._labels[name] = len(self._code)

    def load(self, offset: int) -> None:
        self._code.append((LOAD, "", "", offset))

    def mask(self, value: int) -> None:
        """Keep only the bits of `value` in the accumulator."""
        self._code.append((AND, "", "", value))

    def give(self, value: int) -> None:
        """Return `value`, a SECCOMP_RET_* action with its data."""
        self._code.append((RETURN, "", "", value))

    def jump(self, label: str) -> None:
        self._code.append((JUMP, label, "", 0))

    def branch(self, condition: int, value: int, then: str = "", otherwise: str = "") -> None:
        """Compare the loaded word with `value`; an empty label means the next instruction."""
        self._code.append((condition, then, otherwise, value))

    def assemble(self) -> bytes:
        """The program. A conditional jump over more than 255 instructions does not fit its byte and raises."""
        program = bytearray()
        for here, (code, then, otherwise, value) in enumerate(self._code):
            if code == JUMP:
                program += pack("HBBI", code, 0, 0, self._distance(here, then))
            else:
                program += pack("HBBI", code, self._distance(here, then), self._distance(here, otherwise), value)
        return bytes(program)

    def _distance(self, here: int, label: str) -> int:
        return self._labels[label] - here - 1 if label else 0
