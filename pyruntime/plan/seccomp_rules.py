"""linux.seccomp → one BPF program. Loaded only when the program is not in the cache.

The meaning is runc's, where the runtime spec leaves it open:

* A rule whose action is the default action is skipped, and so is a name that no architecture has.
* A rule without conditions decides over all others for its call; the first one, if there are several.
* The conditions of one rule must all hold; if two of them look at the same argument, each becomes a rule of its own.
* The native architecture is always in the filter. Architectures that are not get their calls killed.
* A system call newer than every name in the profile gets ENOSYS instead of the default action. Otherwise programs
  that try a new call and fall back on ENOSYS would see EPERM and give up.
"""

from __future__ import annotations

from errno import EDOM, EEXIST, ENOSYS, EPERM

from pyruntime.errors import RuntimeFailure, SpecError
from pyruntime.kernel.bpf import (
    ARCHITECTURE_OFFSET,
    IF_ANY_BIT,
    IF_EQUAL,
    IF_GREATER,
    MAX_INSTRUCTIONS,
    NUMBER_OFFSET,
    Assembler,
)
from pyruntime.kernel.libseccomp import S390, UNKNOWN, X32, X86_64, Library
from pyruntime.kernel.seccomp import (
    RET_ALLOW,
    RET_ERRNO,
    RET_KILL_PROCESS,
    RET_KILL_THREAD,
    RET_LOG,
    RET_TRACE,
    RET_TRAP,
    RET_USER_NOTIF,
)
from pyruntime.plan.seccomp_compare import compile_calls, needs_care

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.plan.seccomp_compare import Alternatives

