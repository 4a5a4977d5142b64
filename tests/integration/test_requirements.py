"""The conformance suite, run on the runtime: each requirement is observed where docs/requirements.md says it is.

Everything on a host with cgroup v1; in the virtual machine what only that can show, after making the devices for it.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.runtime import REPOSITORY

from conformance import requirements

V1 = Path("/sys/fs/cgroup/memory/cgroup.procs").exists()
GUEST = os.environ.get("PYRUNTIME_GUEST") == "1"


def where() -> dict[str, str]:
    """The place of each requirement: that of the row of tests/observed.tsv that fits it best."""
    with (REPOSITORY / "tests" / "observed.tsv").open(newline="") as file:
        table = [row[:2] for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    places = {}
    for identifier in requirements.load():
        fitting = [row for row in table if identifier == row[0] or identifier.startswith(row[0] + ".")]
        places[identifier] = max(fitting, key=lambda row: len(row[0]))[1]
    return places


def verdicts(program: str, report: Path, *flags: str) -> dict[str, str]:
    """Run the suite. The verdict on each requirement, and for what did not pass the reasons."""
    command = [sys.executable, "-m", "conformance", "--runtime", program, "--report", str(report), *flags]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert result.returncode in (0, 1), result.stdout + result.stderr
    document: dict[str, Any] = json.loads((report / "results.json").read_text())
    (runtime,) = document["runtimes"]
    found = {}
    for one in document["requirements"]:
        (seen,) = one["results"].values()
        cases = [runtime["cases"][number] for number in seen.get("cases", [])]
        reasons = [case["reason"] for case in cases if case["verdict"] == seen["verdict"] != "passed"]
        found[one["id"]] = ": ".join([seen["verdict"], *reasons])
    return found


@pytest.fixture
def devices() -> Iterator[None]:
    """What the cases about RDMA, weights and AppArmor need. Only for the virtual machine, which is thrown away."""
    profile = "profile pyruntime-case { file, capability, mount, umount, pivot_root, signal, ptrace, unix, }"
    for command in ("modprobe -a bfq rdma_rxe", "ip link set lo up", "rdma link add rxe0 type rxe netdev lo"):
        subprocess.run(command.split(), check=True)
    for scheduler in Path("/sys/block").glob("vd*/queue/scheduler"):
        scheduler.write_text("bfq")
    subprocess.run(["apparmor_parser", "-Ka"], input=profile, text=True, check=True)
    yield


@pytest.mark.skipif(not V1, reason="the controllers are not on cgroup v1 here")
def test_each_requirement_is_observed_here(program: str, tmp_path: Path) -> None:
    places = where()
    found = verdicts(program, tmp_path, "--cgroups", "all")
    elsewhere = ("skipped", "passed")
    expected = {
        "here": ("passed",),
        "deviates": ("failed",),
        "guest": elsewhere,
        "selinux": elsewhere,
        "stand-in": (*elsewhere, "unobservable"),
        "nowhere": ("unobservable",),
    }
    wrong = {name: f"{verdict} (observed: {places[name]})" for name, verdict in found.items()
             if verdict.partition(":")[0] not in expected[places[name]]}  # fmt: skip
    assert wrong == {}


@pytest.mark.skipif(not GUEST, reason="for the virtual machine: it loads modules and makes devices")
@pytest.mark.usefixtures("devices")
def test_each_requirement_is_observed_in_the_guest(program: str, tmp_path: Path) -> None:
    wanted = [name for name, place in where().items() if place == "guest"]
    flags = [word for name in wanted for word in ("--id", name)]
    found = verdicts(program, tmp_path, *flags)
    assert {name: found[name] for name in wanted if found[name] != "passed"} == {}
