"""Containers that are frozen, deaf, stuck or not what their record says, and records that say nothing."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults.trial import Room, complaints, left_behind, only_all, rich
from support.bundles import Config
from support.container import Container, wait_for

RoomFactory = Callable[..., Room]

DEAF = ["sh", "-c", "trap '' HUP INT TERM; echo deaf; while :; do sleep 0.1; done"]


def without_pid_namespace(config: Config) -> None:
    config["linux"]["namespaces"] = [one for one in config["linux"]["namespaces"] if one["type"] != "pid"]


def paused(room: Room) -> Container:
    one = room.running()
    room.runtime("pause", one.id).ok()
    return one


SHAPES = {"own-pids": [rich], "host-pids": [rich, without_pid_namespace]}


@pytest.mark.parametrize("shape", SHAPES)
class TestFrozen:
    """A frozen process takes no signal, not even SIGKILL on cgroup v1."""

    def test_delete_force(self, room: RoomFactory, shape: str) -> None:
        one = paused(room(None, *SHAPES[shape]))
        assert one.delete().status == 1, "without --force a paused container stays"
        assert one.status == "paused"
        started = time.monotonic()
        one.delete("--force").ok()
        assert time.monotonic() - started < 5
        assert not left_behind(one)

    def test_kill(self, room: RoomFactory, shape: str) -> None:
        one = paused(room(None, *SHAPES[shape]))
        one.kill("KILL").ok()
        one.wait("stopped")
        one.delete().ok()
        assert not left_behind(one)

    def test_other_signals_wait_for_resume(self, room: RoomFactory, shape: str) -> None:
        here = room(["sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.05; done"], *SHAPES[shape])
        one = paused(here)
        time.sleep(0.1)
        one.kill("TERM").ok()
        assert one.status == "paused"
        here.runtime("resume", one.id).ok()
        one.wait("stopped")
        one.delete().ok()
        assert not left_behind(one)

    def test_created_and_paused(self, room: RoomFactory, shape: str) -> None:
        here = room(None, *SHAPES[shape])
        one = here.created()
        here.runtime("pause", one.id).ok()
        assert one.start().status == 1
        one.delete("--force").ok()
        assert not left_behind(one)

    def test_stopped_by_a_signal(self, room: RoomFactory, shape: str) -> None:
        one = room(None, *SHAPES[shape]).running()
        os.kill(one.pid, signal.SIGSTOP)
        one.delete("--force").ok()
        assert not left_behind(one)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("end", ["delete", "kill"])
def test_what_the_first_process_has_started(room: RoomFactory, shape: str, end: str) -> None:
    """It dies with its pid namespace; where the container has none of its own, with its cgroup."""
    one = room(["sh", "-c", "sleep 1001 & setsid sleep 1002 & exec sleep 1000"], *SHAPES[shape]).running()
    wait_for(lambda: len(one.runtime("ps", "--format", "json", one.id).json()) == 3, "three processes")
    if end == "kill":
        one.kill("KILL").ok()
        one.wait("stopped")
    one.delete("--force").ok()
    assert not left_behind(one)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_deaf_container(room: RoomFactory, shape: str) -> None:
    one = room(DEAF, *SHAPES[shape]).running()
    time.sleep(0.2)
    for number in ("TERM", "INT", "HUP"):
        one.kill(number).ok()
    time.sleep(0.2)
    assert one.status == "running"
    assert one.delete().status == 1
    one.delete("--force").ok()
    assert not left_behind(one)


def test_run_passes_signals_to_a_deaf_container_and_stays(room: RoomFactory) -> None:
    here = room(DEAF)
    one = here.new()
    with here.runtime.popen("run", "--bundle", one.bundle.path, one.id) as process:
        assert process.stdout is not None and process.stdout.readline() == b"deaf\n"
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert process.poll() is None and one.status == "running"
        one.kill("KILL").ok()
        assert process.wait(10) == 128 + 9
    assert not left_behind(one)


@pytest.fixture
def frozen_file_system(tmp_path: Path) -> Any:
    """freeze() and thaw() of a file system: a process that writes to it sleeps where no signal reaches it."""
    image, point = tmp_path / "image", tmp_path / "frozen"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(16 << 20)
    if subprocess.run(["mkfs.ext4", "-q", image], check=False).returncode:
        pytest.skip("needs mkfs.ext4")
    if subprocess.run(["mount", "-o", "loop", image, point], check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("no loop device can be mounted here")
    try:
        yield point
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", point], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["umount", "--lazy", point], check=True)


@only_all
def test_a_process_that_cannot_be_interrupted(room: RoomFactory, frozen_file_system: Path) -> None:
    """It sleeps in a page fault on a frozen file system. No verb hangs, and `delete` succeeds once it wakes."""
    (frozen_file_system / "file").write_bytes(b"x" * 4096)

    def bind(config: Config) -> None:
        mount = {"destination": "/stuck", "type": "bind", "source": str(frozen_file_system), "options": ["rbind"]}
        config["mounts"].append(mount)

    here = room(["sh", "-c", "while ! [ -e /tmp/go ]; do sleep 0.05; done; echo y > /stuck/file; sleep 1000"], bind)
    one = here.running()
    subprocess.run(["fsfreeze", "--freeze", frozen_file_system], check=True)
    (one.bundle.rootfs / "tmp" / "go").touch()
    pid = one.pid
    wait_for(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "D", "the process to stick")
    assert one.status == "running"
    frozen = here.runtime("pause", one.id, timeout=30)
    assert frozen.status in (0, 1), frozen
    assert one.status in ("running", "paused")
    assert here.runtime("list").status == 0
    assert here.runtime("ps", one.id).status == 0
    one.kill("KILL").ok()
    result = one.delete("--force")
    assert result.status == 1 and not complaints(result), result
    assert "still" in result.stderr
    assert one.status in ("running", "paused", "stopped")
    subprocess.run(["fsfreeze", "--unfreeze", frozen_file_system], check=True)
    one.wait("stopped")
    one.delete("--force").ok()
    assert not left_behind(one)


class TestConsole:
    """The other side of a terminal."""

    @staticmethod
    def terminal(config: Config) -> None:
        config["process"]["terminal"] = True

    def test_a_reader_that_dies(self, room: RoomFactory) -> None:
        """The terminal of `run` goes away while the container writes to it: the container goes on."""
        script = (
            "trap '' HUP; echo begin; while ! [ -e /tmp/go ]; do sleep 0.05; done; yes | head -n 99999; touch /tmp/end"
        )
        here = room(["sh", "-c", script], self.terminal)
        one = here.new()
        master, slave = pty.openpty()
        with here.runtime.popen(
            "run", "--bundle", one.bundle.path, one.id, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        ) as process:
            os.close(slave)
            assert b"begin" in os.read(master, 100)
            os.close(master)
            (one.bundle.rootfs / "tmp" / "go").touch()
            wait_for((one.bundle.rootfs / "tmp" / "end").exists, "the container to go on")
            process.wait(10)
        assert not left_behind(one)

    def test_a_reader_that_does_not_read(self, room: RoomFactory) -> None:
        """A container whose output nobody takes can be asked about, killed and deleted."""
        here = room(["yes"], self.terminal)
        one = here.new()
        master, slave = pty.openpty()
        with here.runtime.popen(
            "run", "--bundle", one.bundle.path, one.id, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        ) as process:
            os.close(slave)
            wait_for(lambda: here.runtime("state", one.id).status == 0 and one.status == "running", "it to run")
            time.sleep(0.3)
            assert one.exec("true").status == 0
            one.kill("KILL").ok()
            one.wait("stopped")
            os.close(master)  # now its output ends, and so does the runtime
            process.wait(10)
        assert one.delete("--force").status == 0
        assert not left_behind(one)

    @pytest.mark.parametrize("end", ["nobody", "closed", "file"])
    def test_a_console_socket_without_a_listener(self, room: RoomFactory, tmp_path: Path, end: str) -> None:
        import socket

        path = tmp_path / "console.sock"
        if end == "file":
            path.touch()
        elif end == "closed":
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(path))
        here = room(["true"], self.terminal)
        one = here.new()
        result = one.create("--console-socket", str(path))
        assert not complaints(result), result
        assert str(path) in result.stderr
        assert not left_behind(one)


class TestPidReuse:
    """The number in the record belongs to somebody else by now."""

    def forge(self, one: Container, **changes: Any) -> None:
        path = one.runtime.root / one.id / "state.json"
        document = json.loads(path.read_text())
        path.write_text(json.dumps({**document, **changes}))

    def test_verbs_leave_the_other_alone(self, room: RoomFactory) -> None:
        here = room()
        one = here.running()
        one.kill("KILL").ok()
        one.wait("stopped")
        with subprocess.Popen(["sleep", "1000"]) as stranger:
            try:
                self.forge(one, pid=stranger.pid)
                assert one.status == "stopped"
                assert one.pid == 0
                for words in (["kill", one.id, "KILL"], ["exec", one.id, "true"], ["pause", one.id], ["start", one.id]):
                    result = here.runtime(*words)
                    assert result.status in (1, 255) and not complaints(result, (1, 255)), result
                one.delete("--force").ok()
                assert stranger.poll() is None
            finally:
                stranger.kill()
        assert not left_behind(one)

    def test_a_process_of_another_boot(self, room: RoomFactory) -> None:
        """After a restart of the host a state directory that outlived it names processes that never were."""
        one = room().running()
        one.kill("KILL").ok()
        one.wait("stopped")
        self.forge(one, pid=1, started=123456789)
        assert one.status == "stopped"
        one.delete().ok()
        assert not left_behind(one)


DAMAGE: dict[str, Callable[[str], str]] = {
    "empty": lambda text: "",
    "one-byte": lambda text: "{",
    "half": lambda text: text[: len(text) // 2],
    "zeros": lambda text: "\0" * len(text),
    "no-json": lambda text: "state\n",
    "a-list": lambda text: "[]",
    "null": lambda text: "null",
    "no-members": lambda text: "{}",
    "other-id": lambda text: text.replace('"id":"', '"id":"x', 1),
    "pid-is-text": lambda text: json.dumps({**json.loads(text), "pid": "1"}),
    "no-cgroup": lambda text: json.dumps({key: value for key, value in json.loads(text).items() if key != "cgroup"}),
    "cgroup-is-empty": lambda text: json.dumps({**json.loads(text), "cgroup": {}}),
    "other-driver": lambda text: json.dumps({**json.loads(text), "cgroup": {"driver": "v3"}}),
    "later-version": lambda text: json.dumps({"version": 9, "container": json.loads(text)}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state(room: RoomFactory, damage: str) -> None:
    """Every verb says so in a line, the others are listed, and `delete --force` ends the container all the same."""
    here = room()
    one, other = here.running(), here.created()
    path = here.runtime.root / one.id / "state.json"
    path.write_text(DAMAGE[damage](path.read_text()))
    for words in (
        ["state"],
        ["start"],
        ["kill"],
        ["delete"],
        ["exec"],
        ["pause"],
        ["resume"],
        ["ps"],
        ["events", "--stats"],
    ):
        after = ["true"] if words == ["exec"] else ["KILL"] if words == ["kill"] else []
        result = here.runtime(*words, one.id, *after)
        assert not complaints(result, (1, 255)), result
        assert "damaged" in result.stderr and "delete --force" in result.stderr, result
    listing = here.runtime("list", "--format", "json").ok()
    assert [entry["id"] for entry in listing.json()] == [other.id]
    assert one.id in listing.stderr
    assert here.runtime("list", "--quiet").status == 0
    one.delete("--force").ok()
    assert not left_behind(one)
    other.delete("--force").ok()


def test_a_state_with_unknown_members_is_as_good(room: RoomFactory) -> None:
    """A later version may write more; what this one needs is there."""
    here = room()
    one = here.running()
    path = here.runtime.root / one.id / "state.json"
    path.write_text(json.dumps({"zz": {"deep": [1, None]}, **json.loads(path.read_text()), "new": "member"}))
    assert one.status == "running"
    assert one.exec("true").status == 0
    one.delete("--force").ok()
    assert not left_behind(one)


@pytest.mark.parametrize("name", ["state.json", "config.json", "exec.fifo"])
def test_a_file_of_the_state_directory_is_gone(room: RoomFactory, name: str) -> None:
    here = room()
    for one in (here.running(), here.created()):
        (here.runtime.root / one.id / name).unlink()
        for words in (["state", one.id], ["list"], ["exec", one.id, "true"], ["start", one.id], ["kill", one.id, "0"]):
            result = here.runtime(*words)
            assert result.status == 0 or not complaints(result, (1, 255)), result
        one.delete("--force").ok()
        assert not left_behind(one)
