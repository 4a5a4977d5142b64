"""What was measured, for people: tables on the terminal and in the documents, and as JSON."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from math import isnan
from pathlib import Path
from typing import Any

from bench.cases import INTERPRETER, LIFE, VERBS, Bench
from bench.measure import Results, Series
from bench.runtimes import OURS
from bench.targets import verdicts

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
TOTAL = "+".join(LIFE)


class Report:
    """All results of one run. `base` is the runtime that ratios are to."""

    def __init__(self, bench: Bench, base: str, results: Results) -> None:
        self.results = results
        self.base = base
        self.names = [one.name for one in bench.runtimes]
        self.versions = {one.name: one.version for one in bench.runtimes}
        self.sources = bench.sources
        self.rounds = bench.rounds
        self.date = time.strftime("%Y-%m-%d")
        self.machine = (
            f"{_processor()}, {os.cpu_count()} processors, {_memory()}, Linux {platform.release()}, {_cgroups()}"
        )
        self.commit = _commit()

    def introduction(self) -> str:
        lines = [self.machine, *(f"{name}: {version}" for name, version in self.versions.items())]
        return "\n".join([*lines, f"ratios are to {self.base}"])

    def table(self, title: str) -> str:
        """One line for each figure and runtime: the median, and how many times the base's it is."""
        lines = ["", title]
        for name, series in self.results[title].items():
            for runtime, one in series.items():
                if not one.values:
                    continue
                beside = ""
                if self.base in series and runtime != self.base:
                    ratio, low, high = one.ratio(series[self.base])
                    beside = "" if isnan(ratio) else f"  {ratio:5.2f} of {self.base}  ({low:.2f} to {high:.2f})"
                lines.append(f"  {name:30} {runtime:16} {one.median:9.1f}{beside}")
        return "\n".join(lines)

    def summary(self) -> dict[str, Any]:
        """Medians, quartiles and ratios, for programs."""
        results: dict[str, Any] = {}
        for title, figures in self.results.items():
            for name, series in figures.items():
                for runtime, one in series.items():
                    if one.values:
                        results.setdefault(title, {}).setdefault(name, {})[runtime] = self._entry(one, series)
        return {**self._head(), "results": results}

    def _entry(self, one: Series, series: dict[str, Series]) -> dict[str, Any]:
        entry: dict[str, Any] = {"median": round(one.median, 3), "count": len(one.values)}
        entry["quartiles"] = [round(value, 3) for value in one.quartiles()]
        if self.base in series:
            ratio, *spread = one.ratio(series[self.base])
            if not isnan(ratio):
                entry["ratio"] = round(ratio, 3)
                entry["ratio quartiles"] = [round(value, 3) for value in spread]
        return entry

    def every_measurement(self) -> str:
        values = {
            title: {name: {key: one.values for key, one in series.items()} for name, series in figures.items()}
            for title, figures in self.results.items()
        }
        return json.dumps({**self._head(), "results": values}) + "\n"

    def _head(self) -> dict[str, Any]:
        return {
            "date": self.date,
            "commit": self.commit,
            "machine": self.machine,
            "base": self.base,
            "runtimes": self.versions,
            "bundles": self.sources,
        }

    def markdown(self) -> str:
        """The tables of the document."""
        parts = [
            f"Measured on {self.date}, commit {self.commit}, on {self.machine}. Python {_python()}. The ratios are to "
            f"{self.base}; behind them stand the quartiles of the ratios of {self.rounds} rounds.",
            _rows(["runtime", "version"], [[name, text] for name, text in self.versions.items()]),
            "![Wall-clock times of all runtimes](performance.svg)",
            "### Targets",
            _rows(["target", "limit", *OURS], verdicts(self.results, self.base, self.names)),
            "### Time",
            "Milliseconds of wall-clock time, medians.",
            self._wide(self._times()),
            "### Memory and processor",
            self._wide(self._amounts()),
            "### Size",
            "Milliseconds of `run` with more and more of something.",
            self._wide([(title, title, "run ms") for title in self.results if self._is_size(title)], ratios=False),
            "### Where the time goes",
            f"`{OURS[1]}` with podman's bundle, milliseconds. The parts are from timelines (`--profile`), which take "
            "longer than the real thing; wall-clock and processor time are those of the real thing.",
            *self._budget(),
        ]
        return "\n\n".join(parts) + "\n"

    @staticmethod
    def _is_size(title: str) -> bool:
        return title.rpartition(": ")[2].isdigit()

    def _times(self) -> list[tuple[str, str, str]]:
        rows = []
        for bundle in ("plain bundle", "podman's bundle", "containerd's bundle"):
            rows.append((f"run, {bundle}", f"run, {bundle}", "wall ms"))
            rows += [(f"{verb}, {bundle}", f"verbs, {bundle}", f"{verb} ms") for verb in (TOTAL, *VERBS)]
        for title in self.results:
            if title.startswith("many runs"):
                rows += [(f"{title}, {name.removesuffix(' ms')}", title, name) for name in self.results[title]]
            elif title.endswith(" run") and not title.startswith("budget: "):
                rows.append((f"{title}, end to end", title, "wall ms"))
        return rows

    def _amounts(self) -> list[tuple[str, str, str]]:
        rows = []
        for bundle in ("plain bundle", "podman's bundle", "containerd's bundle"):
            rows.append((f"run, {bundle}: processor, ms", f"run, {bundle}", "cpu ms"))
            rows.append((f"{TOTAL}, {bundle}: processor, ms", f"verbs, {bundle}", f"{TOTAL} cpu ms"))
            rows.append((f"run, {bundle}: largest resident set, KiB", f"run, {bundle}", "peak KiB"))
            rows.append((f"created container, {bundle}: memory (PSS), KiB", f"memory, {bundle}", "created KiB"))
            rows.append((f"{bundle}: starts within a limit of, KiB", f"memory, {bundle}", "smallest limit KiB"))
        return rows

    def _wide(self, rows: list[tuple[str, str, str]], ratios: bool = True) -> str:
        """A table with a column for each runtime: (label, title, figure) for each row."""
        head = ["", *self.names] + ([f"{name} / {self.base}" for name in OURS] if ratios else [])
        lines = []
        for label, title, figure in rows:
            series = self.results.get(title, {}).get(figure, {})
            if not any(one.values for one in series.values()):
                continue
            cells = [_number(series[name]) if name in series else "" for name in self.names]
            if ratios:
                for name in OURS:
                    ratio, low, high = series[name].ratio(series[self.base])
                    cells.append("" if isnan(ratio) else f"**{ratio:.2f}** ({low:.2f} to {high:.2f})")
            lines.append([label, *cells])
        return _rows(head, lines)

    def _budget(self) -> list[str]:
        lines = []
        calls = []
        titles = [title for title in self.results if title.startswith("budget: ")]
        names: list[str] = []
        for title in titles:
            names += [name for name in self.results[title] if name not in names and not name.endswith("() ms")]
        for title in titles:
            figures = self.results[title]
            cells = [_number(next(iter(figures[name].values()))) if name in figures else "" for name in names]
            verb = title.removeprefix("budget: ")
            lines.append([verb, *cells])
            longest = [
                f"{name[:-3]} {_number(next(iter(one.values())))}" for name, one in figures.items() if "()" in name
            ]
            if longest:
                calls.append([verb, ", ".join(longest)])
        if not lines:
            return []
        floor = f"The first row is `python3 -I -S -c pass`, the floor of every verb ({INTERPRETER})."
        said = "The kernel's own part: the system calls of the runtime process that take longest, as strace sees them."
        return [_rows(["", *(name.removesuffix(" ms") for name in names)], lines), floor, said,
                _rows(["verb", "system calls, ms"], calls)]  # fmt: skip


def replace_block(path: Path, text: str) -> None:
    """Put `text` between the marks of a document."""
    document = path.read_text()
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"bench: {path} has no {BEGIN} and {END}")
    path.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def _rows(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _number(series: Series) -> str:
    if not series.values:
        return ""
    value = series.median
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory() -> str:
    return f"{int(Path('/proc/meminfo').read_text().split()[1]) / (1 << 20):.0f} GiB"


def _cgroups() -> str:
    kinds = {line.partition(" - ")[2].split()[0] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    return "cgroup v1" if "cgroup" in kinds else "cgroup v2"


def _python() -> str:
    told = subprocess.run(["/usr/bin/python3", "-V"], capture_output=True, text=True, check=False).stdout.split()
    return told[-1] if told else platform.python_version()


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "-c", "safe.directory=*", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
