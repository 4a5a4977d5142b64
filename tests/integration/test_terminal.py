"""Terminals: in the foreground, on our own terminal, and handed over to an engine."""

from __future__ import annotations

import hashlib
import os
import signal
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.changes import process, user_namespace, without_mount
from support.container import Container, wait_for
from support.terminal import ConsoleSocket, Screen, get_size, read_until, set_size

Make = Callable[..., Container]

TTY = process(terminal=True)


@pytest.fixture
def screen() -> Iterator[Screen]:
    one = Screen()
    yield one
    one.close()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[ConsoleSocket]:
    with ConsoleSocket(tmp_path / "console.sock") as one:
        yield one


def foreground(one: Container, screen: Screen, *flags: str, **options: object) -> int:
    """Start `run` in front of the screen; the pid of the runtime."""
    argv = one.runtime.argv("run", "--bundle", one.bundle.path, *flags, one.id)
    return screen.spawn(argv, **options).pid


# In the foreground.


def test_a_terminal_of_its_own(container: Make, screen: Screen) -> None:
    script = "tty; test -t 0 && test -t 1 && test -t 2 && echo three; exec cat /proc/self/stat"
    foreground(container(["sh", "-c", script], TTY), screen)
    text = screen.until("three")
    assert text.startswith("/dev/pts/0")
    screen.until("\n")
    pid, _, _, _, group, session, tty, foreground_group = screen.until("\n").split()[:8]
    assert pid == group == session == foreground_group == "1"
    assert int(tty) == os.makedev(136, 0)


def test_newlines_are_translated_once(container: Make, screen: Screen) -> None:
    foreground(container(["printf", "one\\ntwo\\n"], TTY), screen)
    assert screen.until("two\r\n") == "one\r\ntwo\r\n"


def test_our_terminal_is_raw_meanwhile_and_restored_then(container: Make, screen: Screen) -> None:
    before = screen.attributes()
    foreground(container(["sh", "-c", "echo ready; read x; echo got $x; exit 3"], TTY), screen)
    screen.until("ready")
    wait_for(lambda: screen.is_raw, "raw mode")
    screen.type("hello\r")
    assert screen.until("got hello")
    assert screen.processes[0].wait(10) == 3
    assert screen.attributes() == before


WAYS_OUT: dict[str, Callable[[Container, int], object]] = {
    "SIGTERM to the runtime": lambda one, pid: os.kill(pid, signal.SIGTERM),
    "SIGHUP to the runtime": lambda one, pid: os.kill(pid, signal.SIGHUP),
    "SIGINT to the runtime": lambda one, pid: os.kill(pid, signal.SIGINT),
    "kill": lambda one, pid: one.kill("KILL").ok(),
    "delete": lambda one, pid: one.delete("--force").ok(),
}


@pytest.mark.parametrize("way", WAYS_OUT)
def test_restored_on_every_way_out(container: Make, screen: Screen, way: str) -> None:
    before = screen.attributes()
    one = container(["sh", "-c", "trap 'exit 9' TERM HUP INT; echo ready; while :; do sleep 0.05; done"], TTY)
    pid = foreground(one, screen)
    screen.until("ready")
    wait_for(lambda: screen.is_raw, "raw mode")
    WAYS_OUT[way](one, pid)
    assert screen.processes[0].wait(10) == (9 if "runtime" in way else 137)
    assert screen.attributes() == before


def test_restored_after_a_failure(container: Make, screen: Screen) -> None:
    before = screen.attributes()
    foreground(container(["missing"], TTY), screen)
    assert screen.processes[0].wait(10) == 1
    assert screen.attributes() == before
    assert "executable file not found" in screen.rest()


def test_control_characters_reach_the_container(container: Make, screen: Screen) -> None:
    script = "trap 'echo interrupted; exit 5' INT; echo ready; while :; do sleep 0.05; done"
    foreground(container(["sh", "-c", script], TTY), screen)
    screen.until("ready")
    wait_for(lambda: screen.is_raw, "raw mode")
    screen.type("\x03")
    screen.until("interrupted")
    assert screen.processes[0].wait(10) == 5


def test_window_size(container: Make, screen: Screen) -> None:
    screen.resize(33, 111)
    script = "trap 'stty size' WINCH; stty size; while :; do sleep 0.05; done"
    one = container(["sh", "-c", script], TTY)
    foreground(one, screen)
    screen.until("33 111")
    # The kernel sends SIGWINCH to the foreground process group of our terminal: that is the runtime.
    screen.resize(44, 222)
    screen.until("44 222")
    one.kill("KILL").ok()


def test_window_size_of_a_terminal_that_has_none(container: Make, screen: Screen) -> None:
    """Then the size of the configuration stays."""
    screen.resize(0, 0)
    foreground(container(["stty", "size"], TTY, process(consoleSize={"height": 25, "width": 81})), screen)
    screen.until("25 81")


def test_a_lot_of_output_arrives_whole(container: Make, screen: Screen) -> None:
    foreground(container(["seq", "1", "20000"], TTY), screen)
    text = screen.until("\r\n20000\r\n")
    assert text.split() == [str(number) for number in range(1, 20001)]


def test_a_lot_of_input_arrives_whole(container: Make, screen: Screen) -> None:
    foreground(container(["sh", "-c", "stty raw -echo; echo ready; head -c 50000 | md5sum"], TTY), screen)
    screen.until("ready")
    wait_for(lambda: screen.is_raw, "raw mode")
    for _ in range(50):
        screen.type("0123456789" * 100)
    screen.until(hashlib.md5(b"0123456789" * 5000).hexdigest())
    assert screen.processes[0].wait(20) == 0


