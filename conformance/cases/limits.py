"""Limits and rank of the program: rlimits, scheduler, I/O priority and CPU affinity of config.md, section Process."""

from __future__ import annotations

import os
import resource
from typing import Any

from conformance import process
from conformance.outcome import equal, require, skip
from conformance.registry import case, each
from conformance.stage import NAP, Stage

CAP_SYS_RESOURCE = 24
INFINITY = 2**64 - 1
# name of the limit -> its line in /proc/PID/limits
LIMITS = {
    "RLIMIT_AS": "Max address space",
    "RLIMIT_CORE": "Max core file size",
    "RLIMIT_CPU": "Max cpu time",
    "RLIMIT_DATA": "Max data size",
    "RLIMIT_FSIZE": "Max file size",
    "RLIMIT_LOCKS": "Max file locks",
    "RLIMIT_MEMLOCK": "Max locked memory",
    "RLIMIT_MSGQUEUE": "Max msgqueue size",
    "RLIMIT_NICE": "Max nice priority",
    "RLIMIT_NOFILE": "Max open files",
    "RLIMIT_NPROC": "Max processes",
    "RLIMIT_RSS": "Max resident set",
    "RLIMIT_RTPRIO": "Max realtime priority",
    "RLIMIT_RTTIME": "Max realtime timeout",
    "RLIMIT_SIGPENDING": "Max pending signals",
    "RLIMIT_STACK": "Max stack size",
}


def has_sys_resource() -> bool:
    """True if the runtime can raise hard limits."""
    return bool(int(process.status("self", "CapEff"), 16) >> CAP_SYS_RESOURCE & 1)


def inherited(name: str) -> int:
    """The hard limit the runtime starts with."""
    for line in open("/proc/self/limits"):  # noqa: SIM115
        if line.startswith(LIMITS[name]):
            word = line[len(LIMITS[name]) :].split()[1]
            return INFINITY if word == "unlimited" else int(word)
    raise KeyError(name)


def seen_limit(pid: int, name: str) -> list[str]:
    """Soft and hard value of a limit of a process."""
    with open(f"/proc/{pid}/limits") as file:
        for line in file:
            if line.startswith(LIMITS[name]):
                return line[len(LIMITS[name]) :].split()[:2]
    raise KeyError(name)


@each(
    {f"process.rlimits.type@{name}": (name,) for name in LIMITS},
    "process.rlimits", "process.rlimits.soft", "process.rlimits.hard",
)  # fmt: skip
def limit_is_set(stage: Stage, name: str) -> None:
    """The limit of the program has the soft and the hard value that were asked for."""
    top = inherited(name)
    hard = min(top, 4 << 30 if name in ("RLIMIT_AS", "RLIMIT_DATA", "RLIMIT_STACK", "RLIMIT_FSIZE") else 2000)
    soft = hard // 2
    stage.process["rlimits"] = [{"type": name, "soft": soft, "hard": hard}]
    stage.up()
    equal(seen_limit(stage.pid, name), [str(soft), str(hard)], LIMITS[name])


@case("process.rlimits.soft", "process.rlimits.hard")
def unlimited_is_the_largest_number(stage: Stage) -> None:
    """2^64-1 stands for no limit."""
    if inherited("RLIMIT_CORE") != INFINITY:
        skip("the core limit of this host is not unlimited")
    stage.process["rlimits"] = [{"type": "RLIMIT_CORE", "soft": INFINITY, "hard": INFINITY}]
    stage.up()
    equal(seen_limit(stage.pid, "RLIMIT_CORE"), ["unlimited", "unlimited"], "Max core file size")


@case("process.rlimits.getrlimit")
def program_can_read_the_limit(stage: Stage) -> None:
    """getrlimit in the container gives the configured values."""
    stage.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 123, "hard": 234}]
    equal(stage.sh("ulimit -S -n; ulimit -H -n"), "123\n234\n", "soft and hard limit of open files")


@case("process.rlimits.type.invalid")
def unknown_limit_is_an_error(stage: Stage) -> None:
    """A limit the kernel does not have is an error."""
    stage.process["rlimits"] = [{"type": "RLIMIT_TEST", "soft": 1, "hard": 1}]
    stage.refused("RLIMIT_TEST does not exist", at_start=True)


