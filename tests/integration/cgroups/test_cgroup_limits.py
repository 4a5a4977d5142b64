"""Limits in the control files, set and changed, and what is counted."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.cgroups import NATIVE, Place, needs, on_v1, on_v2, places, read

from pyruntime.errors import RuntimeFailure, SpecError

# Limits


def test_memory_and_swap_up_and_down(native: Place) -> None:
    needs("memory")
    mib = 1 << 20
    one = native.made({"memory": {"limit": 64 * mib, "swap": 128 * mib, "reservation": 32 * mib}})

    def now() -> tuple[str, str]:
        limit = read(one, "memory", "memory.limit_in_bytes", "memory.max")
        return limit, read(one, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max")

    def expected(limit: int, both: int) -> tuple[str, str]:
        return str(limit * mib), str((both if one.version == 1 else both - limit) * mib)

    assert now() == expected(64, 128)
    assert read(one, "memory", "memory.soft_limit_in_bytes", "memory.low") == str(32 * mib)
    for limit, both in ((512, 1024), (16, 32), (16, 16), (2000, 2000)):
        one.update({"memory": {"limit": limit * mib, "swap": both * mib}})
        assert now() == expected(limit, both)
        assert one.resources["memory"] == {"limit": limit * mib, "swap": both * mib, "reservation": 32 * mib}
    with pytest.raises(SpecError, match=r"linux.resources.memory.swap: .* below memory.limit"):
        one.update({"memory": {"limit": 3000 * mib}})
    one.update({"memory": {"limit": 100 * mib}})
    assert now() == expected(100, 2000)
    one.update({"memory": {"limit": -1}})
    assert "swap" not in one.resources["memory"]
    if one.version == 1:
        assert int(now()[0]) > 1 << 60
        assert int(now()[1]) > 1 << 60
    else:
        assert now() == ("max", "max")


def test_memory_below_use_is_refused_with_numbers(native: Place) -> None:
    needs("memory")
    one = native.made()
    ready, go = os.pipe()

    def fill() -> None:
        one.add(os.getpid())
        block = bytearray(os.urandom(1 << 20) * 40)
        os.write(go, bytes(block[:1]))
        time.sleep(60)

    native.run(fill)
    os.read(ready, 1)
    limit = {"memory": {"limit": 1 << 20, "swap": 1 << 20, "checkBeforeUpdate": True}}
    with pytest.raises(RuntimeFailure, match=r"(unable to set memory limit to 1048576 \(current usage|<= usage \d{7})"):
        one.update(limit)
    os.close(ready)
    os.close(go)


def test_an_oom_kill_is_noticed(native: Place) -> None:
    needs("memory")
    one = native.made({"memory": {"limit": 8 << 20, "swap": 8 << 20}})

    def fill() -> None:
        one.add(os.getpid())
        kept = []
        while True:
            kept.append(bytearray(1 << 20))

    keeper = native.run()
    one.add(keeper)
    watch = one.wait_oom(10)
    threading.Timer(0.1, lambda: native.run(fill)).start()
    next(watch)
    os.kill(keeper, signal.SIGKILL)
    native.wait(keeper)
    native.wait(native.children[0])
    one.destroy()
    assert len(list(watch)) <= 1, "the end of the cgroup is no OOM kill"


def test_cpu_quota_period_and_burst_up_and_down(native: Place) -> None:
    needs("cpu")
    one = native.made({"cpu": {"quota": 20000, "period": 100000, "burst": 10000, "shares": 512}})

    def now() -> str:
        if one.version == 2:
            return read(one, "cpu", "", "cpu.max") + " " + read(one, "cpu", "", "cpu.max.burst")
        files = ("cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.cfs_burst_us")
        return " ".join(read(one, "cpu", file) for file in files)

    assert now() == "20000 100000 10000"
    assert read(one, "cpu", "cpu.shares", "cpu.weight") == ("512" if one.version == 1 else "59")
    one.update({"cpu": {"quota": 90000, "burst": 80000}})
    assert now() == "90000 100000 80000"
    one.update({"cpu": {"quota": 5000, "burst": 4000}})
    assert now() == "5000 100000 4000"
    one.update({"cpu": {"period": 50000}})
    assert now() == "5000 50000 4000"
    one.update({"cpu": {"quota": 7000}})
    assert now() == "7000 50000 4000"
    with pytest.raises(SpecError, match=r"cpu.burst: 20000 is above cpu.quota"):
        one.update({"cpu": {"quota": 10000, "burst": 20000}})
    with pytest.raises(RuntimeFailure, match=r"linux.resources.cpu.period: cannot write .* Invalid argument"):
        one.update({"cpu": {"period": 10}})
    one.update({"cpu": {"quota": -1, "burst": 0}})
    assert now().split()[0] in ("-1", "max")


def test_cpu_idle(native: Place) -> None:
    needs("cpu")
    one = native.made({"cpu": {"shares": 300, "idle": 1}})
    assert read(one, "cpu", "cpu.idle", "cpu.idle") == "1"
    one.update({"cpu": {"shares": 1024, "idle": 0}})
    assert read(one, "cpu", "cpu.idle", "cpu.idle") == "0"
    assert read(one, "cpu", "cpu.shares", "cpu.weight") == ("1024" if one.version == 1 else "100")


def test_cpuset(native: Place) -> None:
    needs("cpuset")
    one = native.made({"cpu": {"cpus": "0", "mems": "0"}}, sub="/deep/deeper")
    pid = native.run()
    one.add(pid)
    assert os.sched_getaffinity(pid) == {0}
    assert read(one, "cpuset", "cpuset.mems", "cpuset.mems") == "0"
    with pytest.raises(RuntimeFailure, match=r"linux.resources.cpu.cpus: cannot write '(1000|77777)'"):
        one.update({"cpu": {"cpus": "77777"}})


def test_pids(native: Place) -> None:
    needs("pids")
    one = native.made({"pids": {"limit": 2}})
    go_on, go = os.pipe()

    def fork_twice() -> None:
        os.read(go_on, 1)
        first = os.fork()
        if first == 0:
            time.sleep(1)
            os._exit(0)
        try:
            if os.fork() == 0:
                os._exit(0)
        except BlockingIOError:
            os.kill(first, signal.SIGKILL)
            os.waitpid(first, 0)
            return
        raise AssertionError("a third process in a cgroup for two")

    pid = native.run(fork_twice)
    one.add(pid)
    os.write(go, b".")
    assert native.wait(pid) == 0
    os.close(go)
    os.close(go_on)
    one.update({"pids": {"limit": 0}})
    assert read(one, "pids", "pids.max", "pids.max") == "1", "as runc: it means the same, and systemd knows no 0"
    one.update({"pids": {"limit": -1}})
    assert read(one, "pids", "pids.max", "pids.max") == "max"


def test_pids_limit_zero_takes_a_process(native: Place) -> None:
    needs("pids")
    one = native.made({"pids": {"limit": 0}})
    pid = native.run()
    one.add(pid)
    assert one.pids() == [pid]


def disk() -> str:
    """MAJOR:MINOR of a whole disk."""
    for entry in sorted(Path("/sys/block").iterdir()):
        if not entry.name.startswith(("loop", "ram", "zram", "sr", "fd", "dm-", "md")):
            return (entry / "dev").read_text().strip()
    pytest.skip("no disk here")


def test_io_throttles(native: Place) -> None:
    needs("blkio")
    major, minor = map(int, disk().split(":"))
    device = {"major": major, "minor": minor}
    block = {
        "throttleReadBpsDevice": [{**device, "rate": 1048576}],
        "throttleWriteBpsDevice": [{**device, "rate": 2097152}],
        "throttleReadIOPSDevice": [{**device, "rate": 100}],
        "throttleWriteIOPSDevice": [{**device, "rate": 200}],
    }
    one = native.made({"blockIO": block})
    if one.version == 1:
        for file, rate in (("read_bps", 1048576), ("write_bps", 2097152), ("read_iops", 100), ("write_iops", 200)):
            assert read(one, "blkio", f"blkio.throttle.{file}_device") == f"{major}:{minor} {rate}"
    else:
        assert read(one, "io", "", "io.max") == f"{major}:{minor} rbps=1048576 wbps=2097152 riops=100 wiops=200"
    with pytest.raises(RuntimeFailure, match=r"throttleReadBpsDevice\[0\]: cannot write .* No such device"):
        one.update({"blockIO": {"throttleReadBpsDevice": [{"major": 4095, "minor": 77, "rate": 1}]}})
    one.update({"blockIO": {key: [{**device, "rate": 0}] for key in block}})
    assert str(1048576) not in read(one, "blkio", "blkio.throttle.read_bps_device", "io.max")


def test_weights(native: Place) -> None:
    needs("blkio")
    one = native.plan({"blockIO": {"weight": 321}})
    one.create()
    directory = Path(one.paths["" if one.version == 2 else "blkio"])
    names = ("io.bfq.weight", "io.weight", "blkio.weight", "blkio.bfq.weight")
    files = [directory / name for name in names if (directory / name).exists()]
    if not files:
        with pytest.raises(RuntimeFailure, match=r"linux.resources.blockIO.weight: cannot (set|write) .*321"):
            one.apply()
        return
    one.apply()
    expected = "321" if "io.weight" not in files[0].name else "3142"
    assert files[0].read_text().split()[-1] == expected


@on_v1
def test_memory_knobs_of_v1(native: Place) -> None:
    needs("memory")
    one = native.made(
        {
            "memory": {
                "swappiness": 37,
                "disableOOMKiller": True,
                "useHierarchy": True,
                "kernelTCP": 1 << 20,
                "kernel": 1 << 24,
            }
        }
    )
    assert read(one, "memory", "memory.swappiness") == "37"
    assert read(one, "memory", "memory.oom_control").startswith("oom_kill_disable 1")
    assert read(one, "memory", "memory.kmem.tcp.limit_in_bytes") == str(1 << 20)
    one.update({"memory": {"disableOOMKiller": False, "swappiness": 60}})
    assert read(one, "memory", "memory.oom_control").startswith("oom_kill_disable 0")
    with pytest.raises(RuntimeFailure, match=r"memory.useHierarchy: cannot write '0'.* the only value is true"):
        one.update({"memory": {"useHierarchy": False}})


@on_v1
def test_realtime_comes_down_from_above(native: Place) -> None:
    if not Path(NATIVE.mount("cpu"), "cpu.rt_runtime_us").exists():
        with pytest.raises(
            RuntimeFailure, match=r"realtimeRuntime: cannot set 2000: this kernel has no cpu.rt_runtime_us"
        ):
            native.made({"cpu": {"realtimeRuntime": 2000}})
        return
    one = native.made({"cpu": {"realtimeRuntime": 2000, "realtimePeriod": 500000}}, sub="/a/b")
    assert read(one, "cpu", "cpu.rt_runtime_us") == "2000"
    assert read(one, "cpu", "cpu.rt_period_us") == "500000"
    pid = native.run()
    one.add(pid)
    os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(1))
    one.update({"cpu": {"realtimeRuntime": 1000, "realtimePeriod": 250000}})
    assert read(one, "cpu", "cpu.rt_runtime_us") == "1000"


@on_v1
def test_a_controller_that_is_not_mounted(native: Place) -> None:
    wanted: dict[str, dict[str, Any]] = {
        "hugetlb": {"hugepageLimits": [{"pageSize": "2MB", "limit": 1 << 21}]},
        "net_cls": {"network": {"classID": 1}},
        "rdma": {"rdma": {"mlx5_1": {"hcaHandles": 3}}},
    }
    for controller, resources in wanted.items():
        if controller not in NATIVE.mounts:
            one = native.plan(resources)
            one.create()
            with pytest.raises(RuntimeFailure, match=f"the {controller} controller is not mounted"):
                one.apply()
            one.destroy()


@on_v1
def test_network(native: Place) -> None:
    needs("net_cls")
    needs("net_prio")
    one = native.made({"network": {"classID": 1048577, "priorities": [{"name": "lo", "priority": 3}]}})
    assert read(one, "net_cls", "net_cls.classid") == "1048577"
    assert "lo 3" in read(one, "net_prio", "net_prio.ifpriomap")


def test_hugepages(native: Place) -> None:
    needs("hugetlb")
    one = native.made({"hugepageLimits": [{"pageSize": "2MB", "limit": 1 << 22}]})
    assert read(one, "hugetlb", "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max") == str(1 << 22)
    assert read(one, "hugetlb", "hugetlb.2MB.rsvd.limit_in_bytes", "hugetlb.2MB.rsvd.max") == str(1 << 22)
    with pytest.raises(RuntimeFailure, match=r"hugepageLimits\[0\]: cannot (set|write)"):
        one.update({"hugepageLimits": [{"pageSize": "4MB", "limit": 1 << 22}]})


@on_v2
def test_unified_resources(native: Place) -> None:
    one = native.made({"unified": {"memory.high": "100000000", "pids.max": "77", "cgroup.max.depth": "3"}})
    assert read(one, "", "", "memory.high") == "99999744"
    assert read(one, "", "", "pids.max") == "77"
    assert read(one, "", "", "cgroup.max.depth") == "3"
    one.update({"unified": {"memory.high": "max"}})
    assert read(one, "", "", "memory.high") == "max"
    assert one.resources["unified"]["pids.max"] == "77"


@on_v2
def test_every_controller_is_enabled_down_the_path(native: Place) -> None:
    one = native.made(sub="/a/b/c")
    available = set(Path(NATIVE.mount(""), "cgroup.controllers").read_text().split())
    assert set(read(one, "", "", "cgroup.controllers").split()) == available


def test_an_unknown_controller_on_v2(place: Place) -> None:
    one = place.plan({"unified": {"foo.max": "1"}}) if place.host.unified else None
    if one is None:
        with pytest.raises(SpecError, match=r"linux.resources.unified: invalid configuration: it is for cgroup v2"):
            place.plan({"unified": {"foo.max": "1"}})
        return
    one.create()
    with pytest.raises(
        RuntimeFailure, match=r"unified resource 'foo.max' can't be set: controller 'foo' not available"
    ):
        one.apply()


def test_a_cgroup_with_processes_hands_no_controller_on(place: Place) -> None:
    one = place.made()
    names = read(one, "", "", "cgroup.controllers").split() if one.version == 2 else []
    if not names:
        pytest.skip("needs controllers on cgroup v2")
    one.add(place.run())
    before = read(one, "", "", "cgroup.type")
    wanted = {"memory.max": "max", "hugetlb.2MB.max": "max"}
    inner = place.plan({"unified": {k: v for k, v in wanted.items() if k.split(".")[0] in names}}, sub="/inner")
    inner.create()
    with pytest.raises(
        RuntimeFailure, match=r"controller is not enabled in .*/cgroup.subtree_control: it has processes"
    ):
        inner.apply()
    assert read(one, "", "", "cgroup.type") == before, "the cgroup above is not ours to change"


def test_below_a_threaded_cgroup(place: Place) -> None:
    if not place.host.unified:
        pytest.skip("about cgroup v2")
    outer = place.made()
    os.mkdir(outer.paths[""] + "/threads")
    Path(outer.paths[""], "threads/cgroup.type").write_text("threaded")
    one = place.plan({"memory": {"limit": 1 << 24}}, sub="/inner")
    with pytest.raises(RuntimeFailure, match="with domain controllers -- it is in an invalid state"):
        one.create()
    assert not one.exists()
    plain = place.made(sub="/inner")
    pid = place.run()
    outer.add(pid)
    plain.add(pid)
    assert places(pid)[""] == place.path + "/inner"
    assert plain.pids() == [pid], "cgroup.procs of a threaded cgroup cannot be read"


# Counting


def test_stats(native: Place) -> None:
    needs("memory")
    needs("pids")
    one = native.made({"memory": {"limit": 1 << 26}, "pids": {"limit": 9}})

    def work() -> None:
        one.add(os.getpid())
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            pass
        time.sleep(60)

    native.run(work)
    data = one.stats()
    deadline = time.monotonic() + 20
    while data["cpu"]["usage"].get("total", 0) < 100_000_000 and time.monotonic() < deadline:
        time.sleep(0.05)
        data = one.stats()
    assert data["cpu"]["usage"]["total"] > 50_000_000
    assert data["memory"]["usage"]["limit"] == 1 << 26
    assert 0 < data["memory"]["usage"]["usage"] < 1 << 26
    assert "pgfault" in data["memory"]["raw"]
    assert data["pids"] == {"current": 1, "limit": 9}
    assert data["network_interfaces"] is None
    if one.version == 1:
        assert len(data["cpu"]["usage"]["percpu"]) >= len(os.sched_getaffinity(0))
        assert data["cpuset"]["cpus"]
        assert data["cpuset"]["sched_relax_domain_level"] == -1
