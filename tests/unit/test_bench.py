"""The reports of bench/: ratios, tables, the picture, the block in the document. Nothing is measured here."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import budget, plot, report, targets
from bench.bundles import stored
from bench.cases import INTERPRETER, VERBS
from bench.measure import Results, Series
from bench.report import TOTAL, Report
from bench.runtimes import base_of

NAMES = ["runc 1.1.5", "crun 1.8.1", "runc-new", "pyruntime", "pyruntime+seal"]
BASE = "runc-new"
SIZES = ("mounts: 1", "mounts: 100", "mounts: 500", "containers: 1", "containers: 1000")


def series(factor: float = 1.0) -> dict[str, Series]:
    """runc 10, the others less and less; three rounds with some spread."""
    values = {"runc 1.1.5": 12.0, "crun 1.8.1": 5.0, "runc-new": 10.0, "pyruntime": 8.0, "pyruntime+seal": 4.0}
    return {name: Series([value * factor * part for part in (0.9, 1.0, 1.3)]) for name, value in values.items()}


@pytest.fixture
def results() -> Results:
    found: Results = {}
    for bundle in ("plain bundle", "podman's bundle", "containerd's bundle"):
        found[f"run, {bundle}"] = {"wall ms": series(), "cpu ms": series(), "peak KiB": series(1000)}
        found[f"verbs, {bundle}"] = {
            f"{verb} {unit}": series() for unit in ("ms", "cpu ms") for verb in (*VERBS, TOTAL)
        }
        found[f"verbs, {bundle}"][f"{INTERPRETER} ms"] = {INTERPRETER: Series([3.0])}
        found[f"memory, {bundle}"] = {"smallest limit KiB": series(100), "created KiB": series(300)}
    found["many runs (32), plain bundle"] = {"in a row ms": series()}
    found["podman run"] = {"wall ms": series(30)}
    found.update({title: {"run ms": series(1 + int(title.split()[1]) / 1000)} for title in SIZES})
    found[f"budget: {INTERPRETER}"] = {"wall ms": {"pyruntime": Series([6.0])}}
    found["budget: run"] = {"wall ms": {"pyruntime": Series([20.0])}, "mkdir() ms": {"pyruntime": Series([1.0])}}
    return found


@pytest.fixture
def made(results: Results) -> Report:
    runtimes = [SimpleNamespace(name=name, version=f"{name} version 1") for name in NAMES]
    bench: Any = SimpleNamespace(runtimes=runtimes, sources={"podman's bundle": "stored"}, rounds=3)
    return Report(bench, BASE, results)


def test_a_ratio_is_that_of_the_medians_with_the_spread_of_the_rounds() -> None:
    mine, base = Series([2.0, 4.0, 6.0]), Series([4.0, 8.0, 6.0])
    ratio, low, high = mine.ratio(base)
    assert ratio == pytest.approx(4 / 6)
    assert (low, high) == pytest.approx((0.5, 0.75))
    assert Series([5.0]).ratio(Series([10.0])) == (0.5, 0.5, 0.5)
    assert Series([1.0, 2.0, 3.0, 4.0, 100.0]).quartiles() == (2.0, 4.0)


def test_ratios_are_to_the_newest_runc_unless_told() -> None:
    runtimes: Any = [SimpleNamespace(name=name) for name in NAMES]
    assert base_of(runtimes, "") == "runc-new"
    assert base_of(runtimes, "crun 1.8.1") == "crun 1.8.1"
    assert base_of(runtimes[1:2], "") == "crun 1.8.1"
    with pytest.raises(SystemExit, match="no runtime is called youki"):
        base_of(runtimes, "youki")


def test_the_table_of_the_terminal_has_each_runtime_and_its_ratio(made: Report) -> None:
    lines = made.table("run, plain bundle").splitlines()
    (mine,) = [line for line in lines if "wall" in line and " pyruntime " in line]
    assert mine.split()[2:] == ["pyruntime", "8.0", "0.80", "of", "runc-new", "(0.80", "to", "0.80)"]
    (base,) = [line for line in lines if line.split()[:3] == ["wall", "ms", "runc-new"]]
    assert "of runc-new" not in base


def test_the_summary_is_json_with_medians_quartiles_and_ratios(made: Report) -> None:
    document = json.loads(json.dumps(made.summary()))
    entry = document["results"]["run, plain bundle"]["wall ms"]["pyruntime"]
    assert entry == {"median": 8.0, "count": 3, "quartiles": [7.6, 9.2], "ratio": 0.8, "ratio quartiles": [0.8, 0.8]}
    assert document["base"] == BASE
    assert set(document["runtimes"]) == set(NAMES)
    everything = json.loads(made.every_measurement())
    assert len(everything["results"]["run, plain bundle"]["wall ms"]["pyruntime"]) == 3


def test_the_document_is_sound_markdown_and_holds_every_result(made: Report) -> None:
    text = made.markdown()
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 7
    for table in tables:
        assert len({line.replace("\\|", "").count("|") for line in table}) == 1, table[0]
    for words in ("run, podman's bundle", "podman run, end to end", "mounts: 500", "mkdir() 1.0", "**0.40**"):
        assert words in text, words


def test_targets_that_are_missed_are_called_so(results: Results) -> None:
    rows = {row[0]: row[1:] for row in targets.verdicts(results, BASE, NAMES)}
    assert rows["run, podman's bundle: of runc-new"] == ["0.45", "0.80 **missed**", "0.40 reached"]
    assert rows["run, podman's bundle: of crun 1.8.1"] == ["0.8", "1.60 **missed**", "0.80 reached"]
    assert rows["starts within a memory limit of KiB"] == ["512", "800 **missed**", "400 reached"]
    assert rows["kill: ms above a bare interpreter (3.0 ms)"] == ["2.5", "5.00 **missed**", "1.00 reached"]
    assert rows["run beside 1000 containers: of run beside one"][1] == "2.00 **missed**"
    assert rows["run with 500 mounts: of what 1 and 100 foretell"][1] == "1.00 reached"


def test_a_target_that_is_just_missed_does_not_look_reached() -> None:
    series = {"runc-new": Series([100.0]), "pyruntime": Series([45.4]), "pyruntime+seal": Series([45.0])}
    (row,) = targets.verdicts({"run, podman's bundle": {"wall ms": series}}, BASE, NAMES[2:])
    assert row[1:] == ["0.45", "0.4540 **missed**", "0.45 reached"]


def test_the_picture_is_svg_with_a_bar_for_each_runtime(made: Report) -> None:
    root = ET.fromstring(plot.svg(made))
    space = "{http://www.w3.org/2000/svg}"
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    titles = [title.text or "" for title in root.iter(f"{space}title")]
    assert len([title for title in titles if title.startswith("run, podman")]) == len(NAMES)
    assert len(list(root.iter(f"{space}polyline"))) == len(NAMES) * 2
    for label in root.iter(f"{space}text"):
        if label.attrib["text-anchor"] == "end":
            assert float(label.attrib["x"]) > 6.8 * len(label.text or ""), label.text
    for shape in [*root.iter(f"{space}rect"), *root.iter(f"{space}circle"), *root.iter(f"{space}text")]:
        x = float(shape.attrib.get("x") or shape.attrib.get("cx") or 0) + float(shape.attrib.get("width", 0))
        y = float(shape.attrib.get("y") or shape.attrib.get("cy") or 0) + float(shape.attrib.get("height", 0))
        assert 0 <= x <= width and 0 <= y <= height, shape.attrib


def test_only_what_is_between_the_marks_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "performance.md"
    path.write_text(f"before\n\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.replace_block(path, "new\n")
    assert path.read_text() == f"before\n\n{report.BEGIN}\n\nnew\n\n{report.END}\nafter\n"
    path.write_text("no marks")
    with pytest.raises(SystemExit):
        report.replace_block(path, "new\n")
    assert path.read_text() == "no marks"


def test_the_document_of_the_repository_has_the_marks() -> None:
    text = (Path(report.__file__).parents[1] / "docs" / "performance.md").read_text()
    assert text.count(report.BEGIN) == text.count(report.END) == 1


@pytest.mark.parametrize("name", ["podman", "ctr"])
def test_stored_configurations_are_those_of_engines(name: str) -> None:
    config = stored(name)
    assert config["linux"]["seccomp"]["syscalls"]
    assert not str(config).count("/var/tmp")


def test_parts_of_a_timeline_add_up_to_its_length(tmp_path: Path) -> None:
    """Each span counts less what is in it, and the time in which a module is loaded is all the module's."""

    def span(name: str, begin: float, end: float, kind: str = "call") -> dict[str, Any]:
        return {"ph": "X", "pid": 7, "tid": 7, "cat": kind, "name": name, "ts": begin * 1e3, "dur": (end - begin) * 1e3}

    path = tmp_path / "trace.json"
    events = [
        {"ph": "M", "pid": 7, "tid": 7, "name": "process_name", "args": {"name": "runtime"}},
        span("interpreter", 0, 5, "import"),
        span("cli.main.main", 5, 20),
        span("pyruntime.cli.run", 6, 9, "import"),
        span("cli.flags.parse", 7, 8),
        span("container.launch.Launch.create", 10, 20),
        span("open the root", 11, 13, "step"),
        span("container.child.Child.receive", 14, 18),
        {**span("anything", 0, 100), "pid": 8},
    ]
    path.write_text(json.dumps({"traceEvents": events}))
    parts = {name: value for name, value in budget.parts_of(path).items() if value}
    expected = {"interpreter": 5.0, "cli": 2.0, "modules": 3.0, "container": 4.0, "plan": 2.0, "waiting": 4.0}
    assert parts == pytest.approx(expected)