ACTIONS = {
    "SCMP_ACT_KILL": RET_KILL_THREAD, "SCMP_ACT_KILL_THREAD": RET_KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": RET_KILL_PROCESS, "SCMP_ACT_TRAP": RET_TRAP, "SCMP_ACT_ERRNO": RET_ERRNO,
    "SCMP_ACT_TRACE": RET_TRACE, "SCMP_ACT_ALLOW": RET_ALLOW,
    "SCMP_ACT_LOG": RET_LOG, "SCMP_ACT_NOTIFY": RET_USER_NOTIF,
}  # fmt: skip
OPERATORS = {
    "SCMP_CMP_NE": 1, "SCMP_CMP_LT": 2, "SCMP_CMP_LE": 3, "SCMP_CMP_EQ": 4, "SCMP_CMP_GE": 5, "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}  # fmt: skip
ARCHITECTURES = (
    "SCMP_ARCH_X86", "SCMP_ARCH_X86_64", "SCMP_ARCH_X32", "SCMP_ARCH_ARM", "SCMP_ARCH_AARCH64", "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K", "SCMP_ARCH_MIPS", "SCMP_ARCH_MIPS64", "SCMP_ARCH_MIPS64N32", "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64", "SCMP_ARCH_MIPSEL64N32", "SCMP_ARCH_PARISC", "SCMP_ARCH_PARISC64", "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64", "SCMP_ARCH_PPC64LE", "SCMP_ARCH_RISCV64", "SCMP_ARCH_S390", "SCMP_ARCH_S390X", "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
)  # fmt: skip

_WITH_DATA = (RET_ERRNO, RET_TRACE)
# A profile with one of these as default forbids nothing by default. A tracer or listener can answer for calls it does
# not know, so they see the new ones too.
_PERMISSIVE = (RET_ALLOW, RET_LOG, RET_TRACE, RET_USER_NOTIF)
_TREE_FROM = 33  # rules; below it libseccomp's plain list is as fast, and libseccomp up to 2.5.4 is wrong at 0
_MAX_ERRNO = 4094  # the kernel's limit is 4095, which libseccomp does not take
_ACTION = 0xFFFF0000  # SECCOMP_RET_ACTION_FULL; the rest is the data of the action
_X32_BIT = 1 << 30


class Rule:
    """One system call of the profile. `conditions` are (argument, operator, a, b)."""

    __slots__ = ("action", "conditions", "name", "path")

    def __init__(self, path: str, name: str, action: int, conditions: list[tuple[int, int, int, int]]) -> None:
        self.path = path
        self.name = name
        self.action = action
        self.conditions = conditions


def compile_rules(section: dict[str, Any], library: Library, strict: bool = False) -> tuple[bytes, list[str]]:
    """The program for a checked seccomp section, and warnings. `strict`: an unknown name is an error.

    Raises SpecError for what libseccomp refuses, RuntimeFailure for what it or the kernel cannot do.
    """
    default = _action(section, "defaultAction", "defaultErrnoRet", "linux.seccomp")
    rules = _rules(section)
    warnings: list[str] = []
    compiler = library.filter(default)
    try:
        tokens = [library.native_architecture()]
        for index, name in enumerate(section.get("architectures") or ()):
            token = _architecture(library, name, f"linux.seccomp.architectures[{index}]", warnings)
            if token and token not in tokens:
                try:
                    compiler.add_architecture(token)
                except OSError as error:
                    if error.errno != EDOM:
                        raise
                    warnings.append(f"linux.seccomp.architectures[{index}]: {name} cannot run on this machine, ignored")
                    continue
                tokens.append(token)
        if len(rules) >= _TREE_FROM:
            compiler.use_binary_tree()
        calls = _by_name(rules, default)
        delicate = {name: alternatives for name, alternatives in calls.items() if needs_care(alternatives)}
        for rule in rules:
            number = library.number(rule.name.encode())
            if number == UNKNOWN:
                if strict:
                    raise SpecError(rule.path, f"libseccomp does not know a system call {rule.name!r}")
                continue
            if rule.action != default and rule.name not in delicate:
                for conditions in _alternatives(rule.conditions):
                    try:
                        compiler.add(rule.action, number, conditions)
                    except OSError as error:
                        raise SpecError(rule.path, _refusal(rule.name, error)) from None
        program = _newer_calls(library, tokens, rules, default)
        program += compile_calls(_by_architecture(library, tokens, delicate), default)
        program += compiler.program()
    finally:
        compiler.close()
    if len(program) > MAX_INSTRUCTIONS * 8:
        raise RuntimeFailure(
            f"linux.seccomp: the filter has {len(program) // 8} instructions and the kernel takes {MAX_INSTRUCTIONS}; "
            "use fewer rules with arguments"
        )
    return program, warnings


def _rules(section: dict[str, Any]) -> list[Rule]:
    rules = []
    for index, entry in enumerate(section.get("syscalls") or ()):
        path = f"linux.seccomp.syscalls[{index}]"
        action = _action(entry, "action", "errnoRet", path)
        conditions = []
        for position, condition in enumerate(entry.get("args") or ()):
            where = f"{path}.args[{position}]"
            if condition["op"] not in OPERATORS:
                raise SpecError(f"{where}.op", f"{condition['op']!r} is not one of {', '.join(OPERATORS)}")
            if not 0 <= condition["index"] <= 5:
                raise SpecError(f"{where}.index", f"{condition['index']} is not between 0 and 5")
            conditions.append(
                (condition["index"], OPERATORS[condition["op"]], condition["value"], condition.get("valueTwo") or 0)
            )
        for position, name in enumerate(entry["names"]):
            rules.append(Rule(f"{path}.names[{position}]", name, action, conditions))
    return rules


def _action(section: dict[str, Any], action_field: str, data_field: str, path: str) -> int:
    name, data = section[action_field], section.get(data_field)
    if name not in ACTIONS:
        raise SpecError(f"{path}.{action_field}", f"{name!r} is not one of {', '.join(ACTIONS)}")
    action = ACTIONS[name]
    if action not in _WITH_DATA:
        if data is not None:
            raise SpecError(f"{path}.{data_field}", f"{name} takes no errno; only SCMP_ACT_ERRNO and SCMP_ACT_TRACE do")
        return action
    if data is None:
        data = EPERM
    highest = _MAX_ERRNO if action == RET_ERRNO else 0xFFFF
    if not 0 <= data <= highest:
        raise SpecError(f"{path}.{data_field}", f"{data} is not between 0 and {highest}")
    return action | data


def _architecture(library: Library, name: str, path: str, warnings: list[str]) -> int:
    if name not in ARCHITECTURES:
        raise SpecError(path, f"{name!r} is not one of {', '.join(ARCHITECTURES)}")
    token = library.architecture(name.removeprefix("SCMP_ARCH_").lower())
    if not token:
        warnings.append(f"{path}: this libseccomp does not know {name}, ignored")
    return token


def _by_name(rules: list[Rule], default: int) -> dict[str, Alternatives]:
    """Everything that the profile says about each call, in its order, without what the default says anyway."""
    calls: dict[str, Alternatives] = {}
    for rule in rules:
        if rule.action != default:
            calls.setdefault(rule.name, []).extend(
                (rule.action, conditions) for conditions in _alternatives(rule.conditions)
            )
    return calls


def _by_architecture(
    library: Library, tokens: list[int], calls: dict[str, Alternatives]
) -> dict[int, dict[int, Alternatives]]:
    """The same by audit architecture and number, where the call exists."""
    found: dict[int, dict[int, Alternatives]] = {}
    for token in tokens:
        for name, alternatives in calls.items():
            number = library.number(name.encode(), token)
            if number >= 0:
                found.setdefault(X86_64 if token == X32 else token, {})[number] = alternatives
    return found


def _alternatives(conditions: list[tuple[int, int, int, int]]) -> list[list[tuple[int, int, int, int]]]:
    arguments = [condition[0] for condition in conditions]
    if len(set(arguments)) == len(arguments):
        return [conditions]
    return [[condition] for condition in conditions]


def _refusal(name: str, error: OSError) -> str:
    if error.errno == EEXIST:
        return f"an earlier rule gives {name} another action under the same conditions"
    return f"libseccomp refuses a rule for {name}: {error.strerror}"


def _newer_calls(library: Library, tokens: list[int], rules: list[Rule], default: int) -> bytes:
    """A program to run before libseccomp's: ENOSYS for calls above the highest number that the profile names.

    Names count whatever their action is: who wrote the profile knew of them. It falls through to what follows it.
    """
    if default & _ACTION in _PERMISSIVE or default == RET_ERRNO | ENOSYS:
        return b""
    highest: dict[int, int] = {}
    for token in tokens:
        top = max((library.number(rule.name.encode(), token) for rule in rules), default=UNKNOWN)
        if top >= 0:
            highest[token] = top
    if not highest:
        return b""

    code = Assembler()
    code.load(ARCHITECTURE_OFFSET)
    for token in highest:
        # x86_64 and x32 are one architecture to the kernel; bit 30 of the number tells them apart.
        if token != X32:
            code.branch(IF_EQUAL, token, then=f"check {token}")
        elif X86_64 not in highest:
            code.branch(IF_EQUAL, X86_64, then=f"check {X86_64}")
    code.jump("filter")
    for token, top in highest.items():
        if token in (X32, X86_64):
            continue
        code.label(f"check {token}")
        code.load(NUMBER_OFFSET)
        if token in S390:
            # Numbers too large for the instruction arrive as 0, the number of setup(2), which no program calls.
            code.branch(IF_EQUAL, 0, then="refuse")
        code.branch(IF_GREATER, top, then="refuse")
        code.jump("filter")
    if X32 in highest or X86_64 in highest:
        code.label(f"check {X86_64}")
        code.load(NUMBER_OFFSET)
        code.branch(IF_ANY_BIT, _X32_BIT, then="x32")
        if X86_64 in highest:
            code.branch(IF_GREATER, highest[X86_64], then="refuse")
        code.jump("filter")
        code.label("x32")
        # A filter without x32 kills its calls; they must not be softened to ENOSYS here.
        if X32 in highest:
            code.branch(IF_GREATER, highest[X32], then="refuse")
        code.jump("filter")
    code.label("refuse")
    code.give(RET_ERRNO | ENOSYS)
    code.label("filter")
    return code.assemble()
