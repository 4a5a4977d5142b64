"""Verbs that need no container: spec, validate, features; and the logs of the system."""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
import tempfile
from pathlib import Path

import pytest

from pyruntime.cli import duration, log, system_log, validate
from pyruntime.cli.main import main
from pyruntime.errors import RuntimeFailure
from pyruntime.spec import load


def test_spec_writes_a_configuration_that_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mask = os.umask(0o022)
    try:
        assert main(["pyruntime", "spec"]) == 0
    finally:
        os.umask(mask)
    file = tmp_path / "config.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert file.read_text().startswith('{\n\t"ociVersion"')
    assert load.problems(json.loads(file.read_text())) == []
    assert main(["pyruntime", "validate"]) == 0


def test_spec_for_an_ordinary_user(tmp_path: Path) -> None:
    assert main(["pyruntime", "spec", "--rootless", "--bundle", str(tmp_path)]) == 0
    config = json.loads((tmp_path / "config.json").read_text())
    assert {"type": "user"} in config["linux"]["namespaces"]
    assert config["linux"]["uidMappings"] == [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
    assert main(["pyruntime", "spec", "-b", str(tmp_path), "-f", "other.json"]) == 0
    assert "uidMappings" not in json.loads((tmp_path / "other.json").read_text())["linux"]


def test_spec_overwrites_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").symlink_to(tmp_path / "target")
    assert main(["pyruntime", "spec", "-b", str(tmp_path)]) == 1
    assert "File config.json exists. Remove it first" in capfd.readouterr().err
    assert not (tmp_path / "target").exists()
    assert main(["pyruntime", "spec", "-b", f"{tmp_path}/none"]) == 1
    assert "no such file or directory" in capfd.readouterr().err


def test_features(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["pyruntime", "features"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    document = json.loads(out)
    assert out.startswith('{\n    "ociVersionMin"')
    assert document["ociVersionMin"] == "1.0.0"
    assert "rro" in document["mountOptions"]
    assert document["linux"]["mountExtensions"]["idmap"]["enabled"] is True
    seccomp = document["linux"]["seccomp"]
    assert set(seccomp["supportedFlags"]) <= set(seccomp["knownFlags"])
    assert "SECCOMP_FILTER_FLAG_LOG" in seccomp["supportedFlags"]
    version = document["annotations"].get("io.github.seccomp.libseccomp.version")
    assert version is None or version.count(".") == 2


@pytest.fixture
def bad_bundle(tmp_path: Path) -> Path:
    assert main(["pyruntime", "spec", "-b", str(tmp_path)]) == 0
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    config["process"]["cwd"] = "relative"
    config["linux"]["resources"]["memory"] = {"limit": "512m"}
    file.write_text(json.dumps(config))
    return tmp_path


def test_validate_lists_every_problem(bad_bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["pyruntime", "validate", str(bad_bundle)]) == 1
    out, err = capfd.readouterr()
    paths = {line.partition(": ")[0] for line in out.splitlines()}
    assert paths == {"process.cwd", "linux.resources.memory.limit"}
    assert f"{bad_bundle}/config.json: 2 problems" in err
    assert main(["pyruntime", "validate", "--format", "json", "-b", str(bad_bundle)]) == 1
    listed = json.loads(capfd.readouterr().out)
    assert {problem["path"] for problem in listed} == paths
    assert main(["pyruntime", "validate", "--format", "xml", "-b", str(bad_bundle)]) == 1


def test_validate_without_jsonschema_finds_the_same(
    bad_bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    assert {problem.path for problem in validate.problems(str(bad_bundle))} == {
        "process.cwd", "linux.resources.memory.limit",
    }  # fmt: skip


def test_validate_of_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["pyruntime", "validate", str(tmp_path)]) == 1
    assert "JSON specification file config.json not found" in capfd.readouterr().err
    (tmp_path / "config.json").write_text("{")
    assert main(["pyruntime", "validate", str(tmp_path)]) == 1
    assert "config.json: " in capfd.readouterr().err


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(tmp_path / "socket"))
    listener.settimeout(10)
    monkeypatch.setattr(system_log, "JOURNAL", str(tmp_path / "socket"))
    monkeypatch.setattr(system_log, "SYSLOG", str(tmp_path / "socket"))
    return listener


def test_the_journal_gets_the_error(daemon: socket.socket, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["pyruntime", "--log", "journald:web", "init"]) == 1
    fields = dict(line.split("=", 1) for line in daemon.recv(4096).decode().splitlines())
    assert fields["MESSAGE"].startswith("init is not a command")
    assert fields["PRIORITY"] == "3"
    assert fields["SYSLOG_IDENTIFIER"] == "web"
    assert capfd.readouterr().err.startswith("init is not a command")
    assert log.descriptor() >= log.HIGH_DESCRIPTOR


def test_syslog_gets_the_error(daemon: socket.socket) -> None:
    assert main(["pyruntime", "--log", "syslog:", "state", "a\nb"]) == 1
    start = f"<11>pyruntime[{os.getpid()}]: invalid container ID format: a\\nb: use letters"
    assert daemon.recv(4096).decode().startswith(start)


@pytest.mark.parametrize("name", ["journald", "syslog"])
def test_no_daemon(name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(system_log, "JOURNAL", "/nonexistent/socket")
    monkeypatch.setattr(system_log, "SYSLOG", "/nonexistent/socket")
    assert main(["pyruntime", "--log", f"{name}:x", "state", "a"]) == 1
    assert f"--log {name}:x: connect /nonexistent/socket: no such file or directory" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5s", 5), ("500ms", 0.5), ("1m", 60), ("1h1m1s", 3661), ("1.5m", 90), (".5s", 0.5), ("1us", 1e-6), ("1µs", 1e-6),
     ("1ns", 1e-9), ("0", 0), ("-5s", -5), ("+5s", 5), ("1s500ms", 1.5), ("2.s", 2)],
)  # fmt: skip
def test_durations(text: str, seconds: float) -> None:
    assert duration.seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "5", "s", "5 s", " 5s", "5s ", "5S", "1d", "--5s", ".s", "5s5", "1e3s", "\u0665s", "999999999h", "-"]
)
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="not a length of time"):
        duration.seconds(text)


