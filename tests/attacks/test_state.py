"""L. Ids, the state directory, and the files that a caller names.

Ids are checked in every verb: unit/test_cli_flags.py. Racing creates and deletes: integration/test_lifecycle.py and
tests/faults; sockets that are none: integration/test_terminal.py; log lines with control characters:
unit/test_cli_log.py, unit/test_cli_main.py.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.canary import Canary
from support.container import Container
from support.runtime import Runtime
from support.weakened import without

Make = Callable[..., Container]

BAD_IDS = [
    "..",
    ".",
    "../{canary}",
    "a/../../{canary}",
    "/var/tmp/{canary}",
    "x\n",
    "a b",
    "a\x1b[2J",
    "\u00e4",
    "x" * 5000,
    "",
]


@pytest.mark.parametrize("bad", BAD_IDS, ids=range(len(BAD_IDS)))
def test_ids_that_are_paths(container: Make, canary: Canary, bad: str) -> None:
    """No verb touches anything for an id that is not a plain name, and none repeats it raw on the terminal."""
    one = container(["true"])
    text = bad.format(canary=canary.path.name)
    runtime = Runtime(one.runtime.program, canary.path.parent / "state")
    for words in (("create", "--bundle", one.bundle.path), ("start",), ("delete", "--force"), ("exec",)):
        result = runtime(*words, text, *(["true"] if words[0] == "exec" else []))
        assert result.status != 0 and "container id" in result.stderr.lower(), result
        assert len(result.stderr.splitlines()) == 1 and "\x1b" not in result.stderr
    assert canary.touched() == set()
    assert not runtime.root.exists()


@without(
    "cli/delete.py",
    "container_id = lambda text: text",
    "container/directories.py",
    "has_config = lambda *words: False",
)
def test_deleting_what_is_no_container(runtime: Runtime, canary: Canary, protected: bool) -> None:
    """Without the check of ids (cli/flags.py: container_id) `delete --force` removes any directory of the host."""
    root = canary.path.parent / f"{canary.path.name}.state"
    root.mkdir()
    try:
        Runtime(runtime.program, root)("delete", "--force", f"../{canary.path.name}/directory")
    finally:
        root.rmdir()
    assert (canary.touched() == set()) is protected


@without(
    "container/directories.py",
    """
    def remove_directory(directory):
        for name in posix.listdir(directory):
            posix.unlink(f"{directory}/{name}")
        posix.unlink(directory)
    """,
)
def test_state_directory_that_is_a_link(container: Make, canary: Canary, protected: bool) -> None:
    """Somebody has put a link where the container's directory would be: it is taken, and goes without what it means.

    Without O_NOFOLLOW (container/directories.py: remove_directory) the files of the host go.
    """
    shutil.rmtree(canary.directory)
    canary._before = canary._look()
    one = container(["true"])
    one.runtime.root.mkdir(0o700)
    place = one.runtime.root / one.id
    place.symlink_to(canary.path)
    result = one.create()
    assert result.status == 1 and "already exists" in result.stderr
    assert canary.touched() == set()
    one.delete("--force")
    assert (canary.touched() == set()) is protected
    assert not place.is_symlink()


def test_state_file_that_is_a_link_or_strange(container: Make, canary: Canary) -> None:
    """state.json as a link, a FIFO, a directory, not ours, too large or nonsense: an error, in no time."""
    one = container(["sleep", "1000"])
    one.create().ok()
    path = one.runtime.root / one.id / "state.json"
    kept = path.read_bytes()

    def refused() -> None:
        for words in (("state", one.id), ("kill", one.id, "KILL")):
            result = one.runtime(*words, timeout=10)
            assert result.status != 0 and len(result.stderr.splitlines()) == 1, result

    path.unlink()
    path.symlink_to(canary.file)
    refused()
    path.unlink()
    os.mkfifo(path)
    refused()
    path.unlink()
    for nonsense in (
        b"",
        b"{",
        b"[]",
        b'{"id": "another", "pid": 1}',
        kept.replace(b'"pid":', b'"pid":"1","x":'),
        b"[" * 5000,
    ):
        path.write_bytes(nonsense)
        refused()
    path.write_bytes(kept)
    os.chown(path, 1000, 1000)
    refused()
    os.chown(path, 0, 0)
    assert one.status == "created" and canary.touched() == set()


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    process.kill()
    process.wait()


@without(
    "container/store.py",
    "Record.pid = lambda self: self.data['pid']",
    "kernel/pids.py",
    "start_time = lambda pid: 1",
    "container/kill.py",
    """
    def send_signal(record, pid, signal):
        posix.kill(pid, signal)
    """,
    "container/delete.py",
    """
    def end(record, pid):
        posix.kill(pid, 9)
    """,
)
def test_pid_of_another_process(container: Make, bystander: subprocess.Popen[bytes], protected: bool) -> None:
    """A pid that was used again, or a state file that names the pid of somebody else's process.

    Without the start time and the pidfd (container/store.py: Record.pid, container/kill.py: send_signal) that process
    gets the container's signals.
    """
    one = container(["true"])
    one.run("--detach").ok()
    one.wait("stopped") if protected else None
    path = one.runtime.root / one.id / "state.json"
    state = json.loads(path.read_text())
    state["pid"] = bystander.pid
    path.write_text(json.dumps(state))
    if protected:
        assert one.status == "stopped" and one.pid == 0
        assert one.exec("true").status != 0
    one.kill("TERM")
    one.delete("--force")
    gone = bystander.poll() is not None
    if not protected and not gone:
        bystander.wait(5)
        gone = True
    assert gone is not protected


@pytest.mark.parametrize("kind", ["link", "file", "directory"])
@without(
    "container/store.py",
    """
    def _open_gate(self):
        try:
            return posix.open(f"{self.directory}/{START}", posix.O_WRONLY)
        except OSError:
            return -1
    Record.open_gate = _open_gate
    """,
    "container/start.py",
    """
    def _open_gate(record):
        gate = record.open_gate()
        if gate >= 0:
            posix.write(gate, b"s")
    """,
)
def test_start_fifo_that_was_replaced(container: Make, canary: Canary, kind: str, protected: bool) -> None:
    """The FIFO of `start` is a link to a file, a file, or a directory.

    Without O_NOFOLLOW and the check of what was opened (container/store.py: open_gate) the byte is written to that
    file, and `start` says that the container runs.
    """
    one = container(["sleep", "1000"])
    one.create().ok()
    path = one.runtime.root / one.id / "exec.fifo"
    path.unlink()
    if kind == "link":
        path.symlink_to(canary.file)
    elif kind == "file":
        path.write_text("file")
    else:
        path.mkdir()
    result = one.runtime("start", one.id, timeout=10)
    assert (result.status == 1 and canary.touched() == set()) is (protected or kind == "directory")
    if protected and kind == "file":
        assert path.read_text() == "file"


@without(
    "container/handover.py",
    """
    def write_pid(path, pid):
        with open(path, "w") as file:
            file.write(str(pid))
    """,
)
def test_pid_file_that_is_a_link(container: Make, canary: Canary, tmp_path: Path, protected: bool) -> None:
    """The name of the pid file was taken before, by a link: it is replaced, and what it leads to stays.

    Without renaming a new file into place (container/directories.py: write_file) the host's file is overwritten.
    """
    path = tmp_path / "pid"
    path.symlink_to(canary.file)
    one = container(["sleep", "1000"])
    one.create("--pid-file", str(path)).ok()
    assert int(path.read_text()) == one.pid
    assert path.is_symlink() is not protected
    assert (canary.touched() == set()) is protected


def test_temporary_names_beside_the_pid_file(container: Make, canary: Canary, tmp_path: Path) -> None:
    """Links under every name that the temporary file could have: none is followed."""
    now = int(Path("/proc/loadavg").read_text().split()[-1])
    for pid in range(now, now + 300):
        (tmp_path / f".pid.{pid}").symlink_to(canary.file)
    one = container(["sleep", "1000"])
    one.create("--pid-file", str(tmp_path / "pid")).ok()
    assert int((tmp_path / "pid").read_text()) == one.pid
    assert canary.touched() == set()


@without("cli/log.py", "_is_foreign_link = lambda path: False")
def test_log_file_that_is_a_link(runtime: Runtime, canary: Canary, tmp_path: Path, protected: bool) -> None:
    """Another user has made a link where root's log is to be: nothing is appended to what it leads to.

    Without the check of its owner (cli/log.py: _open) it is, with text that whoever causes the error can shape.
    """
    path = tmp_path / "log"
    path.symlink_to(canary.file)
    os.lchown(path, 1000, 1000)
    result = runtime("--log", path, "state", "nothing")
    assert result.status == 1
    assert (canary.touched() == set()) is protected
    if protected:
        assert "another user" in result.stderr


def test_links_that_are_ours_are_followed(runtime: Runtime, tmp_path: Path) -> None:
    """An administrator's link to where logs lie is no attack."""
    (tmp_path / "log").symlink_to(tmp_path / "real")
    runtime("--log", tmp_path / "log", "state", "nothing")
    assert "does not exist" in (tmp_path / "real").read_text()


