"""An ordinary user with a session: a systemd of the user's own, a bus, a delegated cgroup; `make vm` has all three.

Each command begins in the cgroup of a service of that systemd, like what the user types into a terminal there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engines.engine import IMAGE, call, cgroup_of, memory_limit, need, pids_limit
from engines.podman import MANAGER
from engines.user import User
from support.bundles import copy_tree
from support.container import new_id, wait_for
from support.runtime import AUDITED, Result

pytestmark = [
    pytest.mark.skipif(
        bool(need("podman", "newuidmap", "useradd", "setpriv")), reason="podman, uidmap or passwd is not installed"
    ),
    pytest.mark.skipif(MANAGER != "systemd" or bool(need("loginctl")), reason="systemd is not running here"),
    pytest.mark.skipif(not Path("/usr/lib/systemd/user/dbus.socket").exists(), reason="users have no bus here"),
]

SECONDS = 120.0  # for what starts programs, where the processor may be an emulated one


class Resident(User):
    """Stays logged in, as with `loginctl enable-linger`."""

    manager = "systemd"

    def settle(self) -> None:
        run = Path(f"/run/user/{self.ids[0]}")
        call("loginctl", "enable-linger", self.name, timeout=SECONDS).ok()
        wait_for((run / "bus").exists, "the user's bus", SECONDS)
        self.env["XDG_RUNTIME_DIR"] = str(run)
        self.env["DBUS_SESSION_BUS_ADDRESS"] = f"unix:path={run}/bus"
        service = ("systemd-run", "--user", "--unit=terminal", "--property=Delegate=yes", "sleep", "infinity")
        super().__call__(*service, timeout=SECONDS).ok()
        self.terminal = Path(f"/sys/fs/cgroup{self.show('terminal.service', 'ControlGroup')['ControlGroup']}")

    def __call__(self, *argv: str | Path, **options: Any) -> Result:
        options.setdefault("timeout", SECONDS)
        enter = ("sh", "-c", 'echo $$ >"$0" && exec "$@"', self.terminal / "cgroup.procs")
        return call(*enter, *self.become, *argv, env=self.env, cwd=self.directory, **options)

    def show(self, unit: str, *names: str) -> dict[str, str]:
        """Properties of a unit of the user's systemd."""
        command = ("systemctl", "--user", "show", "--property=" + ",".join(names), unit)
        shown = super().__call__(*command, timeout=SECONDS).ok().stdout
        return dict(line.split("=", 1) for line in shown.splitlines())

    def close(self) -> None:
        self("podman", "rm", "--all", "--force", "--time", "0")  # what follows takes the bus away
        call("loginctl", "disable-linger", self.name)
        call("loginctl", "terminate-user", self.name)
        call("systemctl", "stop", f"user@{self.ids[0]}.service", timeout=SECONDS)
        super().close()


@pytest.fixture(scope="module")
def resident(engine_directory: Path, archive: Path) -> Iterator[Resident]:
    user = Resident(engine_directory / "resident", archive)
    try:
        yield user
    finally:
        user.close()


@pytest.fixture
def own_program(resident: Resident, program: str) -> str:
    """The runtime where the user can reach it."""
    return str(resident.directory / "pyruntime" / "bin" / "pyruntime") if program == str(AUDITED) else program


def test_podman_makes_a_scope_of_the_user(resident: Resident, own_program: str) -> None:
    podman = ("podman", "--runtime", own_program)
    flags = ("--memory", "64m", "--pids-limit", "50", "--cpus", "0.5")
    resident(*podman, "run", "--detach", "--name", "one", *flags, IMAGE, "sleep", "1000").ok()
    try:
        (one,) = json.loads(resident(*podman, "inspect", "one").ok().stdout)
        pid, unit = one["State"]["Pid"], f"libpod-{one['Id']}.scope"
        assert f"/user@{resident.ids[0]}.service/user.slice/{unit}" in str(cgroup_of(pid, "memory"))
        assert (memory_limit(pid), pids_limit(pid)) == (64 << 20, 50)
        wanted = {"ActiveState": "active", "Slice": "user.slice", "MemoryMax": str(64 << 20), "TasksMax": "50"}
        assert resident.show(unit, *wanted) == wanted
        resident(*podman, "update", "--memory", "100m", "one").ok()
        assert memory_limit(pid) == 100 << 20
        assert resident.show(unit, "MemoryMax") == {"MemoryMax": str(100 << 20)}
        assert resident(*podman, "exec", "one", "id", "-u").ok().stdout == "0\n"
        assert json.loads(resident(*podman, "stats", "--no-stream", "--format", "json", "one").ok().stdout)[0]["pids"]
        resident(*podman, "pause", "one").ok()
        resident(*podman, "unpause", "one").ok()
        resident(*podman, "stop", "--time", "1", "one").ok()
    finally:
        resident(*podman, "rm", "--all", "--force", "--time", "0").ok()
    assert resident.show(unit, "ActiveState") == {"ActiveState": "inactive"}


def test_a_bundle_in_a_scope_of_the_user(resident: Resident, own_program: str, rootfs: Path) -> None:
    bundle = resident.directory / "tmp" / new_id()
    bundle.mkdir()
    copy_tree(rootfs, bundle / "rootfs")
    call("chown", "-R", "{}:{}".format(*resident.ids), bundle).ok()
    resident(own_program, "spec", "--rootless", "--bundle", bundle).ok()
    config = json.loads((bundle / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": ["sleep", "1000"]}
    config["linux"]["resources"] = {"memory": {"limit": 64 << 20}, "pids": {"limit": 20}}
    (bundle / "config.json").write_text(json.dumps(config))
    name = new_id()
    runtime = (own_program, "--systemd-cgroup")
    start = 'exec "$@" >/dev/null 2>&1'
    resident("sh", "-c", start, "sh", *runtime, "run", "--detach", "--bundle", bundle, name).ok()
    try:
        pid = json.loads(resident(*runtime, "state", name).ok().stdout)["pid"]
        assert str(cgroup_of(pid, "memory")).endswith(f"/user@{resident.ids[0]}.service/user.slice/runc-{name}.scope")
        assert (memory_limit(pid), pids_limit(pid)) == (64 << 20, 20)
        resident(*runtime, "update", "--pids-limit", "30", name).ok()
        assert pids_limit(pid) == 30
        assert resident.show(f"runc-{name}.scope", "TasksMax") == {"TasksMax": "30"}
        told = resident(*runtime, "exec", name, "sh", "-c", "id -u; cat /proc/self/cgroup").ok().stdout
        assert told == "0\n0::/\n"
        resident(*runtime, "pause", name).ok()
        assert json.loads(resident(*runtime, "state", name).ok().stdout)["status"] == "paused"
        resident(*runtime, "resume", name).ok()
        resident(*runtime, "kill", name, "KILL").ok()
        wait_for(lambda: '"stopped"' in resident(*runtime, "state", name).ok().stdout, "the end")
        resident(*runtime, "delete", name).ok()
        assert resident.show(f"runc-{name}.scope", "LoadState") == {"LoadState": "not-found"}
    finally:
        resident(*runtime, "delete", "--force", name)
