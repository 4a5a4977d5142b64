"""Attributes of the container's process, as a process in the container and the kernel see them."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import elf
from support.bundles import Config
from support.container import Container

Make = Callable[..., Container]

STATUS = ["cat", "/proc/self/status"]
SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")
FIELDS = {
    "bounding": "CapBnd",
    "effective": "CapEff",
    "permitted": "CapPrm",
    "inheritable": "CapInh",
    "ambient": "CapAmb",
}
CHOWN, KILL, NET_RAW, SYS_RESOURCE = 0, 5, 13, 24


def process(**fields: Any) -> Callable[[Config], None]:
    return lambda config: config["process"].update(fields)


def capabilities(**sets: list[str]) -> Callable[[Config], None]:
    return process(capabilities=sets)


def fields(text: str) -> dict[str, str]:
    """A /proc/PID/status by field."""
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def masks(text: str) -> dict[str, int]:
    status = fields(text)
    return {kind: int(status[field], 16) for kind, field in FIELDS.items()}


def bits(*numbers: int) -> int:
    return sum(1 << number for number in numbers)


def warnings(text: str) -> list[str]:
    return [line for line in text.splitlines() if "level=warning" in line or '"level":"warning"' in line]


def in_user_namespace(config: Config) -> None:
    config["linux"]["namespaces"].append({"type": "user"})
    mapping = [{"containerID": 0, "hostID": 300000, "size": 1000}]
    config["linux"].update(uidMappings=mapping, gidMappings=mapping)


# Capabilities.


@pytest.mark.parametrize("uid", [0, 1000])
def test_no_capabilities_object_means_none(container: Make, uid: int) -> None:
    one = container(
        STATUS, lambda config: config["process"].pop("capabilities"), process(user={"uid": uid, "gid": uid})
    )
    assert masks(one.run().ok().stdout) == dict.fromkeys(SETS, 0)


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize("missing", SETS)
def test_a_missing_set_is_empty(container: Make, uid: int, missing: str) -> None:
    sets = {kind: ["CAP_KILL", "CAP_NET_RAW"] for kind in SETS if kind != missing}
    # no_new_privs would keep root's execve from adding the bounding set.
    one = container(STATUS, capabilities(**sets), process(user={"uid": uid, "gid": uid}, noNewPrivileges=False))
    found = masks(one.run().ok().stdout)
    both = bits(KILL, NET_RAW)
    bounding = both if missing != "bounding" else 0
    inheritable = both if missing not in ("inheritable", "bounding") else 0
    permitted = both if missing != "permitted" else 0
    ambient = permitted & inheritable if missing != "ambient" else 0
    assert found["bounding"] == bounding
    assert found["inheritable"] == inheritable
    assert found["ambient"] == ambient
    if uid:
        # After execve a user other than root has the ambient set and nothing else, see capabilities(7).
        assert found["permitted"] == found["effective"] == ambient
    else:
        assert found["permitted"] == found["effective"] == bounding | inheritable


def test_all_sets(container: Make) -> None:
    one = container(STATUS, capabilities(**{kind: ["CAP_KILL", "CAP_CHOWN"] for kind in SETS}))
    assert masks(one.run().ok().stdout) == dict.fromkeys(SETS, bits(KILL, CHOWN))


def test_capabilities_that_cannot_be_granted_are_a_warning(container: Make) -> None:
    with open("/proc/self/status") as status:
        ours = int(fields(status.read())["CapBnd"], 16)
    lacking = [number for number in range(41) if not ours >> number & 1]
    names = ["CAP_KILL", "CAP_NO_SUCH"] + (["CAP_SYS_RESOURCE"] if SYS_RESOURCE in lacking else [])
    result = container(STATUS, capabilities(**dict.fromkeys(SETS, names))).run().ok()
    assert masks(result.stdout) == dict.fromkeys(SETS, bits(KILL))
    said = "\n".join(warnings(result.stderr))
    for name in names[1:]:
        assert name in said
    assert "CAP_KILL" not in said


def test_securebits_and_keepcaps_are_reset(container: Make) -> None:
    """KEEPCAPS is used on the way; setpriv shows what is left of it."""
    script = "setpriv --dump | grep -i -E 'securebits|no_new_privs'"
    result = container(["sh", "-c", script], process(user={"uid": 1000, "gid": 1000})).run()
    text = result.ok().stdout.lower()
    assert "keep" not in text.replace("no_keep", "")


# Privileges.


@pytest.mark.parametrize(("value", "expected"), [(True, "1"), (False, "0"), (None, "0")])
def test_no_new_privileges(container: Make, value: bool | None, expected: str) -> None:
    def change(config: Config) -> None:
        config["process"].pop("noNewPrivileges")
        if value is not None:
            config["process"]["noNewPrivileges"] = value

    assert fields(container(STATUS, change).run().ok().stdout)["NoNewPrivs"] == expected


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the program is x86_64 code")
@pytest.mark.parametrize("forbidden", [True, False])
def test_setuid_programs(container: Make, forbidden: bool) -> None:
    one = container(["/bin/who"], process(user={"uid": 1000, "gid": 1000}, noNewPrivileges=forbidden))
    elf.put(one.bundle.rootfs / "bin" / "who", elf.SHOW_EUID, 0o4755)
    assert one.run().status == (1000 & 0xFF if forbidden else 0)


# Identity.


def test_user_and_groups(container: Make) -> None:
    one = container(STATUS, process(user={"uid": 1000, "gid": 1001, "additionalGids": [7, 4294967294, 5]}))
    status = fields(one.run().ok().stdout)
    assert status["Uid"].split() == ["1000"] * 4
    assert status["Gid"].split() == ["1001"] * 4
    assert sorted(map(int, status["Groups"].split())) == [5, 7, 4294967294]


@pytest.mark.parametrize("uid", [0, 1000])
def test_the_callers_groups_are_dropped(container: Make, uid: int) -> None:
    """Negative group permissions would be bypassed otherwise (CVE-2022-2989 and others)."""
    one = container(STATUS, process(user={"uid": uid, "gid": uid}))
    result = one.run(preexec=lambda: os.setgroups([11, 12, 13, 14, 15])).ok()
    assert fields(result.stdout)["Groups"] == ""


def test_the_callers_groups_can_be_kept(container: Make) -> None:
    def change(config: Config) -> None:
        config["annotations"] = {"run.oci.keep_original_groups": "1"}

    result = container(STATUS, change).run(preexec=lambda: os.setgroups([11, 12])).ok()
    assert fields(result.stdout)["Groups"].split() == ["11", "12"]


@pytest.mark.parametrize(("user", "expected"), [({}, "0022"), ({"umask": 0}, "0000"), ({"umask": 0o77}, "0077")])
def test_umask(container: Make, user: dict[str, int], expected: str) -> None:
    one = container(["sh", "-c", "umask"], process(user={"uid": 0, "gid": 0, **user}))
    assert one.run(preexec=lambda: os.umask(0o137)).ok().stdout.strip() == expected


def test_standard_streams_belong_to_the_user(container: Make) -> None:
    script = "stat -L -c %u /proc/self/fd/1 >&2 && echo hello > /dev/stdout"
    result = container(["sh", "-c", script], process(user={"uid": 77, "gid": 77})).run().ok()
    assert (result.stdout, result.stderr) == ("hello\n", "77\n")


def test_dev_null_keeps_its_owner(container: Make) -> None:
    before = Path("/dev/null").stat().st_uid
    container(["true"], process(user={"uid": 77, "gid": 77})).run().ok()  # stdin is the host's /dev/null
    assert Path("/dev/null").stat().st_uid == before != 77


# Signals.


def test_signals_are_reset(container: Make) -> None:
    """Nothing ignored or blocked, whatever the caller had and Python does. The shell is not asked: it sets handlers."""
    import signal

    def disturb() -> None:
        for number in set(range(1, 65)) - {9, 19, 32, 33}:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, set(range(1, 65)) - {9, 19, 32, 33})

    status = fields(container(STATUS).run(preexec=disturb).ok().stdout)
    for field in ("SigIgn", "SigBlk", "ShdPnd"):
        assert int(status[field], 16) == 0, field


# Limits.


def test_limits(container: Make) -> None:
    limits = [
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_FSIZE", "soft": 1 << 40, "hard": 2**64 - 1},
    ]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert before[1] == resource.RLIM_INFINITY
    text = container(["cat", "/proc/self/limits"], process(rlimits=limits)).run().ok().stdout
    found = {line[:25].strip(): line[25:].split()[:2] for line in text.splitlines()}
    assert found["Max open files"] == ["100", "200"]
    assert found["Max core file size"] == ["0", "0"]
    assert found["Max file size"] == [str(1 << 40), "unlimited"]


def test_a_limit_that_would_stop_ourselves(container: Make) -> None:
    """Set last, so that nothing of the runtime stumbles over it."""
    tight = [
        {"type": "RLIMIT_NOFILE", "soft": 3, "hard": 3},
        {"type": "RLIMIT_NPROC", "soft": 1, "hard": 1},
        {"type": "RLIMIT_AS", "soft": 64 << 20, "hard": 64 << 20},
    ]
    container(["true"], process(rlimits=tight)).run().ok()


MAY_RAISE = int(fields(Path("/proc/self/status").read_text())["CapEff"], 16) >> SYS_RESOURCE & 1 == 1


@pytest.mark.skipif(not MAY_RAISE, reason="needs CAP_SYS_RESOURCE")
@pytest.mark.parametrize("userns", [False, True])
def test_hard_limits_can_be_raised(container: Make, userns: bool) -> None:
    """By the runtime for the container, whose process has no right to, least of all in a user namespace."""
    change = in_user_namespace if userns else process()
    limits = process(rlimits=[{"type": "RLIMIT_NOFILE", "soft": 700, "hard": 1700}])
    one = container(["sh", "-c", "ulimit -n; ulimit -Hn"], limits, change)
    result = one.run(preexec=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (600, 600))).ok()
    assert result.stdout.split() == ["700", "1700"]


@pytest.mark.skipif(not MAY_RAISE, reason="needs CAP_SYS_RESOURCE")
def test_the_oom_score_can_be_lowered(container: Make) -> None:
    one = container(["cat", "/proc/self/oom_score_adj"], process(oomScoreAdj=-700))
    assert one.run().ok().stdout.strip() == "-700"


@pytest.mark.skipif(MAY_RAISE, reason="with CAP_SYS_RESOURCE it can be lowered")
def test_an_oom_score_that_cannot_be_lowered_is_explained(container: Make) -> None:
    result = container(["true"], process(oomScoreAdj=-700)).run()
    assert result.status == 1
    assert "process.oomScoreAdj: cannot set -700" in result.stderr and "CAP_SYS_RESOURCE" in result.stderr


@pytest.mark.skipif(MAY_RAISE, reason="with CAP_SYS_RESOURCE every limit can be raised")
def test_a_limit_that_cannot_be_raised_is_explained(container: Make) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    result = container(["true"], process(rlimits=[{"type": "RLIMIT_NOFILE", "soft": 1, "hard": hard + 1}])).run()
    assert result.status == 1
    for word in ("RLIMIT_NOFILE", str(hard), str(hard + 1), "operation not permitted", "CAP_SYS_RESOURCE"):
        assert word in result.stderr


@pytest.mark.parametrize("value", [300, 1000])
def test_oom_score(container: Make, value: int) -> None:
    one = container(["cat", "/proc/self/oom_score_adj"], process(oomScoreAdj=value))
    assert one.run().ok().stdout.strip() == str(value)


def test_an_unset_oom_score_is_inherited(container: Make) -> None:
    def disturb() -> None:
        Path("/proc/self/oom_score_adj").write_text("123")

    assert container(["cat", "/proc/self/oom_score_adj"]).run(preexec=disturb).ok().stdout.strip() == "123"


# Scheduling.


def test_scheduler(container: Make) -> None:
    one = container(
        ["cat", "/proc/self/sched", "/proc/self/stat"], process(scheduler={"policy": "SCHED_BATCH", "nice": 7})
    )
    stat = one.run().ok().stdout.splitlines()[-1].rpartition(")")[2].split()
    assert stat[16] == "7"  # nice
    assert stat[38] == "3"  # SCHED_BATCH


def test_real_time(container: Make) -> None:
    """Either the kernel gives every cgroup real time, or a cgroup has to be given some first; then we say so."""
    one = container(["cat", "/proc/self/stat"], process(scheduler={"policy": "SCHED_FIFO", "priority": 5}))
    result = one.run()
    if any(Path("/sys/fs/cgroup").glob("cpu*/cpu.rt_runtime_us")):
        assert result.status == 1
        assert "schedule as SCHED_FIFO" in result.stderr and "cpu.rt_runtime_us" in result.stderr
    else:
        stat = result.ok().stdout.rpartition(")")[2].split()
        assert stat[37:39] == ["5", "1"]  # priority, SCHED_FIFO


def test_io_priority(container: Make) -> None:
    one = container(["ionice", "-p", "1"], process(ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 6}))
    assert one.run().ok().stdout.strip() == "best-effort: prio 6"


def test_personality(container: Make) -> None:
    def change(config: Config) -> None:
        config["linux"]["personality"] = {"domain": "LINUX32"}

    machine = container(["uname", "-m"], change).run().ok().stdout.strip()
    assert machine != os.uname().machine or machine == "aarch64"
    assert container(["uname", "-m"]).run().ok().stdout.strip() == os.uname().machine


def test_memory_policy(container: Make) -> None:
    def change(config: Config) -> None:
        config["linux"]["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}

    text = container(["cat", "/proc/self/numa_maps"], change).run().ok().stdout
    assert all(line.split()[1].startswith("bind=static:0") for line in text.splitlines())


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_the_callers_affinity_is_not_inherited(container: Make) -> None:
    everything = len(os.sched_getaffinity(0))
    result = container(STATUS).run(preexec=lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})).ok()
    mask = int(fields(result.stdout)["Cpus_allowed"].replace(",", ""), 16)
    assert mask.bit_count() >= everything


# The session keyring.


def test_session_keyring(container: Make) -> None:
    def change(config: Config) -> None:
        config["linux"]["maskedPaths"].remove("/proc/keys")

    script = ["sh", "-c", "grep _ses. /proc/keys"]
    one = container(script, change)
    (line,) = [line for line in one.run().ok().stdout.splitlines() if f" _ses.{one.id}:" in line]
    assert line.split()[4] == "3f1b0000"  # its user may also search it
    other = container(script, change)
    assert f"_ses.{other.id}" not in other.run("--no-new-keyring").stdout


# In a user namespace of its own.


def test_a_user_namespace_grants_what_we_lack(container: Make) -> None:
    """Every capability is there inside, also one that the runtime itself does not have."""
    one = container(
        STATUS, in_user_namespace, capabilities(**{kind: ["CAP_SYS_RESOURCE", "CAP_KILL"] for kind in SETS})
    )
    result = one.run().ok()
    assert masks(result.stdout) == dict.fromkeys(SETS, bits(SYS_RESOURCE, KILL))
    assert warnings(result.stderr) == []


def test_ids_inside_a_user_namespace(container: Make) -> None:
    one = container(["sleep", "60"], in_user_namespace, process(user={"uid": 5, "gid": 6, "additionalGids": [7, 8]}))
    one.run("--detach").ok()
    status = fields(one.proc("status").read_text())
    assert status["Uid"].split() == ["300005"] * 4
    assert status["Gid"].split() == ["300006"] * 4
    assert status["Groups"].split() == ["300007", "300008"]


@pytest.mark.parametrize(
    ("user", "text"),
    [
        ({"uid": 1000, "gid": 0}, "unmapped uid 1000"),
        ({"uid": 0, "gid": 1000}, "unmapped gid 1000"),
        ({"uid": 0, "gid": 0, "additionalGids": [5, 1000]}, "additionalGids[1]: group 1000 is not mapped"),
    ],
)
def test_unmapped_ids_are_explained(container: Make, user: dict[str, Any], text: str) -> None:
    """At create, although the kernel would only mind when the user is set, after start."""
    result = container(["true"], in_user_namespace, process(user=user)).create()
    assert result.status == 1
    assert text in result.stderr


# Labels: what to do when the kernel does not have them.


APPARMOR = Path("/sys/kernel/security/apparmor").exists() and shutil.which("apparmor_parser") is not None


@pytest.fixture
def profile() -> Iterator[str]:
    """An AppArmor profile that allows everything but writing /tmp/forbidden."""
    name = f"pyruntime-test-{os.getpid()}"
    text = (
        f"profile {name} flags=(attach_disconnected) {{\n"
        " file, capability, network, mount, umount, pivot_root, signal, ptrace, unix,\n"
        " deny /tmp/forbidden w,\n}\n"
    )
    subprocess.run(["apparmor_parser", "-Ka"], input=text, text=True, check=True)
    yield name
    subprocess.run(["apparmor_parser", "-R"], input=text, text=True, check=True)


@pytest.mark.skipif(not APPARMOR, reason="needs AppArmor and apparmor_parser")
@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_apparmor(container: Make, profile: str, no_new_privileges: bool) -> None:
    script = ["sh", "-c", "cat /proc/self/attr/current; touch /tmp/allowed && touch /tmp/forbidden"]
    one = container(script, process(apparmorProfile=profile, noNewPrivileges=no_new_privileges))
    result = one.run()
    assert result.stdout == f"{profile} (enforce)\n"
    assert result.status == 1
    assert "/tmp/forbidden: Permission denied" in result.stderr


@pytest.mark.skipif(not APPARMOR, reason="needs AppArmor and apparmor_parser")
def test_apparmor_of_exec(container: Make, profile: str) -> None:
    one = container(["sleep", "60"], process(apparmorProfile=profile))
    one.run("--detach").ok()
    assert one.exec("cat", "/proc/self/attr/current").ok().stdout == f"{profile} (enforce)\n"
    assert one.exec("--apparmor", "unconfined", "cat", "/proc/self/attr/current").stdout != f"{profile} (enforce)\n"


@pytest.mark.skipif(not APPARMOR, reason="needs AppArmor and apparmor_parser")
def test_an_apparmor_profile_that_is_not_loaded(container: Make) -> None:
    result = container(["true"], process(apparmorProfile="no-such-profile")).create()
    assert result.status == 1
    assert "apparmor failed to apply profile" in result.stderr and "no-such-profile is not loaded" in result.stderr


@pytest.mark.skipif(Path("/sys/kernel/security/apparmor").exists(), reason="AppArmor is active")
def test_apparmor_that_is_not_there(container: Make) -> None:
    result = container(["true"], process(apparmorProfile="docker-default")).run()
    assert result.status == 1
    assert "apparmor" in result.stderr and "not supported" in result.stderr


@pytest.mark.skipif(Path("/sys/fs/selinux/enforce").exists(), reason="SELinux is active")
def test_selinux_that_is_not_there(container: Make) -> None:
    result = container(["true"], process(selinuxLabel="system_u:system_r:container_t:s0")).run()
    assert result.status == 1
    assert "selinux" in result.stderr and "not supported" in result.stderr


# exec has the same attributes.


def test_exec_takes_its_own_attributes(container: Make, tmp_path: Path) -> None:
    one = container(["sleep", "60"])
    one.run("--detach").ok()
    document = {
        "user": {"uid": 5, "gid": 6, "additionalGids": [8], "umask": 0o11},
        "args": ["sh", "-c", "umask; cat /proc/self/status"],
        "cwd": "/",
        "env": ["PATH=/bin"],
        "capabilities": {kind: ["CAP_CHOWN"] for kind in SETS},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 33, "hard": 44}],
        "noNewPrivileges": False,
        "oomScoreAdj": 55,
    }
    path = tmp_path / "process.json"
    path.write_text(json.dumps(document))
    result = one.runtime("exec", "--process", path, one.id).ok()
    umask, status = result.stdout.split("\n", 1)
    assert umask == "0011"
    found = fields(status)
    assert found["Uid"].split() == ["5"] * 4
    assert found["Gid"].split() == ["6"] * 4
    assert found["Groups"].split() == ["8"]
    assert found["NoNewPrivs"] == "0"
    assert masks(status) == dict.fromkeys(SETS, bits(CHOWN))
    document["args"] = ["cat", "/proc/self/limits", "/proc/self/oom_score_adj"]
    path.write_text(json.dumps(document))
    text = one.runtime("exec", "--process", path, one.id).ok().stdout
    assert [line.split()[3:5] for line in text.splitlines() if line.startswith("Max open files")] == [["33", "44"]]
    assert text.splitlines()[-1] == "55"


def test_exec_takes_what_belongs_to_the_container(container: Make) -> None:
    def change(config: Config) -> None:
        config["linux"]["personality"] = {"domain": "LINUX32"}
        config["linux"]["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "0"}

    one = container(["sleep", "60"], change)
    one.run("--detach").ok()
    assert " bind:0 " in one.exec("cat", "/proc/self/numa_maps").ok().stdout
    domain = one.exec("cat", "/proc/self/personality").ok().stdout.strip()
    assert domain == "00000008"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_exec_affinity(container: Make) -> None:
    first = min(os.sched_getaffinity(0))
    one = container(["sleep", "60"], process(execCPUAffinity={"initial": str(first), "final": str(first)}))
    one.run("--detach").ok()
    allowed = fields(one.exec("cat", "/proc/self/status").ok().stdout)["Cpus_allowed_list"]
    assert allowed == str(first)
    init = fields(one.proc("status").read_text())["Cpus_allowed_list"]
    assert init != str(first)