@pytest.mark.parametrize("verb", ["create", "exec"])
def test_console_socket_that_is_something_else(container: Make, canary: Canary, tmp_path: Path, verb: str) -> None:
    """A link to a file, a file, a FIFO that nobody reads: an error, and no terminal for anybody."""
    one = container(["sleep", "1000"])
    if verb == "exec":
        one.run("--detach").ok()
    else:
        one.bundle.config["process"]["terminal"] = True
        one.bundle.write()
    (tmp_path / "link").symlink_to(canary.file)
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo", "gone"):
        where = str(tmp_path / name)
        if verb == "create":
            result = one.create("--console-socket", where, timeout=10)
        else:
            result = one.runtime("exec", "--tty", "--detach", "--console-socket", where, one.id, "true", timeout=10)
        assert result.status != 0 and where in result.stderr, result
    assert canary.touched() == set()


def test_bundle_files_that_do_not_end(container: Make, tmp_path: Path) -> None:
    """K. config.json as a FIFO, as a link to /dev/zero, of four sparse gigabytes: an error within a second or so."""
    one = container(["true"])
    path = one.bundle.path / "config.json"
    for kind in ("fifo", "zero", "sparse"):
        path.unlink()
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "zero":
            path.symlink_to("/dev/zero")
        else:
            with path.open("wb") as file:
                file.truncate(4 << 30)
        result = one.run(timeout=10)
        assert result.status == 1 and len(result.stderr.splitlines()) == 1, result


