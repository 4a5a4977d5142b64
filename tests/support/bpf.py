"""A machine for classic BPF, as seccomp runs it: the judge over compiled filters.

Written from the instruction set of linux/filter.h alone; it knows nothing of how the programs were made.
"""

from __future__ import annotations

import struct

X86_64 = 0xC000003E
I386 = 0x40000003
X32_BIT = 0x40000000

KILL_THREAD = 0x00000000
KILL_PROCESS = 0x80000000
TRAP = 0x00030000
ERRNO = 0x00050000
NOTIFY = 0x7FC00000
TRACE = 0x7FF00000
LOG = 0x7FFC0000
ALLOW = 0x7FFF0000

_COMPARE = {0x10: int.__eq__, 0x20: int.__gt__, 0x30: int.__ge__, 0x40: int.__and__}


def run(program: bytes, number: int, arguments: tuple[int, ...] = (), architecture: int = X86_64) -> int:
    """What the filter returns for one system call: an action with its data."""
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("<iIQ6Q", _signed(number), architecture, 0x1000, *padded)
    code: list[tuple[int, int, int, int]] = [
        struct.unpack_from("<HBBI", program, offset) for offset in range(0, len(program), 8)
    ]
    accumulator = index = 0
    memory = [0] * 16
    position = 0
    while True:
        opcode, then, otherwise, value = code[position]
        position += 1
        kind = opcode & 0x07
        if opcode == 0x20:  # ld [k]
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif opcode == 0x00:  # ld #k
            accumulator = value
        elif opcode == 0x60:  # ld M[k]
            accumulator = memory[value]
        elif opcode == 0x61:  # ldx M[k]
            index = memory[value]
        elif opcode == 0x02:  # st M[k]
            memory[value] = accumulator
        elif opcode == 0x54:  # and #k
            accumulator &= value
        elif opcode == 0x07:  # tax
            index = accumulator
        elif opcode == 0x87:  # txa
            accumulator = index
        elif opcode == 0x05:  # ja
            position += value
        elif kind == 0x05 and not opcode & 0x08:  # a conditional jump on a constant
            position += then if _COMPARE[opcode & 0xF0](accumulator, value) else otherwise
        elif opcode == 0x06:  # ret #k
            return value
        else:
            raise AssertionError(f"instruction {opcode:#x} is not one that a filter should have")


def _signed(number: int) -> int:
    return number - (1 << 32) if number >= 1 << 31 else number