@case("process.rlimits.duplicate")
def limit_given_twice_is_an_error(stage: Stage) -> None:
    """Two entries for one limit are an error."""
    entry = {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 100}
    stage.process["rlimits"] = [entry, dict(entry)]
    stage.refused("RLIMIT_NOFILE is given twice", at_start=True)


@case("process.rlimits.raise-hard")
def raising_a_hard_limit_needs_the_right(stage: Stage) -> None:
    """A hard limit above that of the runtime is applied with CAP_SYS_RESOURCE and an error without it."""
    lower = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4
    stage.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": lower + 10, "hard": lower + 10}]
    stage.process["args"] = ["/bin/sleep", "300"]
    result = stage.create(ok=False, shell=f"ulimit -n {lower}")
    if result.ok:
        result = stage.start(ok=False)
    if has_sys_resource():
        require(result.ok, f"the limit was not raised: {result.message}")
        equal(seen_limit(stage.pid, "RLIMIT_NOFILE"), [str(lower + 10)] * 2, "Max open files")
    else:
        require(not result.ok, "a limit that cannot be raised was no error")


# -- scheduler --------------------------------------------------------------------------------------------------------

POLICIES = {"SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_IDLE": 5, "SCHED_DEADLINE": 6}


def up_with(stage: Stage, scheduler: dict[str, Any]) -> int:
    """Start a container with a scheduler, in the runtime's own cpu cgroup so that realtime policies have a budget."""
    stage.process["scheduler"] = scheduler
    stage.linux["cgroupsPath"] = f"/{stage.id}"
    stage.resources["cpu"] = {"realtimePeriod": 1000000, "realtimeRuntime": 10000}
    if not os.path.exists("/sys/fs/cgroup/cpu/cpu.rt_runtime_us"):
        del stage.resources["cpu"]
    return stage.up()


@each(
    {f"process.scheduler.policy@{name}": (name,) for name in POLICIES if name != "SCHED_DEADLINE"}, "process.scheduler"
)
def policy_is_set(stage: Stage, name: str) -> None:
    """The scheduling policy of the program is as configured."""
    realtime = name in ("SCHED_FIFO", "SCHED_RR")
    pid = up_with(stage, {"policy": name, **({"priority": 7} if realtime else {})})
    equal(os.sched_getscheduler(pid), POLICIES[name], "policy of the program")


@each({"process.scheduler.priority@FIFO": ("SCHED_FIFO",), "process.scheduler.priority@RR": ("SCHED_RR",)})
def static_priority_is_set(stage: Stage, name: str) -> None:
    """The static priority of the program is as configured."""
    pid = up_with(stage, {"policy": name, "priority": 12})
    equal(os.sched_getparam(pid).sched_priority, 12, "priority of the program")


@case("process.scheduler.nice")
def nice_value_is_set(stage: Stage) -> None:
    """The nice value of the program is as configured."""
    pid = up_with(stage, {"policy": "SCHED_BATCH", "nice": 7})
    equal(os.getpriority(os.PRIO_PROCESS, pid), 7, "nice value of the program")


@case("process.scheduler.runtime", "process.scheduler.deadline", "process.scheduler.period", "process.scheduler.policy")
def deadline_is_set(stage: Stage) -> None:
    """The deadline policy with runtime, deadline and period of the program is as configured."""
    wanted = {"runtime": 10_000_000, "deadline": 20_000_000, "period": 30_000_000}
    pid = up_with(stage, {"policy": "SCHED_DEADLINE", "flags": ["SCHED_FLAG_RESET_ON_FORK"], **wanted})
    seen = process.sched_attributes(pid)
    equal({"policy": seen["policy"], **{name: seen[name] for name in wanted}}, {"policy": 6, **wanted}, "attributes")


@case("process.scheduler.flags")
def flags_are_set(stage: Stage) -> None:
    """SCHED_FLAG_RESET_ON_FORK is among the attributes of the program."""
    pid = up_with(stage, {"policy": "SCHED_BATCH", "flags": ["SCHED_FLAG_RESET_ON_FORK"]})
    equal(process.sched_attributes(pid)["flags"] & 1, 1, "flag RESET_ON_FORK")


