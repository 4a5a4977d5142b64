"""Containers on cgroup v2: what their configuration asks of the kernel, as the control files and the processes show it.

Skipped where the controllers are on cgroup v1; `make vm` runs these tests in a virtual machine.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.bundles import Config
from support.cgroups import on_v2
from support.container import Container, wait_for

pytestmark = on_v2
Make = Callable[..., Container]

MIB = 1 << 20
SLEEP = ["sleep", "1000"]


def resources(**given: Any) -> Callable[[Config], None]:
    return lambda config: config["linux"]["resources"].update(given)


def namespace(kind: str) -> Callable[[Config], None]:
    return lambda config: config["linux"]["namespaces"].append({"type": kind})


def running(one: Container, *flags: str) -> Path:
    """The cgroup of a container that has been started."""
    one.run("--detach", *flags).ok()
    return one.cgroup("memory")


def value(directory: Path, name: str) -> str:
    return (directory / name).read_text().strip()


# Memory and processes


@pytest.mark.cgroupfs
def test_memory_max_kills(container: Make) -> None:
    # One busybox: `head` holds what it reads while it looks for the end of the line, and /dev/zero has none.
    one = container(["sh", "-c", "tail /dev/zero"], resources(memory={"limit": 16 * MIB, "swap": 16 * MIB}))
    one.create().ok()
    directory = one.cgroup("memory")
    assert value(directory, "memory.max") == str(16 * MIB)
    assert value(directory, "memory.swap.max") == "0"
    pid = one.pid
    one.start().ok()
    one.wait("stopped", 60)
    events = dict(line.split() for line in (directory / "memory.events").read_text().splitlines())
    assert int(events["oom_kill"]) >= 1, f"init {pid}: {events}"


def test_swap_is_what_exceeds_the_memory(container: Make) -> None:
    memory = {"limit": 64 * MIB, "swap": 96 * MIB, "reservation": 32 * MIB}
    directory = running(container(SLEEP, resources(memory=memory)))
    assert [value(directory, f"memory.{name}") for name in ("max", "swap.max", "low")] == [
        str(64 * MIB), str(32 * MIB), str(32 * MIB)]  # fmt: skip
    unlimited = running(container(SLEEP, resources(memory={"limit": 64 * MIB, "swap": -1})))
    assert value(unlimited, "memory.swap.max") == "max"


def test_pids_max_refuses_to_fork(container: Make) -> None:
    script = "for i in 1 2 3 4 5 6; do sleep 5 & done; echo all"
    one = container(["sh", "-c", script], resources(pids={"limit": 4}))
    result = one.run()
    assert "all" not in result.stdout and "fork" in result.stderr


# Processors


@pytest.mark.parametrize(("shares", "weight"), [(2, "1"), (1024, "100"), (262144, "10000")])
def test_the_weight_of_shares(container: Make, shares: int, weight: str) -> None:
    found = int(value(running(container(SLEEP, resources(cpu={"shares": shares}))), "cpu.weight"))
    # 1024 shares were 39 by the old line through both ends, and are 100 by the newer curve through all three points.
    assert found in ({int(weight), 39} if shares == 1024 else {int(weight)})


def test_cpu_max_throttles(container: Make) -> None:
    script = "while :; do :; done"
    one = container(["sh", "-c", script], resources(cpu={"quota": 10000, "period": 100000, "cpus": "0"}))
    directory = running(one)
    assert value(directory, "cpu.max") == "10000 100000"
    assert value(directory, "cpuset.cpus.effective") == "0"

    def throttled() -> bool:
        lines = dict(line.split() for line in (directory / "cpu.stat").read_text().splitlines())
        return int(lines["nr_throttled"]) >= 2

    wait_for(throttled, "the container to be throttled")


def test_update_changes_what_it_names(container: Make) -> None:
    one = container(SLEEP, resources(pids={"limit": 50}, cpu={"quota": 10000, "period": 100000}))
    directory = running(one)
    one.runtime("update", "--pids-limit", "77", "--memory", str(48 * MIB), one.id).ok()
    assert value(directory, "pids.max") == "77"
    assert value(directory, "memory.max") == str(48 * MIB)
    assert value(directory, "cpu.max") == "10000 100000"


# Block devices


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[str]:
    """The numbers of a loop device; the kernel counts a whole device only."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(8 * MIB)
    attach = ["losetup", "--find", "--show", str(image)]
    done = subprocess.run(attach, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no loop device: {done.stderr}")
    path = done.stdout.strip()
    number = os.stat(path).st_rdev
    yield f"{os.major(number)}:{os.minor(number)}"
    subprocess.run(["losetup", "--detach", path], check=True)


def test_io_max(container: Make, disk: str) -> None:
    major, minor = map(int, disk.split(":"))
    rates = {"major": major, "minor": minor, "rate": MIB}
    block = {
        "throttleReadBpsDevice": [rates],
        "throttleWriteBpsDevice": [rates],
        "throttleReadIOPSDevice": [{**rates, "rate": 100}],
    }
    directory = running(container(SLEEP, resources(blockIO=block)))
    assert value(directory, "io.max") == f"{disk} rbps={MIB} wbps={MIB} riops=100 wiops=max"


# Files named directly


def test_unified_files(container: Make) -> None:
    given = {"memory.high": str(20 * MIB), "pids.max": "12", "cpu.max": "20000 100000"}
    directory = running(container(SLEEP, resources(unified=given)))
    assert {name: value(directory, name) for name in given} == given


@pytest.mark.parametrize(("name", "why"), [("nosuch.thing", "nosuch"), ("../pids.max", "pids.max")])
def test_unified_files_that_cannot_be(container: Make, name: str, why: str) -> None:
    one = container(SLEEP, resources(unified={name: "1"}))
    result = one.run("--detach")
    assert result.status != 0 and why in result.stderr
    assert not one.leaks()


# Devices: the eBPF program


def test_the_last_matching_device_rule_wins(container: Make) -> None:
    def opens(*rules: dict[str, Any]) -> list[str]:
        script = "mknod /n c 10 237; for m in r w; do case $m in r) (: < /n);; w) (: > /n);; esac && echo $m; done; :"

        def change(config: Config) -> None:
            config["linux"]["resources"]["devices"] = list(rules)
            for kind in ("bounding", "effective", "permitted"):
                config["process"]["capabilities"][kind].append("CAP_MKNOD")

        result = container(["sh", "-c", script], change).run()
        return result.stdout.split()

    deny = {"allow": False, "access": "rwm"}
    control = {"type": "c", "major": 10, "minor": 237}  # of loop devices: open to all who may
    assert opens(deny) == []
    assert opens(deny, {"allow": True, "access": "r", **control}) == ["r"]
    assert opens(deny, {"allow": True, "access": "rw", **control}, {"allow": False, "access": "w", **control}) == ["r"]
    assert opens(deny, {"allow": False, "access": "w", **control}, {"allow": True, "access": "rw", **control}) == [
        "r",
        "w",
    ]
    assert opens({"allow": True, "access": "rwm"}, {"allow": False, "access": "r", **control}) == ["w"]


# Ending and stopping


@pytest.mark.cgroupfs
def test_kill_all_reaches_what_left_the_session(container: Make) -> None:
    one = container(["sh", "-c", "setsid sleep 1000 & setsid sleep 1001 & exec sleep 1002"])
    directory = running(one)
    wait_for(lambda: len(value(directory, "cgroup.procs").split()) == 3, "three processes")
    one.kill("KILL", "--all").ok()
    wait_for(lambda: not value(directory, "cgroup.procs"), "all to be gone")


def test_pause_freezes(container: Make) -> None:
    one = container(["sh", "-c", "while :; do sleep 0.01; done"])
    directory = running(one)
    one.runtime("pause", one.id).ok()
    assert one.status == "paused"
    assert "frozen 1" in value(directory, "cgroup.events")
    refused = one.exec("true")
    assert refused.status != 0 and "paused" in refused.stderr
    one.runtime("resume", one.id).ok()
    assert one.status == "running"
    assert "frozen 0" in value(directory, "cgroup.events")


# What the container sees of it


def test_a_cgroup_namespace_shows_the_own_cgroup_as_root(container: Make) -> None:
    script = "cat /proc/self/cgroup; cat /sys/fs/cgroup/pids.max; mkdir /sys/fs/cgroup/x && echo made"
    one = container(["sh", "-c", script], namespace("cgroup"), resources(pids={"limit": 41}))
    assert one.run().stdout.split() == ["0::/", "41"]


def test_without_a_cgroup_namespace_nothing_above_can_be_reached(container: Make) -> None:
    script = "cd /sys/fs/cgroup; cat pids.max; mkdir x; ls . .."
    one = container(["sh", "-c", script], resources(pids={"limit": 41}))
    result = one.run()
    assert result.stdout.split()[0] == "41"
    assert "Read-only file system" in result.stderr
    assert "init.scope" not in result.stdout and "system.slice" not in result.stdout


def writable(config: Config) -> None:
    config["linux"]["namespaces"].append({"type": "cgroup"})
    for mount in config["mounts"]:
        if mount["type"] == "cgroup":
            mount["options"] = ["nosuid", "noexec", "nodev", "relatime", "rw"]


def test_a_writable_cgroup_is_a_subtree_of_its_own(container: Make) -> None:
    script = "cd /sys/fs/cgroup && mkdir inner && echo $$ > inner/cgroup.procs && echo +pids > cgroup.subtree_control"
    one = container(["sh", "-c", script + " && cat inner/pids.max && sleep 1000"], writable)
    directory = running(one)
    wait_for(lambda: (directory / "inner").exists() or directory.name == "inner", "the inner cgroup")
    # The cgroup of the container has controllers below it and may hold no process: exec goes where init is.
    result = one.exec("cat", "/proc/self/cgroup")
    assert result.ok().stdout.strip() == "0::/inner"


def test_the_user_of_a_user_namespace_owns_the_cgroup(container: Make) -> None:
    def change(config: Config) -> None:
        config["linux"]["namespaces"].append({"type": "user"})
        mapping = [{"containerID": 0, "hostID": 300000, "size": 65536}]
        config["linux"].update(uidMappings=mapping, gidMappings=mapping)

    one = container(SLEEP, writable, change)
    for path in [one.bundle.rootfs, *one.bundle.rootfs.rglob("*")]:
        os.lchown(path, 300000, 300000)
    directory = running(one)
    for name in ("", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
        assert (directory / name).stat().st_uid == 300000, name
    assert (directory / "memory.max").stat().st_uid == 0, "limits stay the host's"
    assert one.exec("mkdir", "/sys/fs/cgroup/mine").status == 0


# Paths


@pytest.mark.cgroupfs
def test_a_path_below_another_is_made_with_controllers(container: Make) -> None:
    parent = f"/pyruntime-v2-{os.getpid()}"
    path = f"{parent}/deep/er"

    def change(config: Config) -> None:
        config["linux"]["cgroupsPath"] = path
        config["linux"]["resources"].update(pids={"limit": 9}, memory={"limit": 64 * MIB})

    one = container(SLEEP, change)
    directory = running(one)
    assert one.proc("cgroup").read_text().strip() == f"0::{path}"
    assert value(directory, "pids.max") == "9"
    one.kill().ok()
    one.wait("stopped")
    one.delete().ok()
    assert not Path("/sys/fs/cgroup" + path).exists()
    for left in (f"{parent}/deep", parent):
        if Path("/sys/fs/cgroup" + left).exists():
            Path("/sys/fs/cgroup" + left).rmdir()


@pytest.mark.cgroupfs
def test_a_cgroup_in_use_is_refused(container: Make) -> None:
    first = container(SLEEP)
    directory = running(first)
    path = "/" + str(directory.relative_to("/sys/fs/cgroup"))
    second = container(SLEEP, lambda config: config["linux"].update(cgroupsPath=path))
    result = second.create()
    assert result.status != 0 and "cgroup" in result.stderr and "not empty" in result.stderr
    assert first.status == "running", "the cgroup of another is left alone"


# What only the full set of capabilities, or AppArmor, can show


def test_hard_limits_are_raised(container: Make) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    limits = [{"type": "RLIMIT_NPROC", "soft": 5000, "hard": 600000}]

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_NPROC, (4000, 4000))

    one = container(["sh", "-c", "ulimit -Hu"], lambda config: config["process"].update(rlimits=limits))
    assert one.run(preexec=lower).ok().stdout.strip() == "600000", (soft, hard)


PROFILE = """
profile {name} flags=(attach_disconnected) {{
  file,
  capability,
  signal,
  deny /forbidden r,
}}
"""


@pytest.fixture
def profile(tmp_path: Path) -> Iterator[str]:
    """A profile that forbids to read /forbidden, loaded into the kernel for the time of the test."""
    if not Path("/sys/kernel/security/apparmor/profiles").exists():
        pytest.skip("no AppArmor here")
    name = f"pyruntime-test-{os.getpid()}"
    source = tmp_path / "profile"
    source.write_text(PROFILE.format(name=name))
    subprocess.run(["apparmor_parser", "--replace", "--skip-cache", source], check=True)
    yield name
    subprocess.run(["apparmor_parser", "--remove", source], check=True)


def test_an_apparmor_profile_is_enforced(container: Make, profile: str) -> None:
    script = "cat /proc/self/attr/current; cat /forbidden; cat /allowed"
    one = container(["sh", "-c", script], lambda config: config["process"].update(apparmorProfile=profile))
    for name in ("forbidden", "allowed"):
        (one.bundle.rootfs / name).write_text(f"{name} text\n")
    result = one.run()
    assert result.stdout.splitlines() == [f"{profile} (enforce)", "allowed text"]
    assert "Permission denied" in result.stderr


def test_an_apparmor_profile_that_is_not_loaded(container: Make, profile: str) -> None:
    one = container(["true"], lambda config: config["process"].update(apparmorProfile=profile + "-nosuch"))
    result = one.run()
    assert result.status != 0 and profile + "-nosuch" in result.stderr
