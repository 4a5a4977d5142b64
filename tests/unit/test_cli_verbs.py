"""What each verb hands to the container room, and what it prints of the answer. The room itself is a fake here."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.room import STATE, Room, call, fake_room

from pyruntime.cli import checkpoint, kill, ps
from pyruntime.cli.main import main
from pyruntime.container import report
from pyruntime.errors import RuntimeFailure


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Room:
    return fake_room(monkeypatch)


def test_the_context(room: Room) -> None:
    main(["pyruntime", "--root", "/r", "--systemd-cgroup", "--rootless=false", "start", "web"])
    assert room.context() == {
        "root": "/r", "systemd_cgroup": True, "rootless": "false", "cgroup_manager": None, "debug": False,
    }  # fmt: skip


def test_cgroup_manager(room: Room) -> None:
    main(["crun", "--root", "/r", "--cgroup-manager", "disabled", "--debug", "start", "web"])
    assert room.context()["cgroup_manager"] == "disabled"
    assert room.context()["debug"] is True


def test_the_user_s_own_root_is_made_and_kept(room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyruntime.cli import main as cli

    monkeypatch.setattr(cli, "default_root", lambda: f"{tmp_path}/pyruntime")
    assert main(["pyruntime", "delete", "web"]) == 0
    assert not (tmp_path / "pyruntime").exists()
    for _ in range(2):
        assert main(["pyruntime", "create", "web"]) == 0
    assert room.context()["root"] == f"{tmp_path}/pyruntime"
    assert (tmp_path / "pyruntime").stat().st_mode & 0o7777 == 0o1700
    monkeypatch.setattr(cli, "default_root", lambda: f"{tmp_path}/none/pyruntime")
    assert main(["pyruntime", "create", "web"]) == 1


def test_warnings_of_the_room_become_log_lines(room: Room, capfd: pytest.CaptureFixture[str]) -> None:
    assert call("start", "web") == 0
    report.warn("careful")
    report.debug("not now")
    assert capfd.readouterr().err.endswith("level=warning msg=careful\n")
    assert not report.debugging


@pytest.mark.parametrize("verb", ["start", "pause", "resume"])
def test_verbs_that_take_an_id(verb: str, room: Room, capfd: pytest.CaptureFixture[str]) -> None:
    assert call(verb, "web") == 0
    assert room[0][0] == verb
    assert room[0][2:] == ("web",)
    assert capfd.readouterr() == ("", "")


CREATE = {
    "console_socket": None, "pidfd_socket": None, "pid_file": None, "config": None, "no_pivot": False,
    "no_new_keyring": False, "preserve_fds": 0, "no_subreaper": False,
}  # fmt: skip


def test_create(room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("create", "web") == 0
    assert room[0][2:4] == ("web", str(tmp_path))
    assert room[0][4] == CREATE
    line = "create --bundle b -pid-file p --pidfd-socket=q --no-pivot --preserve-fds 3 --no-new-keyring -f c"
    assert call(*line.split(), "--no-subreaper", "--console-socket", "s", "web") == 0
    assert room[1][2:4] == ("web", f"{tmp_path}/b")
    assert room[1][4] == {
        "console_socket": "s", "pidfd_socket": "q", "pid_file": f"{tmp_path}/p", "config": f"{tmp_path}/c",
        "no_pivot": True, "no_new_keyring": True, "preserve_fds": 3, "no_subreaper": True,
    }  # fmt: skip


def test_run(room: Room) -> None:
    room.status = 130
    assert call("run", "--bundle", "/b", "web") == 130
    assert room[0][2:] == ("web", "/b", {**CREATE, "detach": False, "keep": False})
    assert call("run", "-d", "--keep", "web") == 130
    assert room[1][4]["detach"]
    assert room[1][4]["keep"]


def test_negative_descriptors(room: Room, capfd: pytest.CaptureFixture[str]) -> None:
    assert call("run", "--preserve-fds", "-1", "web") == 1
    assert "cannot be negative" in capfd.readouterr().err
    assert not room


@pytest.mark.parametrize(
    ("line", "identifier", "no_pivot"),
    [("plan -b /b", "container", None), ("plan -b /b web", "web", None),
     ("run -b /b --dry-run --no-pivot web", "web", True),
     ("create --dry-run -b /b web", "web", False)],
)  # fmt: skip
def test_plans(
    line: str, identifier: str, no_pivot: bool | None, room: Room, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(*line.split()) == 0
    assert [item[0] for item in room] == ["preview"]
    assert room[0][2:4] == (identifier, "/b")
    assert room[0][4].get("no_pivot") is no_pivot
    assert capfd.readouterr().out == "enter the \\x1b[0m room\nleave it\n"
    assert call(*line.split(), "--format=json") == 0
    assert json.loads(capfd.readouterr().out) == [
        {"side": "host", "step": "Step", "description": "enter the \x1b[0m room"},
        {"side": "init", "step": "Step", "description": "leave it"},
    ]
    assert call(*line.split(), "--format=xml") == 1


def test_state_is_json_without_a_final_newline(room: Room, capfd: pytest.CaptureFixture[str]) -> None:
    assert call("state", "web") == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert json.loads(out) == STATE
    assert out.startswith('{\n  "ociVersion": "1.0.2",\n')
    assert out.endswith("}")


@pytest.mark.parametrize(
    ("line", "expected"),
    [("web", ("web", 15, False)), ("web 9", ("web", 9, False)), ("--all web KILL", ("web", 9, True)),
     ("web hup -a", ("web", 1, True)), ("web 0", ("web", 0, False))],
)  # fmt: skip
def test_kill(line: str, expected: tuple[str, int, bool], room: Room) -> None:
    assert call("kill", *line.split()) == 0
    assert room[0][2:] == expected


@pytest.mark.parametrize(
    ("text", "number"),
    [("TERM", 15), ("sigterm", 15), ("SigTerm", 15), ("9", 9), ("009", 9), ("0", 0), ("64", 64), ("RTMIN", 34),
     ("SIGRTMIN+3", 37), ("rtmax-1", 63), ("RTMIN+30", 64), ("CLD", 17), ("POLL", 29), ("IOT", 6), ("STKFLT", 16),
     ("WINCH", 28), ("PWR", 30), ("SYS", 31)],
)  # fmt: skip
def test_signals(text: str, number: int) -> None:
    assert kill.signal_number(text) == number


@pytest.mark.parametrize(
    "text",
    ["", "NOPE", "SIG", "-9", "65", "1000000000000", "9 ", "\u0669", "_DFL", "SIG_IGN", "_BLOCK", "RTMIN+31", "RTMIN+",
     "RTMAX-31", "RTMIN-1", "RTMIN+-1", "ITIMER_REAL", "getsignal", "sigtermx", "RTMIN+\u0661"],
)  # fmt: skip
def test_no_signals(text: str) -> None:
    with pytest.raises(RuntimeFailure, match="unknown signal"):
        kill.signal_number(text)


@given(st.text(max_size=12))
def test_a_signal_is_a_signal(text: str) -> None:
    try:
        assert 0 <= kill.signal_number(text) <= 64
    except RuntimeFailure as error:
        assert str(error).startswith('unknown signal "')


def test_kill_and_delete_by_regular_expression(room: Room, capfd: pytest.CaptureFixture[str]) -> None:
    room.containers = [{"id": "web2"}, {"id": "web1"}, {"id": "db"}]
    assert call("kill", "--regex", "^web[0-9]", "9") == 0
    assert [item[2:] for item in room if item[0] == "kill"] == [("web1", 9, False), ("web2", 9, False)]
    assert call("delete", "-r", "-f", "b$") == 0
    assert [item[2:] for item in room if item[0] == "delete"] == [("db", True)]
    assert call("delete", "-r", "(") == 1
    assert "invalid regular expression (" in capfd.readouterr().err


@pytest.mark.parametrize(("line", "force"), [("web", False), ("-f web", True), ("web --force", True)])
def test_delete(line: str, force: bool, room: Room) -> None:
    assert call("delete", *line.split()) == 0
    assert room[0][2:] == ("web", force)


def test_exec(room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    room.status = 7
    assert call("exec", "web", "ls", "-l", "--tty") == 7
    assert room[0][2] == "web"
    assert room[0][3] == {
        "process": None, "args": ["ls", "-l", "--tty"], "cwd": None, "env": [], "tty": False, "user": None,
        "additional_gids": [], "process_label": None, "apparmor": None, "no_new_privs": None, "caps": [], "cgroups": [],
        "detach": False, "pid_file": None, "console_socket": None, "pidfd_socket": None, "preserve_fds": 0,
        "ignore_paused": False,
    }  # fmt: skip
    line = (
        "-p f --cwd / -e A=1 -e B=2,3 -t -u 1:2 -g 3 -g 4 --process-label l --apparmor a --no-new-privs=false -c CAP_A "
    )
    line += "--cap CAP_B --cgroup cpu:x -d --pid-file p --console-socket s --pidfd-socket q --preserve-fds 1"
    assert call("exec", *line.split(), "--ignore-paused", "web") == 7
    assert room[1][3] == {
        "process": f"{tmp_path}/f", "args": [], "cwd": "/", "env": ["A=1", "B=2,3"], "tty": True, "user": "1:2",
        "additional_gids": [3, 4], "process_label": "l", "apparmor": "a", "no_new_privs": False,
        "caps": ["CAP_A", "CAP_B"], "cgroups": ["cpu:x"], "detach": True, "pid_file": f"{tmp_path}/p",
        "console_socket": "s", "pidfd_socket": "q", "preserve_fds": 1, "ignore_paused": True,
    }  # fmt: skip


@pytest.mark.parametrize("line", ["web -- ls -- x", "web ls -- x", "-- web ls -- x", "-- web -- ls -- x"])
def test_exec_and_two_dashes(line: str, room: Room) -> None:
    assert call("exec", *line.split()) == 0
    assert room[0][2] == "web"
    assert room[0][3]["args"] == ["ls", "--", "x"]


@pytest.mark.parametrize(
    ("line", "message"),
    [("-u root web ls", "bad uid"), ("-u 1:x web ls", "bad gid"),
     ("-u 1: web ls", "bad gid"), ("-u -1 web ls", "bad uid"), ("-u 4294967295 web ls", "bad uid"),
     ("-u 1:2:3 web ls", "UID or UID:GID"), ("-g -5 web ls", "additional-gids must be a positive number -5")],
)  # fmt: skip
def test_exec_refuses(line: str, message: str, room: Room, capfd: pytest.CaptureFixture[str]) -> None:
    assert call("exec", *line.split()) == 255
    assert message in capfd.readouterr().err
    assert not room


def test_list(room: Room, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    long = {**STATE, "id": "a-rather-long-identifier", "pid": 0, "status": "stopped", "bundle": "/b\n", "owner": "root"}
    room.containers = [{**STATE, "owner": "ann"}, long]
    assert main(["pyruntime", "--root", str(tmp_path), "list"]) == 0
    assert capfd.readouterr().out == (
        "ID                         PID         STATUS      BUNDLE      CREATED                    OWNER\n"
        "web                        4242        running     /srv/wéb    2026-01-02T03:04:05.678Z   ann\n"
        "a-rather-long-identifier   0           stopped     /b\\n        2026-01-02T03:04:05.678Z   root\n"
    )
    assert main(["pyruntime", "--root", str(tmp_path), "list", "-q"]) == 0
    assert capfd.readouterr().out == "web\na-rather-long-identifier\n"
    assert main(["pyruntime", "--root", str(tmp_path), "list", "--format", "json"]) == 0
    out = capfd.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == room.containers
    assert main(["pyruntime", "--root", str(tmp_path), "list", "-f", "xml"]) == 1
    assert "invalid format option" in capfd.readouterr().err


def test_list_of_nothing(room: Room, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["pyruntime", "--root", str(tmp_path), "list", "-f=json"]) == 0
    assert capfd.readouterr().out == "null\n"
    assert main(["pyruntime", "--root", str(tmp_path), "list", "-q"]) == 0
    assert capfd.readouterr().out == ""
    assert main(["pyruntime", "--root", str(tmp_path), "list"]) == 0
    assert capfd.readouterr().out == "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n"


def test_list_of_a_root_that_is_not_there(
    room: Room, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slip when it was given, the state before the first container when it was not."""
    from pyruntime.cli import main as cli

    assert main(["pyruntime", "--root", f"{tmp_path}/none", "list"]) == 1
    assert f"open {tmp_path}/none: no such file or directory" in capfd.readouterr().err
    monkeypatch.setattr(cli, "default_root", lambda: f"{tmp_path}/none")
    assert main(["pyruntime", "list", "-q"]) == 0
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("path", ["/usr/bin:/bin", "", None, ".:bin"])
def test_ps_shows_the_rows_of_the_container(
    path: str | None, room: Room, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if path is None:
        monkeypatch.delenv("PATH")
    else:
        monkeypatch.setenv("PATH", path)
    room.pids = [os.getpid()]
    assert call("ps", "web", "-o", "user,pid,args", "-e") == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].split() == ["USER", "PID", "COMMAND"]
    assert [line.split()[1] for line in lines[1:]] == [str(os.getpid())]


