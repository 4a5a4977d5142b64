"""The proof: every broken runtime fails the case that is there for it, and the same runtime unbroken passes it."""

from __future__ import annotations

import shlex
import sys
import tempfile
from pathlib import Path

from conformance import process, registry
from conformance.faults.table import FAULTS
from conformance.runner import run_case

ROOT = Path(__file__).parents[2]
CAUGHT, MISSED, UNPROVABLE = "caught", "missed", "not provable here"


def prove_one(name: str, command: str, cases: dict[str, registry.Case], scratch: Path, number: int) -> tuple[str, str]:
    """Try one fault on top of a runtime; returns the verdict and its reason."""
    fault = FAULTS[name]
    sound = run_case(cases[fault.case], "sound", command, scratch, number * 2)
    if sound.verdict != "passed":
        return UNPROVABLE, f"the unbroken runtime {sound.verdict} {fault.case}: {sound.reason}"
    # The wrapper runs wherever the suite's callers are, so it says itself where its package is.
    wrapper = scratch / f"broken-{name}"
    path = f"PYTHONPATH={shlex.quote(str(ROOT))}"
    words = f"{path} exec {shlex.quote(sys.executable)} -m conformance.faults {name} {command}"
    wrapper.write_text(f'#!/bin/sh\n{words} -- "$@"\n')
    wrapper.chmod(0o755)
    broken = run_case(cases[fault.case], name, str(wrapper), scratch, number * 2 + 1)
    if broken.verdict == "failed":
        return CAUGHT, broken.reason
    return MISSED, f"{fault.case} {broken.verdict}: {broken.reason}"


def main(command: str, quiet: bool) -> int:
    """Try every fault and print the verdicts. Exit status: 0 if none was missed."""
    cases = {one.nodeid: one for one in registry.all_cases()}
    process.isolate()
    verdicts = {}
    with tempfile.TemporaryDirectory(prefix="conformance-", ignore_cleanup_errors=True) as folder:
        scratch = Path(folder)
        scratch.chmod(0o755)
        for number, name in enumerate(FAULTS):
            verdict, reason = prove_one(name, command, cases, scratch, number)
            verdicts[name] = verdict
            if not quiet or verdict == MISSED:
                print(f"{verdict}\t{FAULTS[name].area}\t{name}\t{' '.join(reason.split())[:200]}", flush=True)
    counts = {word: list(verdicts.values()).count(word) for word in (CAUGHT, MISSED, UNPROVABLE)}
    print(", ".join(f"{count} {word}" for word, count in counts.items()))
    return int(bool(counts[MISSED]))
