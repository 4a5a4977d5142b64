"""Limits of a container hold: what its programs may use, and what the cgroup files say."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.cgroups import needs, on_v1
from support.changes import linux, process, resources
from support.container import Container, wait_for

Make = Callable[..., Container]

MIB = 1 << 20


def started(one: Container) -> Container:
    one.run("--detach").ok()
    return one


@on_v1
def test_memory(container: Make) -> None:
    needs("memory")
    limits = resources(memory={"limit": 32 * MIB, "swap": 64 * MIB, "reservation": 16 * MIB, "swappiness": 10})
    one = started(container(["sleep", "60"], limits))
    cgroup = one.cgroup("memory")
    assert (cgroup / "memory.limit_in_bytes").read_text().strip() == str(32 * MIB)
    assert (cgroup / "memory.soft_limit_in_bytes").read_text().strip() == str(16 * MIB)
    # A program that takes more is killed; the container goes on.
    greedy = one.exec("sh", "-c", "dd if=/dev/zero of=/dev/null bs=100M count=1")
    assert greedy.status != 0
    assert one.status == "running"


@pytest.mark.parametrize("limit", [3 << 17, 1 << 19, 3 << 18, 1 << 20])
def test_a_tiny_container_starts(container: Make, limit: int) -> None:
    needs("memory")
    needs("pids")
    one = container(["true"], resources(memory={"limit": limit}, pids={"limit": 1}))
    one.run().ok()
    again = container(["true"], resources(memory={"limit": limit}, pids={"limit": 1}))
    again.create().ok()
    again.start().ok()
    again.wait("stopped")


@on_v1
def test_our_own_memory_is_not_counted_where_there_is_little(container: Make) -> None:
    """The init copies the pages that it will write to before it is moved: afterwards they would be the container's."""
    needs("memory")
    one = container(["true"], resources(memory={"limit": 2 * MIB}))
    one.create().ok()
    statistics = dict(line.split() for line in (one.cgroup("memory") / "memory.stat").read_text().splitlines())
    assert int(statistics["rss"]) < 64 << 10  # without, it is 280 KiB and more


def test_pids(container: Make) -> None:
    needs("pids")
    script = "for i in 1 2 3 4 5 6; do sleep 5 & done; wait"
    result = container(["sh", "-c", script], resources(pids={"limit": 4})).run()
    assert "can't fork" in result.stderr or "Resource temporarily unavailable" in result.stderr


@on_v1
def test_cpu(container: Make) -> None:
    needs("cpu")
    one = started(container(["sleep", "60"], resources(cpu={"shares": 512, "quota": 20000, "period": 50000})))
    cgroup = one.cgroup("cpu")
    values = [(cgroup / f"cpu.{name}").read_text().strip() for name in ("shares", "cfs_quota_us", "cfs_period_us")]
    assert values == ["512", "20000", "50000"]


def test_cpu_quota_holds(container: Make) -> None:
    """A busy loop with a tenth of a CPU gets at most about a tenth of the time."""
    needs("cpu")
    script = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done & sleep 1; kill $!; wait $! 2>/dev/null; times"
    one = container(["sh", "-c", script], resources(cpu={"quota": 10000, "period": 100000}))
    lines = one.run().ok().stdout.split()
    seconds = sum(float(one.split("m")[1].rstrip("s")) for one in lines)
    assert seconds < 0.5


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_cpuset(container: Make) -> None:
    needs("cpuset")
    last = max(os.sched_getaffinity(0))
    one = container(["grep", "Cpus_allowed_list", "/proc/self/status"], resources(cpu={"cpus": str(last), "mems": "0"}))
    assert one.run().ok().stdout.split()[-1] == str(last)


@on_v1
def test_blkio(container: Make) -> None:
    needs("blkio")
    device = Path("/").stat().st_dev
    number = {"major": os.major(device), "minor": os.minor(device) & ~0xF, "rate": 1 << 20}
    one = container(["sleep", "60"], resources(blockIO={"throttleReadBpsDevice": [number]}))
    result = one.run("--detach")
    if "no such device" in result.stderr:
        pytest.skip("the root is on no block device")
    result.ok()
    text = (one.cgroup("blkio") / "blkio.throttle.read_bps_device").read_text()
    assert text.split() == [f"{number['major']}:{number['minor']}", str(1 << 20)]


