"""The D-Bus client: values as bytes, and a conversation with a peer that speaks the protocol by the book."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_dbus import FakeBus

from pyruntime.cgroups.dbus import CallFailed, Connection
from pyruntime.cgroups.dbus_wire import Reader, Variant, Writer, first, types
from pyruntime.errors import RuntimeFailure


def test_known_bytes() -> None:
    """Examples worked out by hand from the specification's alignment rules."""
    assert bytes(Writer().write("yu", 1, 2).data) == bytes([1, 0, 0, 0, 2, 0, 0, 0])
    assert bytes(Writer().write("s", "foo").data) == b"\x03\0\0\0foo\0"
    assert bytes(Writer().write("g", "a{sv}").data) == b"\x05a{sv}\0"
    assert bytes(Writer().write("ax", []).data) == bytes(8), "padding after the length though nothing follows"
    assert bytes(Writer().write("ax", [5]).data) == b"\x08\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0"
    assert bytes(Writer().write("v", Variant("b", True)).data) == b"\x01b\0\0\x01\0\0\0"
    assert bytes(Writer().write("a(ss)", [("a", "b")]).data) == (
        b"\x0e\0\0\0\0\0\0\0" + b"\x01\0\0\0a\0\0\0" + b"\x01\0\0\0b\0"
    )


def test_signatures() -> None:
    assert types("sa{sv}(ii)aav") == ["s", "a{sv}", "(ii)", "aav"]
    assert first("a(sa(sv))u") == "a(sa(sv))"
    for bad in ("", "a", "(ii", "z", "a{s"):
        with pytest.raises(ValueError, match="D-Bus"):
            first(bad)


LEAVES: dict[str, st.SearchStrategy[Any]] = {
    "y": st.integers(0, 255),
    "b": st.booleans(),
    "n": st.integers(-(1 << 15), (1 << 15) - 1),
    "q": st.integers(0, (1 << 16) - 1),
    "i": st.integers(-(1 << 31), (1 << 31) - 1),
    "u": st.integers(0, (1 << 32) - 1),
    "x": st.integers(-(1 << 63), (1 << 63) - 1),
    "t": st.integers(0, (1 << 64) - 1),
    "d": st.floats(allow_nan=False),
    "s": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9),
    "g": st.sampled_from(["", "s", "a{sv}"]),
}


@st.composite
def typed(draw: st.DrawFn, depth: int = 0) -> tuple[str, Any]:
    """A signature and a value for it."""
    kind = draw(st.sampled_from([*LEAVES, *("a({v" if depth < 3 else "")]))
    if kind == "a":
        signature, value = draw(typed(depth + 1))
        return "a" + signature, [value] * draw(st.integers(0, 3))
    if kind == "(":
        members = draw(st.lists(typed(depth + 1), min_size=1, max_size=3))
        return "(" + "".join(s for s, _ in members) + ")", tuple(v for _, v in members)
    if kind == "{":
        signature, value = draw(typed(depth + 1))
        return "a{s" + signature + "}", dict.fromkeys(draw(st.lists(LEAVES["s"], max_size=3)), value)
    if kind == "v":
        signature, value = draw(typed(depth + 1))
        return "v", Variant(signature, value)
    return kind, draw(LEAVES[kind])


@given(st.lists(typed(), max_size=4))
def test_what_is_written_is_read_again(values: list[tuple[str, Any]]) -> None:
    signature = "".join(s for s, _ in values)
    data = bytes(Writer().write(signature, *(v for _, v in values)).data)
    reader = Reader(data)
    assert reader.read(signature) == [v for _, v in values]
    assert reader.offset == len(data)


@given(st.binary(max_size=60), st.sampled_from(["s", "a{sv}", "a(sv)", "v", "aay", "(tt)as"]))
def test_broken_bytes_are_an_error_and_nothing_else(data: bytes, signature: str) -> None:
    try:
        Reader(data).read(signature)
    except ValueError:
        pass


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[FakeBus]:
    one = FakeBus(tmp_path / "bus")
    yield one
    one.close()


