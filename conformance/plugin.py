"""The pytest plugin: collects the cases, shares them between workers, writes one JSON line per outcome."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

from conformance import layout, process, registry
from conformance.outcome import Outcome
from conformance.runner import run_case


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options `python -m conformance` hands to its workers."""
    group = parser.getgroup("conformance")
    group.addoption("--oci-name", default="runtime", help="name of the runtime in the report")
    group.addoption("--oci-command", default="runc", help="command of the runtime, with options")
    group.addoption("--oci-outcomes", default=None, help="file that gets one JSON line per case")
    group.addoption("--oci-claims", default=None, help="directory in which workers of one run claim cases")
    group.addoption("--oci-cgroups", default="as-is", choices=layout.LAYOUTS, help="view of the cgroup hierarchies")
    group.addoption("--oci-id", action="append", default=[], help="only requirements whose id begins with this")


def pytest_configure(config: pytest.Config) -> None:
    """Isolate the worker and give it a directory for its stages."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends us wants nothing left behind
    config.stash[SCRATCH] = tempfile.TemporaryDirectory(prefix="conformance-", ignore_cleanup_errors=True)
    scratch = Path(config.stash[SCRATCH].name)
    scratch.chmod(0o755)
    process.isolate()
    layout.apply(config.option.oci_cgroups)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the directory of the stages."""
    config.stash[SCRATCH].cleanup()


SCRATCH = pytest.StashKey["tempfile.TemporaryDirectory[str]"]()


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> CaseFile | None:
    """Every module of conformance.cases is a file of cases."""
    if file_path.parent == Path(registry.__file__).parent / "cases" and file_path.suffix == ".py":
        return None if file_path.stem.startswith("_") else CaseFile.from_parent(parent, path=file_path)
    return None


class CaseFile(pytest.File):
    """One module of cases."""

    def collect(self) -> Iterator[CaseItem]:
        """The cases the module registers when it is imported."""
        registry.import_module(self.path.stem)
        wanted = tuple(self.config.getoption("--oci-id"))
        for number, one in enumerate(registry.CASES.get(self.path.stem, [])):
            if not wanted or any(name.startswith(wanted) for name in one.ids):
                yield CaseItem.from_parent(self, name=one.name, case=one, number=number)


class CaseItem(pytest.Item):
    """One case, as pytest sees it."""

    def __init__(self, *, case: registry.Case, number: int, **rest: object) -> None:
        super().__init__(**rest)  # type: ignore[arg-type]
        self.case = case
        self.number = number

    def runtest(self) -> None:
        """Run the case and record how it ended."""
        options = self.config.option
        scratch = Path(self.config.stash[SCRATCH].name)
        outcome = run_case(self.case, options.oci_name, options.oci_command, scratch, self.number)
        record(self.config, self.case, outcome)
        if outcome.verdict == "skipped":
            pytest.skip(outcome.reason)
        if outcome.verdict == "failed":
            pytest.fail(outcome.reason, pytrace=False)

    def reportinfo(self) -> tuple[os.PathLike[str], int, str]:
        """Where the case stands, for pytest's own output."""
        return self.path, self.case.function.__code__.co_firstlineno, self.case.nodeid


def record(config: pytest.Config, one: registry.Case, outcome: Outcome) -> None:
    """Append the outcome to the file of outcomes; one write, so that workers do not mix."""
    if config.option.oci_outcomes:
        line = {"case": one.nodeid, "ids": one.ids, "what": one.what, **outcome._asdict()}
        with open(config.option.oci_outcomes, "ab", buffering=0) as file:
            file.write(json.dumps(line).encode() + b"\n")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Skip what another worker of this run has taken: the first to make the claim file runs the case."""
    claims = item.config.option.oci_claims
    if not claims:
        return None
    name = item.nodeid.replace("/", "_")[-200:]
    try:
        os.close(os.open(os.path.join(claims, name), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return True
    # Without a next item everything is torn down at once: the next one in order may be another worker's.
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    runtestprotocol(item, nextitem=None)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
