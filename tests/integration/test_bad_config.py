"""Configurations that are wrong: one line that names the property, exit status 1, and nothing left behind."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from support.container import Container

Make = Callable[..., Container]


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Set a property by its path; the value `...` takes it away."""

    def change(config: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        here: Any = config
        for name in parents:
            here = here[int(name)] if name.isdigit() else here.setdefault(name, {})
        if value is ...:
            del here[last]
        else:
            here[int(last) if last.isdigit() else last] = value

    return change


CASES = [
    ("ociVersion", ..., "ociVersion"),
    ("ociVersion", 1, "ociVersion: expected"),
    ("ociVersion", "9.0.0", "ociVersion"),
    ("root", ..., "root"),
    ("root.path", ..., "root.path"),
    ("process.args", [], "process.args"),
    ("process.args", "sh", "process.args: expected"),
    ("process.args.0", 7, "process.args[0]: expected a string"),
    ("process.cwd", "relative", "process.cwd"),
    ("process.cwd", ..., "process.cwd"),
    ("process.user.uid", -1, "process.user.uid"),
    ("process.user.uid", 1 << 40, "process.user.uid"),
    ("process.user.uid", "root", 'process.user.uid: expected an integer, got "root"'),
    ("process.terminal", "yes", "process.terminal: expected"),
    ("process.rlimits", [{"type": "RLIMIT_NOSUCH", "soft": 1, "hard": 1}], "process.rlimits[0].type"),
    ("process.rlimits", [{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}], "process.rlimits[0]"),
    ("process.rlimits", [{"type": "RLIMIT_CORE", "soft": 1, "hard": 1}] * 2, "process.rlimits[1]"),
    ("process.oomScoreAdj", 2000, "process.oomScoreAdj"),
    ("process.scheduler", {"policy": "SCHED_NOSUCH"}, "process.scheduler.policy"),
    ("process.ioPriority", {"class": "IOPRIO_CLASS_BE", "priority": 9}, "process.ioPriority.priority"),
    ("process.execCPUAffinity", {"initial": "x-y"}, "process.execCPUAffinity.initial"),
    ("hostname", 5, "hostname: expected a string, got 5"),
    ("mounts", {}, "mounts: expected"),
    ("mounts.0.destination", ..., "mounts[0].destination"),
    ("mounts.0.options", "ro", "mounts[0].options: expected"),
    ("linux.namespaces.0.type", "nosuch", "linux.namespaces[0].type"),
    ("linux.namespaces.0.path", "relative", "linux.namespaces[0].path"),
    ("linux.resources.memory.limit", "512m", 'linux.resources.memory.limit: expected an integer, got "512m"'),
    ("linux.resources.memory.limit", 1.5, "linux.resources.memory.limit"),
    ("linux.resources.memory.limit", 1 << 70, "linux.resources.memory.limit"),
    ("linux.resources.cpu.shares", -5, "linux.resources.cpu.shares"),
    ("linux.resources.pids.limit", True, "linux.resources.pids.limit: expected an integer"),
    ("linux.resources.devices.0.access", "xyz", "linux.resources.devices[0].access"),
    ("linux.devices", [{"path": "/dev/x", "type": "q"}], "linux.devices[0].type"),
    ("linux.devices", [{"path": "dev/x", "type": "p"}], "linux.devices[0].path"),
    ("linux.rootfsPropagation", "sideways", "linux.rootfsPropagation"),
    ("linux.maskedPaths", ["relative"], "linux.maskedPaths[0]"),
    ("linux.sysctl", {"net.ipv4.ip_forward": 1}, "linux.sysctl"),
    ("linux.timeOffsets", {"boottime": {"secs": 1}}, "linux.timeOffsets"),
    ("linux.uidMappings", [{"containerID": 0, "hostID": 9, "size": 1}], "linux.uidMappings"),
    ("linux.seccomp", {"defaultAction": "SCMP_ACT_NOSUCH"}, "linux.seccomp.defaultAction"),
    ("linux.seccomp", {}, "linux.seccomp.defaultAction"),
    ("linux.seccomp", {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["Z80"]}, "linux.seccomp.architectures[0]"),
    ("linux.personality", {"domain": "LINUX16"}, "linux.personality.domain"),
    ("hooks", {"prestart": [{"path": "relative"}]}, "hooks.prestart[0].path"),
    ("hooks", {"poststop": [{"path": "/bin/true", "timeout": 0}]}, "hooks.poststop[0].timeout"),
    ("hooks", {"nosuch": 5, "prestart": [{}]}, "hooks.prestart[0].path"),
    ("annotations", {"a": 1}, "annotations"),
]


@pytest.mark.parametrize(("path", "value", "text"), CASES, ids=[f"{case[0]}={str(case[1])[:20]}" for case in CASES])
def test_the_error_names_the_property(container: Make, path: str, value: Any, text: str) -> None:
    one = container(["true"])
    wrong = copy.deepcopy(one.bundle.config)
    put(path, value)(wrong)
    (one.bundle.path / "config.json").write_text(json.dumps(wrong))
    result = one.create()
    assert result.status == 1, result
    lines = result.stderr.splitlines()
    assert len(lines) == 1
    assert text in lines[0].replace('\\"', '"')
    assert one.leaks() == []
    assert not one.runtime.root.exists() or not list(one.runtime.root.iterdir())


TEXTS = {
    "empty": (b"", "config.json"),
    "not JSON": (b"hello", "config.json"),
    "cut off": (b'{"ociVersion": "1.0.2", "root": {"path"', "line 1"),
    "a list": (b"[]", "expected an object"),
    "null": (b"null", "expected an object"),
    "twice": (b'{"ociVersion": "1.0.2",\n "hostname": "a", "hostname": "b"}', "hostname"),
    "not UTF-8": (b'{"hostname": "\xff"}', "config.json"),
    "deep": (b"[" * 100_000, "config.json"),
    "trailing comma": (b'{"ociVersion": "1.0.2",}', "line 1"),
    "NaN": (b'{"ociVersion": "1.0.2", "x": NaN}', "x: NaN"),
    "endless number": (b'{"ociVersion": ' + b"9" * 5000 + b"}", "ociVersion"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_text_that_is_no_configuration(container: Make, case: str) -> None:
    data, text = TEXTS[case]
    one = container(["true"])
    (one.bundle.path / "config.json").write_bytes(data)
    result = one.create()
    assert result.status == 1
    assert text in result.stderr
    assert len(result.stderr.splitlines()) == 1 and len(result.stderr) < 600
    assert one.leaks() == []


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo"])
def test_a_config_that_cannot_be_read(container: Make, kind: str) -> None:
    one = container(["true"])
    path = one.bundle.path / "config.json"
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    result = one.create(timeout=10)
    assert result.status == 1
    assert "config.json" in result.stderr
    assert one.leaks() == []


def test_unknown_properties_are_ignored(container: Make) -> None:
    """The spec wants that: "Extensibility"."""
    one = container(["echo", "x"], put("newThing", {"a": 1}), put("linux.newerThing", 1), put("process.new", [1]))
    assert one.run().ok().stdout == "x\n"


def test_the_checked_text_reaches_the_log_as_one_object(container: Make) -> None:
    one = container(["true"], put("linux.resources.memory.limit", "512m"))
    log = one.bundle.path / "log.json"
    one.runtime.flags = ["--log", str(log), "--log-format", "json"]
    result = one.create()
    assert result.status == 1
    (line,) = log.read_text().splitlines()
    document = json.loads(line)
    assert document["level"] == "error"
    assert 'linux.resources.memory.limit: expected an integer, got "512m"' in document["msg"]