def test_a_call_and_its_answer(bus: FakeBus) -> None:
    bus.answers["Echo"] = lambda values: ("sas", [values[0].upper(), values[1]])
    connection = Connection(bus.address)
    assert connection.call("a.b", "/c", "d.e", "Echo", "sas", "hi", ["x", "y"]) == ["HI", ["x", "y"]]
    connection.close()
    assert [(c.member, c.destination) for c in bus.calls] == [("Hello", "org.freedesktop.DBus"), ("Echo", "a.b")]
    assert (bus.calls[1].path, bus.calls[1].interface) == ("/c", "d.e")


def test_a_direct_peer_gets_no_hello_and_no_destination(bus: FakeBus) -> None:
    bus.answers["Echo"] = lambda values: ("", [])
    Connection(bus.address, direct=True).call("a.b", "/c", "d.e", "Echo")
    assert [(c.member, c.destination) for c in bus.calls] == [("Echo", "")]


def test_an_error_of_the_peer(bus: FakeBus) -> None:
    connection = Connection(bus.address)
    with pytest.raises(CallFailed, match="I do not know Nothing") as caught:
        connection.call("a.b", "/c", "d.e", "Nothing")
    assert caught.value.name == "org.freedesktop.DBus.Error.UnknownMethod"


def test_signals_that_come_before_the_answer_are_kept(bus: FakeBus) -> None:
    def answer(values: list[Any]) -> tuple[str, list[Any]]:
        bus.signal("Other", "u", 1)
        bus.signal("Done", "su", "before", 2)
        return "", []

    bus.answers["Work"] = answer
    connection = Connection(bus.address)
    connection.call("a.b", "/c", "d.e", "Work")
    assert connection.wait("Done", 5) == ["before", 2]
    timer = threading.Timer(0.05, lambda: bus.signal("Done", "s", "after"))
    timer.start()
    assert connection.wait("Done", 5) == ["after"]
    timer.join()
    assert connection.wait("Done", 0.05) is None


@pytest.mark.parametrize("mode", ["data", "ok", "named"])
def test_ways_to_authenticate(tmp_path: Path, mode: str) -> None:
    bus = FakeBus(tmp_path / "bus", auth=mode)
    Connection(bus.address).close()
    bus.close()
    assert bus.auth_lines[0] == b"\0AUTH EXTERNAL"
    assert bus.auth_lines[-1] == b"BEGIN"


def test_no_call_arrives_together_with_begin(tmp_path: Path) -> None:
    """systemd takes up what it reads together with BEGIN only when more arrives: such a call is never answered.

    The peer reads all there is after each of its own answers, so what was sent in one go arrives in one piece.
    """
    pieces: list[bytes] = []

    def talk(connection: socket.socket) -> None:
        for answer in (b"", b"DATA\r\n", b"OK 0123456789abcdef0123456789abcdef\r\n"):
            connection.sendall(answer)
            time.sleep(0.05)
            pieces.append(connection.recv(10000))
            time.sleep(0.05)
            with pytest.raises(BlockingIOError):
                connection.recv(1, socket.MSG_DONTWAIT)

    thread = serve(tmp_path / "bus", talk)
    connection = Connection(f"unix:path={tmp_path}/bus", direct=True, timeout=5)
    with pytest.raises(RuntimeFailure, match="closed the connection"):
        connection.call("a.b", "/c", "d.e", "Work")
    thread.join()
    connection.close()
    assert [piece.endswith(b"BEGIN\r\n") for piece in pieces] == [False, True, False]
    assert b"Work" in pieces[2]


def test_a_peer_that_does_not_take_us(tmp_path: Path) -> None:
    bus = FakeBus(tmp_path / "bus", auth="never")
    with pytest.raises(RuntimeFailure, match="D-Bus authentication failed: REJECTED"):
        Connection(bus.address)
    bus.close()