def test_ps_by_default_and_as_json(room: Room, capfd: pytest.CaptureFixture[str]) -> None:
    room.pids = [os.getpid(), os.getppid()]
    assert call("ps", "web") == 0
    lines = capfd.readouterr().out.splitlines()
    assert "PPID" in lines[0]
    assert len(lines) == 3
    assert call("ps", "--format", "json", "web") == 0
    assert capfd.readouterr().out == f"[{os.getpid()},{os.getppid()}]\n"
    room.pids = []
    assert call("ps", "-f=json", "web") == 0
    assert capfd.readouterr().out == "null\n"


def test_ps_fails_with_the_reason(
    room: Room, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert call("ps", "web", "--no-such-option") == 1
    assert "exit status 1: " in capfd.readouterr().err
    assert call("ps", "web", "-o", "args") == 1
    assert "couldn't find PID field in ps output" in capfd.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(ps, "USUAL_DIRECTORIES", ())
    assert call("ps", "web") == 1
    assert 'exec: "ps": executable file not found in $PATH' in json_free(capfd.readouterr().err)


def json_free(line: str) -> str:
    return line.replace('\\"', '"')


def test_ps_runs_nothing_from_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    for trap in (tmp_path / "ps", tmp_path / "bin" / "ps"):
        trap.write_text("#!/bin/sh\n")
        trap.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", ":.:bin:./bin")
    assert not ps.find_program("ps").startswith((".", "bin", "ps", str(tmp_path)))


def test_ps_skips_lines_that_are_no_process() -> None:
    text = "  PID TTY CMD\n   10 ?   a 11\n    - -   thread\n   11 ?   b\n\n  110 ?   c\n"
    assert ps.rows_of(text, {10, 110}) == ["  PID TTY CMD", "   10 ?   a 11", "  110 ?   c"]


def test_events(room: Room, capfd: pytest.CaptureFixture[str]) -> None:
    assert call("events", "web") == 0
    assert room[0][2:5] == ("web", 5.0, False)
    room[0][5]({"type": "oom", "id": "web"})
    assert capfd.readouterr().out == '{"type":"oom","id":"web"}\n'
    assert call("events", "--interval=1m30.5s", "--stats", "web") == 0
    assert room[1][2:5] == ("web", 90.5, True)


@pytest.mark.parametrize(
    ("interval", "message"),
    [("x", "for flag -interval: parse error"), ("5", "parse error"), ("", "parse error"), ("5 s", "parse error"),
     ("0", "duration interval must be greater than 0"), ("-5s", "duration interval must be greater than 0")],
)  # fmt: skip
def test_events_refuses(interval: str, message: str, room: Room, capfd: pytest.CaptureFixture[str]) -> None:
    assert call("events", f"--interval={interval}", "web") == 1
    assert message in capfd.readouterr().err
    assert not room


CRIU: dict[str, Any] = {
    "work_path": None, "tcp_established": False, "tcp_close": False, "ext_unix_sk": False, "shell_job": False,
    "file_locks": False, "lazy_pages": False, "auto_dedup": False, "manage_cgroups_mode": "soft", "empty_ns": [],
    "criu": None,
}  # fmt: skip


def test_checkpoint(room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("checkpoint", "web") == 0
    assert room[0][2:] == (
        "web",
        {**CRIU, "image_path": f"{tmp_path}/checkpoint", "parent_path": None, "leave_running": False, "pre_dump": False,
         "status_fd": -1, "page_server": None, "tcp_skip_in_flight": False, "link_remap": False},
    )  # fmt: skip
    line = (
        "checkpoint --image-path i --work-path w --parent-path ../p --page-server [::1]:99 --manage-cgroups-mode full "
    )
    assert main(["pyruntime", "--root", "/r", "--criu", "/c", *line.split(), "--empty-ns", "network", "web"]) == 0
    given = room[1][3]
    assert (given["image_path"], given["work_path"], given["parent_path"]) == (f"{tmp_path}/i", f"{tmp_path}/w", "../p")
    assert (given["page_server"], given["manage_cgroups_mode"]) == (("::1", 99), "full")
    assert (given["empty_ns"], given["criu"]) == (["network"], "/c")


@pytest.mark.parametrize(
    ("line", "message"),
    [("--parent-path /x", "--parent-path must be relative"), ("--manage-cgroups-mode x", "manage-cgroups-mode value x"),
     ("--empty-ns pid", 'namespace \\"pid\\" is not supported'), ("--page-server x", "Use --page-server ADDRESS:PORT")],
)  # fmt: skip
def test_checkpoint_refuses(line: str, message: str, room: Room, capfd: pytest.CaptureFixture[str]) -> None:
    assert call("checkpoint", *line.split(), "web") == 1
    assert message in capfd.readouterr().err
    assert not room


@pytest.mark.parametrize("text", [":1", "a:", "a:x", "a:0", "a:65536", "::1:5", "a:-1", "a:\u0661", "[]:1"])
def test_no_page_servers(text: str) -> None:
    with pytest.raises(RuntimeFailure):
        checkpoint.page_server(text)


def test_restore(room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    room.status = 3
    line = "restore -d --pid-file p -b b --lsm-profile selinux:x --lsm-mount-context c --no-pivot -no-subreaper"
    assert call(*line.split(), "--no-new-keyring", "--console-socket", "s", "web") == 3
    assert room[0][2:4] == ("web", f"{tmp_path}/b")
    assert room[0][4] == {
        **CRIU, "image_path": f"{tmp_path}/checkpoint", "console_socket": "s", "pid_file": f"{tmp_path}/p",
        "detach": True, "no_subreaper": True, "no_pivot": True, "preserve_fds": 0, "lsm_profile": "selinux:x",
        "lsm_mount_context": "c",
    }  # fmt: skip
