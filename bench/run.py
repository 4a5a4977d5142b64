"""Compare pyruntime with the other runtimes of this machine: `python3 bench/run.py` (as root), or `make bench`.

    --runtime NAME=PATH  one more runtime; may be repeated (runc and crun are found by themselves)
    --base NAME          the runtime that ratios are to (default: the last runc)
    --only CASE          run this case only; may be repeated
    --rounds N           how often each runtime is measured (default 20)
    --full               100 runs in a row, 1,000 containers, and 40 rounds: for figures to publish
    --json FILE          every single measurement
    --docs DIR           write performance.json and performance.svg into DIR and the tables into its performance.md

All runtimes run in turn, in one go, on the same bundles. A figure is a median; behind a ratio stand the quartiles of
the ratios of the rounds. Everything happens in a mount namespace of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:1] = [  # in place of this directory, whose modules are called bench.*
    str(REPOSITORY),
    str(REPOSITORY / "tests"),
]

from engines.engine import hide_controllers_of_version_2

from bench import cases, plot, report, sizes
from bench.budget import budget
from bench.cases import Bench
from bench.engines import Engines
from bench.measure import Results
from bench.runtimes import base_of, clean_up, contestants

CASES: dict[str, Callable[[Bench], Results]] = {
    "run": cases.run,
    "verbs": cases.verbs,
    "batch": cases.batch,
    "engines": cases.engines,
    "memory": sizes.memory,
    "mounts": sizes.mounts,
    "rlimits": sizes.rlimits,
    "seccomp": sizes.rules,
    "containers": sizes.containers,
    "budget": budget,
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare OCI runtimes.")
    parser.add_argument("--runtime", action="append", default=[], metavar="NAME=PATH", help="one more runtime")
    parser.add_argument("--base", default="", metavar="NAME", help="the runtime that ratios are to (default: a runc)")
    parser.add_argument("--only", action="append", default=[], choices=list(CASES), help="this case; may be repeated")
    parser.add_argument("--rounds", type=int, default=0, help="how often each runtime is measured (default 20)")
    parser.add_argument("--full", action="store_true", help="more rounds and more containers")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every measurement")
    parser.add_argument("--docs", metavar="DIR", type=Path, help="write tables and plot into these documents")
    options = parser.parse_args()
    if os.geteuid():
        parser.error("the runtimes make containers: run this as root")
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/var/tmp", ignore_cleanup_errors=True) as name:
        work = Path(name)
        work.chmod(0o755)
        hide_controllers_of_version_2(work)  # for crun; and what is mounted from here on goes with this process
        engines = Engines(work)
        runtimes = contestants(options.runtime, work)
        results: Results = {}
        try:
            rounds = options.rounds or (40 if options.full else 20)
            bench = Bench(runtimes, work, engines, rounds, options.full)
            found = report.Report(bench, base_of(runtimes, options.base), results)
            print(found.introduction(), flush=True)
            for case in options.only or CASES:
                new = CASES[case](bench)
                results.update(new)
                for title in new:
                    print(found.table(title), flush=True)
        finally:
            clean_up(runtimes)
            engines.close()
    if options.json:
        options.json.write_text(found.every_measurement())
    if options.docs and options.only:
        print("bench: the documents want all cases: nothing was written", file=sys.stderr)
    elif options.docs:
        (options.docs / "performance.json").write_text(json.dumps(found.summary(), indent=1) + "\n")
        (options.docs / "performance.svg").write_text(plot.svg(found))
        report.replace_block(options.docs / "performance.md", found.markdown())
    return 0


if __name__ == "__main__":
    sys.exit(main())
