"""The terminal of the program: process.terminal and process.consoleSize of config.md."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import socket
import struct
import termios
import time

from conformance.outcome import equal, fail, require
from conformance.registry import case
from conformance.runtime import read
from conformance.stage import Stage


def run_on_terminal(stage: Stage, script: str) -> str:
    """Create the container with a console socket, take the terminal, start, and return what appears on it."""
    stage.process["terminal"] = True
    stage.script(script)
    master = console(stage)
    stage.start()
    return read_all(master)


def console(stage: Stage) -> int:
    """`create` with --console-socket; returns the descriptor of the terminal that arrives there."""
    place = stage.dir / "console"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen(1)
        listener.settimeout(10)
        stage.create("--console-socket", str(place))
        try:
            connection = listener.accept()[0]
        except TimeoutError:
            fail("nobody connected to the console socket")
        with connection:
            fds = array.array("i")
            _, control, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(fds.itemsize))
            for level, kind, data in control:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    require(len(fds) == 1, f"{len(fds)} descriptors arrived on the console socket")
    stage.undo.callback(os.close, fds[0])
    return fds[0]


def read_all(master: int) -> str:
    """Read a terminal until the other side is closed (EIO) or nothing comes for a while."""
    text = b""
    end = time.monotonic() + 5
    while time.monotonic() < end and select.select([master], [], [], 1.0)[0]:
        with contextlib.suppress(OSError):
            piece = os.read(master, 4096)
            text += piece
            if piece:
                continue
        break
    return text.decode("utf-8", "replace").replace("\r\n", "\n")


@case("process.terminal")
def program_is_on_a_terminal(stage: Stage) -> None:
    """With terminal the three descriptors are one terminal, which is the controlling one of the program."""
    output = run_on_terminal(stage, "for n in 0 1 2; do test -t $n && echo $n; done; echo there > /dev/tty")
    equal(output.split(), ["0", "1", "2", "there"], "descriptors that are terminals, and /dev/tty")


@case("process.terminal")
def no_terminal_by_default(stage: Stage) -> None:
    """Without terminal the descriptors are those of the caller."""
    del stage.process["terminal"]
    equal(stage.sh("test -t 1 || echo none"), "none\n", "terminal of the program")


@case("devices.default.console")
def console_is_the_terminal(stage: Stage) -> None:
    """With terminal /dev/console is the terminal of the program."""
    output = run_on_terminal(stage, "echo to the console > /dev/console; stat -L -c %t:%T /dev/console /proc/self/fd/0")
    lines = output.splitlines()
    require(lines[:1] == ["to the console"], f"writing to /dev/console gave {output!r}")
    equal(lines[1], lines[2], "device numbers of /dev/console and of standard input")


@case("devices.default.console")
def no_console_without_terminal(stage: Stage) -> None:
    """Without terminal there is no /dev/console that leads to one of the host."""
    output = stage.sh("test -c /dev/console && stat -c %t:%T /dev/console; :").strip()
    require(output in ("", "5:1"), f"/dev/console is {output}")
    require(not output, "/dev/console of the host is there without a terminal")


@case("process.consoleSize", "process.consoleSize.height", "process.consoleSize.width")
def terminal_has_the_size(stage: Stage) -> None:
    """The terminal has the rows and columns of consoleSize."""
    stage.process["consoleSize"] = {"height": 31, "width": 97}
    stage.process["terminal"] = True
    stage.script("stty size")
    master = console(stage)
    packed = fcntl.ioctl(master, termios.TIOCGWINSZ, b"\0" * 8)
    equal(struct.unpack("HHHH", packed)[:2], (31, 97), "size of the terminal")
    stage.start()
    equal(read_all(master), "31 97\n", "size the program sees")


@case("process.consoleSize.ignored")
def size_without_terminal_is_ignored(stage: Stage) -> None:
    """consoleSize without a terminal is no error."""
    stage.process["consoleSize"] = {"height": 31, "width": 97}
    stage.script("echo runs")
    stage.create()
    stage.start()
    stage.finish()
    equal(read(stage.out), "runs\n", "output of the program")