def test_a_container_of_another_user_is_no_container(container: Make, tmp_path: Path) -> None:
    """A state directory in a place where anybody may write: what others have put there is not acted upon."""
    one = container(["sleep", "1000"])
    one.create().ok()
    fake = one.runtime.root / f"fake-{one.id}"
    shutil.copytree(one.runtime.root / one.id, fake, copy_function=_copy_regular)
    state = json.loads((fake / "state.json").read_text())
    state["id"] = fake.name
    (fake / "state.json").write_text(json.dumps(state))
    os.chown(fake / "state.json", 1000, 1000)
    result = one.runtime("kill", fake.name, "KILL")
    assert result.status == 1 and "another user" in result.stderr
    assert one.status == "created"
    shutil.rmtree(fake)


def _copy_regular(source: str, target: str) -> None:
    if stat.S_ISREG(os.stat(source).st_mode):
        shutil.copy(source, target)


def test_signals_that_are_none(container: Make) -> None:
    """`kill` with what the kernel would take for another signal, or for all processes: an error, nothing is sent."""
    one = container(["sleep", "1000"])
    one.run("--detach").ok()
    for text in ("-1", "65", "9x", "\uff19", "SIGNOTHING", "1e1", " 9"):
        result = one.runtime("kill", one.id, text)
        assert result.status == 1, (text, result)
    assert one.status == "running"