def test_input_from_a_pipe(container: Make, screen: Screen) -> None:
    """With stdin a pipe the terminal is still ours to show and to size."""
    reading, writing = os.pipe()
    one = container(["sh", "-c", "tty; read x; echo got $x"], TTY)
    foreground(one, screen, stdin=reading)
    os.close(reading)
    screen.until("/dev/pts/0")
    os.write(writing, b"piped\n")
    screen.until("got piped")
    os.close(writing)
    assert screen.processes[0].wait(10) == 0


def test_without_any_terminal(container: Make) -> None:
    result = container(["sh", "-c", "tty; echo x"], TTY).run(preexec=os.setsid, stdin=b"").ok()
    assert result.stdout.split() == ["/dev/pts/0", "x"]


def test_the_console_device(container: Make, screen: Screen) -> None:
    foreground(container(["sh", "-c", "stat -c %t:%T /dev/console; echo shown > /dev/console; exit 4"], TTY), screen)
    assert "88:0" in screen.until("\r\n")
    screen.until("shown")
    assert screen.processes[0].wait(10) == 4


def test_without_a_terminal_there_is_no_console(container: Make) -> None:
    assert container(["ls", "/dev/console"]).run().status == 1


def test_exec_in_the_foreground(container: Make, screen: Screen) -> None:
    one = container(["sleep", "60"])
    one.run("--detach").ok()
    before = screen.attributes()
    screen.resize(31, 101)
    screen.spawn(one.runtime.argv("exec", "--tty", one.id, "sh", "-c", "tty; stty size; read x; exit $x"))
    screen.until("/dev/pts/0")
    screen.until("31 101")
    wait_for(lambda: screen.is_raw, "raw mode")
    screen.type("6\r")
    assert screen.processes[0].wait(10) == 6
    assert screen.attributes() == before


# Handed over.


@pytest.mark.parametrize("change", [lambda config: None, user_namespace()], ids=["plain", "user namespace"])
def test_an_engine_gets_the_master(container: Make, engine: ConsoleSocket, change: Callable[[object], None]) -> None:
    script = "tty; stty size; read line; echo got $line; exec sleep 60"
    one = container(["sh", "-c", script], TTY, process(consoleSize={"height": 50, "width": 150}), change)
    one.create("--console-socket", str(engine.path)).ok()
    master = engine.receive()
    assert 1 <= len(engine.payload) < 4096
    assert os.isatty(master)
    assert get_size(master) == (50, 150)
    assert termios.tcgetattr(master)[1] & termios.ONLCR  # the engine's business, not ours
    one.start().ok()
    assert read_until(master, "50 150").startswith(b"/dev/pts/0\r\n")
    os.write(master, b"typed\n")
    read_until(master, "got typed")
    set_size(master, 60, 160)
    assert one.proc("fd/0").readlink() == Path("/dev/pts/0")


def test_nothing_else_holds_the_master(container: Make, engine: ConsoleSocket) -> None:
    """When the engine hangs up, the container must hear it."""
    one = container(["sh", "-c", "cat; echo ended"], TTY)
    one.run("--detach", "--console-socket", str(engine.path)).ok()
    os.close(engine.receive())
    engine.received.clear()
    one.wait("stopped")


def test_the_socket_may_have_a_long_path(container: Make, tmp_path: Path) -> None:
    deep = tmp_path / ("long" * 30)
    deep.mkdir()
    link = tmp_path / "s"
    link.symlink_to(deep)
    with ConsoleSocket(link / "console.sock") as engine:
        one = container(["sleep", "60"], TTY)
        one.run("--detach", "--console-socket", str(deep / "console.sock")).ok()
        assert os.isatty(engine.receive())


def test_exec_hands_over_too(container: Make, engine: ConsoleSocket) -> None:
    one = container(["sleep", "60"])
    one.run("--detach").ok()
    one.runtime("exec", "--tty", "--detach", "--console-socket", engine.path, one.id, "sh", "-c", "tty; sleep 60").ok()
    assert read_until(engine.receive(), "\n") == b"/dev/pts/0\r\n"


@pytest.mark.parametrize(
    ("verb", "terminal", "socket", "text"),
    [
        ("create", True, False, "cannot allocate tty if runc will detach without setting console socket"),
        ("create", False, True, "cannot use console socket if runc will not detach or allocate tty"),
        ("run", True, True, "cannot use console socket if runc will not detach or allocate tty"),
    ],
)
def test_combinations_that_make_no_sense(
    container: Make, engine: ConsoleSocket, verb: str, terminal: bool, socket: bool, text: str
) -> None:
    one = container(["true"], process(terminal=terminal))
    result = getattr(one, verb)(*(["--console-socket", str(engine.path)] if socket else []))
    assert result.status == 1
    assert text in result.stderr
    assert one.leaks() == []


@pytest.mark.parametrize("kind", ["missing", "file", "deaf"])
def test_a_socket_that_does_not_answer(container: Make, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "socket"
    if kind == "file":
        path.write_text("")
    elif kind == "deaf":
        ConsoleSocket(path).server.close()
    one = container(["sleep", "60"], TTY)
    result = one.create("--console-socket", str(path))
    assert result.status == 1
    assert str(path) in result.stderr
    assert one.leaks() == []


def test_a_terminal_needs_a_devpts(container: Make, engine: ConsoleSocket) -> None:
    one = container(["sleep", "60"], TTY, without_mount("/dev/pts"))
    result = one.create("--console-socket", str(engine.path))
    assert result.status == 1
    assert "terminal" in result.stderr and "/dev/pts" in result.stderr
    assert one.leaks() == []
