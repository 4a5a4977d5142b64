"""A cgroup is made, entered, and removed; what was there before stays."""

from __future__ import annotations

import os
import posix
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from support.cgroups import NATIVE, PARENT, Place, on_v1, places, read

from pyruntime.cgroups import manager
from pyruntime.errors import RuntimeFailure, SpecError
from pyruntime.kernel import cgroupfs

# Making, entering, leaving


def test_a_process_enters_every_hierarchy(place: Place) -> None:
    one = place.made()
    pid = place.run()
    one.add(pid)
    where = places(pid)
    for controllers, path in where.items():
        if any(name in one.paths for name in controllers.split(",")):
            assert path == place.path
    assert one.pids() == [pid]
    assert one.populated()
    if place.host.layout == "hybrid":
        assert where["name=systemd"] == place.path
        assert where[""] == place.path


def test_destroy_removes_all_that_create_made(place: Place) -> None:
    one = place.made(sub="/a/b")
    pid = place.run()
    one.add(pid)
    for directory in one.directories():
        os.mkdir(directory + "/inner")
    os.kill(pid, signal.SIGKILL)
    place.wait(pid)
    one = manager.load(one.save())
    one.destroy()
    assert not one.exists()
    for mount, _ in place.host.mounts.values():
        assert not Path(mount + PARENT).exists()
    one.destroy()


def test_destroy_leaves_what_was_there_before(place: Place) -> None:
    before = place.made()
    one = place.made()
    one.destroy()
    assert one.exists()
    before.destroy()
    assert not one.exists()


def test_a_neighbour_keeps_the_common_parent(place: Place) -> None:
    first, second = place.made(sub="/first"), place.made(sub="/second")
    first.destroy()
    assert second.exists()
    second.destroy()
    assert not Path(next(iter(place.host.mounts.values()))[0] + PARENT + "/second").exists()


def test_a_create_that_was_killed_is_cleaned_up(place: Place) -> None:
    one = place.plan()
    saved = one.save()
    one.create()
    manager.load(saved).destroy()
    assert not one.exists()


def test_a_failed_create_leaves_nothing(place: Place) -> None:
    one = place.plan()
    blocked = list(one.directories())[-1]
    os.makedirs(blocked + "/deeper")
    pid = place.run()
    cgroupfs.enter(None, blocked + "/deeper/cgroup.procs", pid)
    with pytest.raises(RuntimeFailure, match=r"container's cgroup is not empty: 1 process\(es\) found"):
        one.create()
    for directory in one.directories():
        assert Path(directory).exists() == (directory == blocked)


def test_frozen_cgroups_are_refused(place: Place) -> None:
    one = place.made()
    one.freeze()
    with pytest.raises(RuntimeFailure, match="container's cgroup unexpectedly frozen"):
        place.plan().create()
    with pytest.raises(RuntimeFailure, match="container's cgroup unexpectedly frozen"):
        place.plan(sub="/inner").create()
    one.thaw()
    inner = place.plan(sub="/inner")
    inner.create()
    inner.destroy()


