"""Running the validation programs: one after the other where they share a cgroup path, side by side otherwise."""

from __future__ import annotations

import contextlib
import csv
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from conformance import cgroups
from conformance.upstream import tap

HERE = Path(__file__).parent
TIMEOUT_SECONDS = 120.0
# The cgroup paths the programs use, all the same in each.
LEFT_CGROUPS = ("/cgrouptest", "/testdir")


class Program(NamedTuple):
    """A row of programs.tsv: `group` names what cannot be shared (`-`: nothing), `best` the result to expect."""

    name: str
    group: str
    best: str
    about: str


def known() -> dict[str, Program]:
    """What is known about the programs."""
    with open(HERE / "programs.tsv", encoding="utf-8", newline="") as file:
        return {row[0]: Program(*row) for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)}


def find(checkout: Path) -> list[str]:
    """Names of the programs that are built in the checkout. Raises RuntimeError if it is not built."""
    names = sorted(path.stem for path in checkout.glob("validation/*/*.t"))
    if not names or not (checkout / "runtimetest").exists():
        raise RuntimeError(f"{checkout} is not built: run `make runtimetest validation-executables` there")
    return names


def run_all(checkout: Path, name: str, command: str, layout: str, quiet: bool) -> list[dict[str, Any]]:
    """Run all programs of a checkout against one runtime; returns one row per program for the report."""
    checkout = checkout.resolve()
    rows: list[dict[str, Any]] = []
    table = known()
    programs = [table.get(one, Program(one, "-", "", "")) for one in find(checkout)]
    with tempfile.TemporaryDirectory(prefix="conformance-upstream-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)

        def one(program: Program) -> None:
            row = run_one(program, checkout, name, command, layout, Path(folder))
            rows.append(row)
            if not quiet:
                print(
                    f"{name}: {program.name}: {row['verdict']} ({row['ok']} ok, {row['not_ok']} not ok)",
                    file=sys.stderr,
                )

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            list(pool.map(one, [program for program in programs if program.group == "-"]))
        for program in programs:
            if program.group != "-":
                one(program)
    return sorted(rows, key=lambda row: str(row["program"]))


def run_one(program: Program, checkout: Path, name: str, command: str, layout: str, folder: Path) -> dict[str, Any]:
    """Run one program in a directory of its own and undo what it and the runtime leave."""
    place = Path(tempfile.mkdtemp(prefix=f"{program.name}-", dir=folder))
    place.chmod(0o755)
    (place / "tmp").mkdir()
    root = place / "state"
    # The programs take one word for the runtime, and use its default state directory.
    wrapper = place / "runtime"
    wrapper.write_text(f'#!/bin/sh\nexec {command} --root {shlex.quote(str(root))} "$@"\n')
    wrapper.chmod(0o755)
    environment = dict(os.environ) | {"RUNTIME": str(wrapper), "TMPDIR": str(place / "tmp")}
    environment["PYTHONPATH"] = str(HERE.parents[1])
    path = checkout / "validation" / program.name / f"{program.name}.t"
    began = time.monotonic()
    with open(place / "out", "wb") as out, open(place / "err", "wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "conformance.upstream.launch", layout, str(path)],
            cwd=checkout, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True,
        )  # fmt: skip
        status: int | None
        try:
            status = process.wait(TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = None
    seconds = time.monotonic() - began
    output, error = [(place / part).read_text(errors="replace") for part in ("out", "err")]
    clean_up([sys.executable, "-m", "conformance.upstream.launch", layout, str(wrapper)], root, program, environment)
    shutil.rmtree(place, ignore_errors=True)
    reading = tap.read(output, error, status)
    return {"runtime": name, "program": program.name, "seconds": seconds, "best": program.best, "about": program.about,
            **reading._asdict()}  # fmt: skip


def clean_up(command: list[str], root: Path, program: Program, environment: dict[str, str]) -> None:
    """Delete the containers and cgroups a program left, with the same view of the cgroup hierarchies as it had."""
    for path in root.glob("*"):
        words = [*command, "delete", "--force", path.name]
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(words, env=environment, capture_output=True, timeout=30, check=False)
    if program.group == "cgroup":
        for left in LEFT_CGROUPS:
            cgroups.remove(left)