@each(
    {
        "process.scheduler.policy@bad": ("policy", "SCHED_NONE"),
        "process.scheduler.flags@bad": ("flags", ["SCHED_FLAG_NONE"]),
    }
)
def unknown_scheduler_word_is_an_error(stage: Stage, name: str, value: object) -> None:
    """A policy or a flag nobody knows is an error."""
    stage.process["scheduler"] = {"policy": "SCHED_OTHER", name: value}
    stage.refused(f"the {name} {value} does not exist", at_start=True)


# -- I/O priority -----------------------------------------------------------------------------------------------------

CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}


@each(
    {f"process.ioPriority.class@{name}": (name,) for name in CLASSES},
    "process.ioPriority",
    "process.ioPriority.priority",
)
def io_priority_is_set(stage: Stage, name: str) -> None:
    """Class and priority of the program's I/O are as configured."""
    stage.process["ioPriority"] = {"class": name, "priority": 5}
    pid = stage.up()
    equal(divmod(process.io_priority(pid), 1 << 13), (CLASSES[name], 5), "class and priority")


@each(
    {
        "process.ioPriority.class@bad": ({"class": "IOPRIO_CLASS_NONE_SUCH", "priority": 1},),
        "process.ioPriority.priority@8": ({"class": "IOPRIO_CLASS_BE", "priority": 8},),
        "process.ioPriority.priority@-1": ({"class": "IOPRIO_CLASS_BE", "priority": -1},),
    }
)
def impossible_io_priority_is_an_error(stage: Stage, value: dict[str, Any]) -> None:
    """An unknown class, or a priority outside 0 to 7, is an error."""
    stage.process["ioPriority"] = value
    stage.refused(f"{value} is no I/O priority", at_start=True)


# -- CPU affinity of exec ---------------------------------------------------------------------------------------------


def exec_affinity(stage: Stage, affinity: dict[str, str]) -> str:
    """Start a container with execCPUAffinity and return Cpus_allowed_list of a process added by exec."""
    stage.process["execCPUAffinity"] = affinity
    stage.up()
    result = stage.runtime.call("exec", stage.id, "/bin/grep", "Cpus_allowed_list", "/proc/self/status")
    if not result.ok and "exec" in result.message and "unknown" in result.message:
        skip(f"this runtime has no `exec` verb: {result.message}")
    require(result.ok, f"exec failed: {result.message}")
    return result.out.split()[-1]


def need_two_cpus() -> int:
    """The number of the last CPU of this host, which must not be the only one."""
    last = max(os.sched_getaffinity(0))
    if last == 0:
        skip("needs two CPUs")
    return last


@case("process.execCPUAffinity", "process.execCPUAffinity.final")
def final_affinity_holds_for_exec(stage: Stage) -> None:
    """A process added by exec runs on the CPUs of `final`."""
    last = need_two_cpus()
    equal(exec_affinity(stage, {"initial": "0", "final": str(last)}), str(last), "CPUs of the added process")


@case("process.execCPUAffinity.not-init")
def init_is_not_affected(stage: Stage) -> None:
    """The first process keeps all CPUs."""
    need_two_cpus()
    before = process.status("self", "Cpus_allowed_list")
    exec_affinity(stage, {"initial": "0", "final": "0"})
    equal(process.status(stage.pid, "Cpus_allowed_list"), before, "CPUs of the first process")


@case("process.execCPUAffinity.initial")
def invalid_initial_list_is_an_error(stage: Stage) -> None:
    """`initial` is a CPU list that is used: nonsense makes exec or create fail, a list of one CPU does not."""
    stage.process["execCPUAffinity"] = {"initial": "not-a-cpu"}
    stage.process["args"] = NAP
    result = stage.create(ok=False)
    if result.ok:
        stage.start()
        result = stage.runtime.call("exec", stage.id, "/bin/true")
    require(not result.ok, "the nonsensical CPU list was not looked at")


@case("process.execCPUAffinity.final-unset")
def without_final_nothing_is_set_at_the_end(stage: Stage) -> None:
    """Without `final` the affinity is what the kernel made of `initial` on entering the cgroup."""
    last = need_two_cpus()
    seen = exec_affinity(stage, {"initial": str(last)})
    require(seen in (str(last), process.status("self", "Cpus_allowed_list")), f"CPUs of the added process are {seen}")
