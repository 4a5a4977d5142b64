"""System call filters: config-linux.md, section Seccomp, without the listener."""

from __future__ import annotations

import os
import signal
from typing import Any

from conformance import process
from conformance.outcome import equal, require, skip
from conformance.registry import case, each
from conformance.stage import Stage

ALLOW, ERRNO = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"
ARCHES = {"x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]}


def filtered(stage: Stage, *rules: dict[str, Any], default: str = ALLOW, **more: Any) -> None:
    """Give the container a filter with these rules."""
    stage.linux["seccomp"] = {"defaultAction": default, "syscalls": list(rules), **more}


def rule(action: str, *names: str, **more: Any) -> dict[str, Any]:
    """One entry of seccomp.syscalls."""
    return {"names": list(names), "action": action, **more}


def outcome(stage: Stage, call: str) -> str:
    """Run a Python expression that makes one system call in the container; returns its errno name, or `ok`."""
    probe = (
        "import os, errno, ctypes, signal, threading\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "def say(result):\n"
        "    print('ok' if result >= 0 else errno.errorcode[ctypes.get_errno()], flush=True)\n"
        f"say({call})\n"
    )
    return stage.python(probe).strip()


NUMBERS = {
    "x86_64": {"getpriority": 140, "sethostname": 170, "kcmp": 312, "personality": 135},
    "aarch64": {"getpriority": 141, "sethostname": 161, "kcmp": 272, "personality": 92},
}


def number(name: str) -> int:
    """Number of a system call that ordinary programs do not need."""
    machine = os.uname().machine
    if machine not in NUMBERS:
        skip(f"the probe does not know the system calls of {machine}")
    return NUMBERS[machine][name]


def personality(argument: int = 0xFFFFFFFF) -> str:
    """A call of personality(2), which with 0xffffffff only asks."""
    return f"libc.syscall({number('personality')}, ctypes.c_ulong({argument}))"


@case("seccomp", "seccomp.syscalls", "seccomp.syscalls.names", "seccomp.syscalls.action", "seccomp.action.ERRNO")
def rule_is_applied(stage: Stage) -> None:
    """A call with a rule fails with EPERM, others work, and the filter is in force."""
    filtered(stage, rule(ERRNO, "personality"))
    equal(outcome(stage, personality()), "EPERM", "personality(2)")
    stage.delete("--force")
    stage.up()
    equal(process.status(stage.pid, "Seccomp"), "2", "Seccomp in /proc/PID/status")


@case("seccomp")
def no_filter_by_default(stage: Stage) -> None:
    """Without seccomp there is no filter."""
    stage.up()
    equal(process.status(stage.pid, "Seccomp"), process.status("self", "Seccomp"), "Seccomp in /proc/PID/status")


@case("seccomp.defaultAction")
def default_action_holds_for_the_rest(stage: Stage) -> None:
    """Calls without a rule get the default action."""
    filtered(stage, rule(ALLOW, *everything()), default=ERRNO)
    equal(
        stage.sh("echo works; mkdir /opt/x 2>&1; test -d /opt/x || echo refused").split()[0], "works", "allowed calls"
    )
    require(not (stage.rootfs / "opt/x").exists(), "mkdir was not refused")


@case("seccomp.defaultErrnoRet")
def default_errno_is_used(stage: Stage) -> None:
    """defaultErrnoRet is the errno of the default action."""
    filtered(stage, rule(ALLOW, *everything()), default=ERRNO, defaultErrnoRet=28)
    output = stage.sh("mkdir /opt/x 2>&1", status=None)
    require("No space left on device" in output, f"mkdir said {output!r}, not ENOSPC")


def everything() -> list[str]:
    """Names of the system calls that runtimes and ordinary programs need; mkdir and mkdirat are not among them."""
    text = (
        "accept accept4 access alarm arch_prctl bind brk capget capset chdir chmod chown clock_getres clock_gettime "
        "clock_nanosleep clone clone3 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create "
        "epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd2 execve execveat exit exit_group "
        "faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchown fchownat fcntl fdatasync flock fork "
        "fstat fstatfs fsync ftruncate futex getcwd getdents getdents64 getegid geteuid getgid getgroups getpgid "
        "getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit getrusage getsid getsockname "
        "getsockopt gettid gettimeofday getuid getxattr ioctl kill lchown link linkat listen lseek lstat madvise mmap "
        "mprotect mremap munmap nanosleep newfstatat open openat openat2 pause pipe pipe2 poll ppoll prctl pread64 "
        "preadv prlimit64 pselect6 pwrite64 read readlink readlinkat readv recvfrom recvmsg rename renameat renameat2 "
        "rmdir rseq rt_sigaction rt_sigprocmask rt_sigreturn rt_sigsuspend rt_sigtimedwait sched_getaffinity "
        "sched_yield select sendfile sendmsg sendto set_robust_list set_tid_address setgid setgroups setpgid setresgid "
        "setresuid setrlimit setsid setsockopt setuid sigaltstack socket socketpair stat statfs statx symlink "
        "symlinkat sync sysinfo tgkill time tkill truncate umask uname unlink unlinkat utimensat vfork wait4 waitid "
        "write writev"
    )
    return text.split()


@each(
    {
        "seccomp.defaultErrnoRet.unsupported@allow": (ALLOW,),
        "seccomp.defaultErrnoRet.unsupported@log": ("SCMP_ACT_LOG",),
    }
)
def default_errno_needs_an_action_that_takes_it(stage: Stage, action: str) -> None:
    """defaultErrnoRet with a default action that takes none is an error."""
    filtered(stage, default=action, defaultErrnoRet=28)
    stage.refused(f"{action} takes no errno", at_start=True)


@each({"seccomp.syscalls.errnoRet@38": (38, "ENOSYS"), "seccomp.syscalls.errnoRet@28": (28, "ENOSPC")})
def errno_of_a_rule_is_used(stage: Stage, value: int, name: str) -> None:
    """errnoRet is what the call fails with."""
    filtered(stage, rule(ERRNO, "personality", errnoRet=value))
    equal(outcome(stage, personality()), name, "personality(2)")


@case("seccomp.syscalls.errnoRet.unsupported")
def errno_needs_an_action_that_takes_it(stage: Stage) -> None:
    """errnoRet with an action that takes none is an error."""
    filtered(stage, rule(ALLOW, "personality", errnoRet=28), default=ERRNO)
    stage.linux["seccomp"]["syscalls"].append(rule(ALLOW, *everything()))
    stage.refused("ALLOW takes no errno", at_start=True)


@each({f"seccomp.action.{name}": (f"SCMP_ACT_{name}",) for name in ("KILL", "KILL_THREAD", "KILL_PROCESS", "TRAP")})
def fatal_action_ends_the_program(stage: Stage, action: str) -> None:
    """The program dies of SIGSYS at the call."""
    filtered(stage, rule(action, "personality"))
    stage.process["args"] = [
        stage.host_python(),
        "-I",
        "-S",
        "-c",
        f"import ctypes; libc = ctypes.CDLL(None); {personality()}",
    ]
    stage.create()
    stage.start()
    equal(stage.wait() & 0x7F, signal.SIGSYS, "signal that ended the program")


@case("seccomp.action.TRAP")
def trap_calls_the_handler(stage: Stage) -> None:
    """With TRAP a handler of SIGSYS runs, and the program goes on."""
    filtered(stage, rule("SCMP_ACT_TRAP", "personality"))
    probe = (
        "import signal, ctypes\nsignal.signal(signal.SIGSYS, lambda *_: print('handled', flush=True))\n"
        f"libc = ctypes.CDLL(None)\n{personality()}\nprint('went on')\n"
    )
    equal(stage.python(probe), "handled\nwent on\n", "output of the program")


@each(
    {
        "seccomp.action.TRACE": ("SCMP_ACT_TRACE", "ENOSYS"),
        "seccomp.action.ALLOW": (ALLOW, "ok"),
        "seccomp.action.LOG": ("SCMP_ACT_LOG", "ok"),
    }
)
def action_lets_the_program_live(stage: Stage, action: str, wanted: str) -> None:
    """TRACE without a tracer gives ENOSYS, ALLOW and LOG let the call happen."""
    filtered(stage, rule(action, "personality"), default=ALLOW if action != ALLOW else "SCMP_ACT_LOG")
    equal(outcome(stage, personality()), wanted, "personality(2)")


@each({f"seccomp.flags.{name}": (f"SECCOMP_FILTER_FLAG_{name}",) for name in ("TSYNC", "LOG", "SPEC_ALLOW")})
def flag_is_accepted(stage: Stage, flag: str) -> None:
    """A filter with the flag works."""
    filtered(stage, rule(ERRNO, "personality"), flags=[flag])
    equal(outcome(stage, personality()), "EPERM", "personality(2)")


@case("seccomp.flags.SPEC_ALLOW")
def speculation_is_left_alone(stage: Stage) -> None:
    """SPEC_ALLOW does not force a mitigation on the program that an empty list of flags may force."""
    filtered(stage, rule(ERRNO, "personality"), flags=["SECCOMP_FILTER_FLAG_SPEC_ALLOW"])
    stage.up()
    seen = process.status(stage.pid, "Speculation_Store_Bypass")
    equal(seen, process.status("self", "Speculation_Store_Bypass"), "Speculation_Store_Bypass")


@each(
    {
        "seccomp.flags.invalid": ({"flags": ["SECCOMP_FILTER_FLAG_NONE"]},),
        "seccomp.defaultAction@bad": ({"defaultAction": "SCMP_ACT_NONE"},),
        "seccomp.syscalls.action@bad": ({"syscalls": [rule("SCMP_ACT_NONE", "personality")]},),
        "seccomp.architectures@bad": ({"architectures": ["SCMP_ARCH_NONE"]},),
        "seccomp.syscalls.names.non-empty": ({"syscalls": [{"names": [], "action": ERRNO}]},),
        "seccomp.syscalls.args.op@bad": (
            {"syscalls": [rule(ERRNO, "personality", args=[{"index": 0, "value": 1, "op": "SCMP_CMP_NONE"}])]},
        ),
        "seccomp.syscalls.args.index@6": (
            {"syscalls": [rule(ERRNO, "personality", args=[{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}])]},
        ),
    }
)
def invalid_filter_is_an_error(stage: Stage, change: dict[str, Any]) -> None:
    """An unknown flag, action, architecture, operator or argument number, or a rule without names, is an error."""
    stage.linux["seccomp"] = {"defaultAction": ALLOW, "syscalls": [rule(ERRNO, "personality")], **change}
    stage.refused(f"{change} is invalid", at_start=True)


@case("seccomp.syscalls.names")
def unknown_names_are_skipped(stage: Stage) -> None:
    """A name this architecture does not have is skipped, the others of the rule count."""
    filtered(stage, rule(ERRNO, "no_such_call_at_all", "personality"))
    equal(outcome(stage, personality()), "EPERM", "personality(2)")


@case("seccomp.architectures")
def architectures_are_covered(stage: Stage) -> None:
    """The filter with the architectures of the host is loaded and works."""
    machine = os.uname().machine
    if machine not in ARCHES:
        skip(f"the case does not know the architectures of {machine}")
    filtered(stage, rule(ERRNO, "personality"), architectures=ARCHES[machine])
    equal(outcome(stage, personality()), "EPERM", "personality(2)")


BIG = 1 << 40
# operator -> (value, valueTwo, arguments that match, arguments that do not)
OPERATORS: dict[str, tuple[int, int, list[int], list[int]]] = {
    "SCMP_CMP_NE": (5, 0, [6, BIG], [5]),
    "SCMP_CMP_LT": (BIG, 0, [5, BIG - 1], [BIG, BIG + 1]),
    "SCMP_CMP_LE": (BIG, 0, [5, BIG], [BIG + 1]),
    "SCMP_CMP_EQ": (BIG + 5, 0, [BIG + 5], [5, BIG]),
    "SCMP_CMP_GE": (BIG, 0, [BIG, BIG + 1], [5]),
    "SCMP_CMP_GT": (BIG, 0, [BIG + 1], [BIG, 5]),
    "SCMP_CMP_MASKED_EQ": (0xF0, 0x30, [0x30, 0x3F, BIG + 0x30], [0x40, 0x20]),
}


@each({f"seccomp.syscalls.args.op@{op}": (op,) for op in OPERATORS},
      "seccomp.syscalls.args", "seccomp.syscalls.args.index",
      "seccomp.syscalls.args.value", "seccomp.syscalls.args.valueTwo")  # fmt: skip
def argument_is_compared(stage: Stage, op: str) -> None:
    """The rule applies to calls whose argument fulfils the condition, 64 bits wide, and to no others."""
    value, second, matching, others = OPERATORS[op]
    filtered(
        stage,
        rule(ERRNO, "getpriority", errnoRet=28, args=[{"index": 1, "value": value, "valueTwo": second, "op": op}]),
    )
    call = number("getpriority")
    lines = [
        f"print(libc.syscall({call}, 99, ctypes.c_ulong({one})), ctypes.get_errno())" for one in [*matching, *others]
    ]
    output = stage.python("import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n" + "\n".join(lines))
    # Calls that get through are answered EINVAL: 99 is no kind of priority.
    seen = [line.split()[1] for line in output.splitlines()]
    equal(seen, ["28"] * len(matching) + ["22"] * len(others), f"errno for {matching} and {others}")


@case("seccomp.syscalls.args")
def all_conditions_must_hold(stage: Stage) -> None:
    """A rule with two conditions applies only where both hold."""
    conditions = [{"index": 0, "value": 99, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 7, "op": "SCMP_CMP_EQ"}]
    filtered(stage, rule(ERRNO, "getpriority", errnoRet=28, args=conditions))
    call = number("getpriority")
    lines = [f"print(libc.syscall({call}, {a}, {b}), ctypes.get_errno())" for a, b in ((99, 7), (99, 8), (98, 7))]
    output = stage.python("import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n" + "\n".join(lines))
    equal(
        [line.split()[1] for line in output.splitlines()],
        ["28", "22", "22"],
        "errno with both, first, second condition",
    )
