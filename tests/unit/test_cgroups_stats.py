"""The numbers of `events --stats`, from control files as kernels write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyruntime.cgroups import stats, stats_v1, stats_v2
from pyruntime.cgroups.stats import UNLIMITED


def fill(directory: Path, files: dict[str, str]) -> str:
    directory.mkdir(exist_ok=True)
    for name, content in files.items():
        (directory / name).write_text(content)
    return str(directory)


def test_v1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats_v1, "huge_page_sizes", lambda: ["2MB"])
    paths = {
        "cpu": fill(tmp_path / "cpu", {"cpu.stat": "nr_periods 5\nnr_throttled 2\nthrottled_time 77\n"}),
        "cpuacct": fill(
            tmp_path / "cpuacct",
            {
                "cpuacct.usage": "300\n",
                "cpuacct.usage_percpu": "100 200 \n",
                "cpuacct.usage_all": "cpu user system\n0 60 40\n1 150 50\n",
                "cpuacct.stat": "user 3\nsystem 4\n",
            },
        ),
        "cpuset": fill(
            tmp_path / "cpuset",
            {"cpuset.cpus": "0-2,5\n", "cpuset.mems": "0\n", "cpuset.sched_relax_domain_level": "-1\n"},
        ),
        "memory": fill(
            tmp_path / "memory",
            {
                "memory.stat": "cache 11\nrss 22\n",
                "memory.limit_in_bytes": "9223372036854771712\n",
                "memory.usage_in_bytes": "33\n",
                "memory.max_usage_in_bytes": "44\n",
                "memory.failcnt": "0\n",
            },
        ),
        "pids": fill(tmp_path / "pids", {"pids.current": "3\n", "pids.max": "max\n"}),
        "blkio": fill(
            tmp_path / "blkio",
            {
                "blkio.bfq.io_serviced_recursive": "",
                "blkio.throttle.io_serviced_recursive": "8:0 Read 5\n8:0 Total 5\nTotal 5\n",
                "blkio.throttle.io_service_bytes_recursive": "8:0 Read 4096\nTotal 4096\n",
            },
        ),
        "hugetlb": fill(
            tmp_path / "hugetlb",
            {
                "hugetlb.2MB.rsvd.usage_in_bytes": "2097152\n",
                "hugetlb.2MB.rsvd.max_usage_in_bytes": "0\n",
                "hugetlb.2MB.rsvd.failcnt": "1\n",
            },
        ),
    }
    data = stats_v1.collect(paths)
    assert data["cpu"] == {
        "usage": {
            "total": 300,
            "percpu": [100, 200],
            "percpu_kernel": [40, 50],
            "percpu_user": [60, 150],
            "kernel": 40_000_000,
            "user": 30_000_000,
        },
        "throttling": {"periods": 5, "throttledPeriods": 2, "throttledTime": 77},
    }
    assert data["cpuset"]["cpus"] == [0, 1, 2, 5]
    assert data["cpuset"]["sched_relax_domain_level"] == -1
    assert data["memory"]["cache"] == 11
    assert data["memory"]["raw"] == {"cache": 11, "rss": 22}
    assert data["memory"]["usage"] == {"limit": 9223372036854771712, "usage": 33, "max": 44, "failcnt": 0}
    assert data["memory"]["kernel"] == {"limit": 0, "failcnt": 0}, "without kmem files"
    assert data["pids"] == {"current": 3}
    assert data["blkio"] == {
        "ioServicedRecursive": [{"major": 8, "op": "Read", "value": 5}, {"major": 8, "op": "Total", "value": 5}],
        "ioServiceBytesRecursive": [{"major": 8, "op": "Read", "value": 4096}],
    }
    assert data["hugetlb"] == {"2MB": {"usage": 2097152, "failcnt": 1}}
    assert data["intel_rdt"] == {}
    assert data["network_interfaces"] is None


PRESSURE = "some avg10=1.50 avg60=0.25 avg300=0.00 total=12345\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n"


def test_v2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats_v2, "huge_page_sizes", lambda: ["2MB", "1GB"])
    directory = fill(
        tmp_path,
        {
            "cpu.stat": "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 4\nnr_throttled 1\nthrottled_usec 9\n",
            "cpu.pressure": PRESSURE,
            "memory.stat": "anon 5\nfile 6\n",
            "memory.current": "100\n",
            "memory.max": "1000\n",
            "memory.peak": "200\n",
            "memory.swap.current": "50\n",
            "memory.swap.max": "max\n",
            "pids.current": "3\n",
            "pids.max": "9\n",
            "io.stat": "8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n254:16 \n",
            "hugetlb.2MB.max": "max\n",
            "hugetlb.2MB.current": "4194304\n",
            "hugetlb.2MB.events": "max 3\n",
        },
    )
    data = stats_v2.collect(directory)
    assert data["cpu"]["usage"] == {"total": 30000, "kernel": 10000, "user": 20000}
    assert data["cpu"]["throttling"] == {"periods": 4, "throttledPeriods": 1, "throttledTime": 9000}
    assert data["cpu"]["psi"]["some"] == {"avg10": 1.5, "avg60": 0.25, "avg300": 0.0, "total": 12345}
    assert data["cpu"]["psi"]["full"]["total"] == 7
    assert "psi" not in data["memory"]
    assert data["memory"]["cache"] == 6
    assert data["memory"]["usage"] == {"limit": 1000, "usage": 100, "max": 200, "failcnt": 0}
    assert data["memory"]["swap"] == {"limit": UNLIMITED, "usage": 150, "failcnt": 0}
    assert data["pids"] == {"current": 3, "limit": 9}
    assert data["blkio"] == {
        "ioServiceBytesRecursive": [{"major": 8, "op": "Read", "value": 4096}, {"major": 8, "op": "Write"}],
        "ioServicedRecursive": [{"major": 8, "op": "Read", "value": 1}, {"major": 8, "op": "Write"}],
    }
    assert data["hugetlb"] == {"2MB": {"usage": 4194304, "failcnt": 3}}


def test_v2_without_controllers(tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").write_text("1\n2\n")
    data = stats_v2.collect(str(tmp_path))
    assert data["pids"] == {"current": 2}
    assert data["memory"]["usage"] == {"limit": 0, "failcnt": 0}


def test_a_cgroup_that_is_gone(tmp_path: Path) -> None:
    assert stats_v2.collect(str(tmp_path / "gone"))["pids"] == {}
    assert stats_v1.collect({"memory": str(tmp_path / "gone")})["memory"]["usage"] == {"limit": 0, "failcnt": 0}


def test_huge_page_sizes_are_named_as_files_are(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["hugepages-1048576kB", "hugepages-64kB", "hugepages-2048kB", "other"]
    monkeypatch.setattr(stats.cgroupfs, "children", lambda path: names)  # type: ignore[attr-defined]
    assert stats.huge_page_sizes() == ["64KB", "2MB", "1GB"]
