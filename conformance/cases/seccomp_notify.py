"""The seccomp listener and the container process state: config-linux.md."""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from conformance.cases.seccomp import ALLOW, filtered, rule
from conformance.outcome import equal, fail, require, skip
from conformance.registry import case, each
from conformance.stage import NAP, Stage, wait_for

NOTIFY = "SCMP_ACT_NOTIFY"
# seccomp_unotify(2): ioctl numbers, and the flag that lets a call happen.
NOTIF_RECV, NOTIF_SEND, NOTIF_CONTINUE = 0xC0502100, 0xC0182101, 1


class Message(NamedTuple):
    """What arrived on one connection to the listener: the payload, the descriptors, how often and when they came."""

    payload: dict[str, Any]
    descriptors: list[int]
    fds_first: bool
    closed: bool


def accept(listener: socket.socket) -> socket.socket:
    """Accept the connection of the runtime."""
    try:
        return listener.accept()[0]
    except TimeoutError:
        fail("nobody connected to the listener")


def receive(connection: socket.socket) -> Message:
    """Read one connection to its end."""
    data, fds, count, first = b"", array.array("i"), 0, False
    with connection:
        connection.settimeout(5)
        while True:
            try:
                piece, control, _, _ = connection.recvmsg(65536, socket.CMSG_SPACE(16 * fds.itemsize))
            except TimeoutError:
                return Message(json.loads(data or b"{}"), list(fds), first, False)
            for level, kind, raw in control:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
                    first = count == 0
            if not piece:
                break
            data += piece
            count += 1
    return Message(json.loads(data), list(fds), first, True)


def listening(stage: Stage, kind: int = socket.SOCK_STREAM) -> tuple[socket.socket, str]:
    """A listener for the container's filter."""
    path = str(stage.dir / "listener")
    listener = socket.socket(socket.AF_UNIX, kind)
    stage.undo.callback(listener.close)
    listener.bind(path)
    if kind == socket.SOCK_STREAM:
        listener.listen(5)
    listener.settimeout(10)
    return listener, path


def notified(stage: Stage, metadata: str | None = None) -> Message:
    """Create a container whose filter notifies, and return what the listener got."""
    listener, path = listening(stage)
    more = {} if metadata is None else {"listenerMetadata": metadata}
    filtered(stage, rule(NOTIFY, "personality"), default=ALLOW, listenerPath=path, **more)
    stage.process["args"] = NAP
    stage.config["annotations"] = {"org.example.key": "value"}
    stage.create()
    message = receive_now_or_after_start(stage, listener)
    stage.undo.callback(close_all, message.descriptors)
    return message


def receive_now_or_after_start(stage: Stage, listener: socket.socket) -> Message:
    """Runtimes connect and load the filter during create or right before the program starts: look after both."""
    if not select.select([listener], [], [], 0.2)[0]:
        stage.start()
    connection = accept(listener)
    if not select.select([connection], [], [], 0.2)[0]:
        stage.start(ok=False)
    return receive(connection)


def close_all(descriptors: list[int]) -> None:
    """Close the descriptors."""
    for one in descriptors:
        os.close(one)


@case(
    "seccomp.listenerPath",
    "seccomp.listenerPath.one-state",
    "seccomp.listenerPath.close",
    "cps.payload",
    "cps.several-sendmsg",
)
def one_state_arrives(stage: Stage) -> None:
    """The listener gets one JSON object and then the end of the connection."""
    message = notified(stage)
    require(message.payload, "the listener got no JSON object")
    require(message.closed, "the connection was not closed after the state")


@case("seccomp.seccompFd", "cps.fds", "cps.fds-first")
def descriptor_arrives(stage: Stage) -> None:
    """One descriptor arrives with the first message, and fds names it seccompFd."""
    message = notified(stage)
    equal(message.payload.get("fds"), ["seccompFd"], "fds")
    equal(len(message.descriptors), 1, "number of descriptors")
    require(message.fds_first, "the descriptor did not come with the first message")
    equal(os.readlink(f"/proc/self/fd/{message.descriptors[0]}"), "anon_inode:seccomp notify", "kind of the descriptor")


