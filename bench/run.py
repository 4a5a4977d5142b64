"""Compare pyruntime with the other runtimes of this machine: `python3 bench/run.py` (as root).

    --runtime PROGRAM   one more runtime, a name or a path; may be repeated (runc and crun are found by themselves)
    --only CASE         run, verbs, batch, memory, mounts or containers; may be repeated
    --rounds N          how often each runtime is measured (default 30)
    --full              more rounds and more containers, for figures to publish
    --json FILE         every single measurement

All runtimes run in turn, in one go, on the same bundles; the ratios are to the first one, runc. A figure is a median;
behind a ratio stand the quartiles of the ratios of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "tests")]

from bench.cases import CASES, Bench, Figures
from bench.runtimes import Contestant, clean_up, contestants

INSIDE = "--in-a-mount-namespace"


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare OCI runtimes.")
    parser.add_argument("--runtime", action="append", default=[], metavar="PROGRAM", help="one more runtime")
    parser.add_argument("--only", action="append", default=[], choices=list(CASES), help="this case; may be repeated")
    parser.add_argument("--rounds", type=int, default=0, help="how often each runtime is measured (default 30)")
    parser.add_argument("--full", action="store_true", help="more rounds and more containers")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every measurement")
    parser.add_argument(INSIDE, action="store_true", dest="inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if os.geteuid():
        parser.error("the runtimes make containers: run this as root")
    if not options.inside:
        # The mounts that are changed for the comparison are changed for it alone.
        words = ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv, INSIDE]
        os.execvp(words[0], words)

    subprocess.run(["umount", "/sys/fs/cgroup/unified"], stderr=subprocess.DEVNULL, check=False)  # crun refuses hybrids
    with tempfile.TemporaryDirectory(prefix="pyruntime-bench-", ignore_cleanup_errors=True) as name:
        work = Path(name)
        runtimes = contestants(options.runtime, work)
        rounds = options.rounds or (100 if options.full else 30)
        print(machine(), *(f"{one.name}: {one.version()}" for one in runtimes), sep="\n", flush=True)
        bench = Bench(runtimes, work, rounds, options.full)
        results: dict[str, Figures] = {}
        try:
            for case in options.only or CASES:
                for title, figures in CASES[case](bench).items():
                    results[title] = figures
                    print(table(title, figures, runtimes), flush=True)
        finally:
            clean_up(runtimes)
        if options.json:
            options.json.write_text(json.dumps(document(runtimes, results), indent=1))
    return 0


def machine() -> str:
    return (
        f"{platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}, Python {platform.python_version()}"
    )


def table(title: str, figures: Figures, runtimes: list[Contestant]) -> str:
    """One line for each figure and runtime: the median, and how many times the first runtime's it is."""
    lines = ["", title]
    base = runtimes[0].name
    for name, series in figures.items():
        for runtime in runtimes:
            one = series[runtime.name]
            if not one.values:
                continue
            ratio, low, high = one.ratio(series[base])
            beside = "" if runtime.name == base else f"  {ratio:5.2f} of {base}  ({low:.2f} to {high:.2f})"
            lines.append(f"  {name:30} {runtime.name:16} {one.median:9.1f}{beside}")
    return "\n".join(lines)


def document(runtimes: list[Contestant], results: dict[str, Figures]) -> dict[str, Any]:
    return {
        "machine": machine(),
        "runtimes": {runtime.name: runtime.version() for runtime in runtimes},
        "results": {
            title: {name: {key: one.values for key, one in series.items()} for name, series in figures.items()}
            for title, figures in results.items()
        },
    }


if __name__ == "__main__":
    sys.exit(main())
