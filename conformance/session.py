"""One run of the suite: workers that share the cases of a runtime, and what they found."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from conformance import registry
from conformance.runtime import Runtime

HERE = Path(__file__).parent


class Chosen(NamedTuple):
    """A runtime to test: its name in the report, its command, and the view of the cgroup hierarchies it gets."""

    name: str
    command: str
    layout: str


class Found(NamedTuple):
    """What one runtime did: one row per case (case, ids, what, verdict, reason, seconds), and facts about the run."""

    name: str
    version: str
    layout: str
    seconds: float
    rows: list[dict[str, Any]]
    notes: list[str]


def choose(text: str, layout: str) -> Chosen:
    """`NAME=COMMAND` or `COMMAND`; a relative path with a slash is made absolute, for workers run elsewhere."""
    name, equals, command = text.partition("=")
    if not equals or "/" in name or " " in name:
        name, command = Path(text.split(maxsplit=1)[0]).name, text
    first, _, rest = command.partition(" ")
    if "/" in first:
        first = os.path.abspath(first)
    return Chosen(name, f"{first} {rest}".strip(), layout)


def run(chosen: Chosen, jobs: int, ids: list[str], keyword: str, quiet: bool) -> Found:
    """Run the cases against one runtime in `jobs` worker processes; returns what they found."""
    with tempfile.TemporaryDirectory(prefix="conformance-run-") as folder:
        outcomes, claims = Path(folder, "outcomes"), Path(folder, "claims")
        outcomes.touch()
        claims.mkdir()
        layout = chosen.layout
        notes: list[str] = []
        if layout == "auto":
            layout, notes = find_layout(chosen, folder)
        began = time.monotonic()
        command = [
            *(
                sys.executable,
                "-m",
                "pytest",
                "-p",
                "conformance.plugin",
                "-p",
                "no:cacheprovider",
                "-q",
                "--no-header",
            ),
            *("-c", os.devnull, "--rootdir", str(HERE), "--tb=no", "-r", "N"),
            *("--oci-name", chosen.name, "--oci-command", chosen.command, "--oci-cgroups", layout),
            *("--oci-outcomes", str(outcomes), "--oci-claims", str(claims)),
            *(word for one in ids for word in ("--oci-id", one)),
            *(("-k", keyword) if keyword else ()),
            str(HERE / "cases"),
        ]
        environment = dict(os.environ) | {
            "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        }
        workers = [
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for _ in range(jobs)
        ]
        try:
            while any(worker.poll() is None for worker in workers):
                time.sleep(0.2)
                if not quiet:
                    progress(chosen.name, outcomes.read_bytes().count(b"\n"), time.monotonic() - began)
        except BaseException:
            for worker in workers:
                worker.terminate()  # then it undoes the case that it is at
            for worker in workers:
                worker.communicate()
            raise
        if not quiet:
            print(file=sys.stderr)
        for worker in workers:
            output = worker.stdout.read() if worker.stdout else ""
            # 0 all passed, 1 some failed, 5 nothing collected: anything else is a defect of the suite.
            if worker.returncode not in (0, 1, 5):
                raise RuntimeError(f"a worker of the suite broke (status {worker.returncode}):\n{output[-3000:]}")
        rows = [json.loads(line) for line in outcomes.read_text().splitlines()]
        lost = len(list(claims.iterdir())) - len(rows)
        if lost:
            raise RuntimeError(f"{lost} cases were begun and have no outcome: a worker of the suite broke")
        order = {one.nodeid: number for number, one in enumerate(registry.all_cases())}
        rows.sort(key=lambda row: order.get(row["case"], len(order)))
        version = Runtime(chosen.name, chosen.command, Path(folder, "state")).version()
        return Found(chosen.name, version, layout, time.monotonic() - began, rows, notes)


def find_layout(chosen: Chosen, folder: str) -> tuple[str, list[str]]:
    """`as-is`, unless the runtime can make no container on this hybrid host and can without its cgroup2 mount."""
    reasons: list[str] = []
    for layout in ("as-is", "no-unified"):
        outcomes = Path(folder, f"probe-{layout}")
        probe = [
            *(
                sys.executable,
                "-m",
                "pytest",
                "-p",
                "conformance.plugin",
                "-p",
                "no:cacheprovider",
                "-q",
                "-c",
                os.devnull,
            ),
            *("--rootdir", str(HERE), "--oci-name", chosen.name, "--oci-command", chosen.command),
            *(
                "--oci-cgroups",
                layout,
                "--oci-outcomes",
                str(outcomes),
                str(HERE / "cases/state.py"),
                "-k",
                "state_has_the_id",
            ),
        ]
        environment = dict(os.environ) | {
            "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        }
        subprocess.run(probe, env=environment, capture_output=True, check=False)
        rows = [json.loads(line) for line in outcomes.read_text().splitlines()] if outcomes.exists() else []
        if rows and rows[0]["verdict"] == "passed":
            if layout == "no-unified":
                return layout, [f"run without the cgroup2 mount of this hybrid host, because: {reasons[0]}"]
            return layout, []
        reasons.append(rows[0]["reason"] if rows else "the probe did not run")
    return "as-is", [f"cannot make a container here: {reasons[0]}"]


def give_back() -> None:
    """Undo what the layout `all` did to the kernel; in a process of its own, as that needs a mount namespace."""
    environment = dict(os.environ) | {"PYTHONPATH": str(HERE.parent)}
    subprocess.run([sys.executable, "-m", "conformance.layout"], env=environment, check=False)


def progress(name: str, done: int, seconds: float) -> None:
    """One line that is written over and over."""
    print(f"\r{name}: {done} cases, {seconds:.0f} s", end="", file=sys.stderr, flush=True)


def host() -> dict[str, str]:
    """What the report says about this machine."""
    from conformance import cgroups

    points = cgroups.mount_points()
    kind = "cgroup v2" if set(points) == {""} else "cgroup v1 and v2 (hybrid)" if "" in points else "cgroup v1"
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cgroups": f"{kind}: {', '.join(sorted(name for name in points if name)) or 'no v1 controllers'}",
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }
