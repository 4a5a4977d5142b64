"""Log lines: their exact form, and that nothing a container may choose can break out of one."""

from __future__ import annotations

import datetime
import json
import os
import posix
import pty
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyruntime.cli import log, logline
from pyruntime.errors import RuntimeFailure

# Every character, halves of surrogate pairs included: they stand for bytes that are no text.
ANY = st.characters(exclude_categories=())

NOW = "2026-01-02T03:04:05Z"


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    log.configure("", "", None)
    yield
    log.configure("", "", None)


def unquote(text: str) -> bytes:
    """What Go's strconv.Unquote makes of a string that strconv.Quote may have written."""
    if not text.startswith('"'):
        return text.encode()
    assert text.endswith('"')
    assert len(text) > 1
    out = b""
    rest = text[1:-1]
    short = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92, '"': 34}
    while rest:
        if rest[0] != "\\":
            assert rest[0] != '"'
            assert rest[0].isprintable()
            out += rest[0].encode()
            rest = rest[1:]
        elif rest[1] in short:
            out += bytes([short[rest[1]]])
            rest = rest[2:]
        elif rest[1] == "x":
            out += bytes([int(rest[2:4], 16)])
            rest = rest[4:]
        else:
            digits = {"u": 4, "U": 8}[rest[1]]
            out += chr(int(rest[2 : 2 + digits], 16)).encode()
            rest = rest[2 + digits :]
    return out


@given(st.text(st.characters(codec="utf-8")))
def test_quoting_loses_nothing(text: str) -> None:
    assert unquote(logline.quote(text)) == text.encode()


@given(st.binary())
def test_quoting_keeps_bytes_that_are_no_text(raw: bytes) -> None:
    assert unquote(logline.quote(raw.decode("utf-8", "surrogateescape"))) == raw


@given(st.text(ANY))
@example("a\udc80\ud800")
def test_a_printable_line_is_one_line(text: str) -> None:
    shown = logline.printable(text)
    assert shown.isprintable()
    shown.encode()


@given(st.text(ANY))
@example("a\udc80\ud800")
def test_json_is_one_object_for_a_strict_parser(text: str) -> None:
    line = logline.format_json("error", text, NOW, {})
    assert line.isascii()
    assert "\n" not in line
    document = json.loads(line)
    assert list(document) == ["level", "msg", "time"]
    document["msg"].encode()  # no half of a surrogate pair
    if not any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        assert document["msg"] == text


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("plain-1.0_/@^+", "plain-1.0_/@^+"),
        ("", ""),
        ("two words", '"two words"'),
        ('say "x"', r'"say \"x\""'),
        ("a\\b", r'"a\\b"'),
        ("line\nend\ttab\x1b[0m\x7f", r'"line\nend\ttab\x1b[0m\x7f"'),
        ("\a\b\f\r\v\0", r'"\a\b\f\r\v\x00"'),
        ("größe €", '"größe €"'),
        ("no\u00a0break\u200b\ufeff", r'"no\u00a0break\u200b\ufeff"'),
        ("\U000e0001", r'"\U000e0001"'),
        ("raw \udcff", r'"raw \xff"'),
        ("=", '"="'),
        (":", '":"'),
    ],
)
def test_quoting_as_go_does(text: str, quoted: str) -> None:
    assert logline.quote(text) == quoted


def test_the_text_form() -> None:
    line = logline.format_text("error", 'exec: "sh": not there', NOW, {})
    assert line == r'time="2026-01-02T03:04:05Z" level=error msg="exec: \"sh\": not there"'
    assert logline.format_text("debug", "x", NOW, {"func": "a.b()", "file": "c.py:1"}) == (
        f'time="{NOW}" level=debug msg=x func="a.b()" file="c.py:1"'
    )


def test_the_form_for_terminals() -> None:
    assert logline.format_colour("error", "it failed", 0, {}) == f"\x1b[31mERRO\x1b[0m[0000] {'it failed':<44} "
    assert logline.format_colour("warning", "x\x1b[2J", 12, {}).startswith("\x1b[33mWARN\x1b[0m[0012] x\\x1b[2J ")