def test_destroy_waits_for_the_dying_and_reports_the_living(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    one = place.made()
    pid = place.run()
    one.add(pid)
    monkeypatch.setattr(cgroupfs, "sleep", lambda seconds: None)
    with pytest.raises(RuntimeFailure, match=r"cannot remove cgroup .* 1 process\(es\) still in it"):
        one.destroy()
    monkeypatch.undo()
    reaper = threading.Timer(0.2, lambda: place.wait(pid))
    os.kill(pid, signal.SIGKILL)
    reaper.start()
    one.destroy()
    reaper.join()
    assert not one.exists()


def test_a_gone_process_is_named(place: Place) -> None:
    one = place.made()
    pid = place.run(lambda: None)
    place.wait(pid)
    with pytest.raises(RuntimeFailure, match=f"error adding pid {pid} to cgroups: .*the process is gone"):
        one.add(pid)


def test_a_name_that_the_kernel_refuses(place: Place) -> None:
    with pytest.raises(SpecError, match=r"linux.cgroupsPath: .*255 bytes"):
        place.plan(path="/" + "x" * 256)
    one = place.plan(sub="/cgroup.procs/x")
    place.made()
    with pytest.raises(RuntimeFailure, match=r"cannot make cgroup .*/cgroup.procs/x: not a directory"):
        one.create()


# Joining later


def test_exec_follows_an_init_that_has_left(place: Place) -> None:
    """On cgroup v2, when the container's own cgroup is gone meanwhile."""
    one, other = place.made(sub="/own"), place.made(sub="/other")
    if one.version == 1:
        pytest.skip("about cgroup v2")
    init, more = place.run(), place.run()
    one.add(init)
    other.add(init)
    os.rmdir(one.paths[""])
    one.add(more, init)
    assert places(more)[""] == place.path + "/other"
    with pytest.raises(RuntimeFailure, match="no such file or directory"):
        one.add(more)


def test_exec_joins_a_sub_cgroup(place: Place) -> None:
    one = place.made()
    place.made(sub="/inner")
    pid = place.run()
    one.join_path("inner").add(pid)
    assert set(places(pid).values()) >= {place.path + "/inner"}
    assert one.pids() == [pid]
    with pytest.raises(RuntimeFailure, match="bad sub cgroup path"):
        one.join_path("../other")
    with pytest.raises(RuntimeFailure, match="bad sub cgroup path"):
        one.join_path("inner/../..")
    with pytest.raises(RuntimeFailure, match="/missing: no such file or directory"):
        one.join_path("/missing").add(pid)


@on_v1
def test_exec_joins_sub_cgroups_of_some_controllers(native: Place) -> None:
    one = native.made()
    os.mkdir(one.paths["pids"] + "/inner")
    os.mkdir(one.paths["name=systemd"] + "/other")
    pid = native.run()
    one.join_path("pids:/inner").join("systemd:other").add(pid)
    where = places(pid)
    assert where["pids"] == native.path + "/inner"
    assert where["name=systemd"] == native.path + "/other"
    assert where["freezer"] == native.path
    with pytest.raises(RuntimeFailure, match="unknown controller nonsense"):
        one.join_path("nonsense:/inner")


# Delegation, rootless


def test_the_owner_of_a_user_namespace_gets_its_cgroup(place: Place) -> None:
    one = place.plan(userns_owner=4321)
    one.create()
    owned = {
        entry.name
        for directory in one.directories()
        for entry in Path(directory).iterdir()
        if entry.stat().st_uid == 4321
    }
    if one.version == 1:
        assert not owned
        return
    listed = Path("/sys/kernel/cgroup/delegate").read_text().split()
    assert owned == {name for name in listed if Path(one.paths[""], name).exists()}
    assert Path(one.paths[""]).stat().st_uid == 4321


def test_rootless_does_without_what_it_may_not_write(place: Place) -> None:
    resources = {"devices": [{"allow": False, "access": "rwm"}]}
    plain = place.plan(resources, path=None, rootless=True)
    limited = place.plan({**resources, "pids": {"limit": 5}}, path=None, rootless=True)
    named = place.plan(resources, rootless=True)

    def attempt() -> None:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        for one, expected in ((plain, ""), (limited, "pids"), (named, "permission denied")):
            try:
                one.create()
                one.add(os.getpid())
                one.apply()
            except RuntimeFailure as failure:
                if not expected or expected not in str(failure):
                    sys.stderr.write(f"{failure}\n")
                    os._exit(2)
            else:
                if expected:
                    os._exit(3)

    assert place.wait(place.run(attempt)) == 0


def test_disabled() -> None:
    one = manager.plan("x", None, {"pids": {"limit": 1}}, systemd=False, rootless=False, host=NATIVE, disabled=True)
    one.create()
    one.apply()
    one.add(os.getpid())
    assert one.pids() == []
    with pytest.raises(RuntimeFailure, match="no cgroup of its own"):
        one.freeze()
    manager.load(one.save()).destroy()


# Speed


@on_v1
def test_few_files_are_touched(native: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every container pays for every system call here, so their number is watched."""
    calls: list[str] = []

    class Counting:
        def __getattr__(self, name: str) -> Any:
            calls.append(name)
            return getattr(posix, name)

    native.made(sub="x").destroy()
    keep = native.plan(path=PARENT + "/neighbour")
    keep.create()
    one = native.plan({"pids": {"limit": 5}, "memory": {"limit": 1 << 26}})
    pid = native.run()
    monkeypatch.setattr(cgroupfs, "posix", Counting())
    one.create()
    one.add(pid)
    one.apply()
    monkeypatch.undo()
    hierarchies = len(one.directories())
    device_rules = len(read(one, "devices", "devices.list").split("\n")) + 1
    assert calls.count("mkdir") == hierarchies
    # freezer.state, cpus and mems of the cpuset and of its parent, and the four writes of the limits
    assert calls.count("open") <= hierarchies + device_rules + 1 + 6 + 2
