"""Freezing and killing all processes of a cgroup."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from support.cgroups import Place

from pyruntime.cgroups import manager
from pyruntime.cgroups.v2 import V2
from pyruntime.kernel import cgroupfs

# Freezing and killing


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_freeze_stops_and_thaw_resumes(place: Place) -> None:
    one = place.made()
    reader, writer = os.pipe()

    def tick() -> None:
        while True:
            os.write(writer, b".")
            time.sleep(0.002)

    pid = place.run(tick)
    one.add(pid)
    assert os.read(reader, 1)
    os.set_blocking(reader, False)
    one.freeze()
    assert one.frozen()
    assert manager.load(one.save()).frozen()
    with pytest.raises(BlockingIOError):
        while os.read(reader, 65536):
            pass
    time.sleep(0.05)
    with pytest.raises(BlockingIOError):
        os.read(reader, 65536)
    one.thaw()
    assert not one.frozen()
    os.set_blocking(reader, True)
    assert os.read(reader, 1)
    os.close(reader)
    os.close(writer)


def test_a_frozen_parent_is_not_our_own_freeze(place: Place) -> None:
    outer, inner = place.made(), place.made(sub="/inner")
    outer.freeze()
    assert not inner.frozen()
    inner.freeze()
    assert inner.frozen()
    inner.thaw()
    assert not inner.frozen()
    outer.thaw()


def test_kill_reaches_a_fork_storm(place: Place) -> None:
    one = place.made()

    def storm() -> None:
        one.add(os.getpid())
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                if os.fork() == 0 and os.fork() == 0:
                    time.sleep(0.01)
                    if os.fork():
                        os._exit(0)
            except OSError:
                pass
            if len(one.pids()) > 60:
                time.sleep(0.01)

    pid = place.run(storm)
    while len(one.pids()) < 10:
        time.sleep(0.005)
    one.kill(signal.SIGKILL)
    assert place.wait(pid) == -signal.SIGKILL
    deadline = time.monotonic() + 5
    while one.populated() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert one.pids() == []


def test_kill_of_a_frozen_cgroup_thaws_it(place: Place) -> None:
    one = place.made()
    pid = place.run()
    one.add(pid)
    one.freeze()
    one.kill(signal.SIGKILL)
    assert place.wait(pid) == -signal.SIGKILL
    assert not one.frozen()


def test_other_signals_reach_sub_cgroups_and_leave_a_pause_alone(place: Place) -> None:
    one = place.made()
    outside, inside = place.run(), place.run()
    one.add(outside)  # first: once a child has controllers, a v2 cgroup takes no process itself
    inner = place.made(sub="/inner")
    inner.add(inside)
    assert sorted(one.pids()) == sorted([outside, inside])
    assert one.pids(recursive=False) == [outside]
    one.freeze()
    one.kill(signal.SIGTERM)
    assert one.frozen()
    one.thaw()
    assert place.wait(outside) == -signal.SIGTERM
    assert place.wait(inside) == -signal.SIGTERM


def test_kill_on_v2_without_cgroup_kill(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    one = place.made()
    if not isinstance(one, V2):
        pytest.skip("about cgroup v2")
    pid = place.run()
    one.add(pid)
    really = cgroupfs.write

    def before_5_14(directory: int | None, name: str, value: bytes) -> None:
        if name.endswith("cgroup.kill"):
            raise FileNotFoundError(2, "No such file or directory")
        really(directory, name, value)

    monkeypatch.setattr(cgroupfs, "write", before_5_14)
    one.kill(signal.SIGKILL)
    assert place.wait(pid) == -signal.SIGKILL
