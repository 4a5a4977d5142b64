"""The conformance suite is honest: it passes a sound runtime and catches broken ones, at least one per area."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from conformance.faults.table import FAULTS

ROOT = Path(__file__).parents[2]
# What a host may lack: SELinux, AppArmor, the net_cls controller; sound runtimes are skipped there too.
NEEDS_A_SPECIAL_HOST = {"lsm", "process.lsm", "res.network"}


@pytest.fixture(scope="module")
def proof() -> dict[str, tuple[str, str]]:
    """Verdict and reason for every fault, on top of this project's runtime."""
    command = [sys.executable, "-m", "conformance", "--faults", str(ROOT / "bin/pyruntime")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    rows = [line.split("\t") for line in done.stdout.splitlines() if line.count("\t") == 3]
    assert rows, done.stdout + done.stderr
    return {name: (verdict, reason) for verdict, _, name, reason in rows}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_caught(proof: dict[str, tuple[str, str]], name: str) -> None:
    """The case meant for the fault fails on the broken runtime and passes on the sound one."""
    verdict, reason = proof[name]
    if verdict == "not provable here" and FAULTS[name].area in NEEDS_A_SPECIAL_HOST:
        pytest.skip(reason)
    assert verdict == "caught", reason
