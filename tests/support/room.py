"""A container room that only writes down what the command line asks of it."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

import pyruntime.container
from pyruntime.cli.main import main
from pyruntime.container import report

STATE = {
    "ociVersion": "1.0.2",
    "id": "web",
    "pid": 4242,
    "status": "running",
    "bundle": "/srv/wéb",
    "rootfs": "/srv/web/rootfs",
    "created": "2026-01-02T03:04:05.678Z",
    "annotations": {"a": "\u20ac"},
    "owner": "",
}


class Bag:
    """Stands for an options object: it takes whatever is assigned."""


class Step:
    """Stands for a step of a plan."""

    def __init__(self, side: str, text: str) -> None:
        self.side = side
        self.text = text

    def describe(self) -> str:
        return self.text


class Room(list[tuple[Any, ...]]):
    """The calls that arrived, in order."""

    status = 0
    containers: list[dict[str, Any]] = []  # noqa: RUF012
    pids: list[int] = []  # noqa: RUF012

    def context(self) -> dict[str, Any]:
        given: dict[str, Any] = self[0][1]
        return given


def fake_room(monkeypatch: pytest.MonkeyPatch) -> Room:
    """Put the fake in the place of the container room until the test ends."""
    calls = Room()

    def record(name: str, answer: Any = None) -> Any:
        def call(*arguments: Any) -> Any:
            calls.append((name, *(vars(item) if isinstance(item, Bag) else item for item in arguments)))
            return answer() if callable(answer) else answer

        return call

    def context(**given: Any) -> Bag:
        made = Bag()
        vars(made).update(given)
        return made

    modules: dict[str, dict[str, Any]] = {
        "context": {"Context": context},
        "create": {
            "CreateOptions": Bag,
            "create": record("create"),
            "preview": record("preview", lambda: [Step("host", "enter the \x1b[0m room"), Step("init", "leave it")]),
            "run": record("run", lambda: calls.status),
        },
        "store": {"open_container": record("state", lambda: types.SimpleNamespace(describe=lambda: STATE))},
        "inspect": {"listing": record("listing", lambda: calls.containers), "ps": record("ps", lambda: calls.pids)},
        "pause": {"pause": record("pause"), "resume": record("resume")},
        **{name: {name: record(name)} for name in ("start", "kill", "delete")},
        "exec_document": {"ExecOptions": Bag},
        "execute": {"exec_process": record("exec", lambda: calls.status)},
        "update": {"update": record("update")},
        "events": {"stream": record("events")},
        "checkpoint": {
            "CheckpointOptions": Bag,
            "RestoreOptions": Bag,
            "checkpoint": record("checkpoint"),
            "restore": record("restore", lambda: calls.status),
        },
    }
    for name, content in modules.items():
        module = types.ModuleType(f"pyruntime.container.{name}")
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(pyruntime.container, name, module, raising=False)
    for hook in ("warn", "debug", "debugging"):
        monkeypatch.setattr(report, hook, getattr(report, hook))
    return calls


def call(*line: str) -> int:
    """The exit status of a command line with the state directory /r."""
    return main(["pyruntime", "--root", "/r", *line])
