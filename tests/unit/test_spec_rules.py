"""The rules between properties: each with a configuration that breaks it and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import configs

from pyruntime.errors import SpecError
from pyruntime.spec import load, rules, rules_linux

Config = dict[str, Any]
Change = Callable[[Config], object]


def config(*namespaces: str, **linux: Any) -> Config:
    return {
        "ociVersion": "1.3.0",
        "root": {"path": "rootfs"},
        "process": {"cwd": "/", "args": ["sh"]},
        "linux": {"namespaces": [{"type": name} for name in namespaces], **linux},
    }


def with_process(**process: Any) -> Config:
    document = config()
    document["process"].update(process)
    return document


def with_top(*namespaces: str, **top: Any) -> Config:
    return {**config(*namespaces), **top}


def messages(document: Config) -> list[str]:
    before = copy.deepcopy(document)
    found = [str(problem) for problem in load.problems(document)]
    assert document == before, "checking changed the configuration"
    for message in found:
        assert "\n" not in message
        assert len(message) < 300
    return found


def mapping(inside: int, outside: int, size: int) -> dict[str, int]:
    return {"containerID": inside, "hostID": outside, "size": size}


ONE = [mapping(0, 1000, 1)]
SCHEDULER = "process.scheduler"
CLASH = "MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other"


BROKEN: list[tuple[Config, str]] = [
    # process
    (
        with_process(rlimits=[{"type": "RLIMIT_CPU", "soft": 1, "hard": 2}] * 2),
        "process.rlimits[1]: RLIMIT_CPU is limited twice",
    ),
    (
        with_process(rlimits=[{"type": "RLIMIT_CPU", "soft": 3, "hard": 2}]),
        "process.rlimits[0].soft: 3 is above the hard limit of 2",
    ),
    (
        with_process(terminal=True, consoleSize={"height": 1}),
        "process.consoleSize.width: required, but missing",
    ),
    (
        with_process(terminal=True, consoleSize={"height": 1, "width": 65536}),
        "process.consoleSize.width: expected an integer from 0 to 65535, got 65536",
    ),
    (
        with_process(scheduler={"policy": "SCHED_ISO"}),
        f"{SCHEDULER}.policy: SCHED_ISO is reserved, Linux does not implement it",
    ),
    (
        with_process(scheduler={"policy": "SCHED_BATCH", "nice": 20}),
        f"{SCHEDULER}.nice: expected an integer from -20 to 19, got 20",
    ),
    (
        with_process(scheduler={"policy": "SCHED_OTHER", "priority": 1}),
        f"{SCHEDULER}.priority: only SCHED_FIFO and SCHED_RR have a priority, not SCHED_OTHER",
    ),
    (
        with_process(scheduler={"policy": "SCHED_FIFO"}),
        f"{SCHEDULER}.priority: SCHED_FIFO needs a priority from 1 to 99, got 0",
    ),
    (
        with_process(scheduler={"policy": "SCHED_RR", "priority": 100}),
        f"{SCHEDULER}.priority: SCHED_RR needs a priority from 1 to 99, got 100",
    ),
    (
        with_process(scheduler={"policy": "SCHED_IDLE", "period": 5}),
        f"{SCHEDULER}.period: only SCHED_DEADLINE has a period, not SCHED_IDLE",
    ),
    (
        with_process(scheduler={"policy": "SCHED_DEADLINE", "deadline": 1999}),
        f"{SCHEDULER}.runtime: sched_setattr: `SCHED_DEADLINE` requires `runtime`",
    ),
    (
        with_process(scheduler={"policy": "SCHED_DEADLINE", "runtime": 1999, "period": 1999}),
        f"{SCHEDULER}.deadline: sched_setattr: `SCHED_DEADLINE` requires `deadline`",
    ),
    (
        with_process(scheduler={"policy": "SCHED_DEADLINE", "runtime": 0, "deadline": 1999}),
        f"{SCHEDULER}.runtime: sched_setattr: `SCHED_DEADLINE` runtime must be greater than 0",
    ),
    (
        with_process(scheduler={"policy": "SCHED_DEADLINE", "runtime": 2000, "deadline": 1999}),
        f"{SCHEDULER}.runtime: sched_setattr: `SCHED_DEADLINE` runtime (2000) must be <= deadline (1999)",
    ),
    (
        with_process(scheduler={"policy": "SCHED_DEADLINE", "runtime": 2000, "deadline": 3000, "period": 2500}),
        f"{SCHEDULER}.deadline: sched_setattr: `SCHED_DEADLINE` deadline (3000) must be <= period (2500)",
    ),
    (
        with_process(scheduler={"policy": "SCHED_DEADLINE", "runtime": 1023, "deadline": 1999}),
        f"{SCHEDULER}.runtime: sched_setattr: `SCHED_DEADLINE` runtime (1023) must be between 1024 and "
        "9223372036854775807 ns",
    ),
    (
        with_process(scheduler={"policy": "SCHED_DEADLINE", "runtime": 1024, "deadline": 1 << 63}),
        f"{SCHEDULER}.period: sched_setattr: `SCHED_DEADLINE` period ({1 << 63}) must be below {1 << 63} ns",
    ),
    (
        with_process(execCPUAffinity={"initial": "0-3,7", "final": "3-1"}),
        'process.execCPUAffinity.final: expected a CPU list such as 0-3,7, got "3-1"',
    ),
    # names of the host
    (
        with_top(hostname="x"),
        "hostname: needs a uts namespace in linux.namespaces; it would change the host's",
    ),
    (
        with_top("pid", domainname="x"),
        "domainname: needs a uts namespace in linux.namespaces; it would change the host's",
    ),
    (
        with_top("uts", domainname="x", linux={"namespaces": [{"type": "uts"}], "sysctl": {"kernel.domainname": "y"}}),
        'domainname: linux.sysctl sets kernel.domainname to something else: "y"',
    ),
    (with_top("uts", hostname="x" * 65), "hostname: longer than the 64 bytes that Linux has room for"),
    (with_top("uts", hostname="ä" * 33), "hostname: longer than the 64 bytes that Linux has room for"),
    # namespaces
    (config("pid", "uts", "pid"), "linux.namespaces[2]: the pid namespace is listed twice"),
    (config("user", uidMappings=ONE), "linux.gidMappings: required along with uidMappings"),
    (config("user", gidMappings=ONE, uidMappings=[]), "linux.uidMappings: required along with gidMappings"),
    (config(gidMappings=ONE, uidMappings=ONE), "linux.uidMappings: needs a user namespace in linux.namespaces"),
    (
        config("user", gidMappings=ONE, uidMappings=[mapping(0, 0, 10), mapping(9, 100, 1)]),
        "linux.uidMappings[1].containerID: the range from 9 overlaps another one",
    ),
    (
        config("user", gidMappings=[mapping(9, 5, 1), mapping(0, 0, 6)], uidMappings=ONE),
        "linux.gidMappings[0].hostID: the range from 5 overlaps another one",
    ),
    (
        config("user", gidMappings=[mapping(0, 4294967294, 2)], uidMappings=ONE),
        "linux.gidMappings[0].size: 2 ids from 4294967294 end above 4294967294",
    ),
    (
        config("user", uidMappings=[mapping(2 * id, 2 * id, 1) for id in range(341)], gidMappings=ONE),
        "linux.uidMappings: 341 ranges, the kernel takes 340 at most",
    ),
    (
        config(timeOffsets={"monotonic": {"secs": 1}}),
        "linux.timeOffsets: needs a time namespace in linux.namespaces",
    ),
    (
        {
            **(base := config()),
            "linux": {"namespaces": [{"type": "time", "path": "/x"}], "timeOffsets": {"boottime": {}}},
        },
        "linux.timeOffsets: needs a new time namespace, the one with a path keeps its clocks",
    ),
    (
        config("pid", maskedPaths=["/proc/kcore"]),
        "linux.maskedPaths: needs a mount namespace in linux.namespaces, it would change the host's",
    ),
    (
        config("pid", readonlyPaths=["/proc/kcore"]),
        "linux.readonlyPaths: needs a mount namespace in linux.namespaces, it would change the host's",
    ),
    # mounts
    (
        with_top(mounts=[{"destination": "/x", "uidMappings": ONE}]),
        "mounts[0].gidMappings: required along with uidMappings",
    ),
    (
        with_top(mounts=[{"destination": "/x"}, {"destination": "/x", "uidMappings": [], "gidMappings": ONE}]),
        "mounts[1].uidMappings: required along with gidMappings",
    ),
    (
        with_top("mount", mounts=[{"destination": "/x", "options": ["bind", "ridmap"]}]),
        "mounts[0].options: idmap needs uidMappings and gidMappings, or a user namespace whose mappings it can use",
    ),
    (
        with_top(mounts=[{"destination": "/x", "uidMappings": [*ONE, mapping(0, 0, 1)], "gidMappings": ONE}]),
        "mounts[0].uidMappings[1].containerID: the range from 0 overlaps another one",
    ),
    # kernel parameters
    (
        config("ipc", sysctl={"net.core.x": "1"}),
        'linux.sysctl["net.core.x"]: needs a network namespace in linux.namespaces, it would change the host\'s',
    ),
    (
        config("uts", sysctl={"kernel.hostname": "x"}),
        'linux.sysctl["kernel.hostname"]: use the hostname property instead',
    ),
    (
        config("ipc", "network", "uts", "user", sysctl={"kernel.core_pattern": "x"}, uidMappings=ONE, gidMappings=ONE),
        'linux.sysctl["kernel.core_pattern"]: sysctl "kernel.core_pattern" is not in a separate kernel namespace, it '
        "would change the host's",
    ),
    (
        config("network", sysctl={"net.ipv4.ip_forward": "1\n2"}),
        'linux.sysctl["net.ipv4.ip_forward"]: a value has one line',
    ),
    # devices and interfaces
    (
        config(devices=[{"type": "c", "path": "/dev/x", "major": 1}]),
        "linux.devices[0].minor: required, but missing",
    ),
    (
        config(devices=[{"type": "b", "path": "/dev/x", "major": 4096, "minor": 0}]),
        "linux.devices[0].major: expected an integer from 0 to 4095, got 4096",
    ),
    (
        config(netDevices={"eth0": {}}),
        "linux.netDevices: needs a network namespace in linux.namespaces to move interfaces to",
    ),
    (
        config("network", netDevices={"sixteen-letters-": {}}),
        'linux.netDevices["sixteen-letters-"]: not the name of a network interface',
    ),
    (
        config("network", netDevices={"eth0": {"name": "a b"}}),
        'linux.netDevices.eth0.name: "a b" is not the name of a network interface',
    ),
    (
        config("network", netDevices={"eth0": {"name": "eth1"}, "eth1": {}}),
        'linux.netDevices.eth1.name: "eth1" is the name of two interfaces',
    ),
    # resctrl, memory policy, seccomp
    (config(intelRdt={"closID": "a/b"}), 'linux.intelRdt.closID: "a/b" is not the name of a directory'),
    (config(intelRdt={"closID": ".."}), 'linux.intelRdt.closID: ".." is not the name of a directory'),
    (
        config(memoryPolicy={"mode": "MPOL_BIND"}),
        "linux.memoryPolicy.nodes: MPOL_BIND needs at least one node",
    ),
    (
        config(memoryPolicy={"mode": "MPOL_LOCAL", "nodes": "0"}),
        "linux.memoryPolicy.nodes: MPOL_LOCAL mode requires 0 nodes but got 1",
    ),
    (
        config(memoryPolicy={"mode": "MPOL_BIND", "nodes": "0-"}),
        'linux.memoryPolicy.nodes: expected a list of nodes such as 0-1,3, got "0-"',
    ),
    (
        config(
            memoryPolicy={
                "mode": "MPOL_BIND",
                "nodes": "0",
                "flags": ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"],
            }
        ),
        f"linux.memoryPolicy.flags: {CLASH}",
    ),
    (
        config(memoryPolicy={"mode": "MPOL_PREFERRED", "flags": ["MPOL_F_STATIC_NODES"]}),
        "linux.memoryPolicy.flags: MPOL_F_STATIC_NODES needs nodes",
    ),
    (
        config(memoryPolicy={"mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_NUMA_BALANCING"]}),
        "linux.memoryPolicy.flags: MPOL_INTERLEAVE does not go with MPOL_F_NUMA_BALANCING",
    ),
    (
        config(seccomp={"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}),
        "linux.seccomp.defaultErrnoRet: SCMP_ACT_ALLOW returns no errno, only ERRNO and TRACE do",
    ),
    (
        config(
            seccomp={
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["a"], "action": "SCMP_ACT_KILL", "errnoRet": 1}],
            }
        ),
        "linux.seccomp.syscalls[0].errnoRet: SCMP_ACT_KILL returns no errno, only ERRNO and TRACE do",
    ),
    (
        config(seccomp={"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}),
        "linux.seccomp.listenerMetadata: needs listenerPath",
    ),
    # resources
    (
        config(personality={"domain": "LINUX32", "flags": ["ADDR_NO_RANDOMIZE"]}),
        'linux.personality.flags[0]: "ADDR_NO_RANDOMIZE" is no flag: none is defined',
    ),
    (
        config(resources={"cpu": {"quota": 100, "burst": 101}}),
        "linux.resources.cpu.burst: 101 is above the quota of 100",
    ),
    (
        config(resources={"memory": {"limit": 100, "swap": 99}}),
        "linux.resources.memory.swap: memory and swap together (99) are below the memory limit of 100",
    ),
    (
        config(resources={"blockIO": {"weightDevice": [{"major": 8, "minor": 0}]}}),
        "linux.resources.blockIO.weightDevice[0]: needs weight or leafWeight",
    ),
    (
        config(resources={"rdma": {"mlx5_0": {}}}),
        "linux.resources.rdma.mlx5_0: needs hcaHandles or hcaObjects",
    ),
]


@pytest.mark.parametrize(("document", "message"), BROKEN, ids=[message for _, message in BROKEN])
def test_a_broken_rule(document: Config, message: str) -> None:
    assert messages(document) == [message]


FINE: list[Config] = [
    with_process(terminal=False, consoleSize={"height": "nonsense"}),
    with_process(consoleSize=5),
    with_process(rlimits=[{"type": "RLIMIT_CPU", "soft": 2, "hard": 2}]),
    with_process(scheduler={"policy": "SCHED_DEADLINE", "runtime": 1024, "deadline": 1024}),
    with_process(scheduler={"policy": "SCHED_RR", "priority": 99, "nice": 50}),
    with_process(execCPUAffinity={"initial": " 0 , 1-1,,3", "final": ""}),
    with_process(args=[""], env=["no-equals-sign", "", "=x", "A=1", "A=2"]),
    with_top("uts", hostname="", domainname="d" * 64),
    with_top(hostname=""),
    config("user", uidMappings=[mapping(2 * id, 2 * id, 1) for id in range(340)], gidMappings=ONE),
    config("user", uidMappings=[mapping(5, 0, 5), mapping(0, 5, 5)], gidMappings=[mapping(0, 4294967294, 1)]),
    config("user"),
    config(uidMappings=[mapping(0, 0, 4294967295)], gidMappings=[mapping(5, 5, 1)]),
    config(uidMappings=[], gidMappings=[], timeOffsets={}, maskedPaths=[], readonlyPaths=[], netDevices={}, sysctl={}),
    config("time", timeOffsets={"monotonic": {"secs": -(2**63)}}),
    config(devices=[{"type": "p", "path": "/p", "major": -5}]),
    config("network", netDevices={"a": {"name": "net%d"}, "b": {"name": "net%d"}, "fifteen-letters": {"name": ""}}),
    config(intelRdt={"closID": "/"}),
    config(intelRdt={"enableCMT": "an obsolete property"}),
    config(memoryPolicy={"mode": "MPOL_DEFAULT", "nodes": "", "flags": []}),
    config(memoryPolicy={"mode": "MPOL_PREFERRED"}),
    config(personality={"domain": "LINUX", "flags": []}),
    config(seccomp={"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "", "listenerPath": ""}),
    config(resources={"cpu": {"quota": -1, "burst": 101}, "memory": {"limit": 100, "swap": -1}}),
    config(resources={"cpu": {"burst": 5}, "memory": {"swap": 5}, "pids": {}}),
    config(maskedPaths=[]),
    {
        "ociVersion": "1.99.0-alpha.1+build.5",
        "root": {"path": "r"},
        "linux": {},
        "process": {"args": ["a"], "cwd": "/"},
    },
]


@pytest.mark.parametrize("document", FINE)
def test_no_rule_is_broken(document: Config) -> None:
    assert messages(document) == []


def test_a_joined_user_namespace_may_come_with_or_without_mappings() -> None:
    # containerd and CRI-O repeat the mappings of the namespace; whether they are the same only the host can tell.
    document = config(uidMappings=ONE, gidMappings=ONE)
    document["linux"]["namespaces"] = [{"type": "user", "path": "/proc/1/ns/user"}]
    assert messages(document) == []
    del document["linux"]["uidMappings"], document["linux"]["gidMappings"]
    assert messages(document) == []


def test_all_problems_are_listed_at_once() -> None:
    document = configs.complete()
    document["linux"]["resources"]["memory"]["limit"] = "512m"
    document["linux"]["resources"]["cpu"]["burst"] = 1001
    document["linux"]["namespaces"].append({"type": "pid"})
    document["process"]["cwd"] = "tmp"
    document["process"]["rlimits"][1]["type"] = "RLIMIT_CPU"
    document["annotations"][""] = "x"
    assert messages(document) == [
        'process.cwd: expected an absolute path, got "tmp"',
        'annotations[""] (the name): expected a string that is not empty, got ""',
        'linux.resources.memory.limit: expected an integer, got "512m"',
        "linux.namespaces[8]: the pid namespace is listed twice",
        "process.rlimits[1]: RLIMIT_CPU is limited twice",
        "linux.resources.cpu.burst: 1001 is above the quota of 1000",
    ]


def test_a_rule_does_not_read_what_is_malformed() -> None:
    document = configs.complete()
    document["linux"]["namespaces"][3] = {"type": "nett"}
    found = messages(document)
    assert found == [
        'linux.namespaces[3].type: expected one of pid, network, mount, ipc, uts, user, cgroup, time, got "nett"'
    ]


@pytest.mark.parametrize(
    ("one", "other", "related"),
    [
        ("linux.namespaces[1].type", "linux.namespaces", True),
        ("linux", "linux.namespaces", True),
        ("", "linux.namespaces", True),
        ("linux.namespaces", "linux.namespaces", True),
        ("linux.name", "linux.namespaces", False),
        ("linux.namespaces2", "linux.namespaces", False),
        ("process", "linux.namespaces", False),
    ],
)
def test_related_paths(one: str, other: str, related: bool) -> None:
    assert rules._related(one, other) == rules._related(other, one) == related


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
        ("net.ipv4.conf.eth0/100.forwarding", "net/ipv4/conf/eth0.100/forwarding"),
        ("net/ipv4/conf/eth0.100/forwarding", "net/ipv4/conf/eth0.100/forwarding"),
        ("kernel.shm_rmid_forced", "kernel/shm_rmid_forced"),
        ("word", "word"),
        ("", None),
        (".", None),
        ("..", None),
        ("../kernel/core_pattern", None),
        ("net/../kernel/core_pattern", None),
        ("net/./x", None),
        ("net.//.kernel.core_pattern", None),
        ("net..kernel", None),
        ("/net/ipv4", None),
        ("net.", None),
        ("net.ipv4.a b", None),
        ("net.ipv4.x\n", None),
        ("net.ipv4.ä", None),
    ],
)
def test_sysctl_path(name: str, path: str | None) -> None:
    assert rules_linux.sysctl_path(name) == path


@given(st.text("net./kercom_pati", min_size=1) | st.text())
def test_no_name_leads_out_of_its_tree(name: str) -> None:
    path = rules_linux.sysctl_path(name)
    if path is not None:
        assert not path.startswith("/")
        assert all(part not in ("", ".", "..") for part in path.split("/"))
    found: list[SpecError] = []
    document = config("ipc", "network", sysctl={name: "1"})
    rules.apply(document, found)
    allowed = path is not None and (path.startswith(("net/", "fs/mqueue/")) or path in rules_linux._IPC_SYSCTLS)
    assert (not found) == allowed


NAMESPACED = {
    "kernel.msgmax": "ipc",
    "kernel.sem": "ipc",
    "kernel.shm_rmid_forced": "ipc",
    "fs.mqueue.msg_max": "ipc",
    "net.ipv4.ip_forward": "network",
    "net/core/somaxconn": "network",
    "kernel.domainname": "uts",
    "user.max_user_namespaces": "user",
}


@pytest.mark.parametrize("name", NAMESPACED)
def test_a_kernel_parameter_needs_its_namespace(name: str) -> None:
    for namespace in ("ipc", "network", "uts", "user", "mount", "pid", "cgroup", "time"):
        mappings = {"uidMappings": ONE, "gidMappings": ONE} if namespace == "user" else {}
        found = messages(config(namespace, sysctl={name: "1"}, **mappings))
        if NAMESPACED[name] == namespace:
            assert found == []
        else:
            assert len(found) == 1
            assert f"needs a {NAMESPACED[name]} namespace" in found[0]


@given(st.text("0123456789,- ", max_size=10))
def test_is_list(text: str) -> None:
    def entry(part: str) -> bool:
        ends = part.strip(" ").split("-")
        numbers = [int(end) for end in ends if end.isdecimal() and len(end) < 10]
        return part.strip(" ") == "" or (len(ends) == len(numbers) < 3 and numbers == sorted(numbers))

    assert rules_linux.is_list(text) == all(entry(part) for part in text.split(","))


def test_sections_by_themselves() -> None:
    load.check_process({"cwd": "/", "args": ["sh"], "user": {"uid": 0, "gid": 0}})
    load.check_resources({})
    with pytest.raises(SpecError, match=r"^process.json.cwd: required, but missing$"):
        load.check_process({"args": ["sh"]}, "process.json")
    with pytest.raises(SpecError, match=r"^process: expected an object, got null$"):
        load.check_process(None)
    limit = {"type": "RLIMIT_CPU", "soft": 1, "hard": 1}
    with pytest.raises(SpecError, match=r"^process.rlimits\[1\]: RLIMIT_CPU is limited twice$"):
        load.check_process({"cwd": "/", "args": ["sh"], "rlimits": [limit, limit]})
    with pytest.raises(SpecError, match=r"^resources.memory.limit: expected an integer, got 1.5$"):
        load.check_resources({"memory": {"limit": 1.5}})
    with pytest.raises(SpecError, match=r"^resources.cpu.burst: 2 is above the quota of 1$"):
        load.check_resources({"cpu": {"quota": 1, "burst": 2}})
