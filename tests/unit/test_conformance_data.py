"""The data of the conformance suite: requirements, cases, faults and the report made of them."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from conformance import registry, report, requirements
from conformance.faults.table import FAULTS
from conformance.session import Found, choose

ROOT = Path(registry.__file__).parent


def test_every_requirement_has_a_case_or_a_reason() -> None:
    """No requirement is forgotten, and none with a case is called unobservable."""
    shown = {one for case in registry.all_cases() for one in case.ids}
    reasons = requirements.unobservable()
    assert shown | set(reasons) == set(requirements.load())
    assert not shown & set(reasons)


def test_case_names_are_unique() -> None:
    """A case can be named in one way only."""
    names = [case.nodeid for case in registry.all_cases()]
    assert len(names) == len(set(names))


def test_every_case_says_what_it_does() -> None:
    """The report shows the docstring of a case."""
    assert [case.nodeid for case in registry.all_cases() if not case.function.__doc__] == []


@pytest.mark.parametrize("one", requirements.load().values(), ids=lambda one: str(one.id))
def test_every_requirement_has_a_link(one: requirements.Requirement) -> None:
    """The link opens a section of one of the files of the specification."""
    file, _, section = one.link.removeprefix(requirements.SPEC).partition("#")
    assert file in ("bundle.md", "config.md", "config-linux.md", "features.md", "features-linux.md", "glossary.md",
                    "runtime.md", "runtime-linux.md")  # fmt: skip
    assert section


def test_every_area_has_a_fault_and_every_fault_a_case() -> None:
    """At least one broken runtime per area, and the case that must notice it exists."""
    assert {fault.area for fault in FAULTS.values()} == {one.area for one in requirements.load().values()}
    assert {fault.case for fault in FAULTS.values()} <= {case.nodeid for case in registry.all_cases()}
    assert all(bool(fault.edit) != bool(fault.behaviour) for fault in FAULTS.values())


def test_suite_knows_no_runtime() -> None:
    """Nothing in the suite imports the runtime it was written beside."""
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "pyruntime" for name in names), path


def row(case: str, ids: list[str], verdict: str, reason: str = "") -> dict[str, Any]:
    """One outcome as the workers write it."""
    return {"case": case, "ids": ids, "what": "what", "verdict": verdict, "reason": reason, "seconds": 0.1}


def test_verdict_on_a_requirement_is_the_worst_that_means_something(tmp_path: Path) -> None:
    """Failed beats passed, passed beats skipped; messages of any kind survive the formats."""
    rows = [
        row("a::one", ["root"], "passed"),
        row("a::two", ["root"], "failed", "</script><b>\x00\x1b[31m & \udcff"),
        row("a::three", ["root.path"], "skipped", "no # such host"),
        row("a::four", ["root.path", "hostname"], "passed"),
        row("a::five", ["domainname"], "skipped", "why"),
    ]
    found = Found("it", "1.0", "as-is", 1.0, rows, [])
    data = report.collect([found], {"kernel": "k", "machine": "m", "cgroups": "c", "python": "3", "date": "d"}, [])
    verdicts = {one["id"]: one["results"]["it"]["verdict"] for one in data["requirements"]}
    assert [verdicts[name] for name in ("root", "root.path", "hostname", "domainname")] == [
        "failed", "passed", "passed", "skipped",
    ]  # fmt: skip
    assert verdicts["annotations.key.reverse-domain"] == "unobservable"
    report.write(data, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["runtimes"][0]["totals"]["failed"] == 1
    assert (tmp_path / "index.html").read_text(errors="replace").count("</script>") == 2
    assert "# SKIP no # such host" in (tmp_path / "results.tap").read_text(errors="replace")


@pytest.mark.parametrize(
    ("text", "name", "command"),
    [
        ("runc", "runc", "runc"),
        ("mine=/opt/runtime --debug", "mine", "/opt/runtime --debug"),
        ("/usr/bin/crun", "crun", "/usr/bin/crun"),
        ("/usr/bin/runc --log-format=json", "runc", "/usr/bin/runc --log-format=json"),
    ],
)
def test_runtime_option(text: str, name: str, command: str) -> None:
    """NAME=COMMAND or COMMAND, with options of its own."""
    assert choose(text, "as-is")[:2] == (name, command)
