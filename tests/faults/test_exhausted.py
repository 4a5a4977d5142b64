"""What the runtime needs runs out: space, a writable state directory, descriptors, processes, memory."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.trial import Room, complaints, left_behind, rich, strangers
from support.bundles import Bundle, Config
from support.cgroups import NATIVE
from support.container import Container
from support.mountinfo import HostMounts
from support.runtime import REPOSITORY, Result, Runtime

RoomFactory = Callable[..., Room]
BundleFactory = Callable[..., Bundle]


@pytest.fixture
def mounts() -> Iterator[HostMounts]:
    made = HostMounts()
    yield made
    made.close()


def fill(directory: Path) -> Path:
    """Use up the space of a small file system."""
    path = directory / "ballast"
    with path.open("wb", buffering=0) as file:
        size = 4096
        while size:
            try:
                file.write(b"x" * size)
            except OSError:
                size //= 2
    return path


def remount(point: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", point], check=True)


def failed(result: Result, *words: str, statuses: tuple[int, ...] = (1,)) -> None:
    """The verb failed as it should, and the message has these words."""
    assert not complaints(result, statuses), result
    assert all(word in result.stderr.lower() for word in words), result


class TestState:
    """The file system of the state directory."""

    @pytest.fixture
    def small(self, room: RoomFactory, mounts: HostMounts, tmp_path: Path) -> Room:
        """A room whose state lies on a tmpfs of its own; the filter is compiled, and kept there."""
        point = mounts.tmpfs(tmp_path / "small")
        remount(point, "size=256k")
        here = room()
        here.runtime.root = point / "state"
        here.warm()
        return here

    def test_no_space(self, small: Room) -> None:
        lives = small.running()
        ballast = fill(small.runtime.root.parent)
        one = small.new()
        failed(one.create(), "cannot write", "no space left on device")
        assert not left_behind(one)
        failed(small.runtime("update", "--pids-limit", "50", lives.id), "cannot write", "no space left on device")
        assert lives.status == "running", "the state of before is still whole"
        assert lives.exec("true").status == 0
        assert lives.delete("--force").status == 0
        assert not left_behind(lives)
        ballast.unlink()
        one.create().ok()
        one.delete("--force").ok()

    def test_no_inodes(self, small: Room) -> None:
        used = sum(1 for _ in small.runtime.root.parent.rglob("*")) + 1
        for free in range(12):
            remount(small.runtime.root.parent, f"nr_inodes={used + free}")
            one = small.new()
            result = one.create()
            if result.status == 0:
                break
            failed(result, "no space left on device")
            assert not left_behind(one)
        assert 1 < free < 8, "as many files as the state needs"
        one.delete("--force").ok()

    def test_read_only(self, small: Room) -> None:
        lives, other = small.running(), small.created()
        remount(small.runtime.root.parent, "ro")
        one = small.new()
        failed(one.create(), "read-only file system", one.id)
        assert lives.status == "running"
        assert {entry["id"] for entry in small.runtime("list", "--format", "json").ok().json()} == {lives.id, other.id}
        assert lives.exec("true").status == 0
        other.start().ok()
        lives.kill("KILL").ok()
        lives.wait("stopped")
        failed(lives.delete(), "read-only file system", lives.id)
        remount(small.runtime.root.parent, "rw")
        assert lives.delete().status == 0
        assert not left_behind(lives)
        assert other.delete("--force").status == 0

    def test_state_directory_vanishes(self, small: Room) -> None:
        one = small.running()
        pid = one.pid
        subprocess.run(["rm", "-rf", small.runtime.root / one.id], check=True)
        failed(small.runtime("state", one.id), "does not exist")
        failed(one.start(), "does not exist")
        assert small.runtime("list").status == 0
        assert Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("what", ["space", "inodes"])
def test_rootfs_without_room_for_a_mount_point(
    runtime: Runtime, bundle: BundleFactory, mounts: HostMounts, tmp_path: Path, what: str, rootfs: Path
) -> None:
    point = mounts.tmpfs(tmp_path / "root")
    subprocess.run(["cp", "-a", f"{rootfs}/.", point], check=True)

    def more(config: Config) -> None:
        config["mounts"].append({"destination": "/new/mount/point", "type": "tmpfs", "source": "tmpfs"})

    one = Container(runtime, bundle(["true"], more, root=point))
    if what == "space":
        remount(point, "size=4m")
        fill(point)
        result = one.run()
        # A directory takes no blocks on tmpfs; where it does, the error names the mount.
        assert result.status == 0 or "/new/mount/point" in result.stderr, result
    else:
        remount(point, f"nr_inodes={sum(1 for _ in point.rglob('*')) + 1}")
        failed(one.run(), "/new/mount/point", "no space left on device")
    assert not left_behind(one)


def limited(limit: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))


# What a launcher starts. The shell of bin/pyruntime itself needs descriptor 10.
INTERPRETER = [*"/usr/bin/python3 -I -S -E -B -X utf8".split(), str(REPOSITORY / "pyruntime/__main__.py"), "pyruntime"]


def without_limits(config: Config) -> None:
    rich(config)
    del config["process"]["rlimits"]


def test_descriptors_run_out(room: RoomFactory) -> None:
    """From too few for the interpreter to as many as needed: each number in between."""
    here = room(["true"], without_limits)
    here.runtime.program = INTERPRETER
    here.warm()
    succeeded = []
    messages = set()
    for limit in range(4, 24):
        if here.runtime("--version", preexec=limited(limit)).status:
            continue  # not enough for the interpreter itself
        one = here.new()
        result = one.run(preexec=limited(limit))
        if result.status == 0:
            succeeded.append(limit)
        elif "level=error" in result.stderr:
            failed(result, "too many open files")
            messages.add(result.stderr.partition("msg=")[2])
        else:
            assert "Traceback" not in result.stderr, result
        assert not left_behind(one), result
    assert succeeded and len(messages) > 1, (succeeded, messages)


@pytest.mark.parametrize("verb", ["exec", "start", "delete", "state", "kill", "list"])
def test_descriptors_run_out_for_other_verbs(room: RoomFactory, verb: str) -> None:
    here = room(["sleep", "1000"], without_limits)
    here.runtime.program = INTERPRETER
    one = here.created() if verb == "start" else here.running()
    words = {"exec": [one.id, "true"], "kill": [one.id, "CONT"], "delete": ["--force", one.id], "list": []}
    for limit in range(4, 16):
        if here.runtime("--version", preexec=limited(limit)).status:
            continue
        result = here.runtime(verb, *words.get(verb, [one.id]), preexec=limited(limit))
        if result.status == 0:
            assert verb != "state" or result.json()["status"] == "running", result
            break
        if "level=error" in result.stderr:
            failed(result, "too many open files", statuses=(255,) if verb == "exec" else (1,))
        assert one.status == ("created" if verb == "start" else "running")
    assert result.status == 0, result
    if verb != "delete":
        assert one.delete("--force").status == 0
    assert not left_behind(one)


@pytest.fixture
def crowded() -> Iterator[Callable[[int], Callable[[], None]]]:
    """join(limit): what to call in a child to be in a cgroup that holds `limit` processes."""
    top = NATIVE.mount("") if NATIVE.unified else NATIVE.mount("pids")
    directory = Path(top) / f"pyruntime-crowd-{os.getpid()}"
    directory.mkdir()

    def join(limit: int) -> Callable[[], None]:
        (directory / "pids.max").write_text(str(limit))

        def enter() -> None:
            (directory / "cgroup.procs").write_text("0")

        return enter

    yield join
    directory.rmdir()


def test_no_more_processes(room: RoomFactory, crowded: Callable[[int], Callable[[], None]]) -> None:
    here = room(["true"])
    here.warm()
    one = here.new()
    failed(one.run(preexec=crowded(1)), "resource temporarily unavailable", "pids", "clone")
    assert not left_behind(one)
    one.run(preexec=crowded(2)).ok()
    here.bundle.config["process"]["args"] = ["sleep", "1000"]
    here.bundle.write()
    lives = here.running()
    failed(lives.exec("true", preexec=crowded(1)), "resource temporarily unavailable", "pids", statuses=(255,))
    assert lives.exec("true", preexec=crowded(2)).status == 0
    assert lives.delete("--force").status == 0


def test_no_process_for_a_hook(room: RoomFactory, crowded: Callable[[int], Callable[[], None]]) -> None:
    def hook(config: Config) -> None:
        config["hooks"] = {"createRuntime": [{"path": "/bin/true"}]}

    here = room(["true"], hook)
    one = here.new()
    result = one.run(preexec=crowded(1))
    failed(result, "resource temporarily unavailable")
    assert not left_behind(one)


def test_the_containers_own_limit_of_processes(room: RoomFactory) -> None:
    def alone(config: Config) -> None:
        config["linux"]["resources"]["pids"] = {"limit": 1}

    here = room(["sleep", "1000"], alone)
    one = here.running()
    result = one.exec("true")
    assert result.status in (0, 255), result
    assert one.status == "running"
    assert one.delete("--force").status == 0
    assert not left_behind(one)


@pytest.mark.parametrize("limit", [4096, 65536, 1 << 18])
def test_init_is_killed_for_lack_of_memory(room: RoomFactory, limit: int) -> None:
    def tight(config: Config) -> None:
        config["linux"]["resources"]["memory"] = {"limit": limit, "swap": limit}

    here = room(["sleep", "1000"], tight)
    one = here.new()
    result = one.create(timeout=30)
    if result.status:
        # runc knows this case, and has engines look for these words.
        failed(result, "memory limit too small")
        assert not left_behind(one)
        return
    started = one.start()
    assert started.status in (0, 1), started
    assert one.status in ("stopped", "running")
    assert one.delete("--force").status == 0
    assert not left_behind(one)


def test_memory_of_the_runtime_itself(room: RoomFactory) -> None:
    """RLIMIT_AS, from too little to enough: an error of one line, nothing left."""
    here = room(["true"], without_limits)
    here.warm()
    outcomes: dict[str, list[int]] = {}
    for megabytes in range(12, 80, 4):
        size = megabytes << 20
        one = here.new()

        def limit(size: int = size) -> None:
            resource.setrlimit(resource.RLIMIT_AS, (size, size))

        result: Any = one.run(preexec=limit)
        kind = "ok" if result.status == 0 else "error" if "level=error" in result.stderr else "none"
        outcomes.setdefault(kind, []).append(megabytes)
        if kind == "error":
            assert not complaints(result), result
        assert not left_behind(one), result
    assert outcomes.get("ok"), outcomes
    assert not strangers(here.runtime.root)
