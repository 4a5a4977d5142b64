"""The systemd driver against a real systemd: skipped where none is running."""

from __future__ import annotations

import os
import posix
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cgroups import NATIVE, Place, opens, places, read

from pyruntime.cgroups import manager
from pyruntime.cgroups.manager import Manager
from pyruntime.errors import RuntimeFailure

pytestmark = pytest.mark.skipif(not Path("/run/systemd/system").is_dir(), reason="systemd is not running here")

NAME = f"test{os.getpid()}"
UNIT = f"pyruntime-{NAME}.scope"
SLICE = "pyruntimetest-inner.slice"


@pytest.fixture
def systemd() -> Iterator[Place]:
    one = Place(NATIVE, "systemd")
    yield one
    one.clean()
    subprocess.run(["systemctl", "stop", UNIT, SLICE, "pyruntimetest.slice"], check=False, capture_output=True)


def plan(place: Place, resources: dict[str, Any] | None = None, **more: Any) -> Manager:
    path = more.pop("path", f"{SLICE}:pyruntime:{NAME}")
    return place.plan(resources, path=path, systemd=True, **more)


def show(*names: str) -> list[str]:
    command = ["systemctl", "show", UNIT, "--property=" + ",".join(names)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = dict(line.split("=", 1) for line in output.strip().split("\n"))
    return [found[name] for name in names]


def test_a_scope(systemd: Place) -> None:
    resources = {"memory": {"limit": 1 << 26}, "pids": {"limit": 33}, "cpu": {"shares": 512, "quota": 20000}}
    one = plan(systemd, resources, annotations={"org.systemd.property.TimeoutStopSec": "7"})
    one.create()
    pid = systemd.run()
    one.add(pid)
    one.apply()
    inside = f"/pyruntimetest.slice/{SLICE}/{UNIT}"
    assert inside in places(pid).values()
    assert show("ControlGroup", "Slice", "ActiveState", "Delegate") == [inside, SLICE, "active", "yes"]
    assert show("TasksMax", "TimeoutStopUSec") == ["33", "7s"]
    assert read(one, "memory", "memory.limit_in_bytes", "memory.max") == str(1 << 26)
    assert read(one, "pids", "pids.max", "pids.max") == "33"
    if one.version == 2:
        assert show("MemoryMax", "CPUWeight", "CPUQuotaPerSecUSec") == [str(1 << 26), "59", "200ms"]
        assert set(read(one, "", "", "cgroup.controllers").split()) >= {"cpu", "memory", "pids", "io"}

    later = manager.load(one.save())
    second = systemd.run()
    later.add(second)
    assert sorted(later.pids()) == sorted([pid, second])
    later.update({"pids": {"limit": 44}, "cpu": {"quota": 30000, "period": 50000}})
    assert show("TasksMax") == ["44"]
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    assert read(one, "pids", "pids.max", "pids.max") == "44"
    assert read(one, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "30000"
    later.freeze()
    later.kill(signal.SIGKILL)
    assert systemd.wait(pid) == systemd.wait(second) == -signal.SIGKILL
    later.destroy()
    assert not later.exists()
    assert show("LoadState", "ActiveState") == ["not-found", "inactive"]
    later.destroy()


def test_stopping_a_scope_that_lives(systemd: Place) -> None:
    one = plan(systemd)
    one.create()
    pid = systemd.run()
    one.add(pid)
    one.destroy()
    assert systemd.wait(pid) in (-signal.SIGTERM, -signal.SIGKILL)
    assert show("LoadState") == ["not-found"]


def test_the_name_is_taken(systemd: Place) -> None:
    one = plan(systemd)
    one.create()
    one.add(systemd.run())
    with pytest.raises(RuntimeFailure, match="container's cgroup is not empty"):
        plan(systemd).create()


def test_device_rules_outlive_a_reload(systemd: Place) -> None:
    one = plan(systemd, {"devices": [{"allow": False, "access": "rwm"}]})
    one.create()
    one.add(systemd.run())
    one.apply()
    for _ in range(2):
        assert opens(one, systemd, "/dev/null", os.O_RDONLY)
        assert not opens(one, systemd, "/dev/kmsg", os.O_RDONLY)
        one.update({"pids": {"limit": 50}})
        subprocess.run(["systemctl", "daemon-reload"], check=True)


def test_a_property_that_systemd_does_not_know(systemd: Place) -> None:
    one = plan(systemd, annotations={"org.systemd.property.NoSuchThing": "1"})
    one.create()
    pid = systemd.run()
    with pytest.raises(RuntimeFailure, match=f"cannot start systemd unit {UNIT}: .*NoSuchThing"):
        one.add(pid)
    one.destroy()


def test_a_user_of_systemd(systemd: Place) -> None:
    """As an ordinary user, through a systemd of that user, on a delegated part of cgroup v2."""
    if not NATIVE.unified:
        pytest.skip("needs cgroup v2")
    service, runtime, uid = f"{NAME}-user.service", f"/run/{NAME}", 65534
    # What logind would start as user@65534.service.
    command = ["systemd-run", f"--unit={service}", f"--uid={uid}", "--collect", "-pDelegate=yes", "-pType=notify"]
    command += [f"-pRuntimeDirectory={NAME}", f"--setenv=XDG_RUNTIME_DIR={runtime}", "/lib/systemd/systemd", "--user"]
    started = subprocess.run(command, check=False, capture_output=True, text=True)
    assert started.returncode == 0, started.stderr
    reader, report = os.pipe()

    def attempt() -> None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        posix.environ[b"XDG_RUNTIME_DIR"] = runtime.encode()
        posix.environ.pop(b"DBUS_SESSION_BUS_ADDRESS", None)
        children = []
        try:
            one = manager.plan("userbox", "", {"pids": {"limit": 21}}, systemd=True, rootless=True, host=NATIVE)
            one.create()
            for _ in range(2):
                child = os.fork()
                if child == 0:
                    time.sleep(60)
                    os._exit(0)
                children.append(child)
                one.add(child)
            one.apply()
            limit = Path(one.paths[""], "pids.max").read_text().strip()
            both = sorted(one.pids()) == sorted(children)
            one.kill(signal.SIGKILL)
            for child in children:
                os.waitpid(child, 0)
            one.destroy()
            os.write(report, f"{one.paths['']} {limit} {both} {one.exists()}".encode())
        except BaseException as error:
            os.write(report, repr(error).encode())
            raise

    try:
        code = systemd.wait(systemd.run(attempt))
    finally:
        subprocess.run(["systemctl", "stop", service], check=False, capture_output=True)
    os.close(report)
    text = os.read(reader, 1000).decode()
    os.close(reader)
    assert code == 0, text
    path, limit, both, left = text.split()
    assert path.endswith(f"/{service}/user.slice/runc-userbox.scope")
    assert (limit, both, left) == ("21", "True", "False")
