"""What compiled seccomp filters decide, judged by a BPF machine of our own against the words of the runtime spec."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import bpf

from pyruntime.errors import SpecError
from pyruntime.kernel.bpf import IF_EQUAL, IF_GREATER, Assembler
from pyruntime.kernel.libseccomp import Library
from pyruntime.plan.seccomp import compile_filter
from pyruntime.plan.seccomp_rules import OPERATORS, compile_rules

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the expected numbers are those of x86_64")

NATIVE = ["SCMP_ARCH_X86_64"]
ALL_X86 = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
# name: number on x86_64, on i386
CALLS = {"read": (0, 3), "write": (1, 4), "mkdir": (83, 39), "personality": (135, 136), "prctl": (157, 172)}
ENOSYS = bpf.ERRNO | errno.ENOSYS
EPERM = bpf.ERRNO | errno.EPERM

WORD = st.one_of(
    st.integers(0, 2**64 - 1),
    st.integers(0, 3),
    st.sampled_from([2**31, 2**32, 2**33, 2**63, 2**64 - 1]).flatmap(
        lambda edge: st.integers(max(edge - 2, 0), min(edge + 2, 2**64 - 1))
    ),
)


@pytest.fixture(scope="module")
def library() -> Library:
    return Library()


def section(rules: list[dict[str, Any]], default: str = "SCMP_ACT_ERRNO", **more: Any) -> dict[str, Any]:
    return {"defaultAction": default, "architectures": NATIVE, "syscalls": rules, **more}


def rule(*names: str, action: str = "SCMP_ACT_ALLOW", **more: Any) -> dict[str, Any]:
    return {"names": list(names), "action": action, **more}


def condition(index: int, op: str, value: int, value_two: int = 0) -> dict[str, Any]:
    return {"index": index, "op": op, "value": value, "valueTwo": value_two}


# The meaning of a condition, in Python's unbounded integers.
MEANING = {
    "SCMP_CMP_NE": lambda argument, a, b: argument != a,
    "SCMP_CMP_LT": lambda argument, a, b: argument < a,
    "SCMP_CMP_LE": lambda argument, a, b: argument <= a,
    "SCMP_CMP_EQ": lambda argument, a, b: argument == a,
    "SCMP_CMP_GE": lambda argument, a, b: argument >= a,
    "SCMP_CMP_GT": lambda argument, a, b: argument > a,
    "SCMP_CMP_MASKED_EQ": lambda argument, a, b: argument & a == b,
}


def holds(entry: dict[str, Any], arguments: tuple[int, ...]) -> bool:
    return bool(MEANING[entry["op"]](arguments[entry["index"]], entry["value"], entry["valueTwo"]))


def matches(conditions: list[dict[str, Any]], arguments: tuple[int, ...]) -> bool:
    """All must hold, except that several on one argument are alternatives, each for itself."""
    indices = [entry["index"] for entry in conditions]
    judge = all if len(set(indices)) == len(indices) else any
    return not conditions or judge(holds(entry, arguments) for entry in conditions)


def test_every_operator_has_a_meaning_here() -> None:
    assert set(MEANING) == set(OPERATORS)


@pytest.mark.parametrize("op", OPERATORS)
@settings(max_examples=60, deadline=None)
@given(value=WORD, two=WORD, argument=WORD, near=st.integers(-1, 1), index=st.integers(0, 5))
def test_one_condition(library: Library, op: str, value: int, two: int, argument: int, near: int, index: int) -> None:
    if op == "SCMP_CMP_MASKED_EQ":
        two &= value
    program, _ = compile_rules(section([rule("prctl", args=[condition(index, op, value, two)])]), library)
    for candidate in (argument, (value + near) % 2**64, (two + near) % 2**64, two | (argument & ~value)):
        arguments = tuple(candidate if position == index else 7 for position in range(6))
        expected = bpf.ALLOW if MEANING[op](candidate, value, two) else EPERM
        assert bpf.run(program, 157, arguments) == expected, (hex(candidate), hex(value), hex(two))


CONDITION = st.builds(condition, st.integers(0, 5), st.sampled_from(sorted(OPERATORS)), WORD, WORD).map(
    lambda entry: {**entry, "valueTwo": entry["valueTwo"] & entry["value"]}
)


@settings(max_examples=150, deadline=None)
@given(conditions=st.lists(CONDITION, min_size=1, max_size=4), data=st.data())
def test_several_conditions(library: Library, conditions: list[dict[str, Any]], data: st.DataObject) -> None:
    program, _ = compile_rules(section([rule("prctl", args=conditions)]), library)
    interesting = [entry["value"] for entry in conditions] + [entry["valueTwo"] for entry in conditions]
    word = st.one_of(st.sampled_from(interesting), WORD)
    for _ in range(5):
        arguments = tuple(data.draw(word) for _ in range(6))
        expected = bpf.ALLOW if matches(conditions, arguments) else EPERM
        assert bpf.run(program, 157, arguments) == expected, arguments


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rules=st.lists(st.tuples(st.sampled_from(sorted(CALLS)), st.lists(CONDITION, max_size=2)), min_size=1, max_size=6),
    data=st.data(),
)
def test_several_rules_of_one_action(
    library: Library, rules: list[tuple[str, list[dict[str, Any]]]], data: st.DataObject
) -> None:
    """A call is allowed when one of its rules matches, whatever the other rules are."""
    program, _ = compile_rules(section([rule(name, args=args) for name, args in rules]), library)
    values = [entry["value"] for _, args in rules for entry in args] or [0]
    top = max(CALLS[name][0] for name, _ in rules)
    for name, (number, _) in CALLS.items():
        arguments = tuple(data.draw(st.one_of(st.sampled_from(values), WORD)) for _ in range(6))
        allowed = any(matches(args, arguments) for other, args in rules if other == name)
        expected = bpf.ALLOW if allowed else EPERM if number <= top else ENOSYS
        assert bpf.run(program, number, arguments) == expected, name


@pytest.mark.parametrize(
    ("action", "extra", "expected"),
    [
        ("SCMP_ACT_KILL", {}, bpf.KILL_THREAD),
        ("SCMP_ACT_KILL_THREAD", {}, bpf.KILL_THREAD),
        ("SCMP_ACT_KILL_PROCESS", {}, bpf.KILL_PROCESS),
        ("SCMP_ACT_TRAP", {}, bpf.TRAP),
        ("SCMP_ACT_ERRNO", {}, EPERM),
        ("SCMP_ACT_ERRNO", {"errnoRet": None}, EPERM),
        ("SCMP_ACT_ERRNO", {"errnoRet": 0}, bpf.ERRNO),
        ("SCMP_ACT_ERRNO", {"errnoRet": 4094}, bpf.ERRNO | 4094),
        ("SCMP_ACT_TRACE", {}, bpf.TRACE | errno.EPERM),
        ("SCMP_ACT_TRACE", {"errnoRet": 0xFFFF}, bpf.TRACE | 0xFFFF),
        ("SCMP_ACT_LOG", {}, bpf.LOG),
        ("SCMP_ACT_NOTIFY", {}, bpf.NOTIFY),
    ],
)
def test_actions(library: Library, action: str, extra: dict[str, Any], expected: int) -> None:
    as_rule, _ = compile_rules(section([rule("mkdir", action=action, **extra)], "SCMP_ACT_ALLOW"), library)
    assert bpf.run(as_rule, 83) == expected
    assert bpf.run(as_rule, 0) == bpf.ALLOW
    more = {"defaultErrnoRet": extra["errnoRet"]} if extra else {}
    as_default, _ = compile_rules(section([rule("mkdir")], action, **more), library)
    assert bpf.run(as_default, 83) == bpf.ALLOW
    assert bpf.run(as_default, 0) == expected


def test_a_rule_with_the_default_action_is_skipped(library: Library) -> None:
    rules = [rule("mkdir", action="SCMP_ACT_ERRNO"), rule("read")]
    program, _ = compile_rules(section(rules), library)
    assert bpf.run(program, 83) == EPERM
    assert bpf.run(program, 0) == bpf.ALLOW
    # It is another action when the errno differs.
    rules[0]["errnoRet"] = errno.EACCES
    program, _ = compile_rules(section(rules), library)
    assert bpf.run(program, 83) == bpf.ERRNO | errno.EACCES


def test_a_rule_without_conditions_decides(library: Library) -> None:
    conditional = rule(
        "mkdir", action="SCMP_ACT_LOG", args=[condition(0, "SCMP_CMP_GE", 1), condition(1, "SCMP_CMP_LE", 2)]
    )
    for rules in ([rule("mkdir"), conditional], [conditional, rule("mkdir")]):
        program, _ = compile_rules(section([*rules, rule("mkdir", action="SCMP_ACT_TRAP")]), library)
        assert {bpf.run(program, 83, (value, value)) for value in range(4)} == {bpf.ALLOW}


def test_no_rules_at_all(library: Library) -> None:
    program, _ = compile_rules(section([]), library)
    assert {bpf.run(program, number) for number in range(0, 600, 7)} == {EPERM}


def test_only_listed_architectures_get_in(library: Library) -> None:
    native, _ = compile_rules(section([rule("mkdir")], "SCMP_ACT_ALLOW"), library)
    assert bpf.run(native, 83) == bpf.ALLOW
    assert bpf.run(native, 39, architecture=bpf.I386) == bpf.KILL_THREAD
    assert bpf.run(native, bpf.X32_BIT | 83) == bpf.KILL_THREAD
    assert bpf.run(native, 83, architecture=0xC00000B7) == bpf.KILL_THREAD  # aarch64


def test_the_native_architecture_is_always_in(library: Library) -> None:
    for listed in ([], ["SCMP_ARCH_X86"]):
        program, _ = compile_rules(section([rule("mkdir")], architectures=listed), library)
        assert bpf.run(program, 83) == bpf.ALLOW
        assert bpf.run(program, 39, architecture=bpf.I386) == (bpf.ALLOW if listed else bpf.KILL_THREAD)


def test_a_rule_means_the_same_call_everywhere(library: Library) -> None:
    program, _ = compile_rules(section([rule("mkdir"), rule("prctl")], architectures=ALL_X86), library)
    for name, (number, number_32) in CALLS.items():
        expected = bpf.ALLOW if name in ("mkdir", "prctl") else EPERM
        assert bpf.run(program, number) == expected, name
        assert bpf.run(program, number_32, architecture=bpf.I386) == expected, name
        assert bpf.run(program, bpf.X32_BIT | number) == expected, name


def test_newer_calls_do_not_exist(library: Library) -> None:
    """ENOSYS above the highest number that the profile names, on each architecture for itself."""
    rules = [rule("read"), rule("prctl", action="SCMP_ACT_ERRNO")]  # prctl: skipped, but known
    program, _ = compile_rules(section(rules, architectures=ALL_X86), library)
    assert bpf.run(program, 156) == EPERM
    assert bpf.run(program, 157) == EPERM
    assert bpf.run(program, 158) == ENOSYS
    assert bpf.run(program, 0x3FFFFFFF) == ENOSYS
    assert bpf.run(program, bpf.X32_BIT | 157) == EPERM
    assert bpf.run(program, bpf.X32_BIT | 158) == ENOSYS
    assert bpf.run(program, 0xFFFFFFFF) == ENOSYS
    assert bpf.run(program, 172, architecture=bpf.I386) == EPERM
    assert bpf.run(program, 173, architecture=bpf.I386) == ENOSYS
    assert bpf.run(program, 500, architecture=0xC00000B7) == bpf.KILL_THREAD


def test_calls_of_a_missing_architecture_are_not_softened(library: Library) -> None:
    program, _ = compile_rules(section([rule("read")]), library)
    assert bpf.run(program, 1) == ENOSYS
    assert bpf.run(program, bpf.X32_BIT | 1) == bpf.KILL_THREAD
    assert bpf.run(program, 5, architecture=bpf.I386) == bpf.KILL_THREAD


@pytest.mark.parametrize(
    "default", ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_NOTIFY", "SCMP_ACT_KILL_PROCESS"]
)
def test_newer_calls_when_nothing_is_forbidden(library: Library, default: str) -> None:
    program, _ = compile_rules(section([rule("read", action="SCMP_ACT_TRAP")], default), library)
    result = bpf.run(program, 400)
    assert (result == ENOSYS) == (default == "SCMP_ACT_KILL_PROCESS")


def test_unknown_names(library: Library) -> None:
    entry = section([rule("no_such_call", "mkdir")])
    program, _ = compile_rules(entry, library)
    assert bpf.run(program, 83) == bpf.ALLOW
    with pytest.raises(SpecError, match=r"syscalls\[0\]\.names\[0\].*no_such_call"):
        compile_rules(entry, library, strict=True)


def test_names_of_other_architectures_are_known(library: Library) -> None:
    compile_rules(section([rule("waitpid", "mkdir")]), library, strict=True)  # i386 has it, x86_64 does not


def test_an_architecture_of_the_other_byte_order_is_left_out(library: Library) -> None:
    program, warnings = compile_rules(section([rule("mkdir")], architectures=["SCMP_ARCH_S390X"]), library)
    assert bpf.run(program, 83) == bpf.ALLOW
    assert len(warnings) == 1 and "SCMP_ARCH_S390X" in warnings[0]


@pytest.mark.parametrize(
    ("broken", "path", "reason"),
    [
        (section([], "SCMP_ACT_NEVER"), "linux.seccomp.defaultAction", "SCMP_ACT_NEVER"),
        (section([], "SCMP_ACT_ALLOW", defaultErrnoRet=1), "linux.seccomp.defaultErrnoRet", "takes no errno"),
        (section([rule("read", errnoRet=1)]), "linux.seccomp.syscalls[0].errnoRet", "takes no errno"),
        (section([], defaultErrnoRet=4095), "linux.seccomp.defaultErrnoRet", "between 0 and 4094"),
        (section([], "SCMP_ACT_TRACE", defaultErrnoRet=65536), "linux.seccomp.defaultErrnoRet", "between 0 and 65535"),
        (section([], architectures=["SCMP_ARCH_PDP11"]), "linux.seccomp.architectures[0]", "PDP11"),
        (
            section([rule("read", args=[{"index": 6, "op": "SCMP_CMP_EQ", "value": 1}])]),
            "linux.seccomp.syscalls[0].args[0].index",
            "between 0 and 5",
        ),
        (
            section([rule("read", args=[{"index": 0, "op": "SCMP_CMP_LIKE", "value": 1}])]),
            "linux.seccomp.syscalls[0].args[0].op",
            "SCMP_CMP_LIKE",
        ),
        (
            section(
                [
                    rule("mkdir", args=[condition(0, "SCMP_CMP_EQ", 1)]),
                    rule("read", "mkdir", action="SCMP_ACT_LOG", args=[condition(0, "SCMP_CMP_EQ", 1)]),
                ]
            ),
            "linux.seccomp.syscalls[1].names[1]",
            "another action",
        ),
    ],
)
def test_what_is_refused(library: Library, broken: dict[str, Any], path: str, reason: str) -> None:
    with pytest.raises(SpecError) as caught:
        compile_rules(broken, library)
    assert caught.value.path == path
    assert reason in caught.value.reason


def test_flags() -> None:
    def flags(names: list[str] | None, action: str = "SCMP_ACT_ALLOW") -> int:
        more: dict[str, Any] = {} if names is None else {"flags": names}
        compiled = compile_filter(section([rule("mkdir", action=action)], **more))
        assert compiled is not None
        assert compiled.notify == (action == "SCMP_ACT_NOTIFY")
        return compiled.flags

    prefix = "SECCOMP_FILTER_FLAG_"
    assert flags(None) == 4
    assert flags([]) == 0
    assert flags([prefix + "TSYNC", prefix + "LOG", prefix + "SPEC_ALLOW"]) == 7
    assert flags(None, "SCMP_ACT_NOTIFY") == 4 | 8
    assert flags([prefix + "TSYNC"], "SCMP_ACT_NOTIFY") == 1 | 8 | 16
    assert flags([prefix + "WAIT_KILLABLE_RECV"], "SCMP_ACT_NOTIFY") == 8 | 32
    with pytest.raises(SpecError, match="needs a rule with SCMP_ACT_NOTIFY"):
        flags([prefix + "WAIT_KILLABLE_RECV"])
    with pytest.raises(SpecError, match=r"flags\[0\].*NEW_LISTENER"):
        flags([prefix + "NEW_LISTENER"])


def test_an_empty_section_is_no_filter() -> None:
    assert compile_filter({}) is None
    assert compile_filter({"defaultAction": "", "syscalls": []}) is None


def test_a_profile_as_long_as_an_engines(library: Library) -> None:
    """Enough names that libseccomp builds its binary tree, with every decision checked."""
    table = Path(__file__).with_name("data") / "calls-x86_64"
    numbers = {name: int(number) for number, name in (line.split() for line in table.read_text().splitlines())}
    known = {name: number for name, number in numbers.items() if library.number(name.encode()) == number}
    assert len(known) > 300
    names = sorted(known)
    allowed, refused = names[::3], names[1::3]
    rules = [rule(*allowed), rule(*refused, action="SCMP_ACT_ERRNO", errnoRet=errno.EACCES)]
    program, _ = compile_rules(section(rules, architectures=ALL_X86), library)
    top = max(known[name] for name in allowed + refused)
    for name, number in known.items():
        if name in allowed:
            expected = bpf.ALLOW
        elif name in refused:
            expected = bpf.ERRNO | errno.EACCES
        else:
            expected = EPERM if number <= top else ENOSYS
        assert bpf.run(program, number) == expected, name


@settings(max_examples=50, deadline=None)
@given(value=st.integers(0, 2**32 - 1), edges=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=6))
def test_assembler(value: int, edges: list[int]) -> None:
    """A chain of comparisons: equal returns 1, greater falls to the next, else 2."""
    code = Assembler()
    code.load(0)
    for position, edge in enumerate(edges):
        code.label(f"at {position}")
        code.branch(IF_EQUAL, edge, then="equal")
        code.branch(IF_GREATER, edge, then=f"at {position + 1}", otherwise="less")
    code.label(f"at {len(edges)}")
    code.jump("end")
    code.label("less")
    code.give(2)
    code.label("equal")
    code.give(1)
    code.label("end")
    code.give(3)
    expected = 3
    for edge in edges:
        if value <= edge:
            expected = 1 if value == edge else 2
            break
    assert bpf.run(code.assemble(), value) == expected


def test_the_judge_sees_a_wrong_comparison() -> None:
    """A program that compares with > where >= was meant, at the boundary and beside it."""
    program = b"".join(
        struct.pack("<HBBI", *instruction)
        for instruction in ((0x20, 0, 0, 16), (0x25, 0, 1, 5), (0x06, 0, 0, bpf.ALLOW), (0x06, 0, 0, EPERM))
    )
    assert bpf.run(program, 0, (5,)) == EPERM
    assert bpf.run(program, 0, (6,)) == bpf.ALLOW


def test_a_comparison_that_libseccomp_gets_wrong(library: Library) -> None:
    """Upper halves that differ, among alternatives that order one argument. Regression: 1 was let through."""
    args = [condition(0, "SCMP_CMP_GE", 2**32), condition(0, "SCMP_CMP_LE", 0)]
    program, _ = compile_rules(section([rule("prctl", args=args)], architectures=ALL_X86), library)
    allowed = {
        value for value in (0, 1, 2, 2**32 - 1, 2**32, 2**32 + 1, 2**63) if bpf.run(program, 157, (value,)) == bpf.ALLOW
    }
    assert allowed == {0, 2**32, 2**32 + 1, 2**63}
    assert bpf.run(program, bpf.X32_BIT | 157, (1,)) == EPERM
    assert bpf.run(program, bpf.X32_BIT | 157, (0,)) == bpf.ALLOW
    assert bpf.run(program, 172, (1,), bpf.I386) == EPERM
    assert bpf.run(program, 172, (0,), bpf.I386) == bpf.ALLOW


def test_many_alternatives_for_one_call(library: Library) -> None:
    """More code for one call than a conditional jump can pass over."""
    args = [condition(1, "SCMP_CMP_LT" if number % 2 else "SCMP_CMP_GT", 2**40 + number) for number in range(60)]
    args = [entry for entry in args if entry["op"] == "SCMP_CMP_GT"] + [condition(1, "SCMP_CMP_EQ", 3)]
    program, _ = compile_rules(section([rule("prctl", args=args), rule("personality")]), library)
    assert bpf.run(program, 157, (0, 3)) == bpf.ALLOW
    assert bpf.run(program, 157, (0, 4)) == EPERM
    assert bpf.run(program, 157, (0, 2**40 + 1)) == bpf.ALLOW
    assert bpf.run(program, 157, (0, 2**40)) == EPERM
    assert bpf.run(program, 135, (0, 4)) == bpf.ALLOW
