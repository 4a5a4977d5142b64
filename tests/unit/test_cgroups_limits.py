"""linux.resources as writes to control files, on v1 and on v2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyruntime.cgroups import limits_v1, limits_v2
from pyruntime.cgroups.limits import Group, Write, settle
from pyruntime.cgroups.limits_v2 import io_weight, weight
from pyruntime.cgroups.merge import changes, merge
from pyruntime.errors import RuntimeFailure, SpecError
from pyruntime.kernel import cgroupfs


def flat(groups: list[Group]) -> list[tuple[str, str]]:
    return [(write.file, write.value.decode()) for group in groups for write in group]


def v1(resources: dict[str, Any]) -> list[tuple[str, str]]:
    made = limits_v1.Limits(resources, with_devices=False)
    return flat(made.early + made.late)


def v2(resources: dict[str, Any], current: dict[str, Any] | None = None) -> list[tuple[str, str]]:
    return flat(limits_v2.Limits(resources, current).groups)


THROTTLE = {"major": 8, "minor": 16, "rate": 1000}
BOTH: list[tuple[dict[str, Any], list[tuple[str, str]], list[tuple[str, str]]]] = [
    ({}, [], []),
    (
        {"memory": {"limit": 1000, "swap": 3000, "reservation": 500}},
        [("memory.limit_in_bytes", "1000"), ("memory.memsw.limit_in_bytes", "3000"),
         ("memory.soft_limit_in_bytes", "500")],
        [("memory.swap.max", "2000"), ("memory.max", "1000"), ("memory.low", "500")],
    ),
    (
        {"memory": {"limit": 1000, "swap": 1000}},
        [("memory.limit_in_bytes", "1000"), ("memory.memsw.limit_in_bytes", "1000")],
        [("memory.swap.max", "0"), ("memory.max", "1000")],
    ),
    (
        {"memory": {"limit": 1000, "swap": -1}},
        [("memory.limit_in_bytes", "1000"), ("memory.memsw.limit_in_bytes", "-1")],
        [("memory.swap.max", "max"), ("memory.max", "1000")],
    ),
    (
        {"memory": {"limit": -1}},
        [("memory.memsw.limit_in_bytes", "-1"), ("memory.limit_in_bytes", "-1")],
        [("memory.swap.max", "max"), ("memory.max", "max")],
    ),
    ({"memory": {"limit": 0, "swap": 0, "reservation": 0}}, [], []),
    ({"pids": {"limit": 0}}, [("pids.max", "1")], [("pids.max", "1")]),
    ({"pids": {"limit": -1}}, [("pids.max", "max")], [("pids.max", "max")]),
    (
        {"cpu": {"shares": 1024, "quota": 5000, "period": 10000, "burst": 100, "idle": 0, "cpus": "0-1", "mems": "0"}},
        [("cpuset.cpus", "0-1"), ("cpuset.mems", "0"), ("cpu.shares", "1024"), ("cpu.idle", "0"),
         ("cpu.cfs_period_us", "10000"), ("cpu.cfs_burst_us", "100"), ("cpu.cfs_quota_us", "5000")],
        [("cpu.weight", "100"), ("cpu.idle", "0"), ("cpu.max.burst", "100"), ("cpu.max", "5000 10000"),
         ("cpuset.cpus", "0-1"), ("cpuset.mems", "0")],
    ),
    ({"cpu": {"quota": -1}}, [("cpu.cfs_quota_us", "-1")], [("cpu.max", "max")]),
    ({"cpu": {"quota": 7000}}, [("cpu.cfs_quota_us", "7000")], [("cpu.max", "7000")]),
    ({"cpu": {"period": 7000}}, [("cpu.cfs_period_us", "7000")], [("cpu.max", "max 7000")]),
    ({"cpu": {"shares": 0, "quota": 0, "period": 0, "cpus": "", "realtimeRuntime": 0}}, [], []),
    (
        {"blockIO": {"weight": 10, "weightDevice": [{"major": 8, "minor": 0, "weight": 1000}]}},
        [("blkio.weight", "10"), ("blkio.weight_device", "8:0 1000")],
        [("io.bfq.weight", "10"), ("io.bfq.weight", "8:0 1000")],
    ),
    (
        {"blockIO": {"throttleReadBpsDevice": [THROTTLE], "throttleWriteIOPSDevice": [{**THROTTLE, "rate": 0}]}},
        [("blkio.throttle.read_bps_device", "8:16 1000"), ("blkio.throttle.write_iops_device", "8:16 0")],
        [("io.max", "8:16 rbps=1000"), ("io.max", "8:16 wiops=max")],
    ),
    (
        {"hugepageLimits": [{"pageSize": "2MB", "limit": 4096}]},
        [("hugetlb.2MB.limit_in_bytes", "4096"), ("hugetlb.2MB.rsvd.limit_in_bytes", "4096")],
        [("hugetlb.2MB.max", "4096"), ("hugetlb.2MB.rsvd.max", "4096")],
    ),
    (
        {"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 1000}, "mlx4_0": {"hcaObjects": 0}}},
        [("rdma.max", "mlx5_1 hca_handle=3 hca_object=1000"), ("rdma.max", "mlx4_0 hca_object=0")],
        [("rdma.max", "mlx5_1 hca_handle=3 hca_object=1000"), ("rdma.max", "mlx4_0 hca_object=0")],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("resources", "first", "second"), BOTH)
def test_both_versions(resources: dict[str, Any], first: list[tuple[str, str]], second: list[tuple[str, str]]) -> None:
    assert v1(resources) == first
    assert v2(resources) == second


BAD_IN_BOTH: list[tuple[dict[str, Any], str]] = [
    ({"memory": {"limit": 1000, "swap": 999}}, "memory.swap"),
    ({"memory": {"swappiness": 101}}, "memory.swappiness"),
    ({"cpu": {"quota": 10000, "burst": 20000}}, "cpu.burst"),
    ({"blockIO": {"weight": 9}}, "blockIO.weight"),
    ({"blockIO": {"weight": 1001}}, "blockIO.weight"),
    ({"blockIO": {"weightDevice": [{"major": 8, "minor": 0}]}}, "blockIO.weightDevice[0]"),
    ({"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]}, "hugepageLimits[0].pageSize"),
    ({"hugepageLimits": [{"pageSize": "2M", "limit": 1}]}, "hugepageLimits[0].pageSize"),
    ({"hugepageLimits": [{"pageSize": "MB", "limit": 1}]}, "hugepageLimits[0].pageSize"),
    ({"hugepageLimits": [{"pageSize": "02MB", "limit": 1}]}, "hugepageLimits[0].pageSize"),
    ({"hugepageLimits": [{"pageSize": "/../2MB", "limit": 1}]}, "hugepageLimits[0].pageSize"),
    ({"rdma": {"mlx5_1": {}}}, "rdma.mlx5_1"),
    ({"rdma": {"a b": {"hcaHandles": 1}}}, "rdma.a b"),
]
BAD_ON_V1: list[tuple[dict[str, Any], str]] = [
    ({"unified": {"memory.max": "1"}}, "unified"),
    ({"cpu": {"shares": 1}}, "cpu.shares"),
    ({"cpu": {"shares": 262145}}, "cpu.shares"),
]
BAD_ON_V2: list[tuple[dict[str, Any], str]] = [
    ({"memory": {"swappiness": 0}}, "memory.swappiness"),
    ({"memory": {"disableOOMKiller": True}}, "memory.disableOOMKiller"),
    ({"memory": {"useHierarchy": False}}, "memory.useHierarchy"),
    ({"memory": {"kernelTCP": 5}}, "memory.kernelTCP"),
    ({"memory": {"swap": 1000}}, "memory.swap"),
    ({"cpu": {"realtimeRuntime": 5}}, "cpu.realtimeRuntime"),
    ({"cpu": {"realtimePeriod": 5}}, "cpu.realtimePeriod"),
    ({"blockIO": {"leafWeight": 100}}, "blockIO.leafWeight"),
    ({"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "leafWeight": 50}]}}, "blockIO.weightDevice[0].leafWeight"),
    ({"network": {"classID": 5}}, "network"),
    ({"network": {"priorities": [{"name": "lo", "priority": 0}]}}, "network"),
    ({"unified": {"a/b.c": "1"}}, "unified.a/b.c"),
    ({"unified": {"nodot": "1"}}, "unified.nodot"),
    ({"unified": {".max": "1"}}, "unified..max"),
]


@pytest.mark.parametrize(("resources", "field"), BAD_IN_BOTH + BAD_ON_V1)
def test_refused_on_v1(resources: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        v1(resources)
    assert caught.value.path == "linux.resources." + field


@pytest.mark.parametrize(("resources", "field"), BAD_IN_BOTH + BAD_ON_V2)
def test_refused_on_v2(resources: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        v2(resources)
    assert caught.value.path == "linux.resources." + field


def test_what_v2_has_anyway_or_nobody_asks_for() -> None:
    harmless = {
        "memory": {"useHierarchy": True, "disableOOMKiller": False, "swappiness": -1, "kernel": -1, "kernelTCP": 0}
    }
    assert v2(harmless) == []
    made = limits_v2.Limits({"memory": {"kernel": 5}})
    assert made.groups == []
    assert "memory.kernel has no effect" in made.warnings[0]


def test_v1_only() -> None:
    assert v1({"network": {"classID": 7, "priorities": [{"name": "eth0", "priority": 0}]}}) == [
        ("net_cls.classid", "7"),
        ("net_prio.ifpriomap", "eth0 0"),
    ]
    assert v1({"blockIO": {"leafWeight": 300, "weightDevice": [{"major": 8, "minor": 0, "leafWeight": 50}]}}) == [
        ("blkio.leaf_weight", "300"),
        ("blkio.leaf_weight_device", "8:0 50"),
    ]
    early = limits_v1.Limits({"cpu": {"realtimeRuntime": 5, "realtimePeriod": 10, "shares": 5}}).early
    assert flat(early) == [("cpu.rt_period_us", "10"), ("cpu.rt_runtime_us", "5")]


def test_unified_lines_are_written_one_by_one() -> None:
    assert v2({"unified": {"io.max": "8:0 rbps=1\n8:16 rbps=2\n", "misc.max": ""}}) == [
        ("io.max", "8:0 rbps=1"),
        ("io.max", "8:16 rbps=2"),
        ("misc.max", ""),
    ]


def test_a_new_period_keeps_the_quota() -> None:
    current = {"cpu": {"quota": 5000, "period": 10000}}
    assert v2({"cpu": {"period": 20000}}, current) == [("cpu.max", "5000 20000")]
    assert v2({"cpu": {"quota": 6000}}, current) == [("cpu.max", "6000")]


def test_weights_hit_the_ends_and_the_middle() -> None:
    assert [weight(shares) for shares in (2, 1024, 262144)] == [1, 100, 10000]
    assert [weight(shares) for shares in (0, 1, 1 << 40)] == [1, 1, 10000]
    assert [io_weight(value) for value in (10, 1000)] == [1, 10000]


@given(st.integers(2, 262144), st.integers(2, 262144))
def test_more_shares_are_never_less_weight(a: int, b: int) -> None:
    assert 1 <= weight(a) <= 10000
    assert (weight(a) <= weight(b)) == (a <= b) or weight(a) == weight(b)


# Writing values that depend on each other


class Pair:
    """Two files of which the first may not exceed the second, as memory.limit and memsw have it."""

    def __init__(self, low: int, high: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.values = {"low": low, "high": high}
        monkeypatch.setattr(cgroupfs, "write", self.write)

    def write(self, directory: int | None, name: str, value: bytes) -> None:
        new = {**self.values, name: int(value)}
        if new["low"] > new["high"]:
            raise OSError(22, "Invalid argument")
        self.values = new

    def set(self, low: int, high: int) -> None:
        group = [Write("x", "low", b"%d" % low, "low"), Write("x", "high", b"%d" % high, "high")]
        settle(0, group, lambda write, error: RuntimeFailure(f"{write.field}: {error.strerror}"), [])


@pytest.mark.parametrize("new", [(50, 60), (5, 6), (6, 6), (10, 10), (20, 20), (21, 22)])
def test_dependent_values_settle_in_either_direction(new: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(10, 20, monkeypatch)
    pair.set(*new)
    assert pair.values == {"low": new[0], "high": new[1]}


def test_values_that_contradict_each_other_end_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(10, 20, monkeypatch)
    with pytest.raises(RuntimeFailure, match="low: Invalid argument"):
        pair.set(40, 30)


def test_a_missing_file_has_another_name_or_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    warnings: list[str] = []

    def refused(write: Write, error: OSError) -> RuntimeFailure:
        return RuntimeFailure(f"{write.field}: {error.strerror}")

    import os

    directory = os.open(tmp_path, os.O_RDONLY)
    settle(directory, [Write("x", "old", b"1", "f", other=("new", b"2"))], refused, warnings)
    assert (tmp_path / "new").read_bytes() == b"2"
    settle(directory, [Write("x", "old", b"1", "f", need=1)], refused, warnings)
    assert not warnings
    settle(directory, [Write("x", "old", b"1", "f", need=2)], refused, warnings)
    assert warnings == ["f: 1 has no effect on this kernel (old: No such file or directory)"]
    with pytest.raises(RuntimeFailure, match="f: No such file"):
        settle(directory, [Write("x", "old", b"1", "f")], refused, warnings)
    os.close(directory)


# Laying new resources over old ones


def test_merge() -> None:
    old = {"memory": {"limit": 10, "swap": 20}, "cpu": {"quota": 5, "cpus": "0"}, "devices": [{"allow": False}]}
    new = {"memory": {"limit": 12}, "cpu": {"period": 7, "cpus": ""}, "pids": {"limit": 3}, "devices": [], "rdma": None}
    assert merge(old, new) == {
        "memory": {"limit": 12, "swap": 20},
        "cpu": {"quota": 5, "period": 7, "cpus": "0"},
        "pids": {"limit": 3},
        "devices": [{"allow": False}],
    }
    assert changes(new, merge(old, new))["memory"] == {"limit": 12, "swap": 20}
    assert "devices" not in changes(new, merge(old, new))
    assert merge(old, {"memory": {"limit": -1}})["memory"] == {"limit": -1}
    assert old["memory"] == {"limit": 10, "swap": 20}


def test_merge_of_lists_goes_by_device_and_size() -> None:
    disk = {"major": 8, "minor": 0}
    old = {
        "blockIO": {"throttleReadBpsDevice": [{**disk, "rate": 1}], "weight": 50},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 1}],
    }
    new = {
        "blockIO": {"throttleReadBpsDevice": [{**disk, "rate": 2}, {"major": 9, "minor": 1, "rate": 3}]},
        "hugepageLimits": [{"pageSize": "1GB", "limit": 5}],
    }
    assert merge(old, new) == {
        "blockIO": {"throttleReadBpsDevice": [{**disk, "rate": 2}, {"major": 9, "minor": 1, "rate": 3}], "weight": 50},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 1}, {"pageSize": "1GB", "limit": 5}],
    }
