"""What only a machine with every capability and a distribution's kernel can show; `make vm` has one.

Each test says what it misses elsewhere. AppArmor, raised limits and the limits of cgroup v2 have tests of their own.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.bundles import Config
from support.cgroups import on_v2
from support.changes import mount, process, resources
from support.container import Container, wait_for

from pyruntime.spec.names import CAPABILITIES

Make = Callable[..., Container]

SETS = ("bounding", "permitted", "effective", "inheritable", "ambient")
HUGE = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
SLEEP = ["sleep", "1000"]


def field(status: str, name: str) -> str:
    return next(line.split()[1] for line in status.splitlines() if line.startswith(f"{name}:"))


def test_every_capability_of_the_kernel(container: Make) -> None:
    full = f"{(1 << (int(Path('/proc/sys/kernel/cap_last_cap').read_text()) + 1)) - 1:016x}"
    if field(Path("/proc/self/status").read_text(), "CapBnd") != full:
        pytest.skip("we lack capabilities ourselves here")
    change = process(capabilities={kind: list(CAPABILITIES) for kind in SETS}, user={"uid": 1000, "gid": 1000})
    status = container(["cat", "/proc/self/status"], change).run().ok().stdout
    assert {name: field(status, name) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == dict.fromkeys(
        ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), full
    )


def test_deadlines_for_the_scheduler(container: Make) -> None:
    """The kernel promises processor time for a deadline only to tasks that may use every processor."""
    scheduler = {"policy": "SCHED_DEADLINE", "runtime": 10_000_000, "deadline": 50_000_000, "period": 100_000_000}
    one = container(["cat", "/proc/self/stat", "/proc/self/sched"], process(scheduler=scheduler))
    result = one.run()
    if result.status and not _may_have_deadlines():
        assert "SCHED_DEADLINE" in result.stderr
        pytest.skip("this machine admits no task with a deadline")
    stat = result.ok().stdout.splitlines()[0].rpartition(")")[2].split()
    assert stat[38] == "6"  # SCHED_DEADLINE
    told = {line.split()[0]: line.split()[-1] for line in result.stdout.splitlines() if line.startswith("dl.")}
    assert told.get("dl.deadline", "50000000") != "0"


def _may_have_deadlines() -> bool:
    """Whether `chrt` gets what we ask for."""
    options = ["--sched-runtime", "10000000", "--sched-deadline", "50000000", "--sched-period", "100000000"]
    return (
        subprocess.run(["chrt", "--deadline", *options, "0", "true"], capture_output=True, check=False).returncode == 0
    )


@on_v2
def test_pressure_is_in_the_statistics(container: Make) -> None:
    if not Path("/proc/pressure/cpu").exists():
        pytest.skip("this kernel has no pressure stall information")
    one = container(["sh", "-c", "(while :; do :; done) & while :; do :; done"], resources(cpu={"quota": 5000}))
    one.run("--detach").ok()

    def stalled() -> bool:
        data = json.loads(one.runtime("events", "--stats", one.id).ok().stdout)["data"]
        assert {"some", "full"} <= set(data["memory"]["psi"]) and {"some", "full"} <= set(data["blkio"]["psi"])
        assert set(data["cpu"]["psi"]["some"]) == {"avg10", "avg60", "avg300", "total"}
        return bool(data["cpu"]["psi"]["some"]["total"] > 0)

    wait_for(stalled, "the processor to be short", 60)


@pytest.fixture
def huge_pages() -> Iterator[None]:
    """Eight pages of 2 MiB, if the kernel has room for them."""
    try:
        before = HUGE.read_text()
        HUGE.write_text(str(int(before) + 8))
    except OSError:
        pytest.skip("this kernel has no pages of 2 MiB")
    try:
        if int(HUGE.read_text()) < int(before) + 8:
            pytest.skip("no memory for pages of 2 MiB")
        yield
    finally:
        HUGE.write_text(before)


@on_v2
@pytest.mark.usefixtures("huge_pages")
def test_huge_pages_are_limited(container: Make) -> None:
    # fallocate(2) takes the pages at once; a limit is a failure there, and a signal for who writes to memory.
    script = "fallocate -l 4194304 /huge/two && echo two; fallocate -l 4194304 /huge/more || echo refused"
    limits = [{"pageSize": "2MB", "limit": 4 << 20}]
    one = container(["sh", "-c", script], mount("/huge", "hugetlbfs", ["pagesize=2M"], "hugetlbfs"),
                    resources(hugepageLimits=limits))  # fmt: skip
    assert one.run().ok().stdout == "two\nrefused\n"


@on_v2
def test_the_misc_controller(container: Make) -> None:
    """It counts keys of encrypted virtual machines: what there is to limit depends on the processor."""
    if "misc" not in Path("/sys/fs/cgroup/cgroup.controllers").read_text().split():
        pytest.skip("no misc controller here")
    one = container(SLEEP)
    one.run("--detach").ok()
    assert (one.cgroup("misc") / "misc.current").exists()

    def unknown(config: Config) -> None:
        config["linux"]["resources"]["unified"] = {"misc.max": "no_such_resource 1"}

    other = container(SLEEP, unknown)
    refused = other.run("--detach")
    assert refused.status == 1 and "misc.max" in refused.stderr
    assert not other.leaks()


@pytest.mark.cgroupfs
@on_v2
def test_nothing_outruns_an_end_by_the_cgroup(container: Make) -> None:
    """cgroup.kill: processes that fork faster than one could signal them, one by one."""
    storm = "fork() { while :; do (:) & done; }; for i in 1 2 3 4; do fork & done; wait"
    one = container(["sh", "-c", storm], resources(pids={"limit": 200}))
    one.run("--detach").ok()
    cgroup = one.cgroup("pids")
    wait_for(lambda: len((cgroup / "cgroup.procs").read_text().split()) > 5, "the storm", 60)
    one.runtime("kill", "--all", one.id, "KILL").ok()
    wait_for(lambda: not (cgroup / "cgroup.procs").read_text().split(), "the end of all", 60)
    one.runtime("delete", one.id).ok()
