"""Argument comparisons that libseccomp gets wrong, compiled by ourselves.

When several rules for one system call order the same argument (less, greater) and their values differ in the upper 32
bits, libseccomp (seen in 2.5.4) shares code between them with the wrong half of the argument in the
accumulator: "at least 2^32, or 0" also lets 1 through. A filter must not be open where it says closed, so calls that
have an ordering comparison among several rules are decided by this program, which runs before libseccomp's, and are
left out of that one.

Every comparison is of unsigned 64-bit numbers; BPF has 32-bit words, so the upper half decides unless it is equal.
"""

from __future__ import annotations

import sys

from pyruntime.kernel.bpf import (
    ARCHITECTURE_OFFSET,
    ARGUMENTS_OFFSET,
    IF_EQUAL,
    IF_GREATER,
    IF_NOT_LESS,
    NUMBER_OFFSET,
    Assembler,
)

NE, LT, LE, EQ, GE, GT, MASKED_EQ = range(1, 8)  # enum scmp_compare
ORDERING = (LT, LE, GE, GT)

_HIGH, _LOW = (4, 0) if sys.byteorder == "little" else (0, 4)

TYPE_CHECKING = False
if TYPE_CHECKING:
    Condition = tuple[int, int, int, int]  # argument, operator, a, b
    Alternatives = list[tuple[int, list[Condition]]]  # action, conditions that must all hold


def needs_care(alternatives: Alternatives) -> bool:
    """Whether libseccomp may not be trusted with these rules for one call."""
    return (
        len(alternatives) > 1
        and all(conditions for _, conditions in alternatives)
        and any(operator in ORDERING for _, conditions in alternatives for _, operator, _, _ in conditions)
    )


def compile_calls(calls: dict[int, dict[int, Alternatives]], default: int) -> bytes:
    """Decide `calls`, {audit architecture: {number: alternatives}}; all other calls fall through to what follows.

    The first alternative that matches gives the action, `default` is for none.
    """
    code = Assembler()
    for architecture, numbers in calls.items():
        after = f"after {architecture}"
        code.load(ARCHITECTURE_OFFSET)
        code.branch(IF_EQUAL, architecture, then=f"in {architecture}")
        code.jump(after)
        code.label(f"in {architecture}")
        code.load(NUMBER_OFFSET)
        for number, alternatives in numbers.items():
            here = f"{architecture} {number}"
            # A conditional jump reaches 255 instructions, so it only ever leaps over the long jump behind it.
            code.branch(IF_EQUAL, number, then=here)
            code.jump(f"not {here}")
            code.label(here)
            for position, (action, conditions) in enumerate(alternatives):
                name = f"{here} {position}"
                for index, condition in enumerate(conditions):
                    _compare(code, condition, f"{name} {index}", f"{name} fails")
                code.give(action)
                code.label(f"{name} fails")
            code.give(default)
            code.label(f"not {here}")
        code.label(after)
    return code.assemble()


def _compare(code: Assembler, condition: Condition, name: str, fails: str) -> None:
    """Go on with the next instruction if `condition` holds, else to the label `fails`."""
    argument, operator, a, b = condition
    offset = ARGUMENTS_OFFSET + 8 * argument
    high, low = a >> 32, a & 0xFFFFFFFF
    holds = f"{name} holds"
    code.load(offset + _HIGH)
    if operator == MASKED_EQ:
        code.mask(high)
        code.branch(IF_EQUAL, b >> 32, otherwise=fails)
        code.load(offset + _LOW)
        code.mask(low)
        code.branch(IF_EQUAL, b & 0xFFFFFFFF, otherwise=fails)
    elif operator == EQ:
        code.branch(IF_EQUAL, high, otherwise=fails)
        code.load(offset + _LOW)
        code.branch(IF_EQUAL, low, otherwise=fails)
    elif operator == NE:
        code.branch(IF_EQUAL, high, otherwise=holds)
        code.load(offset + _LOW)
        code.branch(IF_EQUAL, low, then=fails)
    elif operator in (GT, GE):
        code.branch(IF_GREATER, high, then=holds)
        code.branch(IF_EQUAL, high, otherwise=fails)
        code.load(offset + _LOW)
        code.branch(IF_GREATER if operator == GT else IF_NOT_LESS, low, otherwise=fails)
    else:
        code.branch(IF_GREATER, high, then=fails)
        code.branch(IF_EQUAL, high, otherwise=holds)
        code.load(offset + _LOW)
        code.branch(IF_GREATER if operator == LE else IF_NOT_LESS, low, then=fails)
    code.label(holds)