@on_v1
def test_hugepages(container: Make) -> None:
    needs("hugetlb")
    one = started(container(["sleep", "60"], resources(hugepageLimits=[{"pageSize": "2MB", "limit": 4 * MIB}])))
    assert (one.cgroup("hugetlb") / "hugetlb.2MB.limit_in_bytes").read_text().strip() == str(4 * MIB)


def test_devices(container: Make) -> None:
    everything = {kind: ["CAP_MKNOD"] for kind in ("bounding", "effective", "permitted")}
    # 60:0 is a number for experiments that no driver has, so opening it is ENXIO where it is allowed.
    # Making nodes is allowed by default, as with every other runtime.
    script = ["sh", "-c", "mknod /dev/k c 60 0 && cat /dev/k"]
    rules = [{"allow": False, "access": "rwm"}]
    for allow, expected in (
        (None, "Operation not permitted"),
        (True, "No such device"),
        (False, "Operation not permitted"),
    ):
        if allow is not None:
            rules.append({"allow": allow, "type": "c", "major": 60, "minor": 0, "access": "r"})
        result = container(script, process(capabilities=everything), resources(devices=rules)).run()
        assert "/dev/k" in result.stderr and expected in result.stderr, rules


def test_the_default_devices_need_no_rule(container: Make) -> None:
    script = (
        "for one in null zero full random urandom tty; do head -c 0 /dev/$one || echo bad $one; done; echo x >/dev/null"
    )
    result = container(["sh", "-c", script], resources(devices=[{"allow": False, "access": "rwm"}])).run().ok()
    assert "Operation not permitted" not in result.stderr


@pytest.mark.cgroupfs
@pytest.mark.parametrize("path", ["/{id}/sub", "{id}-relative", None])
def test_every_container_has_a_cgroup_of_its_own(container: Make, path: str | None) -> None:
    one = container(["sleep", "60"])
    if path:
        linux(cgroupsPath=path.format(id=f"pyruntime-{one.id}"))(one.bundle.config)
        one.bundle.write()
    started(one)
    cgroup = one.cgroup("pids")
    assert cgroup.joinpath("cgroup.procs").read_text().split() == [str(one.pid)]
    assert one.id in str(cgroup)
    one.exec("--detach", "sleep", "60").ok()
    assert len(cgroup.joinpath("cgroup.procs").read_text().split()) == 2
    one.delete("--force").ok()
    assert not cgroup.exists()
    assert one.leaks() == []


def test_sub_cgroups_that_the_container_made_go_too(container: Make) -> None:
    one = started(container(["sleep", "60"]))
    sub = one.cgroup("pids") / "made-inside"
    sub.mkdir()
    pid = one.pid
    (sub / "cgroup.procs").write_text(str(pid))
    assert one.runtime("ps", "--format", "json", one.id).ok().json() == [pid]
    one.delete("--force").ok()
    assert one.leaks() == []


def test_kill_all_and_pause_reach_everything(container: Make) -> None:
    one = started(container(["sh", "-c", "sleep 300 & sleep 300 & trap '' TERM; wait; wait; sleep 300"]))
    wait_for(lambda: len(one.runtime("ps", "--format", "json", one.id).json()) == 3, "three processes")
    pids = one.runtime("ps", "--format", "json", one.id).json()
    one.runtime("pause", one.id).ok()
    assert one.status == "paused"
    one.kill("KILL", "--all").ok()
    one.wait("stopped")
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() and b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes()
                             for pid in pids), "all processes to end")  # fmt: skip
    one.delete().ok()
    assert one.leaks() == []


def test_a_limit_that_the_kernel_refuses(container: Make) -> None:
    needs("cpuset")
    one = container(["true"], resources(cpu={"cpus": "4000"}))
    result = one.create()
    assert result.status == 1
    assert "cpuset" in result.stderr and len(result.stderr.splitlines()) == 1
    assert one.leaks() == []