@pytest.mark.parametrize(
    ("zone", "suffix"), [("UTC0", "Z"), ("CET-1", "+01:00"), ("NST3:30", "-03:30"), ("NPT-5:45", "+05:45"), ("", "Z")]
)
def test_the_time_is_rfc3339_in_the_local_zone(zone: str, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        text = logline.timestamp(1_700_000_000)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert text.endswith(suffix)
    assert datetime.datetime.fromisoformat(text).timestamp() == 1_700_000_000


@pytest.mark.parametrize("form", ["xml", "JSON", "text "])
def test_an_unknown_form_is_refused(form: str) -> None:
    with pytest.raises(RuntimeFailure, match="invalid log-format: "):
        log.configure("", form, None)


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(RuntimeFailure, match="invalid log-level: loud"):
        log.configure("", "", "loud")


def test_an_error_goes_to_the_file_and_to_standard_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "log"
    file.write_text("before\n")
    log.configure(str(file), "json", None)
    log.error("it\nfailed")
    lines = file.read_text().splitlines()
    assert lines[0] == "before"
    assert json.loads(lines[1])["msg"] == "it\nfailed"
    assert len(lines) == 2
    assert capfd.readouterr() == ("", "it\\nfailed\n")


def test_without_a_file_standard_error_gets_the_log_line(capfd: pytest.CaptureFixture[str]) -> None:
    log.error("it failed")
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith('time="')
    assert err.endswith('level=error msg="it failed"\n')


@pytest.mark.parametrize(
    ("form", "level", "seen"),
    [("", None, ["warning"]), ("json", None, []), ("json", "warning", ["warning"]), ("", "error", []),
     ("text", "debug", ["warning", "debug"])],
)  # fmt: skip
def test_levels(form: str, level: str | None, seen: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    log.configure("", form, level)
    log.warning("w")
    log.debug("d")
    err = capfd.readouterr().err
    assert [name for name in ("warning", "debug") if name in err] == seen
    assert log.debugging() is ("debug" in seen)


def test_debug_lines_name_their_place(capfd: pytest.CaptureFixture[str]) -> None:
    log.configure("", "json", "debug")
    log.debug("here")
    document = json.loads(capfd.readouterr().err)
    assert document["func"].endswith("test_debug_lines_name_their_place()")
    assert document["file"].startswith("test_cli_log.py:")


def test_a_new_file_is_0644_and_appended_to(tmp_path: Path) -> None:
    file = tmp_path / "log"
    mask = os.umask(0o022)
    try:
        log.configure(str(file), "", None)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    descriptor = log._descriptor
    flags = os.readlink(f"/proc/self/fd/{descriptor}"), Path(f"/proc/self/fdinfo/{descriptor}").read_text()
    assert flags[0] == str(file)
    bits = int(flags[1].split("flags:")[1].split()[0], 8)
    assert bits & os.O_APPEND
    assert bits & os.O_SYNC == os.O_SYNC
    assert bits & os.O_CLOEXEC


def test_the_file_stays_out_of_the_way_of_preserved_descriptors(tmp_path: Path) -> None:
    log.configure(str(tmp_path / "log"), "", None)
    assert log._descriptor >= log.HIGH_DESCRIPTOR


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match=r"^open .*/none/log: no such file or directory$"):
        log.configure(f"{tmp_path}/none/log", "", None)
    with pytest.raises(RuntimeFailure, match="is a directory"):
        log.configure(str(tmp_path), "", None)


def test_file_prefix(tmp_path: Path) -> None:
    log.configure(f"file:{tmp_path}/log", "", None)
    log.warning("w")
    assert "msg=w" in (tmp_path / "log").read_text()


def test_our_own_link_is_followed_and_a_stranger_s_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "target")
    log.configure(str(link), "", None)
    log.warning("w")
    assert "msg=w" in (tmp_path / "target").read_text()
    monkeypatch.setattr(posix, "geteuid", lambda: os.geteuid() + 1)
    if os.geteuid() == 0:
        os.lchown(link, 12345, 12345)
    with pytest.raises(RuntimeFailure, match="permission denied: a symbolic link that another user made"):
        log.configure(str(link), "", None)


def test_standard_error_by_its_path(capfd: pytest.CaptureFixture[str]) -> None:
    log.configure("/dev/stderr", "", None)
    log.warning("w")
    assert "msg=w" in capfd.readouterr().err


def test_colours_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_started", time.monotonic())
    master, slave = pty.openpty()
    try:
        monkeypatch.setattr(log, "STDERR", slave)
        log.error("oh\x1b[2J")
        shown = os.read(master, 4096)
    finally:
        os.close(master)
        os.close(slave)
    assert shown.startswith(b"\x1b[31mERRO\x1b[0m[00")
    assert b"oh\\x1b[2J" in shown


def test_an_unwritable_target_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        monkeypatch.setattr(log, "STDERR", descriptor)
        log.error("lost")
    finally:
        os.close(descriptor)
    monkeypatch.setattr(log, "STDERR", 9999)
    log.error("lost too")
