"""Seccomp filters of real containers."""

from __future__ import annotations

import array
import errno
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import elf
from support.bundles import Config
from support.container import Container

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the programs are x86_64 code")

Make = Callable[..., Container]

KILLED = 128 + signal.SIGSYS
MKDIR = {"syscall": 83, "int80": 39, "x32": 0x40000000 | 83}
STATUS = ["cat", "/proc/self/status"]


def seccomp(rules: list[dict[str, Any]], default: str = "SCMP_ACT_ALLOW", **more: Any) -> Callable[[Config], None]:
    section = {"defaultAction": default, "architectures": ["SCMP_ARCH_X86_64"], "syscalls": rules, **more}
    return lambda config: config["linux"].update(seccomp=section)


def rule(*names: str, action: str = "SCMP_ACT_ERRNO", **more: Any) -> dict[str, Any]:
    return {"names": list(names), "action": action, **more}


def without_no_new_privileges(config: Config) -> None:
    config["process"]["noNewPrivileges"] = False


def runs(one: Container, code: bytes) -> int:
    """The exit status of a container whose program is `code`."""
    elf.put(one.bundle.rootfs / "bin" / "probe", elf.program(code))
    one.bundle.config["process"]["args"] = ["/bin/probe"]
    one.bundle.write()
    return one.run().status


@pytest.mark.parametrize("changes", [[], [without_no_new_privileges]], ids=["no_new_privs", "privs"])
def test_a_refused_call(container: Make, changes: list[Callable[[Config], None]]) -> None:
    script = ["sh", "-c", "mkdir /tmp/new; cat /proc/self/status"]
    result = container(script, seccomp([rule("mkdir", errnoRet=errno.EXDEV)]), *changes).run().ok()
    assert "Invalid cross-device link" in result.stderr
    status = dict(line.split(":", 1) for line in result.stdout.splitlines())
    assert status["Seccomp"].strip() == "2"
    assert status["Seccomp_filters"].strip() == "1"
    assert status["NoNewPrivs"].strip() == ("0" if changes else "1")


@pytest.mark.parametrize("action", ["SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"])
def test_a_deadly_call(container: Make, action: str) -> None:
    assert runs(container(["true"], seccomp([rule("mkdir", action=action)])), elf.call(83)) == KILLED


@pytest.mark.parametrize("entry", ["int80", "x32"])
def test_other_doors_into_the_kernel_are_shut(container: Make, entry: str) -> None:
    """A call by the 32-bit or the x32 entry does not slip past a filter for x86_64."""
    code = elf.call(MKDIR[entry], "int80" if entry == "int80" else "syscall") + elf.EXIT_WITH_ERRNO
    assert runs(container(["true"], seccomp([rule("mkdir")])), code) == KILLED


def test_a_listed_architecture_has_the_same_rules(container: Make) -> None:
    both = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    code = elf.call(39, "int80") + elf.EXIT_WITH_ERRNO
    one = container(["true"], seccomp([rule("mkdir", errnoRet=errno.EXDEV)], architectures=both))
    assert runs(one, code) == errno.EXDEV


@pytest.mark.parametrize(("number", "expected"), [(83, errno.EPERM), (900, errno.ENOSYS)])
def test_calls_newer_than_the_profile(container: Make, number: int, expected: int) -> None:
    profile = seccomp([rule("execve", "exit", action="SCMP_ACT_ALLOW")], "SCMP_ACT_ERRNO")
    profile_with_newer = seccomp([rule("execve", "exit", "openat2", action="SCMP_ACT_ALLOW")], "SCMP_ACT_ERRNO")
    code = elf.call(number) + elf.EXIT_WITH_ERRNO
    assert runs(container(["true"], profile_with_newer), code) == expected
    if number > 60:
        assert runs(container(["true"], profile), code) == errno.ENOSYS


@pytest.mark.parametrize("action", ["SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS"])
def test_a_filter_that_allows_next_to_nothing(container: Make, action: str) -> None:
    """Between loading and execve nothing else is called: no brk, mmap, futex, openat, write, close."""
    one = container(["true"], seccomp([rule("execve", "exit", action="SCMP_ACT_ALLOW")], action))
    assert runs(one, b"\xb8\x07\x00\x00\x00" + elf.EXIT_WITH_RESULT) == 7


