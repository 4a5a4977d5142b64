"""The plan of a process' attributes: what is asked for, what can be granted, and in which order it is done."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyruntime.errors import RuntimeFailure, SpecError
from pyruntime.kernel.capabilities import NUMBERS, pack_sets
from pyruntime.kernel.facts import Facts, read_facts
from pyruntime.kernel.scheduling import MAX_CPUS, mask_of
from pyruntime.plan.capabilities import SETS, CapabilitySets, names_of
from pyruntime.plan.process import ProcessPlan, process_steps
from pyruntime.plan.scheduling import SetAffinity, SetIoPriority, SetMemoryPolicy, SetPersonality, SetScheduler
from pyruntime.plan.step import Place, Step


class Marker(Step):
    """Stands for the seccomp step."""

    def describe(self) -> str:
        return "seccomp"


def plan(process: dict[str, Any] | None = None, facts: Facts | None = None, **options: Any) -> ProcessPlan:
    return process_steps(process or {}, container_id="box", facts=facts or Facts(), **options)


def words(steps: list[Step]) -> list[str]:
    return [step.describe() for step in steps]


def kinds(steps: list[Step]) -> list[str]:
    return [type(step).__name__ for step in steps]


AFTER = [
    "DropBounding",
    "KeepCapabilities",
    "OwnStandardStreams",
    "SetGroups",
    "SetGroup",
    "SetUser",
    "KeepCapabilities",
    "SetCapabilities",
    "ResetSignals",
    "SetUmask",
]


def test_the_order_without_no_new_privileges() -> None:
    made = plan({"rlimits": [{"type": "RLIMIT_CPU", "soft": 1, "hard": 2}]}, seccomp=Marker())
    assert kinds(made.before_start) == ["JoinSessionKeyring", "ResetAffinity"]
    assert kinds(made.after_start) == ["Marker", *AFTER, "SetLimit"]


def test_the_order_with_no_new_privileges() -> None:
    made = plan({"noNewPrivileges": True, "rlimits": [{"type": "RLIMIT_CPU", "soft": 1, "hard": 2}]}, seccomp=Marker())
    assert kinds(made.before_start) == ["JoinSessionKeyring", "ResetAffinity", "NoNewPrivileges"]
    assert kinds(made.after_start) == [*AFTER, "SetLimit", "Marker"]


def test_false_is_the_same_as_absent() -> None:
    assert words(plan({"noNewPrivileges": False}).before_start) == words(plan().before_start)


def test_labels_come_before_no_new_privileges() -> None:
    facts = Facts(apparmor=True, selinux=True)
    process = {"noNewPrivileges": True, "apparmorProfile": "docker-default", "selinuxLabel": "u:r:t:s0"}
    assert words(plan(process, facts, new_keyring=False).before_start) == [
        "run on every CPU that the cgroup allows",
        "apply the AppArmor profile docker-default",
        "set the SELinux label u:r:t:s0",
        "forbid to gain privileges (no_new_privs)",
    ]


@pytest.mark.parametrize("field", ["apparmorProfile", "selinuxLabel"])
def test_a_label_without_its_module_is_an_error(field: str) -> None:
    with pytest.raises(RuntimeFailure, match=f"process.{field}: .*not supported"):
        plan({field: "unconfined"})
    assert plan({field: ""}).before_start  # empty: nothing asked


# Capabilities.


def mask(*names: str) -> int:
    return sum(1 << NUMBERS[name] for name in names)


def test_absent_sets_are_empty() -> None:
    nothing: list[Any] = [None, {}, {kind: [] for kind in SETS}, dict.fromkeys(SETS)]
    for wanted in nothing:
        sets = CapabilitySets(wanted, Facts())
        assert [getattr(sets, kind) for kind in SETS] == [0, 0, 0, 0, 0]
        assert sets.warnings == []


def test_sets_are_taken_apart_from_each_other() -> None:
    wanted = {"bounding": ["CAP_CHOWN", "CAP_KILL"], "permitted": ["CAP_KILL"], "effective": [], "ambient": []}
    sets = CapabilitySets(wanted, Facts())
    assert (sets.bounding, sets.permitted, sets.effective, sets.inheritable, sets.ambient) == (
        mask("CAP_CHOWN", "CAP_KILL"), mask("CAP_KILL"), 0, 0, 0,
    )  # fmt: skip


def test_unknown_names_are_a_warning() -> None:
    sets = CapabilitySets({kind: ["CAP_KILL", "CAP_TIME_TRAVEL"] for kind in SETS}, Facts())
    assert sets.effective == mask("CAP_KILL")
    assert len(sets.warnings) == 1 and "CAP_TIME_TRAVEL" in sets.warnings[0] and "CAP_KILL" not in sets.warnings[0]


def test_names_that_this_kernel_lacks_are_a_warning() -> None:
    sets = CapabilitySets({"bounding": ["CAP_CHECKPOINT_RESTORE", "CAP_BPF"]}, Facts(last_capability=39))
    assert sets.bounding == mask("CAP_BPF")
    assert len(sets.warnings) == 1 and "CAP_CHECKPOINT_RESTORE" in sets.warnings[0]


def test_what_we_lack_ourselves_is_a_warning() -> None:
    everything = (1 << 41) - 1
    ours = everything & ~mask("CAP_SYS_RESOURCE")
    sets = CapabilitySets(
        {kind: ["CAP_SYS_RESOURCE", "CAP_KILL"] for kind in SETS}, Facts(permitted=ours, bounding=ours)
    )
    assert {getattr(sets, kind) for kind in SETS} == {mask("CAP_KILL")}
    assert len(sets.warnings) == 1 and "CAP_SYS_RESOURCE" in sets.warnings[0]
    # In the container's own user namespace the kernel gives everything.
    inside = Facts(permitted=ours, bounding=ours).in_user_namespace(True)
    sets = CapabilitySets({kind: ["CAP_SYS_RESOURCE"] for kind in SETS}, inside)
    assert {getattr(sets, kind) for kind in SETS} == {mask("CAP_SYS_RESOURCE")}
    assert sets.warnings == []


SOME_CAPABILITIES = st.lists(st.sampled_from([*sorted(NUMBERS), "CAP_NO_SUCH"]), max_size=12)
MASK = st.integers(0, (1 << 41) - 1)


@given(st.fixed_dictionaries(dict.fromkeys(SETS, SOME_CAPABILITIES)), MASK, MASK)
def test_the_kernel_accepts_what_is_left(wanted: dict[str, list[str]], permitted: int, bounding: int) -> None:
    """The rules of capset(2) and prctl(2), and: what can be granted is, what cannot is said."""
    sets = CapabilitySets(wanted, Facts(permitted=permitted, bounding=bounding))
    assert not sets.permitted & ~permitted
    assert not sets.effective & ~sets.permitted
    assert not sets.inheritable & ~(sets.bounding & permitted)
    assert not sets.ambient & ~(sets.permitted & sets.inheritable)
    said = " ".join(sets.warnings)
    for kind in SETS:
        asked = sum(1 << NUMBERS[name] for name in set(wanted[kind]) if name in NUMBERS)
        granted = getattr(sets, kind)
        assert not granted & ~asked
        for bit in range(41):
            if (asked & ~granted) >> bit & 1:
                assert names_of(1 << bit) in said
    assert ("CAP_NO_SUCH" in said) == any("CAP_NO_SUCH" in names for names in wanted.values())


def test_the_form_of_capset() -> None:
    assert pack_sets(1 << 40 | 1, 1 << 39 | 2, 1 << 32 | 4) == bytes(
        [1, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 0, 1, 0, 0, 128, 0, 0, 0, 1, 0, 0, 0]
    )


def test_facts_of_this_process() -> None:
    facts = read_facts(labels=True)
    assert facts.last_capability >= 40
    with open("/proc/self/status") as status:
        text = dict(line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line)
    assert facts.permitted == int(text["CapPrm"], 16)
    assert facts.bounding == int(text["CapBnd"], 16)
    assert facts.apparmor == os.path.exists("/sys/kernel/security/apparmor")


# Identity.


def test_user() -> None:
    made = words(plan({"user": {"uid": 1000, "gid": 100, "additionalGids": [7, 8], "umask": 0o27}}).after_start)
    words_of_interest = ("group", "become", "streams", "umask")
    assert [line for line in made if any(word in line for word in words_of_interest)] == [
        "give the standard streams to user 1000",
        "set the supplementary groups to [7, 8]",
        "become group 100",
        "become user 1000",
        "set the umask to 0027",
    ]


def test_no_groups_are_no_groups() -> None:
    assert "set the supplementary groups to []" in words(plan({"user": {"uid": 0, "gid": 0}}).after_start)


def test_the_umask_of_a_container_is_022_by_default() -> None:
    assert "set the umask to 0022" in words(plan().after_start)
    assert "set the umask to 0000" in words(plan({"user": {"umask": 0}}).after_start)


def test_groups_where_setgroups_is_denied() -> None:
    made = plan({"user": {"additionalGids": [5]}}, Facts(setgroups=False))
    assert "SetGroups" not in kinds(made.after_start)
    assert len(made.warnings) == 1 and "additionalGids" in made.warnings[0]
    assert plan({"user": {"additionalGids": []}}, Facts(setgroups=False)).warnings == []


def test_groups_can_be_kept() -> None:
    for value, kept in (("1", True), ("0", False), ("", False)):
        made = plan(annotations={"run.oci.keep_original_groups": value})
        assert ("SetGroups" not in kinds(made.after_start)) == kept


@pytest.mark.parametrize(
    ("user", "path"),
    [
        ({"uid": -1}, "process.user.uid"),
        ({"uid": 4294967295}, "process.user.uid"),
        ({"uid": 4294967296}, "process.user.uid"),
        ({"uid": True}, "process.user.uid"),
        ({"uid": "0"}, "process.user.uid"),
        ({"uid": 1.0}, "process.user.uid"),
        ({"gid": 4294967295}, "process.user.gid"),
        ({"additionalGids": [1, 4294967295]}, "process.user.additionalGids[1]"),
        ({"additionalGids": list(range(65537))}, "process.user.additionalGids"),
    ],
)
def test_ids_out_of_range(user: dict[str, Any], path: str) -> None:
    with pytest.raises(SpecError) as caught:
        plan({"user": user})
    assert caught.value.path == path


ID = st.integers(0, 30)
MAPPING = st.lists(
    st.builds(lambda first, size: {"containerID": first, "hostID": 1000 + first, "size": size}, ID, st.integers(1, 5)),
    max_size=3,
)


@given(ID, ID, st.lists(ID, max_size=2), MAPPING, MAPPING, st.booleans())
def test_ids_have_to_be_mapped(
    uid: int, gid: int, groups: list[int], uids: list[dict[str, int]], gids: list[dict[str, int]], setgroups: bool
) -> None:
    def there(mappings: list[dict[str, int]]) -> set[int]:
        numbers = {entry["containerID"] + offset for entry in mappings for offset in range(entry["size"])}
        return numbers or set(range(100))  # no mappings given: not for us to say

    wanted = [gid, *groups] if setgroups else [gid]
    good = uid in there(uids) and all(group in there(gids) for group in wanted)
    user = {"uid": uid, "gid": gid, "additionalGids": groups}
    inside = Facts().in_user_namespace(setgroups)
    linux = {"uidMappings": uids, "gidMappings": gids}
    if good:
        plan({"user": user}, inside, linux=linux)
    else:
        with pytest.raises(SpecError, match=r"process\.user\..*mapped"):
            plan({"user": user}, inside, linux=linux)
    plan({"user": user}, linux=linux)  # the mappings mean nothing without the namespace


def test_unmapped_ids_are_explained() -> None:
    steps = {type(step).__name__: step for step in plan({"user": {"uid": 7, "gid": 8}}).after_start}
    assert steps["SetUser"].explain(22) == "cannot setuid to unmapped uid 7 in user namespace"
    assert steps["SetGroup"].explain(22) == "cannot setgid to unmapped gid 8 in user namespace"
    assert steps["SetUser"].explain(1) == ""


# Limits.


def test_limits() -> None:
    unlimited = 2**64 - 1
    made = plan(
        {
            "rlimits": [
                {"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20},
                {"type": "RLIMIT_CORE", "soft": 0, "hard": unlimited},
            ],
            "oomScoreAdj": -5,
        }
    )
    assert words(list(made.limits)) == [
        "limit RLIMIT_NOFILE to 10, at most 20",
        "limit RLIMIT_CORE to 0, at most unlimited",
    ]
    assert made.oom_score == -5
    assert plan().oom_score is None


@pytest.mark.parametrize(
    ("limits", "path"),
    [
        ([{"type": "RLIMIT_FUN", "soft": 1, "hard": 1}], "process.rlimits[0].type"),
        ([{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}] * 2, "process.rlimits[1].type"),
        ([{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}], "process.rlimits[0].soft"),
    ],
)
def test_wrong_limits(limits: list[dict[str, Any]], path: str) -> None:
    with pytest.raises(SpecError) as caught:
        plan({"rlimits": limits})
    assert caught.value.path == path


# Scheduling.


@given(st.sets(st.integers(0, 300), min_size=1), st.randoms())
def test_cpu_lists(cpus: set[int], random: Any) -> None:
    """Any list that names these CPUs, as ranges or one by one, in any order, repeated or not."""
    parts, rest = [], sorted(cpus)
    while rest:
        run = 1
        while run < len(rest) and rest[run] == rest[0] + run:
            run += 1
        take = random.randint(1, run)
        parts.append(str(rest[0]) if take == 1 else f"{rest[0]}-{rest[take - 1]}")
        rest = rest[take:]
    parts += random.sample(parts, random.randint(0, len(parts)))
    random.shuffle(parts)
    result = mask_of(random.choice([",", ", "]).join(parts))
    assert len(result) % 8 == 0
    assert {bit for bit in range(len(result) * 8) if result[bit // 8] >> bit % 8 & 1} == cpus


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "a",
        "1,,2",
        "-1",
        "1-",
        "-",
        "3-1",
        "1-2-3",
        "+1",
        "1_0",
        "\u0661",
        "0x1",
        "1.0",
        str(MAX_CPUS),
        "9" * 30,
    ],
)
def test_wrong_cpu_lists(text: str) -> None:
    with pytest.raises(ValueError, match=r"runs backwards|not a number or range"):
        mask_of(text)


def test_scheduling_is_planned_in_order() -> None:
    made = plan(
        {"scheduler": {"policy": "SCHED_BATCH", "nice": 5}, "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 3}},
        linux={"personality": {"domain": "LINUX32"}, "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0-1"}},
        new_keyring=False,
    )
    assert words(made.before_start)[1:] == [
        "schedule as SCHED_BATCH",
        "I/O priority IOPRIO_CLASS_BE 3",
        "personality LINUX32",
        "memory policy MPOL_BIND on nodes 0-1",
    ]


@pytest.mark.parametrize(
    ("make", "value", "path"),
    [
        (SetScheduler, {"policy": "SCHED_CHAOS"}, "process.scheduler.policy"),
        (SetScheduler, {"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_X"]}, "process.scheduler.flags[0]"),
        (SetIoPriority, {"class": "IOPRIO_CLASS_NONE", "priority": 0}, "process.ioPriority.class"),
        (SetIoPriority, {"class": "IOPRIO_CLASS_RT", "priority": 8}, "process.ioPriority.priority"),
        (SetIoPriority, {"class": "IOPRIO_CLASS_RT", "priority": -1}, "process.ioPriority.priority"),
        (SetPersonality, {"domain": "BSD"}, "linux.personality.domain"),
        (SetMemoryPolicy, {"mode": "MPOL_MAGIC"}, "linux.memoryPolicy.mode"),
        (SetMemoryPolicy, {"mode": "MPOL_BIND"}, "linux.memoryPolicy.nodes"),
        (SetMemoryPolicy, {"mode": "MPOL_LOCAL", "nodes": "0"}, "linux.memoryPolicy.nodes"),
        (SetMemoryPolicy, {"mode": "MPOL_BIND", "nodes": "x"}, "linux.memoryPolicy.nodes"),
        (SetMemoryPolicy, {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_X"]}, "linux.memoryPolicy.flags[0]"),
    ],
)
def test_wrong_scheduling(make: Any, value: dict[str, Any], path: str) -> None:
    with pytest.raises(SpecError) as caught:
        make(value)
    assert caught.value.path == path


def test_affinity_of_exec() -> None:
    process = {"execCPUAffinity": {"initial": "0", "final": "0-1"}}
    assert "ResetAffinity" in kinds(plan(process).before_start)  # not for a container's first process
    assert words(plan(process, joining=True, new_keyring=False).before_start) == [
        "run on CPUs 0-1 (process.execCPUAffinity.final)"
    ]
    assert plan({"execCPUAffinity": {"initial": "0"}}, joining=True, new_keyring=False).before_start == []
    with pytest.raises(SpecError, match=r"execCPUAffinity\.final"):
        plan({"execCPUAffinity": {"final": "nine"}}, joining=True)
    before = os.sched_getaffinity(0)
    try:
        SetAffinity(str(min(before)), "process.execCPUAffinity.initial").apply(Place())
        assert os.sched_getaffinity(0) == {min(before)}
    finally:
        os.sched_setaffinity(0, before)