def test_seal_asks_the_room(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    from pyruntime.container import interpreter

    monkeypatch.setattr(interpreter, "publish", lambda: "mounted")
    monkeypatch.setattr(interpreter, "withdraw", lambda: "unmounted")
    assert main(["pyruntime", "seal"]) == 0
    assert main(["pyruntime", "seal", "--remove"]) == 0
    assert capfd.readouterr().out == "mounted\nunmounted\n"

    def refuse() -> str:
        raise RuntimeFailure("not root")

    monkeypatch.setattr(interpreter, "publish", refuse)
    assert main(["pyruntime", "seal"]) == 1


def test_plans_need_no_root(tmp_path: Path) -> None:
    """As an ordinary user without a variable, on a bundle that may only be read."""
    if os.geteuid() != 0:
        pytest.skip("root is needed to become somebody else")
    assert main(["pyruntime", "spec", "-b", str(tmp_path)]) == 0
    (tmp_path / "rootfs").mkdir()
    for directory in (tmp_path, *tmp_path.parents):
        if directory == Path(tempfile.gettempdir()):
            break
        directory.chmod(0o755)
    for line in (["plan"], ["run", "--dry-run", "web"], ["create", "--dry-run", "web"]):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            # The first time as root, so that all modules are loaded: the interpreter may lie in root's own directory.
            status = 99
            try:
                os.environ.clear()
                words = ["pyruntime", line[0], "-b", str(tmp_path), *line[1:]]
                null = os.open("/dev/null", os.O_WRONLY)
                os.dup2(null, 1)
                main(words)
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                os.dup2(write, 1)
                os.dup2(write, 2)
                status = main(words)
            finally:
                os._exit(status)
        os.close(write)
        with open(read, encoding="utf-8") as output:
            text = output.read()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, text
        assert "pivot_root" in text
