"""The systemd driver: names and properties, and its conversation with a systemd made of a few functions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fake_cgroup2 import FakeCgroup2
from support.fake_dbus import FakeBus, Refused

from pyruntime.cgroups import devices, devices_bpf, manager, systemd
from pyruntime.cgroups import systemd_unit as unit
from pyruntime.cgroups.dbus_wire import Variant
from pyruntime.cgroups.host import Host
from pyruntime.cgroups.manager import Manager
from pyruntime.errors import RuntimeFailure, SpecError
from pyruntime.kernel import cgroupfs

# Names


@pytest.mark.parametrize(
    ("path", "rootless", "expected"),
    [
        ("machine.slice:libpod:abc", False, ("libpod-abc.scope", "machine.slice")),
        (None, False, ("runc-id.scope", "system.slice")),
        ("", True, ("runc-id.scope", "user.slice")),
        (":cri:x", False, ("cri-x.scope", "system.slice")),
        ("a-b.slice:p:n.slice", False, ("n.slice", "a-b.slice")),
    ],
)
def test_names(path: str | None, rootless: bool, expected: tuple[str, str]) -> None:
    assert unit.names("id", path, rootless) == expected


def test_the_form_of_the_path_is_named() -> None:
    for path in ("/a/b", "a:b", "a:b:c:d", "x.slice"):
        with pytest.raises(SpecError) as caught:
            unit.names("id", path, False)
        assert str(caught.value) == (
            f'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got "{path}" instead'
        )


@pytest.mark.parametrize(
    "path", ["a.slice:p:", "a.slice:p:x/y", "a:p:n", "/a.slice:p:n", "a--b.slice:p:n", "a.slice:p:é"]
)
def test_names_that_systemd_would_refuse(path: str) -> None:
    with pytest.raises(SpecError, match=r"linux\.cgroupsPath"):
        unit.names("id", path, False)


def test_slices_nest_by_their_dashes() -> None:
    assert unit.expand("a-b-c.slice") == "/a.slice/a-b.slice/a-b-c.slice"
    assert unit.expand("system.slice") == "/system.slice"
    assert unit.expand("-.slice") == ""


# Properties


def values(properties: unit.Properties) -> dict[str, Any]:
    return {name: value.value for name, value in properties}


INFINITY = (1 << 64) - 1


def test_a_weight_does_not_go_with_idle() -> None:
    cpu = {"shares": 200, "idle": 1, "quota": 5}
    resources, warning = unit.without_weight({"cpu": cpu}, 252)
    assert resources == {"cpu": {"idle": 1, "quota": 5}}
    assert warning.startswith("unable to apply both cpu.shares and cpu.idle to systemd")
    files = {"cpu.idle": "1", "cpu.weight": "8"}
    resources, warning = unit.without_weight({"unified": files}, 252)
    assert resources == {"unified": {"cpu.idle": "1"}}
    assert warning.startswith("unable to apply both cpu.weight and cpu.idle to systemd")
    for harmless in ({"cpu": {"shares": 200, "idle": 0}}, {"cpu": {"idle": 1}}, {"unified": {"cpu.weight": "8"}}):
        assert unit.without_weight(harmless, 252) == (harmless, "")
    assert unit.without_weight({"cpu": cpu}, 251) == ({"cpu": cpu}, "")  # it does not know of cpu.idle


def test_limits_on_v2() -> None:
    resources = {
        "memory": {"limit": 1000, "swap": 3000, "reservation": 500},
        "cpu": {"shares": 1024, "quota": 12345, "period": 50000, "cpus": "0,9", "mems": "1"},
        "pids": {"limit": 0},
        "blockIO": {"weight": 1000},
        "unified": {"memory.high": "800", "cpu.idle": "0", "misc.max": "x 1", "memory.min": "max"},
    }
    assert values(unit.limits(resources, 252, True)) == {
        "MemoryMax": 1000,
        "MemoryLow": 500,
        "MemorySwapMax": 2000,
        "CPUWeight": 100,
        "CPUQuotaPeriodUSec": 50000,
        "CPUQuotaPerSecUSec": 250000,
        "AllowedCPUs": [1, 2],
        "AllowedMemoryNodes": [2],
        "TasksMax": 1,
        "IOWeight": 10000,
        "MemoryHigh": 800,
        "MemoryMin": INFINITY,
    }
    older = values(unit.limits(resources, 241, True))
    assert "AllowedCPUs" not in older
    assert "CPUQuotaPeriodUSec" not in older


def test_limits_on_v1() -> None:
    resources = {"memory": {"limit": -1, "swap": 5}, "cpu": {"shares": 300}, "blockIO": {"weight": 50}}
    assert values(unit.limits(resources, 252, False)) == {
        "MemoryLimit": INFINITY,
        "CPUShares": 300,
        "BlockIOWeight": 50,
    }


def test_idle_is_a_weight_of_zero() -> None:
    assert values(unit.limits({"cpu": {"idle": 1, "shares": 500}}, 252, True)) == {"CPUWeight": 0}
    assert values(unit.limits({"cpu": {"idle": 1, "shares": 500}}, 251, True)) == {"CPUWeight": 58}


@pytest.mark.parametrize(
    ("quota", "period", "expected"),
    [(5000, 0, 50000), (5000, 10000, 500000), (333, 100000, 10000), (-1, 0, INFINITY), (0, 70000, INFINITY)],
)
def test_quota_is_rounded_up_to_a_percent(quota: int, period: int, expected: int) -> None:
    assert values(unit.quota(quota, period, 252))["CPUQuotaPerSecUSec"] == expected


@pytest.mark.parametrize("text", ["", ",", "x", "3-1", "-1", "1-", "99999", "1-2-3"])
def test_lists_that_name_nothing(text: str) -> None:
    with pytest.raises(SpecError, match=r"cpu\.cpus"):
        unit.bits(text, "cpu.cpus")


def test_annotations() -> None:
    given = {
        "org.systemd.property.KillSignal": "15",
        "org.systemd.property.TimeoutStopUSec": "uint64 10000000",
        "org.systemd.property.TimeoutStopSec": "1.5",
        "org.systemd.property.CollectMode": "'inactive-or-failed'",
        "org.systemd.property.OnlySEC": "5",
        "other": "x",
    }
    assert unit.annotated(given) == [
        ("KillSignal", Variant("i", 15)),
        ("TimeoutStopUSec", Variant("t", 10000000)),
        ("TimeoutStopUSec", Variant("t", 1500000)),
        ("CollectMode", Variant("s", "inactive-or-failed")),
        ("OnlySEC", Variant("i", 5)),
    ]


@pytest.mark.parametrize(
    ("name", "text"), [("ab", "1"), ("Kill Signal", "1"), ("Kill2", "1"), ("KillSignal", "TERM"), ("StopSec", "'x'")]
)
def test_annotations_that_cannot_be(name: str, text: str) -> None:
    with pytest.raises(SpecError, match=rf"annotations\['org\.systemd\.property\.{name}'\]"):
        unit.annotated({"org.systemd.property." + name: text})


def test_device_policy() -> None:
    rule = {"allow": True, "type": "b", "major": 8, "minor": 0, "access": "r"}
    properties = unit.device_policy(devices.rules({"devices": [rule]}))
    assert properties[:2] == [("DeviceAllow", Variant("a(ss)", [])), ("DevicePolicy", Variant("s", "strict"))]
    allowed = properties[2][1].value
    assert ("/dev/block/8:0", "r") in allowed
    assert ("char-*", "m") in allowed
    assert ("char-136", "rwm") in allowed
    everything = unit.device_policy(devices.rules({"devices": [{"allow": True, "access": "rwm"}]}))
    assert values(everything) == {"DeviceAllow": [], "DevicePolicy": "auto"}


# The driver


class FakeSystemd:
    """Answers as systemd does, and makes the cgroup of a unit that is started."""

    def __init__(self, bus: FakeBus, tree: FakeCgroup2, prefix: str = "") -> None:
        self.bus = bus
        self.tree = tree
        self.prefix = prefix
        self.units: dict[str, dict[str, Any]] = {}
        self.failed: set[str] = set()
        self.result = "done"
        self.jobs = 0
        bus.answers.update(
            AddMatch=lambda values: ("", []),
            Subscribe=lambda values: ("", []),
            Get=self.get,
            StartTransientUnit=self.start,
            StopUnit=self.stop,
            ResetFailedUnit=self.reset,
            SetUnitProperties=self.set,
            AttachProcessesToUnit=self.attach,
        )

    def get(self, values: list[Any]) -> tuple[str, list[Any]]:
        return "v", [Variant("s", {"Version": "252.22-1~deb12u1", "ControlGroup": self.prefix}[values[1]])]

    def job(self, name: str) -> tuple[str, list[Any]]:
        self.jobs += 1
        job = f"/org/freedesktop/systemd1/job/{self.jobs}"
        self.bus.signal("JobRemoved", "uoss", 1, "/another/job", "x.service", "failed")
        self.bus.signal("JobRemoved", "uoss", self.jobs, job, name, self.result)
        return "o", [job]

    def path(self, name: str) -> Path:
        return self.tree.root / (self.prefix + unit.expand(self.units[name]["Slice"]) + "/" + name).lstrip("/")

    def start(self, values: list[Any]) -> tuple[str, list[Any]]:
        name, mode, properties, extra = values
        assert (mode, extra) == ("replace", [])
        if name in self.units or name in self.failed:
            raise Refused("org.freedesktop.systemd1.UnitExists", f"Unit {name} already exists.")
        self.units[name] = {key: value.value for key, value in properties}
        if self.result == "done":
            cgroupfs.make(str(self.path(name)))
            (self.path(name) / "cgroup.procs").write_text("\n".join(map(str, self.units[name]["PIDs"])) + "\n")
        return self.job(name)

    def stop(self, values: list[Any]) -> tuple[str, list[Any]]:
        name = values[0]
        if name not in self.units:
            raise Refused("org.freedesktop.systemd1.NoSuchUnit", f"Unit {name} not loaded.")
        (self.path(name) / "cgroup.procs").write_text("")
        answer = self.job(name)
        del self.units[name]
        return answer

    def reset(self, values: list[Any]) -> tuple[str, list[Any]]:
        self.failed.discard(values[0])
        return "", []

    def set(self, values: list[Any]) -> tuple[str, list[Any]]:
        self.units[values[0]].update({key: value.value for key, value in values[2]})
        assert values[1] is True
        return "", []

    def attach(self, values: list[Any]) -> tuple[str, list[Any]]:
        name, sub, pids = values
        with (self.path(name) / sub / "cgroup.procs").open("a") as file:
            file.write("".join(f"{pid}\n" for pid in pids))
        return "", []


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBus]:
    one = FakeBus(tmp_path / "bus")
    monkeypatch.setattr(systemd, "addresses", lambda rootless: [(one.address, False)])
    monkeypatch.setattr(systemd, "BOOTED", str(tmp_path))
    monkeypatch.setattr(devices_bpf, "attach", lambda directory, instructions: None)
    yield one
    one.close()


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCgroup2:
    (tmp_path / "cgroup").mkdir()
    return FakeCgroup2(tmp_path / "cgroup", monkeypatch)


def plan(tree: FakeCgroup2, resources: dict[str, Any] | None = None, **more: Any) -> Manager:
    options: dict[str, Any] = {"systemd": True, "rootless": False, "host": tree.host(), **more}
    return manager.plan("id", options.pop("path", "a-b.slice:pod:x"), resources, **options)


def test_a_scope_from_start_to_stop(bus: FakeBus, tree: FakeCgroup2) -> None:
    fake = FakeSystemd(bus, tree)
    one = plan(
        tree,
        {"memory": {"limit": 4096}, "unified": {"memory.oom.group": "1"}},
        annotations={"org.systemd.property.KillSignal": "9"},
        userns_owner=os.getuid(),
    )
    assert one.driver == "systemd"
    one.create()
    assert not fake.units, "a scope needs a process"
    one.add(4711)
    properties = fake.units["pod-x.scope"]
    assert properties["PIDs"] == [4711]
    assert properties["Slice"] == "a-b.slice"
    assert properties["Delegate"] is True
    assert properties["DefaultDependencies"] is False
    assert properties["MemoryMax"] == 4096
    assert properties["KillSignal"] == 9
    assert "OOMPolicy" not in properties, "systemd 253 brought it"
    assert {"MemoryAccounting", "CPUAccounting", "IOAccounting", "TasksAccounting"} <= set(properties)
    one.apply()
    directory = tree.root / "a.slice/a-b.slice/pod-x.scope"
    assert (directory / "memory.max").read_text() == "4096\n"
    assert (directory / "cgroup.controllers").read_text().split() == "cpuset cpu io memory pids".split()

    later = manager.load(one.save())
    later.add(4712)
    assert later.pids() == [4711, 4712]
    later.update({"cpu": {"quota": 5000}, "pids": {"limit": 9}})
    assert fake.units["pod-x.scope"]["TasksMax"] == 9
    assert fake.units["pod-x.scope"]["CPUQuotaPerSecUSec"] == 50000
    assert (directory / "cpu.max").read_text() == "5000\n"
    later.destroy()
    assert not fake.units
    assert not directory.exists()
    later.destroy()


def test_a_failed_unit_of_the_same_name_is_reset(bus: FakeBus, tree: FakeCgroup2) -> None:
    fake = FakeSystemd(bus, tree)
    fake.failed.add("pod-x.scope")
    one = plan(tree)
    one.create()
    one.add(1)
    assert "pod-x.scope" in fake.units
    with pytest.raises(RuntimeFailure, match=r"container's cgroup is not empty: 1 process\(es\) found"):
        plan(tree).create()
    (fake.path("pod-x.scope") / "cgroup.procs").write_text("")
    twin = plan(tree)
    twin.create()
    with pytest.raises(RuntimeFailure, match=r"cannot start systemd unit pod-x.scope: Unit pod-x.scope already exists"):
        twin.add(2)


def test_a_unit_that_does_not_start(bus: FakeBus, tree: FakeCgroup2) -> None:
    fake = FakeSystemd(bus, tree)
    fake.result = "failed"
    one = plan(tree)
    one.create()
    with pytest.raises(RuntimeFailure, match=r"cannot start systemd unit pod-x\.scope: failed"):
        one.add(1)


def test_a_systemd_that_never_answers(bus: FakeBus, tree: FakeCgroup2, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeSystemd(bus, tree)
    bus.answers["StartTransientUnit"] = lambda values: ("o", ["/job/1"])
    monkeypatch.setattr(systemd, "JOB_SECONDS", 0.1)
    one = plan(tree)
    one.create()
    with pytest.raises(RuntimeFailure, match="systemd did not answer for"):
        one.add(1)
    assert fake.jobs == 0


def test_the_user_manager_says_where_its_units_are(bus: FakeBus, tree: FakeCgroup2) -> None:
    prefix = "/user.slice/user-1000.slice/user@1000.service"
    fake = FakeSystemd(bus, tree, prefix)
    one = plan(tree, rootless=True, path="")
    one.create()
    one.add(5)
    assert one.paths == {"": f"{tree.root}{prefix}/user.slice/runc-id.scope"}
    assert fake.units["runc-id.scope"]["Slice"] == "user.slice"
    assert one.pids() == [5]
    one.destroy()
    assert not fake.units


def test_exec_by_a_user_who_may_not_write(bus: FakeBus, tree: FakeCgroup2, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeSystemd(bus, tree)
    one = plan(tree)
    one.create()
    one.add(1)

    def refuse(directory: int | None, name: str, pid: int) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cgroupfs, "enter", refuse)
    one.add(2)
    assert one.pids() == [1, 2]


def test_delete_works_without_systemd(bus: FakeBus, tree: FakeCgroup2, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeSystemd(bus, tree)
    one = plan(tree)
    one.create()
    one.add(1)
    saved = one.save()
    directory = Path(one.paths[""])
    (directory / "cgroup.procs").write_text("")
    monkeypatch.setattr(systemd, "addresses", lambda rootless: [("unix:path=/nowhere", False)])
    manager.load(saved).destroy()
    assert not directory.exists()


def test_a_host_without_systemd(tree: FakeCgroup2, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(systemd, "BOOTED", str(tmp_path / "missing"))
    with pytest.raises(RuntimeFailure) as caught:
        plan(tree).create()
    assert str(caught.value) == "systemd not running on this host, cannot use systemd cgroups manager"


def test_nobody_to_talk_to(tree: FakeCgroup2, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(systemd, "BOOTED", str(tmp_path))
    monkeypatch.setattr(systemd, "addresses", lambda rootless: [("unix:path=/nowhere", True)])
    one = plan(tree)
    one.create()
    with pytest.raises(RuntimeFailure, match=r"cannot connect to systemd \(unix:path=/nowhere: No such file"):
        one.add(1)


def test_rootless_needs_v2() -> None:
    host = Host({"devices": ("/d", "/"), "name=systemd": ("/s", "/")}, False, {})
    with pytest.raises(RuntimeFailure, match="cannot use rootless systemd cgroups manager on cgroup v1"):
        manager.plan("id", None, None, systemd=True, rootless=True, host=host)


def test_where_systemd_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {b"XDG_RUNTIME_DIR": b"/run/user/7"}
    monkeypatch.setattr(systemd.posix, "environ", environment)  # type: ignore[attr-defined]
    assert systemd.addresses(True) == [
        ("unix:path=/run/user/7/systemd/private", True),
        ("unix:path=/run/user/7/bus", False),
    ]
    environment[b"DBUS_SESSION_BUS_ADDRESS"] = b"unix:path=/x"
    assert systemd.addresses(True)[1] == ("unix:path=/x", False)
    assert [direct for _, direct in systemd.addresses(False)] == [True, False]


def test_the_plan_in_words(tree: FakeCgroup2) -> None:
    assert plan(tree).describe()[0].startswith("start systemd unit pod-x.scope in a-b.slice")


def test_bad_values_are_found_when_planning(tree: FakeCgroup2) -> None:
    with pytest.raises(SpecError, match=r"linux\.resources\.cpu\.cpus"):
        plan(tree, {"cpu": {"cpus": "4-2"}})
    with pytest.raises(SpecError, match="swappiness"):
        plan(tree, {"memory": {"swappiness": 5}})
