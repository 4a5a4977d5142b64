"""The v2 driver on a directory that behaves like cgroup2."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from support.fake_cgroup2 import FakeCgroup2

from pyruntime.cgroups import devices_bpf, manager
from pyruntime.cgroups.v2 import V2
from pyruntime.errors import RuntimeFailure
from pyruntime.kernel import cgroupfs


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCgroup2:
    monkeypatch.setattr(devices_bpf, "attach", lambda directory, instructions: None)
    return FakeCgroup2(tmp_path, monkeypatch)


def plan(fake: FakeCgroup2, resources: dict[str, Any] | None = None, path: str | None = "/a/b/c", **more: Any) -> V2:
    options: dict[str, Any] = {"systemd": False, "rootless": False, "host": fake.host(), **more}
    one = manager.plan("id", path, resources, **options)
    assert isinstance(one, V2)
    return one


def test_controllers_are_enabled_down_the_path(fake: FakeCgroup2) -> None:
    one = plan(fake, {"memory": {"limit": 4096, "swap": 8192}, "pids": {"limit": 7}})
    one.create()
    assert (fake.root / "a/b/c/cgroup.controllers").read_text().split() == "cpuset cpu io memory pids".split()
    one.apply()
    assert (fake.root / "a/b/c/memory.max").read_text() == "4096\n"
    assert (fake.root / "a/b/c/memory.swap.max").read_text() == "4096\n"
    assert (fake.root / "a/b/c/pids.max").read_text() == "7\n"
    one.destroy()
    assert not (fake.root / "a").exists()


def test_nothing_is_written_when_everything_is_enabled(fake: FakeCgroup2) -> None:
    plan(fake, path="/a/b/first").create()
    fake.writes.clear()
    plan(fake, path="/a/b/second").create()
    assert fake.writes == []


def test_a_controller_that_one_cgroup_does_not_hand_on(fake: FakeCgroup2) -> None:
    plan(fake, path="/a").create()
    (fake.root / "a/cgroup.procs").write_text("77\n")
    one = plan(fake, {"pids": {"limit": 7}}, path="/a/b")
    one.create()
    with pytest.raises(RuntimeFailure) as caught:
        one.apply()
    assert "linux.resources.pids.limit: cannot write '7'" in str(caught.value)
    assert f"pids controller is not enabled in {fake.root}/a/cgroup.subtree_control: it has processes" in str(
        caught.value
    )


def test_a_controller_that_the_kernel_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCgroup2(tmp_path, monkeypatch, "pids")
    one = plan(fake, {"unified": {"memory.high": "5"}})
    one.create()
    with pytest.raises(RuntimeFailure, match=r"unified resource 'memory.high' can't be set: .*this kernel or boot"):
        one.apply()


def test_weights_without_bfq(fake: FakeCgroup2) -> None:
    weights = {"weight": 505, "weightDevice": [{"major": 8, "minor": 0, "weight": 10}]}
    one = plan(fake, {"blockIO": weights})
    one.create()
    one.apply()
    assert fake.writes[-2:] == [("a/b/c/io.weight", "default 5000"), ("a/b/c/io.weight", "8:0 1")]


def test_without_swap_accounting(fake: FakeCgroup2) -> None:
    for swap, works in ((4096, True), (-1, True), (8192, False)):
        one = plan(fake, {"memory": {"limit": 4096, "swap": swap}})
        one.create()
        (fake.root / "a/b/c/memory.swap.max").unlink()
        if works:
            one.apply()
            assert (fake.root / "a/b/c/memory.max").read_text() == "4096\n"
        else:
            with pytest.raises(RuntimeFailure, match=r"linux.resources.memory.swap: cannot write '4096'"):
                one.apply()
        one.destroy()


def test_update_merges(fake: FakeCgroup2) -> None:
    one = plan(fake, {"cpu": {"quota": 5000, "period": 10000}, "memory": {"limit": 8192, "swap": 16384}})
    one.create()
    one.apply()
    one = manager.load(one.save())  # type: ignore[assignment]
    one.update({"cpu": {"period": 20000}, "memory": {"limit": 12288}})
    assert (fake.root / "a/b/c/cpu.max").read_text() == "5000 20000\n"
    assert (fake.root / "a/b/c/memory.swap.max").read_text() == "4096\n"
    one.update({"memory": {"limit": -1}})
    assert (fake.root / "a/b/c/memory.swap.max").read_text() == "max\n"
    assert one.resources["memory"] == {"limit": -1}


def test_check_before_update(fake: FakeCgroup2) -> None:
    one = plan(fake, {"memory": {"checkBeforeUpdate": True}})
    one.create()
    with pytest.raises(RuntimeFailure, match=r"memory.limit: rejecting memory limit 4096 <= usage 4096"):
        one.update({"memory": {"limit": 4096}})
    one.update({"memory": {"limit": 4097}})
    assert (fake.root / "a/b/c/memory.max").read_text() == "4097\n"


def test_exec_goes_beside_the_init_where_sub_cgroups_have_controllers(
    fake: FakeCgroup2, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = plan(fake)
    one.create()
    inner = plan(fake, path="/a/b/c/init.scope")
    inner.create()
    real = cgroupfs.enter
    entered: list[str] = []

    def enter(directory: int | None, name: str, pid: int) -> None:
        if name == f"{one.path}/cgroup.procs":
            raise OSError(16, "Device or resource busy")
        entered.append(name)
        real(directory, name, pid)

    def read(directory: int | None, name: str) -> bytes:
        assert name == "/proc/50/cgroup"
        return b"0::/a/b/c/init.scope\n"

    monkeypatch.setattr(cgroupfs, "enter", enter)
    monkeypatch.setattr(cgroupfs, "read", read)
    one.add(99, like=50)
    assert entered == [f"{inner.path}/cgroup.procs"]
    monkeypatch.setattr(cgroupfs, "read", lambda directory, name: b"0::/elsewhere\n")
    with pytest.raises(RuntimeFailure, match="its sub-cgroups have controllers"):
        one.add(99, like=50)


def test_the_plan_in_words(fake: FakeCgroup2) -> None:
    lines = plan(fake, {"memory": {"limit": 4096}}, userns_owner=1000).describe()
    assert any("write 4096 to memory.max (linux.resources.memory.limit)" in line for line in lines)
    assert any("uid 1000" in line for line in lines)
    assert any("deny a *:* rwm, allow c *:* m" in line for line in lines)
    assert not list(fake.root.glob("a")), "planning makes nothing"


def test_rootless(fake: FakeCgroup2) -> None:
    fake.root.chmod(0o500)
    if os.access(fake.root, os.W_OK):
        pytest.skip("root may write anywhere")
    one = plan(fake, path=None, rootless=True)
    one.create()
    assert one.paths == {}
    with pytest.raises(RuntimeFailure, match=r"rootless needs no limits \+ no cgrouppath"):
        plan(fake, {"pids": {"limit": 5}}, path=None, rootless=True).create()
    fake.root.chmod(0o700)