@case("cps.ociVersion", "cps.pid", "cps.state", "state.status.creating")
def process_state_is_complete(stage: Stage) -> None:
    """ociVersion, pid and state are there: the pid of the host, and the container's state."""
    payload = notified(stage).payload
    require(isinstance(payload.get("ociVersion"), str), f"ociVersion is {payload.get('ociVersion')!r}")
    equal(payload.get("pid"), stage.pid, "pid")
    state = payload.get("state") or {}
    equal((state.get("id"), state.get("annotations")), (stage.id, {"org.example.key": "value"}), "id and annotations")
    require(state.get("status") in ("creating", "created"), f"status is {state.get('status')!r}")


@each({"seccomp.listenerMetadata": ("some text",), "cps.metadata": ("größer " * 2000,)})
def metadata_arrives(stage: Stage, text: str) -> None:
    """listenerMetadata arrives as metadata, whatever its length."""
    equal(notified(stage, text).payload.get("metadata"), text, "metadata")


@case("seccomp.action.NOTIFY")
def listener_answers_the_call(stage: Stage) -> None:
    """The call waits for the listener, whose answer it gets."""
    listener, path = listening(stage)
    filtered(stage, rule(NOTIFY, "personality"), default=ALLOW, listenerPath=path)
    source = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "print(libc.personality(ctypes.c_ulong(0xffffffff)), ctypes.get_errno())\n"
    )
    stage.process["args"] = [stage.host_python(), "-I", "-S", "-c", source]
    stage.create()
    message = receive_now_or_after_start(stage, listener)
    stage.undo.callback(close_all, message.descriptors)
    if stage.state()["status"] == "created":
        stage.start()
    answer(message.descriptors[0], errno=28)
    equal(stage.finish(), "-1 28\n", "result of personality(2)")


