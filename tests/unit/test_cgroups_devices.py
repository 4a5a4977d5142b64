"""Device rules: the list that the kernel would keep, and the BPF program that must decide the same."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyruntime.cgroups.devices import ANY, DEFAULT, DENY_ALL, DeviceList, Rule, line, rules
from pyruntime.cgroups.devices_bpf import program
from pyruntime.errors import SpecError

DENY = {"allow": False, "access": "rwm"}
TYPES = {"b": 1, "c": 2}
ACCESS = {"m": 1, "r": 2, "w": 4}


def run(code: bytes, kind: str, major: int, minor: int, access: str) -> bool:
    """An interpreter for the few BPF instructions of these programs, written from the kernel's instruction set."""
    wanted = sum(ACCESS[letter] for letter in access)
    context = struct.pack("=III", TYPES[kind] | wanted << 16, major, minor)
    registers: list[int | None] = [None] * 11
    registers[1] = 0  # the context

    def get(register: int) -> int:
        value = registers[register]
        assert value is not None, "a register that was never set"
        return value

    position = steps = 0
    while True:
        steps += 1
        assert steps < 10000
        opcode, which, jump, value = struct.unpack_from("=BBhI", code, position * 8)
        to, source = which & 15, which >> 4
        position += 1
        if opcode == 0x95:  # exit
            return bool(get(0))
        if opcode == 0x61:  # to = *(u32 *)(source + jump)
            (registers[to],) = struct.unpack_from("=I", context, get(source) + jump)
        elif opcode == 0x54:  # w_to &= value
            registers[to] = get(to) & value
        elif opcode == 0x74:  # w_to >>= value
            registers[to] = (get(to) & 0xFFFFFFFF) >> value
        elif opcode == 0xBC:  # w_to = w_source
            registers[to] = get(source) & 0xFFFFFFFF
        elif opcode == 0xB7:  # to = value
            registers[to] = value
        elif opcode == 0x16:  # if w_to == value
            position += jump if get(to) & 0xFFFFFFFF == value else 0
        elif opcode == 0x56:  # if w_to != value
            position += jump if get(to) & 0xFFFFFFFF != value else 0
        else:
            raise AssertionError(f"opcode {opcode:#x}")
        assert jump >= 0, "programs of old kernels only jump forward"


def test_the_defaults_come_last_and_a_list_starts_from_nothing() -> None:
    rule = {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}
    assert rules({"devices": [DENY, rule]}) == [DENY_ALL, (True, "c", 10, 229, "rw"), *DEFAULT]
    assert rules({"devices": [rule]})[0] == DENY_ALL
    assert rules({"devices": [{**DENY, "allow": True}]})[0] == (True, "a", ANY, ANY, "rwm")
    assert rules(None) == rules({}) == [DENY_ALL, *DEFAULT]


def test_lines() -> None:
    assert line((True, "c", 1, ANY, "rw")) == b"c 1:* rw"
    assert line((True, "b", ANY, 3, "m")) == b"b *:3 m"
    assert line((True, "a", 5, 6, "m")) == b"a *:* rwm"


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        ({"access": "rwm"}, "allow"),
        ({"allow": True}, "access"),
        ({"allow": True, "access": "rx"}, "access"),
        ({"allow": True, "access": ""}, "access"),
        ({"allow": True, "access": "r", "type": "p"}, "type"),
    ],
)
def test_bad_rules_name_their_field(entry: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError, match=rf"linux\.resources\.devices\[1\]\.{field}: "):
        rules({"devices": [DENY, entry]})


def test_a_hole_in_a_wildcard_is_refused() -> None:
    wide = {"allow": True, "type": "c", "major": 10, "access": "rwm"}
    with pytest.raises(SpecError, match=r"cannot deny 'c 10:200 r': the earlier rule 'c 10:\* rwm' covers it"):
        rules({"devices": [DENY, wide, {"allow": False, "type": "c", "major": 10, "minor": 200, "access": "r"}]})
    rules({"devices": [DENY, wide, {"allow": False, "type": "b", "major": 10, "minor": 200, "access": "r"}]})
    rules({"devices": [DENY, wide, {"allow": False, "type": "c", "major": 10, "access": "m"}]})


def test_as_the_kernel_decides() -> None:
    some = DeviceList([DENY_ALL, (True, "c", 1, 3, "r"), (True, "c", ANY, 3, "w")])
    assert some.allows("c", 1, 3, "r")
    assert some.allows("c", 9, 3, "w")
    assert not some.allows("c", 1, 3, "rw"), "one exception must cover all of the access"
    assert not some.allows("b", 1, 3, "r")
    most = DeviceList([(True, "a", 0, 0, "r"), (False, "c", 1, ANY, "w")])
    assert most.allows("c", 1, 3, "rm")
    assert not most.allows("c", 1, 3, "rw"), "any part of the access that is denied denies it"
    assert most.allows("c", 2, 3, "rwm")
    assert DeviceList([DENY_ALL, (True, "c", 1, 3, "rw"), (False, "c", 1, 3, "w")]).allows("c", 1, 3, "r")
    assert not DeviceList([DENY_ALL, (True, "c", 1, 3, "rw"), (False, "c", 1, 3, "w")]).allows("c", 1, 3, "w")


NUMBERS = st.sampled_from([ANY, 0, 1])  # few, so that rules meet each other and what is asked
LETTERS = st.sampled_from(["r", "w", "m", "rw", "rm", "wm", "rwm"])
RULES = st.lists(st.tuples(st.booleans(), st.sampled_from("abc"), NUMBERS, NUMBERS, LETTERS), max_size=12)


@given(RULES, st.lists(st.tuples(st.sampled_from("bc"), NUMBERS, NUMBERS, LETTERS), min_size=1, max_size=20))
def test_the_program_decides_as_the_list(given_rules: list[Rule], asked: list[tuple[str, int, int, str]]) -> None:
    try:
        devices = DeviceList(given_rules)
    except SpecError:
        return
    code = program(given_rules)
    for kind, major, minor, access in asked:
        if ANY not in (major, minor):
            assert run(code, kind, major, minor, access) == devices.allows(kind, major, minor, access)


def test_the_program_of_the_defaults() -> None:
    code = program(rules(None))
    assert run(code, "c", 1, 3, "rwm")
    assert run(code, "c", 136, 77, "rw")
    assert run(code, "b", 8, 0, "m")
    assert not run(code, "b", 8, 0, "r")
    assert not run(code, "c", 5, 1, "r"), "the console of the host"