def test_nothing_but_execve_follows_the_filter(container: Make, tmp_path: Path) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("needs strace")
    one = container(["true"], seccomp([rule("mkdir")]))
    trace = tmp_path / "trace"
    argv = one.runtime.argv("run", "--bundle", one.bundle.path, one.id)
    subprocess.run([strace, "-f", "-o", trace, *argv], check=True, timeout=60, stdin=subprocess.DEVNULL)
    lines = [line.split(None, 1) for line in trace.read_text(errors="replace").splitlines()]
    (at,) = [index for index, (_, text) in enumerate(lines) if "SECCOMP_SET_MODE_FILTER" in text and "NULL" not in text]
    pid = lines[at][0]
    following = [text for number, text in lines[at + 1 :] if number == pid and not text.startswith(("<...", "---"))]
    assert following[0].startswith("execve(")


def test_exec_gets_the_filter_too(container: Make) -> None:
    one = container(["sleep", "60"], seccomp([rule("mkdir")]))
    one.run("--detach").ok()
    result = one.exec("mkdir", "/tmp/new")
    assert result.status == 1
    assert "Operation not permitted" in result.stderr


def test_flags_are_accepted_by_the_kernel(container: Make) -> None:
    flags = [f"SECCOMP_FILTER_FLAG_{name}" for name in ("TSYNC", "LOG", "SPEC_ALLOW")]
    result = container(STATUS, seccomp([rule("mkdir")], flags=flags)).run().ok()
    assert "Speculation_Store_Bypass" in result.stdout


def test_too_long_a_filter_is_refused(container: Make) -> None:
    args = [{"index": 0, "op": "SCMP_CMP_EQ", "value": value} for value in range(4200)]
    result = container(["true"], seccomp([rule("mkdir", args=args)])).run()
    assert result.status == 1
    assert "linux.seccomp: the filter has" in result.stderr and "4096" in result.stderr


def test_unknown_names_can_be_made_an_error(container: Make) -> None:
    def strict(config: Config) -> None:
        config["annotations"] = {"run.oci.seccomp_fail_unknown_syscall": "1"}

    container(["true"], seccomp([rule("no_such_call")])).run().ok()
    result = container(["true"], seccomp([rule("no_such_call")]), strict).run()
    assert result.status == 1
    assert "linux.seccomp.syscalls[0].names[0]" in result.stderr and "no_such_call" in result.stderr


# SCMP_ACT_NOTIFY.

SECCOMP_IOCTL_NOTIF_RECV = 0xC0502100
SECCOMP_IOCTL_NOTIF_SEND = 0xC0182101
CONTINUE = 1


class Agent:
    """A seccomp agent: takes one connection, then answers every call, `refused` ones with EXDEV."""

    def __init__(self, path: Path, refused: tuple[int, ...] = ()) -> None:
        self.path = path
        self.refused = refused
        self.states: list[dict[str, Any]] = []
        self.calls: list[int] = []
        self.trailing = b"not read"
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._stop, self._stopper = os.pipe()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while self._server.fileno() in select.select([self._server.fileno(), self._stop], [], [], 30)[0]:
            connection, _ = self._server.accept()
            with connection:
                message, ancillary, _, _ = connection.recvmsg(65536, 256)
                self.trailing = connection.recv(10)
            self.states.append(json.loads(message))
            ((level, kind, data),) = ancillary
            assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            (listener,) = array.array("i", data)
            try:
                self._answer(listener)
            finally:
                os.close(listener)

    def _answer(self, listener: int) -> None:
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        poll.register(self._stop, select.POLLIN)
        while True:
            ready = dict(poll.poll(30000))
            if listener not in ready or ready[listener] & select.POLLHUP:
                return  # nobody is left who has the filter, or the test is over
            request = bytearray(80)
            try:
                fcntl.ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, request)
                identity, _, _, number = struct.unpack_from("<QIIi", request)
                self.calls.append(number)
                error, flags = (-errno.EXDEV, 0) if number in self.refused else (0, CONTINUE)
                fcntl.ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, struct.pack("<QqiI", identity, 0, error, flags))
            except FileNotFoundError:
                pass  # the caller was killed meanwhile

    def close(self) -> None:
        if self._stopper >= 0:
            os.close(self._stopper)
            self._thread.join(30)
            self._server.close()
            os.close(self._stop)
            self._stopper = -1


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    made: list[Agent] = []

    def make(*refused: int) -> Agent:
        made.append(Agent(tmp_path / "agent", refused))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("changes", [[], [without_no_new_privileges]], ids=["no_new_privs", "privs"])
