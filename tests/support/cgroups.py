"""Cgroups of a test: made below one directory of this test run, looked at from outside, and taken away again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyruntime.cgroups import host, manager
from pyruntime.cgroups.host import Host
from pyruntime.cgroups.manager import Manager
from pyruntime.kernel import cgroupfs

NATIVE = host.detect()
PARENT = f"/pyruntime-test-{os.getpid()}"

on_v1 = pytest.mark.skipif(NATIVE.unified or not NATIVE.mounts, reason="the controllers are not on cgroup v1 here")
on_v2 = pytest.mark.skipif(not NATIVE.unified, reason="the controllers are not on cgroup v2 here")


def needs(controller: str) -> None:
    """Skip where the host has no such controller."""
    names = list(NATIVE.mounts)
    if NATIVE.unified:
        names = Path(NATIVE.mount(""), "cgroup.controllers").read_text().split()
    if {"blkio": "io"}.get(controller, controller) not in names and controller not in names:
        pytest.skip(f"no {controller} controller here")


class Place:
    """Makes managers for cgroups of one test, starts processes, and takes all of it away again."""

    def __init__(self, host: Host, name: str) -> None:
        self.host = host
        self.path = f"{PARENT}/{name}"
        self.managers: list[Manager] = []
        self.children: list[int] = []
        self.enabled = self._enabled()

    def _enabled(self) -> list[str]:
        """The controllers that the root of cgroup2 hands on, which the driver adds to."""
        mount = self.host.mounts.get("", ("", ""))[0]
        return Path(mount, "cgroup.subtree_control").read_text().split() if mount else []

    def plan(self, resources: dict[str, Any] | None = None, sub: str = "", **options: Any) -> Manager:
        options = {"systemd": False, "rootless": False, **options}
        one = manager.plan("test", options.pop("path", self.path + sub), resources, host=self.host, **options)
        self.managers.append(one)
        return one

    def made(self, resources: dict[str, Any] | None = None, sub: str = "") -> Manager:
        one = self.plan(resources, sub)
        one.create()
        one.apply()
        return one

    def run(self, action: Callable[[], object] | None = None) -> int:
        """A child that does `action`, or sleeps. Its exit status is 0, or 1 for an exception."""
        pid = os.fork()
        if pid == 0:
            try:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                if action is None:
                    time.sleep(60)
                else:
                    action()
                os._exit(0)
            except BaseException:
                os._exit(1)
        self.children.append(pid)
        return pid

    def wait(self, pid: int) -> int:
        """The exit code of a child; negative for a signal."""
        self.children.remove(pid)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def clean(self) -> None:
        for one in self.managers:
            if one.exists() and one.frozen():
                one.thaw()
        for pid in self.children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for directory in {d for one in self.managers for d in one.directories()}:
            cgroupfs.remove(directory)
        for mount, _ in self.host.mounts.values():
            cgroupfs.remove(f"{mount}{PARENT}")
        if self.host.unified and NATIVE.unified:
            return  # the controllers are everybody's
        for name in set(self._enabled()) - set(self.enabled):
            Path(self.host.mounts[""][0], "cgroup.subtree_control").write_text("-" + name)


def hosts() -> Iterator[Any]:
    yield pytest.param(NATIVE, id=NATIVE.layout)
    if NATIVE.layout == "hybrid":
        # The cgroup2 of a hybrid host has no controllers; all else of v2 works in it.
        yield pytest.param(Host({"": NATIVE.mounts[""]}, True, {"": NATIVE.own.get("", "/")}), id="cgroup2")


def read(one: Manager, controller: str, v1: str, v2: str = "") -> str:
    """A control file, by its name on v1 or on v2."""
    if one.version == 1:
        return Path(one.paths[controller], v1).read_text().strip()
    return Path(one.paths[""], v2).read_text().strip()


def places(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/cgroup").read_text().strip().split("\n")
    return {line.split(":", 2)[1]: line.split(":", 2)[2] for line in lines}


def opens(one: Manager, place: Place, path: str, flags: int) -> bool:
    """Whether a process in the cgroup can open `path`."""

    def attempt() -> None:
        one.add(os.getpid())
        os.close(os.open(path, flags))

    return place.wait(place.run(attempt)) == 0