def serve(path: Path, talk: Callable[[socket.socket], None]) -> threading.Thread:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def run() -> None:
        connection, _ = listener.accept()
        with connection, listener:
            talk(connection)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (b"", "closed the connection|Broken pipe"),
        (b"B" + bytes(15), "not little endian"),
        (b"l\x02\0\x01" + b"\xff\xff\xff\x7f" + bytes(8), "message of 2147483647 bytes"),
        (b"l\x02\0\x01" + bytes(4) + b"\1\0\0\0" + b"\x10\0\0\0" + b"\xff" * 16, "D-Bus"),
    ],
)
def test_a_peer_that_talks_nonsense(tmp_path: Path, message: bytes, problem: str) -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b"OK 1234\r\n")
        connection.recv(7)
        connection.sendall(message)
        while message and connection.recv(1000):
            pass

    thread = serve(tmp_path / "bus", talk)
    with pytest.raises(RuntimeFailure, match=problem):
        Connection(f"unix:path={tmp_path}/bus")
    thread.join()


def test_with_a_real_bus(tmp_path: Path) -> None:
    program = shutil.which("dbus-daemon")
    if program is None:
        pytest.skip("no dbus-daemon here")
    address = f"unix:path={tmp_path}/bus"
    (tmp_path / "conf").write_text(
        f"<busconfig><type>session</type><listen>{address}</listen><policy context='default'>"
        "<allow send_destination='*' eavesdrop='true'/><allow eavesdrop='true'/><allow own='*'/></policy></busconfig>"
    )
    process = subprocess.Popen([program, f"--config-file={tmp_path}/conf", "--nofork"])
    try:
        for _ in range(500):
            if (tmp_path / "bus").exists():
                break
            time.sleep(0.01)
        connection = Connection(address)
        bus = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
        assert "org.freedesktop.DBus" in connection.call(*bus, "ListNames")[0]
        assert connection.call(*bus, "RequestName", "su", "a.test.name", 0) == [1]
        assert connection.wait("NameAcquired", 5) is not None
        with pytest.raises(CallFailed, match=r"a\.missing\.name") as caught:
            connection.call("a.missing.name", "/", "a.b", "C", "a(sv)", [("x", Variant("au", [1]))])
        assert caught.value.name == "org.freedesktop.DBus.Error.ServiceUnknown"
        connection.close()
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize(
    ("signature", "body"),
    [
        ("v", b"\x01v\0" * 3000),
        ("(" * 3000 + "y" + ")" * 3000, bytes(10)),
        ("a" * 3000 + "y", bytes(20000)),
        ("a()", b"\x08\0\0\0" + bytes(12)),
        ("a{}", b"\x08\0\0\0" + bytes(12)),
        ("a{ayy}", Writer().write("a(ayy)", [([1], 2)]).data),
        ("a{vy}", b"\x08\0\0\0" + bytes(12)),
    ],
    ids=[
        "variants",
        "structures",
        "arrays",
        "empty structures",
        "empty entries",
        "keys that are lists",
        "variant keys",
    ],
)
def test_what_a_peer_must_not_send(signature: str, body: bytes) -> None:
    """No recursion without end, and no array of values that take no bytes, which would never be complete."""
    with pytest.raises(ValueError, match="D-Bus"):
        Reader(bytes(body)).read(signature)


def test_the_deepest_that_a_peer_may_send() -> None:
    value: Any = 7
    for _ in range(32):
        value = [value]
    assert Reader(bytes(Writer().write("a" * 32 + "y", value).data)).read("a" * 32 + "y") == [value]


def test_addresses(tmp_path: Path) -> None:
    strange = tmp_path / "a,b=c %"
    bus = FakeBus(strange)
    escaped = str(strange).replace("%", "%25").replace(",", "%2c").replace("=", "%3D").replace(" ", "%20")
    Connection(f"tcp:host=x;unix:path={tmp_path}/missing;unix:path={escaped},guid=12").close()
    bus.close()
    with pytest.raises(RuntimeFailure, match="only unix:path="):
        Connection("tcp:host=localhost,port=1")
    with pytest.raises(FileNotFoundError):
        Connection(f"unix:path={tmp_path}/missing")


@pytest.mark.parametrize("address", ["unix:path=/run/%zz", "unix:path=/run/bus%2", "unix:abstract=%", "tcp:host=x"])
def test_an_address_that_is_none_is_told(address: str) -> None:
    with pytest.raises(RuntimeFailure, match="D-Bus address"):
        Connection(address)