def test_the_agent_decides(
    container: Make, agent: Callable[..., Agent], changes: list[Callable[[Config], None]]
) -> None:
    told = agent(83)
    profile = seccomp(
        [rule("mkdir", "rmdir", action="SCMP_ACT_NOTIFY")], listenerPath=str(told.path), listenerMetadata='a "word"'
    )
    one = container(["sh", "-c", "mkdir /tmp/new; rmdir /tmp"], profile, *changes)
    result = one.run()
    assert "Invalid cross-device link" in result.stderr
    assert 83 in told.calls and 84 in told.calls
    (state,) = told.states
    assert told.trailing == b"", "one state per connection, which then ends"
    assert state["fds"] == ["seccompFd"]
    assert state["metadata"] == 'a "word"'
    assert state["state"]["id"] == one.id
    assert state["pid"] == state["state"]["pid"] > 1
    assert state["state"]["bundle"] == str(one.bundle.path)
    assert state["state"]["status"] == "creating"


@pytest.mark.parametrize("names", [["write"], ["sendmsg", "close", "wait4", "execve"]])
def test_calls_that_a_runtime_needs_can_be_decided_too(
    container: Make, agent: Callable[..., Agent], names: list[str]
) -> None:
    told = agent()
    profile = seccomp([rule(*names, action="SCMP_ACT_NOTIFY")], listenerPath=str(told.path))
    assert container(["echo", "hello"], profile).run().ok().stdout == "hello\n"
    assert told.calls


def test_everything_can_be_decided(container: Make, agent: Callable[..., Agent]) -> None:
    told = agent()
    profile = seccomp([rule("mkdir")], "SCMP_ACT_NOTIFY", listenerPath=str(told.path))
    result = container(["sh", "-c", "echo hello; mkdir /tmp/new"], profile).run()
    assert result.stdout == "hello\n"
    assert "Operation not permitted" in result.stderr
    assert {1, 59} <= set(told.calls)  # write, execve


def test_the_agent_is_told_about_exec(container: Make, agent: Callable[..., Agent]) -> None:
    told = agent(83)
    profile = seccomp([rule("mkdir", action="SCMP_ACT_NOTIFY")], listenerPath=str(told.path))
    one = container(["sleep", "60"], profile)
    one.run("--detach").ok()
    pid = one.pid
    told.close()
    told.path.unlink()
    again = agent(83)
    result = one.exec("mkdir", "/tmp/new")
    assert "Invalid cross-device link" in result.stderr
    (state,) = again.states
    assert state["state"]["pid"] == pid != state["pid"]
    assert state["state"]["status"] == "running"


def test_nothing_of_the_handover_is_left(container: Make, agent: Callable[..., Agent]) -> None:
    """No helper, no zombie, no open descriptor in the container."""
    told = agent()
    profile = seccomp([rule("mkdir", action="SCMP_ACT_NOTIFY")], listenerPath=str(told.path))
    result = container(["sh", "-c", "ls /proc/self/fd; ls /proc"], profile).run().ok()
    descriptors, _, rest = result.stdout.partition("\n1\n2\n3\n")
    assert descriptors == "0"
    assert [name for name in rest.split() if name.isdigit() and int(name) > 1][1:] == []


@pytest.mark.parametrize("kind", ["missing", "file", "deaf"])
def test_an_agent_that_is_not_there(container: Make, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "agent"
    if kind == "file":
        path.write_text("")
    elif kind == "deaf":
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(path))
        server.close()
    profile = seccomp([rule("mkdir", action="SCMP_ACT_NOTIFY")], listenerPath=str(path))
    result = container(["true"], profile).run()
    assert result.status == 1
    assert "failed to connect with seccomp agent" in result.stderr and str(path) in result.stderr


def test_an_agent_that_hangs_up(container: Make, tmp_path: Path) -> None:
    """Failure to send is an error, and no program runs: the message cannot be delivered."""
    path = tmp_path / "agent"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()
    profile = seccomp([rule("mkdir", action="SCMP_ACT_NOTIFY")], listenerPath=str(path))
    one = container(["echo", "hello"], profile)
    one.create().ok()
    connection, _ = server.accept()
    connection.close()
    server.close()
    result = one.start()
    assert "hello" not in result.output
    one.wait("stopped")


def test_notify_needs_a_listener(container: Make) -> None:
    result = container(["true"], seccomp([rule("mkdir", action="SCMP_ACT_NOTIFY")])).run()
    assert result.status == 1
    assert "linux.seccomp.listenerPath" in result.stderr


def test_a_listener_without_notify_is_ignored(container: Make) -> None:
    profile = seccomp([rule("mkdir")], listenerPath="/nowhere/at/all")
    container(["true"], profile).run().ok()