def answer(descriptor: int, errno: int, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Take one notification, do something else, and make the call fail with `errno`."""
    if not select.select([descriptor], [], [], 5)[0]:
        fail("no notification came")
    request = bytearray(80)
    fcntl.ioctl(descriptor, NOTIF_RECV, request)
    number = struct.unpack_from("Q", request)[0]
    meanwhile()
    fcntl.ioctl(descriptor, NOTIF_SEND, bytearray(struct.pack("QqiI", number, 0, -errno, 0)))


@case("seccomp.flags.WAIT_KILLABLE_RECV")
def a_signal_does_not_interrupt_a_received_call(stage: Stage) -> None:
    """With the flag a signal waits until the listener has answered; without it the answer would find nobody."""
    listener, path = listening(stage)
    flags = ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]
    filtered(stage, rule(NOTIFY, "personality"), default=ALLOW, listenerPath=path, flags=flags)
    source = (
        "import ctypes, signal\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('signal'))\n"
        "print(libc.personality(ctypes.c_ulong(0xffffffff)), ctypes.get_errno())\n"
    )
    stage.process["args"] = [stage.host_python(), "-I", "-S", "-c", source]
    result = stage.create(ok=False)
    if not result.ok:
        skip(f"WAIT_KILLABLE_RECV was refused: {result.message}")
    message = receive_now_or_after_start(stage, listener)
    stage.undo.callback(close_all, message.descriptors)
    if stage.state()["status"] == "created":
        stage.start()

    def interrupt() -> None:
        os.kill(stage.pid, signal.SIGUSR1)
        time.sleep(0.2)

    try:
        answer(message.descriptors[0], 28, interrupt)
    except FileNotFoundError:
        fail("the signal interrupted the call although the listener had received it")
    equal(sorted(stage.finish().splitlines()), ["-1 28", "signal"], "result of personality(2), and the handler")


@case("seccomp.listenerPath.socket")
def datagram_listener_is_an_error(stage: Stage) -> None:
    """A listener that is no stream socket is an error."""
    _, path = listening(stage, socket.SOCK_DGRAM)
    filtered(stage, rule(NOTIFY, "personality"), default=ALLOW, listenerPath=path)
    stage.refused("the listener is a datagram socket", at_start=True)


@case("seccomp.listenerPath.error")
def missing_listener_is_an_error(stage: Stage) -> None:
    """A listener that does not exist is an error, and nothing is left."""
    filtered(stage, rule(NOTIFY, "personality"), default=ALLOW, listenerPath=str(stage.dir / "missing"))
    stage.refused("there is no listener", at_start=True)


@case("seccomp.listenerPath.ignored")
def unused_listener_is_ignored(stage: Stage) -> None:
    """Without a rule that notifies, listenerPath is not used."""
    filtered(stage, rule("SCMP_ACT_ERRNO", "personality"), default=ALLOW, listenerPath=str(stage.dir / "missing"))
    equal(stage.sh("echo runs"), "runs\n", "output of the program")


@case("seccomp.listenerMetadata.needs-path")
def metadata_needs_a_listener(stage: Stage) -> None:
    """listenerMetadata without listenerPath is an error."""
    filtered(stage, rule("SCMP_ACT_ERRNO", "personality"), default=ALLOW, listenerMetadata="text")
    stage.refused("there is metadata for no listener", at_start=True)


@each({"seccomp.action.NOTIFY.limits@default": ("default",), "seccomp.action.NOTIFY.limits@write": ("write",)})
def notify_has_limits(stage: Stage, kind: str) -> None:
    """NOTIFY as the default action, or for write, is refused, or create succeeds and the listener gets the state."""
    listener, path = listening(stage)
    if kind == "default":
        filtered(stage, rule(ALLOW, "write"), default=NOTIFY, listenerPath=path)
    else:
        filtered(stage, rule(NOTIFY, "write"), default=ALLOW, listenerPath=path)
    stage.process["args"] = NAP
    messages: list[Message] = []
    # Whoever starts the container may be stopped by its own filter, so the listener lives in a thread.
    thread = threading.Thread(target=let_everything_through, args=(listener, messages), daemon=True)
    thread.start()
    result = stage.create(ok=False)
    if not result.ok:
        require(result.err.strip(), "the refusal was not explained")
        return
    stage.start()
    wait_for(lambda: messages)
    require(messages, "the container runs, and the listener got nothing")
    equal(messages[0].payload.get("fds"), ["seccompFd"], "fds")


def let_everything_through(listener: socket.socket, messages: list[Message]) -> None:
    """Take one state from the listener, then answer every notification with `continue` until there are no more."""
    with contextlib.suppress(OSError, AssertionError, ValueError):
        message = receive(accept(listener))
        messages.append(message)
        while select.select(message.descriptors, [], [], 5)[0]:
            request = bytearray(80)
            fcntl.ioctl(message.descriptors[0], NOTIF_RECV, request)
            number = struct.unpack_from("Q", request)[0]
            fcntl.ioctl(
                message.descriptors[0], NOTIF_SEND, bytearray(struct.pack("QqiI", number, 0, 0, NOTIF_CONTINUE))
            )
        close_all(message.descriptors)


@case("seccomp.listenerPath.close")
def exec_makes_a_connection_of_its_own(stage: Stage) -> None:
    """A process added by exec tells the listener on a new connection, with its own pid and the status running."""
    listener, path = listening(stage)
    filtered(stage, rule(NOTIFY, "personality"), default=ALLOW, listenerPath=path)
    stage.process["args"] = NAP
    stage.create()
    first = receive_now_or_after_start(stage, listener)
    stage.undo.callback(close_all, first.descriptors)
    if stage.state()["status"] == "created":
        stage.start()
    pid_file = stage.dir / "exec.pid"
    result = stage.runtime.call("exec", "--detach", "--pid-file", str(pid_file), stage.id, "/bin/sleep", "300")
    if not result.ok:
        skip(f"exec is not possible here: {result.message}")
    second = receive(accept(listener))
    stage.undo.callback(close_all, second.descriptors)
    equal(second.payload.get("pid"), int(Path(pid_file).read_text()), "pid")
    equal((second.payload.get("state") or {}).get("status"), "running", "status")
