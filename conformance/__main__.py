"""The command line: `python -m conformance --runtime runc --runtime crun --report report/`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any

from conformance import bundle, layout, registry, report, requirements, session


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="python -m conformance", description="Test OCI runtimes against the specification."
    )
    made.add_argument(
        "--runtime",
        action="append",
        default=[],
        metavar="[NAME=]COMMAND",
        help="a runtime to test, with options if need be",
    )
    made.add_argument(
        "--report", type=Path, metavar="DIR", help="write index.html, results.json, junit.xml and results.tap there"
    )
    made.add_argument(
        "--id", action="append", default=[], metavar="PREFIX", help="only requirements whose id begins so"
    )
    made.add_argument(
        "-k", dest="keyword", default="", metavar="EXPRESSION", help="only cases whose name fits, as in pytest"
    )
    made.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="worker processes (default: one per CPU)")
    made.add_argument(
        "--cgroups", choices=("auto", *layout.LAYOUTS), default="auto",
        help="view of the cgroup hierarchies; auto hides the cgroup2 mount of a hybrid host from runtimes that refuse "
        "it, all adds v1 controllers nobody mounted",
    )  # fmt: skip
    made.add_argument(
        "--upstream", type=Path, metavar="DIR", help="also run the validation programs of this runtime-tools checkout"
    )
    made.add_argument(
        "--upstream-only", action="store_true", help="with --upstream: leave the cases of the suite itself out"
    )
    made.add_argument(
        "--faults", metavar="COMMAND", help="instead: prove that the suite catches broken runtimes made of this one"
    )
    made.add_argument("--list", action="store_true", help="list the cases and the requirements they show, and stop")
    made.add_argument("--quiet", action="store_true", help="no progress and no list of failures")
    return made


def main() -> int:
    """Run the suite. Exit status: 0 no case failed, 1 some did, 2 it could not be run."""
    options = parser().parse_args()
    if options.list:
        for case in registry.all_cases():
            print(f"{case.nodeid}\t{' '.join(case.ids)}\t{case.what}")
        return 0
    if os.geteuid() != 0:
        print("the suite makes namespaces, mounts and cgroups of its own: run it as root", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))  # an exception, so that all is undone
    try:
        bundle.busybox()
        if options.faults:
            from conformance.faults import prove

            return prove.main(options.faults, options.quiet)
        chosen = [session.choose(text, options.cgroups) for text in options.runtime]
        if not chosen:
            print("name at least one runtime with --runtime", file=sys.stderr)
            return 2
        # No id begins with a space: with --upstream-only no case is collected.
        ids = [" "] if options.upstream_only else options.id
        founds = [session.run(one, options.jobs, ids, options.keyword, options.quiet) for one in chosen]
        upstream: list[dict[str, Any]] = []
        if options.upstream:
            from conformance.upstream import programs

            for one, found in zip(chosen, founds, strict=True):
                upstream += programs.run_all(options.upstream, one.name, one.command, found.layout, options.quiet)
    except (RuntimeError, OSError) as error:
        print(f"the suite could not be run: {error}", file=sys.stderr)
        return 2
    finally:
        if options.cgroups == "all":
            session.give_back()
    data = report.collect(founds, session.host(), upstream)
    summary(data, options.quiet)
    if options.report:
        report.write(data, options.report)
        print(f"report: {options.report / 'index.html'}")
    return int(any(found.rows and any(row["verdict"] == "failed" for row in found.rows) for found in founds))


def summary(data: dict[str, Any], quiet: bool) -> None:
    """The failures with their requirements, then one line per runtime."""
    known = requirements.load()
    for runtime in data["runtimes"]:
        for row in runtime["cases"]:
            if row["verdict"] == "failed" and not quiet:
                print(f"{runtime['name']}: {row['case']}\n    {row['reason']}")
                for one in row["ids"]:
                    print(f"    {known[one].level} {one}: {known[one].text}\n    {known[one].link}")
    for runtime in data["runtimes"]:
        words = ", ".join(f"{count} {word}" for word, count in runtime["case_totals"].items())
        rows = ", ".join(f"{count} {word}" for word, count in runtime["totals"].items())
        print(f"{runtime['name']}: cases: {words}; requirements: {rows}; {runtime['seconds']} s")
        for note in runtime["notes"]:
            print(f"{runtime['name']}: {note}")
    if data["upstream"]:
        for name in dict.fromkeys(one["runtime"] for one in data["upstream"]):
            mine = [one for one in data["upstream"] if one["runtime"] == name]
            clean = sum(one["verdict"] == "clean" for one in mine)
            print(f"{name}: {clean} of {len(mine)} programs of runtime-tools clean")


if __name__ == "__main__":
    sys.exit(main())
