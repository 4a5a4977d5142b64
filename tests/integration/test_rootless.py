"""An ordinary user's containers: a user namespace with one id, no cgroup of its own where none may be made."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.bundles import copy_tree
from support.runtime import REPOSITORY

NOBODY = 65534


class User:
    """A home directory, a bundle and a copy of the runtime that belong to nobody."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.bundle = home / "bundle"

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all"]
        with tempfile.TemporaryFile("w+") as out:  # a detached container keeps its streams open
            done = subprocess.run(
                [*command, str(self.home / "bin" / "pyruntime"), *words],
                cwd=self.bundle,
                env={"XDG_RUNTIME_DIR": str(self.home / "run"), "HOME": str(self.home)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=60,
                check=False,
            )
            out.seek(0)
            return subprocess.CompletedProcess(words, done.returncode, out.read())

    def config(self, args: list[str]) -> dict[str, Any]:
        """What `spec --rootless` writes, with another program and no terminal."""
        made = self("spec", "--rootless")
        assert made.returncode == 0, made.stdout
        config: dict[str, Any] = json.loads((self.bundle / "config.json").read_text())
        config["process"].update(args=args, terminal=False)
        config["root"]["readonly"] = False
        (self.bundle / "config.json").write_text(json.dumps(config))
        return config


@pytest.fixture
def user(rootfs: Path) -> Iterator[User]:
    home = Path(tempfile.mkdtemp(prefix="rootless"))
    try:
        for name in ("pyruntime", "bin"):
            shutil.copytree(REPOSITORY / name, home / name, symlinks=False)
        (home / "run").mkdir(mode=0o700)
        (home / "bundle").mkdir()
        copy_tree(rootfs, home / "bundle" / "rootfs")
        for folder, _, files in os.walk(home):
            for name in (folder, *(os.path.join(folder, file) for file in files)):
                os.chown(name, NOBODY, NOBODY, follow_symlinks=False)
        yield User(home)
    finally:
        shutil.rmtree(home)


def test_run_as_root_of_a_user_namespace(user: User) -> None:
    user.config(["sh", "-c", "id -u; cat /proc/self/uid_map; cat /proc/self/setgroups; touch /made; hostname"])
    result = user("run", "mine")
    assert result.returncode == 0, result.stdout
    uid, mapping, setgroups, _ = result.stdout.strip().split("\n")
    assert (uid, mapping.split(), setgroups) == ("0", ["0", str(NOBODY), "1"], "deny")
    assert (user.bundle / "rootfs" / "made").stat().st_uid == NOBODY


def test_cgroups_of_others_are_shown_read_only(user: User) -> None:
    user.config(["sh", "-c", "echo $$ > /sys/fs/cgroup/pids/cgroup.procs || echo $$ > /sys/fs/cgroup/cgroup.procs"])
    result = user("run", "mine")
    assert result.returncode != 0 and "Read-only file system" in result.stdout


def test_whole_life_without_a_cgroup(user: User) -> None:
    user.config(["sleep", "1000"])
    assert user("run", "--detach", "mine").returncode == 0
    try:
        state = json.loads(user("state", "mine").stdout)
        assert state["status"] == "running"
        inside = user("exec", "mine", "sh", "-c", "id -u; cat /proc/1/comm")
        assert inside.stdout.split() == ["0", "sleep"], inside.stdout
        assert (user.home / "run" / "pyruntime").stat().st_mode & 0o777 == 0o700
        assert user("kill", "mine", "KILL").returncode == 0
    finally:
        assert user("delete", "--force", "mine").returncode == 0
    assert not list((user.home / "run" / "pyruntime").glob("mine"))


def test_limits_are_refused_where_they_cannot_be_set(user: User) -> None:
    config = user.config(["true"])
    config["linux"]["resources"] = {"pids": {"limit": 10}}
    (user.bundle / "config.json").write_text(json.dumps(config))
    result = user("run", "mine")
    assert result.returncode == 1 and "pids" in result.stdout


def test_a_cgroup_path_that_may_not_be_made(user: User) -> None:
    config = user.config(["true"])
    config["linux"]["cgroupsPath"] = "/pyruntime-of-nobody/x"
    (user.bundle / "config.json").write_text(json.dumps(config))
    done = user("run", "web")
    assert done.returncode == 1
    assert "unable to apply cgroup configuration: " in done.stdout
    assert "permission denied" in done.stdout


def test_limits_without_a_cgroup(user: User) -> None:
    config = user.config(["true"])
    config["linux"]["resources"] = {"pids": {"limit": 100}}
    (user.bundle / "config.json").write_text(json.dumps(config))
    done = user("run", "web")
    assert done.returncode == 1
    assert (
        "rootless needs no limits + no cgrouppath when no permission is granted for cgroups" in done.stdout
        or "cannot set pids limit: container could not join or create cgroup" in done.stdout
    )


def test_the_hosts_processes_in_sight(user: User) -> None:
    """No cgroup and no pid namespace: nothing could end what the container leaves behind, so there is a warning."""
    config = user.config(["true"])
    config["linux"]["namespaces"] = [one for one in config["linux"]["namespaces"] if one["type"] != "pid"]
    config["mounts"] = [one for one in config["mounts"] if one.get("type") != "proc"]
    config["mounts"].insert(
        0,
        {"destination": "/proc", "type": "none", "source": "/proc", "options": ["rbind", "nosuid", "nodev", "noexec"]},
    )
    (user.bundle / "config.json").write_text(json.dumps(config))
    done = user("run", "web")
    assert done.returncode == 0, done.stdout
    assert "Such configuration is strongly discouraged" in done.stdout


def test_a_cgroup_mount_with_something_on_top(user: User) -> None:
    """What covers a file of it is locked in the user namespace: the two can only be shown together."""
    user.config(["sh", "-c", "ls /sys/fs/cgroup/unified/cgroup.controllers /sys/fs/cgroup/cgroup.controllers; true"])
    lines = [line.split(" - ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    points = [before.split()[4] for before, after in lines if after.startswith("cgroup2 ")]
    if not points:
        pytest.skip("there is no cgroup2 mount here")
    script = f'mount --bind /dev/null {points[0]}/cgroup.controllers && exec "$@"'
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all"]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *become, str(user.home / "bin" / "pyruntime"), "run", "web"],
        cwd=user.bundle,
        env={"XDG_RUNTIME_DIR": str(user.home / "run"), "HOME": str(user.home), "PATH": "/usr/bin:/bin"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "cgroup.controllers" in done.stdout
