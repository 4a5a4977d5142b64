"""`python -m conformance` itself: a run, its report, and what it leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]


def conformance(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the suite from the top of the project."""
    command = [sys.executable, "-m", "conformance", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run of one area."""
    folder = tmp_path_factory.mktemp("report")
    done = conformance("--runtime", "bin/pyruntime", "--id", "ops.", "--report", str(folder))
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return folder


def test_report_agrees_with_itself(report: Path) -> None:
    """JSON, junit and TAP tell of the same cases with the same verdicts."""
    runtime = json.loads((report / "results.json").read_text())["runtimes"][0]
    assert len(runtime["cases"]) > 30
    failed = [row["case"] for row in runtime["cases"] if row["verdict"] == "failed"]
    suite = ElementTree.parse(report / "junit.xml").getroot()[0]
    assert int(suite.attrib["tests"]) == len(suite) == len(runtime["cases"])
    assert len(suite.findall("testcase/failure")) == len(failed)
    tap = (report / "results.tap").read_text().splitlines()
    assert tap[1] == f"1..{len(runtime['cases'])}"
    assert sum(line.startswith("not ok") for line in tap) == len(failed)


def test_page_holds_the_results(report: Path) -> None:
    """The page carries the whole data, with nothing in it that could end the script element."""
    page = (report / "index.html").read_text()
    data = page.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    assert json.loads(data) == json.loads((report / "results.json").read_text())


def test_nothing_is_left_behind(report: Path) -> None:
    """No cgroup, mount or directory of the suite is there after a run."""
    assert report.exists()
    left = [str(path) for path in Path("/sys/fs/cgroup").glob("*/conformance-*")]
    assert left == []
    assert "/conformance-" not in Path("/proc/self/mountinfo").read_text()


def test_a_runtime_that_does_nothing_fails() -> None:
    """A program that only says yes is not taken for a runtime."""
    done = conformance("--runtime", "yes=/bin/true", "--cgroups", "as-is", "--id", "state.", "--quiet")
    assert done.returncode == 1
    assert "passed" not in done.stdout.split("requirements:")[0], done.stdout


def test_no_runtime_is_an_error() -> None:
    """Without --runtime the command says what it needs."""
    done = conformance()
    assert (done.returncode, "--runtime" in done.stderr) == (2, True)
