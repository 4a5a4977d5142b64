"""The same faults where a user namespace makes a difference: the container's own, and an ordinary user's runtime."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults import test_failing_calls, test_killed
from faults.trial import NONE, Room, each, rich, sample, traced_here
from support.bundles import Bundle, Config, copy_tree, default_config
from support.runtime import REPOSITORY, Runtime

pytestmark = traced_here

NOBODY = 65534
HOST_ID = 100000


def mapped(config: Config) -> None:
    """All of `rich`, in a user namespace of the container's own."""
    rich(config)
    mapping = [{"containerID": 0, "hostID": HOST_ID, "size": 65536}]
    config["linux"].update(uidMappings=mapping, gidMappings=mapping)
    config["linux"]["namespaces"].append({"type": "user"})


def ordinary(config: Config) -> None:
    """What `spec --rootless` changes."""
    linux = config["linux"]
    for kind, own in (("uidMappings", NOBODY), ("gidMappings", NOBODY)):
        linux[kind] = [{"containerID": 0, "hostID": own, "size": 1}]
    linux["namespaces"] = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup", "user")]
    del linux["resources"]
    sysfs = {"destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", "nosuid", "noexec", "ro"]}
    config["mounts"] = [one for one in config["mounts"] if not one["destination"].startswith("/sys")] + [sysfs]
    for one in config["mounts"]:
        one["options"] = [word for word in one.get("options", []) if not word.startswith("gid=")]
    del config["process"]["rlimits"]


def own(directory: Path, uid: int) -> None:
    for folder, _, files in os.walk(directory):
        for name in (folder, *(os.path.join(folder, file) for file in files)):
            os.chown(name, uid, uid, follow_symlinks=False)


@pytest.fixture(params=["userns", "rootless"])
def place(request: pytest.FixtureRequest, rootfs: Path) -> Iterator[Room]:
    home = Path(tempfile.mkdtemp(prefix="unprivileged"))
    home.chmod(0o755)
    (home / "bundle").mkdir()
    copy_tree(rootfs, home / "bundle" / "rootfs")
    config = default_config(["sleep", "1000"])
    program = [str(REPOSITORY / "bin" / "pyruntime")]
    if request.param == "userns":
        mapped(config)
        own(home / "bundle" / "rootfs", HOST_ID)
    else:
        ordinary(config)
        for name in ("pyruntime", "bin"):
            shutil.copytree(REPOSITORY / name, home / name)
        user = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all"]
        program = [shutil.which("setpriv") or "setpriv", *user, str(home / "bin" / "pyruntime")]
    bundle = Bundle(home / "bundle", config)
    if request.param == "rootless":
        own(home, NOBODY)
    here = Room(Runtime(program, home / "state"), bundle, home)
    try:
        yield here
        here.end()
    finally:
        subprocess.run(["rm", "-rf", "--one-file-system", home], check=False)


Attempt = Callable[..., list[str]]


def beside(here: Room) -> None:
    """Rooms for other threads are made by root; the user must be able to write there."""
    if here.runtime.program[-1].startswith(str(here.directory)):
        original = here.beside

        def owned() -> Room:
            room = original()
            os.chown(room.directory, NOBODY, NOBODY)
            return room

        here.beside = owned  # type: ignore[method-assign]


@pytest.mark.parametrize("verb", ["create", "exec", "delete"])
def test_killed_at_any_moment(place: Room, verb: str) -> None:
    beside(place)
    place.warm()
    wrong = test_killed.go(place, verb, NONE)
    assert not wrong
    roles = ["runtime"] if verb == "delete" else ["runtime", "child1"]
    calls = place.traced.calls
    faults = [fault for role in roles for fault in sample(test_killed.moments(role, calls[role])[::3], 20)]
    failures = each(place, faults, lambda room, fault: test_killed.go(room, verb, fault))
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_each_call_fails_once(place: Room, verb: str) -> None:
    beside(place)
    place.warm()
    assert not test_failing_calls.attempt(place, verb, NONE)
    calls = place.traced.calls
    roles = ["runtime", "child1"]
    faults = [fault for role in roles for fault in sample(test_failing_calls.faults(role, calls[role])[::3], 20)]
    failures = each(place, faults, lambda room, fault: test_failing_calls.attempt(room, verb, fault))
    assert not failures, "\n".join(failures)
