"""One command line, one line of error, one exit status: whatever happens inside."""

from __future__ import annotations

import importlib
import json
import os
import posix
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import pyruntime
from pyruntime.cli import log, output
from pyruntime.cli import main as cli
from pyruntime.cli.flags import BOOL, Flag, Options, Verb, parse
from pyruntime.cli.main import Settings, main
from pyruntime.errors import RuntimeFailure, SpecError

LAUNCHER = Path(pyruntime.__file__).parent.parent / "bin" / "pyruntime"

Act = Callable[[Settings, Options], int]


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """verb("kill", act): from now on the verb does `act`."""

    def replace(name: str, act: Act) -> None:
        real = cli.load_verb(name)
        made = Verb(name, real.summary, act, flags=real.flags, maximum=None, options_first=real.options_first)
        load = cli.load_verb
        monkeypatch.setattr(cli, "load_verb", lambda asked: made if asked == name else load(asked))

    return replace


def fail(error: BaseException) -> Act:
    def act(settings: Settings, options: Options) -> int:
        raise error

    return act


def error_of(captured: str) -> str:
    assert captured.count("\n") == 1
    assert "Traceback" not in captured
    return captured.partition("level=error msg=")[2].rstrip("\n")


def test_the_status_of_the_verb_is_the_status(verb: Callable[..., None], capfd: pytest.CaptureFixture[str]) -> None:
    verb("run", lambda settings, options: 42)
    assert main(["pyruntime", "run", "x"]) == 42
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "case",
    [
        ("state", RuntimeFailure("container does not exist"), 1, '"container does not exist"'),
        ("start", RuntimeFailure("odd", 7), 7, "odd"),
        ("create", RuntimeFailure("no"), 1, '"runc create failed: no"'),
        ("run", SpecError("linux.resources", "wrong"), 1, '"runc run failed: linux.resources: wrong"'),
        ("exec", RuntimeFailure("container does not exist"), 255, '"exec failed: container does not exist"'),
        ("kill", ProcessLookupError(3, "No such process"), 1, '"no such process"'),
        ("create", FileNotFoundError(2, "No such file or directory", b"/x y"), 1,
         '"runc create failed: /x y: no such file or directory"'),
        ("delete", KeyError("id"), 1, "\"internal error: KeyError: 'id'\""),
        ("exec", RecursionError(), 255, '"exec failed: internal error: RecursionError"'),
        ("pause", ValueError("two\nlines"), 1, r'"internal error: ValueError: two\nlines"'),
        ("list", AssertionError(), 1, '"internal error: AssertionError"'),
        (
            "list",
            MemoryError(),
            1,
            '"out of memory: the runtime itself gets no more (RLIMIT_AS, or the limit of its cgroup)"',
        ),
    ],
)  # fmt: skip
def test_every_failure_is_one_line(
    case: tuple[str, BaseException, int, str], verb: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    name, error, status, message = case
    verb(name, fail(error))
    assert main(["pyruntime", name, "x"]) == status
    out, err = capfd.readouterr()
    assert out == ""
    assert error_of(err) == message


def test_debug_tells_the_whole_story(verb: Callable[..., None], capfd: pytest.CaptureFixture[str]) -> None:
    verb("state", fail(ValueError("why")))
    assert main(["pyruntime", "--debug", "state", "x"]) == 1
    err = capfd.readouterr().err
    assert "level=error" in err.splitlines()[0]
    assert "raise error" in err
    assert all(line.startswith("time=") for line in err.splitlines())


def test_exactly_one_json_object_on_failure(
    verb: Callable[..., None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def act(settings: Settings, options: Options) -> int:
        log.warning("something small")
        raise RuntimeFailure("something big")

    verb("create", act)
    file = tmp_path / "log.json"
    assert main(["pyruntime", "--log", str(file), "--log-format=json", "create", "x"]) == 1
    document = json.loads(file.read_text())
    assert document["msg"] == "runc create failed: something big"
    assert document["level"] == "error"
    assert capfd.readouterr() == ("", "runc create failed: something big\n")


def test_an_interrupt_is_silent(verb: Callable[..., None], capfd: pytest.CaptureFixture[str]) -> None:
    verb("events", fail(KeyboardInterrupt()))
    assert main(["pyruntime", "events", "x"]) == 130
    assert capfd.readouterr() == ("", "")


def test_a_reader_that_left_is_not_reported(verb: Callable[..., None], capfd: pytest.CaptureFixture[str]) -> None:
    verb("list", fail(output.OutputClosed()))
    assert main(["pyruntime", "list"]) == 1
    assert capfd.readouterr() == ("", "")


def test_a_forked_child_never_comes_back_through_main(verb: Callable[..., None]) -> None:
    def act(settings: Settings, options: Options) -> int:
        child = os.fork()
        if child == 0:
            os.close(2)
            raise ValueError("in the child")
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    verb("state", act)
    parent = os.getpid()
    status = main(["pyruntime", "state", "x"])
    if os.getpid() != parent:  # the bug this test is about: stop the copy of pytest
        os._exit(99)
    assert status == 1


@pytest.mark.parametrize(
    ("line", "status", "out", "err"),
    [
        ([], 0, "NAME:\n   pyruntime - ", ""),
        (["help"], 0, "NAME:\n   pyruntime - ", ""),
        (["--help"], 0, "NAME:\n   pyruntime - ", ""),
        (["-h", "kill"], 0, "NAME:\n   pyruntime - ", ""),
        (["help", "kill"], 0, "NAME:\n   pyruntime kill - ", ""),
        (["h", "kill"], 0, "NAME:\n   pyruntime kill - ", ""),
        (["kill", "--help"], 0, "NAME:\n   pyruntime kill - ", ""),
        (["checkpoint", "--help"], 0, "NAME:\n   pyruntime checkpoint - ", ""),
        (["help", "nope"], 3, "", "No help topic for 'nope'"),
        (["nope"], 3, "", "No help topic for 'nope'"),
        (["--nope", "state"], 1, "Incorrect Usage: flag provided but not defined: -nope\n\nNAME:",
         "flag provided but not defined: -nope"),
        (["state", "--nope"], 1, "Incorrect Usage: flag provided but not defined: -nope\n\nNAME:\n   pyruntime state",
         "flag provided but not defined: -nope"),
        (["restore", "--lsm-mount-context"], 1, "Incorrect Usage: flag needs an argument",
         "flag needs an argument: -lsm-mount-context"),
        (["kill"], 1, "Incorrect Usage.\n\nNAME:\n   pyruntime kill",
         r'pyruntime: \"kill\" requires a minimum of 1 argument(s)'),
        (["exec"], 1, "Incorrect Usage.\n\nNAME:\n   pyruntime exec",
         r'pyruntime: \"exec\" requires a minimum of 1 argument(s)'),
        (["state", "a", "b"], 1, "Incorrect Usage.\n\n", r'pyruntime: \"state\" requires exactly 1 argument(s)'),
        (["--log-format", "xml", "state", "x"], 1, "", "invalid log-format: xml"),
        (["--log", "/nonexistent/log", "state", "x"], 1, "", "open /nonexistent/log: no such file or directory"),
        (["--root", "/", "state", "x"], 1, "", "Option --root argument should not be set to /"),
        (["--root", "/a/../..", "state", "x"], 1, "", "Option --root argument should not be set to /"),
        (["--root", "", "state", "x"], 1, "", "--root needs the path of a directory"),
        (["--rootless", "maybe", "state", "x"], 1, "", r'invalid value \"maybe\" for --rootless'),
        (["--cgroup-manager", "x", "state", "x"], 1, "", "unknown cgroup manager x"),
        (["init"], 1, "", "init is not a command"),
        (["state", "a/b"], 1, "", "invalid container ID format: a/b"),
        (["state", ""], 1, "", "container id cannot be empty"),
        (["exec", "a b", "ls"], 255, "", "exec failed: invalid container ID format"),
    ],
)  # fmt: skip
def test_command_lines_that_need_no_container(
    line: list[str], status: int, out: str, err: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["/usr/bin/pyruntime", *line]) == status
    captured = capfd.readouterr()
    assert captured.out.startswith(out)
    assert bool(captured.out) == bool(out)
    if err:
        assert err in error_of(captured.err)
    else:
        assert captured.err == ""


def settings(*words: str) -> Settings:
    return Settings("pyruntime", parse(words, cli.GLOBAL_FLAGS, options_first=True))


def test_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(posix, "environ", {})
    made = settings()
    assert (made.root, made.root_given, made.rootless) == ("/run/pyruntime", False, "auto")
    assert (made.systemd_cgroup, made.cgroup_manager, made.debug, made.criu) == (False, None, False, None)
    made = settings("--root=a/./b/../c//", "--rootless=T", "-systemd-cgroup", "--debug", "--criu", "/c")
    assert (made.root, made.root_given, made.rootless) == (f"{tmp_path}/a/c", True, "true")
    assert (made.systemd_cgroup, made.debug, made.criu) == (True, True, "/c")
    assert settings("--cgroup-manager", "systemd").systemd_cgroup
    assert settings("--rootless", "AUTO").rootless == "auto"
    assert settings("--rootless=").rootless == "auto"
    assert settings("--log-level", "debug").debug


@pytest.mark.parametrize(
    ("environment", "euid", "namespace", "root"),
    [
        ({}, 1000, False, "/run/pyruntime"),
        ({b"XDG_RUNTIME_DIR": b""}, 1000, False, "/run/pyruntime"),
        ({b"XDG_RUNTIME_DIR": b"/run/user/1000"}, 1000, False, "/run/user/1000/pyruntime"),
        ({b"XDG_RUNTIME_DIR": b"/run/user/0", b"USER": b"root"}, 0, False, "/run/pyruntime"),
        ({b"XDG_RUNTIME_DIR": b"/run/user/0"}, 0, False, "/run/pyruntime"),
        ({b"XDG_RUNTIME_DIR": b"/run/user/1"}, 0, True, "/run/user/1/pyruntime"),
        ({b"XDG_RUNTIME_DIR": b"/run/user/1", b"USER": b"ann"}, 0, True, "/run/user/1/pyruntime"),
        ({b"XDG_RUNTIME_DIR": b"/run/user/1", b"USER": b"root"}, 0, True, "/run/pyruntime"),
    ],
)
def test_the_default_root(
    environment: dict[bytes, bytes], euid: int, namespace: bool, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posix, "environ", environment)
    monkeypatch.setattr(posix, "geteuid", lambda: euid)
    monkeypatch.setattr(cli, "_in_user_namespace", lambda: namespace)
    assert cli.default_root() == root


def test_a_process_without_a_sealed_interpreter(verb: Callable[..., None], capfd: pytest.CaptureFixture[str]) -> None:
    refused = RuntimeFailure("cannot be protected")
    verb("run", lambda settings, options: 0)
    assert main(["pyruntime", "run", "x"], refused) == 1
    assert error_of(capfd.readouterr().err) == '"runc run failed: cannot be protected"'
    assert main(["pyruntime", "run", "--dry-run=false", "x"], refused) == 1
    assert main(["pyruntime", "run", "--dry-run", "x"], refused) == 0
    verb("state", lambda settings, options: 0)
    assert main(["pyruntime", "state", "run"], refused) == 0


def test_the_launcher_seals_the_same_verbs() -> None:
    launcher = importlib.import_module("pyruntime.__main__")
    assert launcher.SEALED_VERBS == cli.SEALED_VERBS


def test_the_flags_that_matter_to_a_sealed_process_exist() -> None:
    for name in ("run", "create"):
        assert any(flag.name == "dry-run" and flag.kind is BOOL for flag in cli.load_verb(name).flags)
    assert isinstance(cli.load_verb("exec").flags[0], Flag)


# The whole program, from outside.


def call(*words: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([LAUNCHER, *words], env=environment, text=True, capture_output=True, check=False)


@pytest.mark.parametrize("environment", [{}, {"XDG_RUNTIME_DIR": ""}, {"PYTHONPATH": "/nonexistent", "LC_ALL": "xx"}])
def test_with_an_almost_empty_environment(environment: dict[str, str]) -> None:
    done = call("--version", environment=environment)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"pyruntime version {pyruntime.VERSION}"
    assert f"spec: {pyruntime.SPEC_VERSION}" in lines
    assert [line for line in lines if "version" in line] == lines[:1]
    assert call("state", "x\udcff", environment=environment).returncode == 1


def test_a_standard_output_that_cannot_be_written(tmp_path: Path) -> None:
    """containerd gives a /dev/null that is open for reading only; a full disk must not pass for success."""
    with open("/dev/null", encoding="utf-8") as null:
        done = subprocess.run([LAUNCHER, "nope"], stdout=null, stderr=null, check=False)
        assert done.returncode == 3
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run([LAUNCHER, "--version"], stdout=full, stderr=subprocess.PIPE, check=False)
        assert done.returncode == 1
        assert b"write to standard output: no space left on device" in done.stderr
        assert subprocess.run([LAUNCHER, "kill"], stdout=full, stderr=subprocess.PIPE, check=False).returncode == 1


def test_closed_standard_streams() -> None:
    command = [sys.executable, "-c", "import os, sys; os.closerange(0, 3); os.execv(sys.argv[1], sys.argv[1:])"]
    assert subprocess.run([*command, LAUNCHER, "nope"], check=False).returncode == 3


def test_a_reader_that_leaves_early() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run([LAUNCHER, "--help"], stdout=write, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(write)
    assert done.stderr == b""
    assert done.returncode in (1, -13)


def test_what_a_checkout_stands_on(tmp_path: Path) -> None:
    from pyruntime.cli import version

    assert version.commit(tmp_path) == f"v{pyruntime.VERSION}"
    git = tmp_path / ".git"
    (git / "refs/heads").mkdir(parents=True)
    (git / "HEAD").write_text("a" * 40 + "\n")
    assert version.commit(tmp_path) == "a" * 40
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    assert version.commit(tmp_path) == f"v{pyruntime.VERSION}"
    (git / "packed-refs").write_text(f"# pack-refs\n{'b' * 40} refs/heads/main\n")
    assert version.commit(tmp_path) == "b" * 40
    (git / "refs/heads/main").write_text("c" * 40 + "\n")
    assert version.commit(tmp_path) == "c" * 40
