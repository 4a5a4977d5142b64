"""linux.intelRdt on a directory that behaves like resctrl. Runtime spec, config-linux.md, "IntelRdt"."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fake_resctrl import FakeResctrl

from pyruntime.container import resctrl, resctrl_stats
from pyruntime.errors import RuntimeFailure, SpecError

PID = os.getpid()


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeResctrl]:
    fake = FakeResctrl(tmp_path / "resctrl").build()
    monkeypatch.setattr(resctrl, "os", os)
    monkeypatch.setattr(resctrl, "mount_point", lambda: "")
    fake.patch(resctrl)
    yield fake


def applied(section: dict[str, Any], name: str = "box") -> dict[str, Any]:
    saved = resctrl.plan(section, name)
    resctrl.apply(saved, [PID])
    return saved


def test_without_a_name_the_class_is_the_containers(tree: FakeResctrl) -> None:
    saved = applied({"l3CacheSchema": "L3:0=f", "memBwSchema": "MB:1=50", "schemata": ["MB:1=60", "L3:1=ff"]})
    assert tree.groups() == ["box"]
    assert tree.tasks("box") == [PID]
    assert (tree.root / "box/schemata").read_text().split() == ["L3:0=f;1=ff", "MB:0=100;1=60"]
    resctrl.remove(saved)
    assert tree.groups() == []


def test_the_two_schemas_are_written_before_schemata(tree: FakeResctrl) -> None:
    applied({"schemata": ["MB:0=60"], "memBwSchema": "MB:1=50", "l3CacheSchema": "L3:0=f"})
    written = (tree.root / "log").read_text().splitlines()
    assert written == [r"box/schemata 'L3:0=f\nMB:1=50\nMB:0=60'", f"box/tasks '{PID}'"]


def test_without_any_schema_nothing_is_written_to_schemata(tree: FakeResctrl) -> None:
    applied({})
    assert "schemata" not in (tree.root / "log").read_text()
    assert tree.groups() == ["box"]


@pytest.mark.parametrize("given", [None, ""])
def test_an_empty_name_is_none(tree: FakeResctrl, given: str | None) -> None:
    assert applied({"closID": given})["group"] == f"{tree.root}/box"


def test_a_named_class_is_made_with_its_schema_and_stays(tree: FakeResctrl) -> None:
    saved = applied({"closID": "gold", "l3CacheSchema": "L3:0=f"})
    assert tree.tasks("gold") == [PID]
    resctrl.remove(saved)
    assert tree.groups() == ["gold"]


def test_a_named_class_without_schema_has_to_be_there(tree: FakeResctrl) -> None:
    with pytest.raises(SpecError, match=r"linux.intelRdt.closID: .*/gold does not exist"):
        resctrl.plan({"closID": "gold"}, "box")
    assert tree.groups() == []
    tree.group("gold", "L3:0=f;1=f\n")
    resctrl.remove(applied({"closID": "gold"}))
    assert (tree.root / "gold/schemata").read_text() == "L3:0=f;1=f\n"
    assert tree.groups() == ["gold"]


@pytest.mark.parametrize(
    "section",
    [
        {"l3CacheSchema": "L3:0=0ff"},
        {"l3CacheSchema": "L3:1=F0;0=FF", "memBwSchema": "MB:0=70"},
        {"schemata": ["MB:1=20;0=70"]},
    ],
)
def test_a_class_that_is_there_is_used_when_it_says_the_same(tree: FakeResctrl, section: dict[str, Any]) -> None:
    """The kernel writes masks and domains its own way; and what is not asked for may be anything."""
    tree.group("gold", "    L3:0=ff;1=f0\n    MB:0= 70;1= 20\n")
    applied({"closID": "gold", **section})
    assert tree.tasks("gold") == [PID]
    assert "schemata" not in (tree.root / "log").read_text(), "it was right already"


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"l3CacheSchema": "L3:0=f"}, "gold exists with L3:0=ff, asked for f"),
        ({"memBwSchema": "MB:2=70"}, "gold exists with MB:2=nothing, asked for 70"),
        ({"schemata": ["L3:0=ff", "L2:0=1"]}, "gold exists with L2:0=nothing, asked for 1"),
    ],
)
def test_a_class_that_is_there_and_says_something_else(tree: FakeResctrl, section: dict[str, Any], said: str) -> None:
    tree.group("gold", "L3:0=ff;1=f0\nMB:0=70;1=20\n")
    with pytest.raises(SpecError, match=said):
        resctrl.plan({"closID": "gold", **section}, "box")
    assert tree.tasks("gold") == []


def test_the_root_class(tree: FakeResctrl) -> None:
    saved = applied({"closID": "/"})
    assert tree.tasks() == [PID]
    resctrl.remove(saved, failed=True)
    assert tree.root.is_dir() and tree.groups() == []
    applied({"closID": "/", "memBwSchema": "MB:0=90"})
    assert "MB:0=90;1=100" in (tree.root / "schemata").read_text()


@pytest.mark.parametrize("closid", ["/", "gold", None])
def test_monitoring(tree: FakeResctrl, closid: str | None) -> None:
    tree.group("gold", "L3:0=ff\n")
    saved = applied({"closID": closid, "enableMonitoring": True})
    group = {"/": "mon_groups/box", "gold": "gold/mon_groups/box", None: "box/mon_groups/box"}[closid]
    assert group in tree.groups()
    assert tree.tasks(group) == [PID]
    resctrl.remove(saved)
    assert tree.groups() == ["gold"]
    resctrl.remove(saved)  # once more, as after a delete that was killed


def test_no_monitor_left(tree: FakeResctrl) -> None:
    for number in range(3):
        tree.mkdir(str(tree.root / "mon_groups" / str(number)))
    saved = resctrl.plan({"enableMonitoring": True}, "box")
    with pytest.raises(RuntimeFailure, match=r"No space left .* no class or monitor left \(Out of RMIDs\)"):
        resctrl.apply(saved, [PID])
    resctrl.remove(saved, failed=True)
    assert "box" not in tree.groups()


def test_a_failed_create_takes_a_named_class_away_again(tree: FakeResctrl) -> None:
    saved = resctrl.plan({"closID": "gold", "schemata": ["L7:0=1"]}, "box")
    with pytest.raises(RuntimeFailure, match=r"cannot write L7:0=1 to .*: Invalid argument .*resource name 'L7'"):
        resctrl.apply(saved, [PID])
    resctrl.remove(saved, failed=True)
    assert tree.groups() == []


def test_a_failed_create_leaves_what_others_made(tree: FakeResctrl) -> None:
    tree.group("gold", "L3:0=ff\n")
    resctrl.remove(resctrl.plan({"closID": "gold"}, "box"), failed=True)
    assert tree.groups() == ["gold"]


def test_a_process_that_ended_meanwhile_does_not_matter(tree: FakeResctrl) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    saved = resctrl.plan({}, "box")
    resctrl.apply(saved, [child, PID])
    assert tree.tasks("box") == [PID]


def test_update(tree: FakeResctrl) -> None:
    saved = applied({"l3CacheSchema": "L3:0=f"})
    resctrl.update(saved, {"memBwSchema": "MB:0=30"})
    assert (tree.root / "box/schemata").read_text().split() == ["L3:0=f;1=fffff", "MB:0=30;1=100"]
    with pytest.raises(RuntimeFailure, match=r"no linux.intelRdt"):
        resctrl.update(None, {"memBwSchema": "MB:0=30"})


def test_no_resctrl_mounted() -> None:
    if "resctrl" in Path("/proc/self/mountinfo").read_text():
        pytest.skip("resctrl is mounted here")
    with pytest.raises(RuntimeFailure, match="resctrl is not mounted"):
        resctrl.plan({}, "box")


def test_statistics(tree: FakeResctrl) -> None:
    saved = applied({"l3CacheSchema": "L3:0=f", "enableMonitoring": True})
    (tree.root / "box/mon_groups/box/mon_data/mon_L3_01/mbm_local_bytes").write_text("Unavailable\n")
    (tree.root / "box/mon_groups/box/mon_data/mon_L3_01/mbm_total_bytes").write_text("77\n")
    found = resctrl_stats.read(saved)
    assert found == {
        "schemata": ["L3:0=f;1=fffff", "MB:0=100;1=100"],
        "l3_cache_info": {"cbm_mask": "fffff", "min_cbm_bits": 1, "num_closids": 16},
        "l3_cache_schema_root": "L3:0=fffff;1=fffff",
        "l3_cache_schema": "L3:0=f;1=fffff",
        "mem_bw_info": {"bandwidth_gran": 10, "delay_linear": 1, "min_bandwidth": 10, "num_closids": 8},
        "mem_bw_schema_root": "MB:0=100;1=100",
        "mem_bw_schema": "MB:0=100;1=100",
        "mbm_stats": [{"mbm_total_bytes": 1001, "mbm_local_bytes": 1002}, {"mbm_total_bytes": 77}],
        "cmt_stats": [{"llc_occupancy": 1000}, {"llc_occupancy": 1000}],
    }
    saved["monitoring"] = None
    assert resctrl_stats.read(saved)["mbm_stats"][1] == {"mbm_total_bytes": 1001, "mbm_local_bytes": 1002}
