"""What pyruntime wants to reach, and whether it does."""

from __future__ import annotations

from bench.cases import INTERPRETER, LIFE
from bench.measure import Results, Series
from bench.runtimes import OURS

PLAIN, ENGINE = "plain bundle", "podman's bundle"
TOTAL = "+".join(LIFE)
ABOVE_FLOOR = 2.5  # ms

# (title, figure, the other runtime: "base" or the beginning of a name, the largest ratio)
RATIOS = (
    (f"run, {ENGINE}", "wall ms", "base", 0.45),
    (f"run, {ENGINE}", "wall ms", "crun 1.8", 0.8),
    (f"verbs, {ENGINE}", "create ms", "base", 0.45),
    (f"verbs, {ENGINE}", "create ms", "crun 1.8", 0.8),
    (f"verbs, {ENGINE}", "exec ms", "base", 0.6),
    (f"run, {PLAIN}", "wall ms", "base", 0.85),
    (f"verbs, {PLAIN}", "exec ms", "base", 0.75),
    (f"verbs, {ENGINE}", f"{TOTAL} ms", "base", 0.7),
    (f"verbs, {PLAIN}", f"{TOTAL} ms", "base", 1.0),
    (f"run, {PLAIN}", "peak KiB", "base", 1.0),
    (f"run, {ENGINE}", "peak KiB", "base", 1.0),
)


def verdicts(results: Results, base: str, names: list[str]) -> list[list[str]]:
    """Rows of a table: the target, the limit, the figures of both pyruntimes. What was not measured is left out."""
    rows = []
    for title, figure, against, limit in RATIOS:
        other = base if against == "base" else next((name for name in names if name.startswith(against)), "")
        series = results.get(title, {}).get(figure, {})
        if not series or other not in series:
            continue
        cells = [_cell(series[name].ratio(series[other])[0], limit) for name in OURS]
        what = figure.removesuffix(" ms") if title.startswith("verbs") else "run"
        what += ", peak of memory" if "KiB" in figure else ""
        rows.append([f"{what}, {title.partition(', ')[2]}: of {other}", f"{limit}", *cells])
    rows += _near_the_floor(results)
    rows += _small_memory(results)
    rows += _flat(results)
    return rows


def _cell(value: float, limit: float) -> str:
    if value <= limit:
        return f"{value:.2f} reached"
    return f"{value:.2f} **missed**" if float(f"{value:.2f}") > limit else f"{value:.4f} **missed**"


def _near_the_floor(results: Results) -> list[list[str]]:
    """start, state, kill, delete: how many milliseconds after a bare interpreter would have ended."""
    figures = results.get(f"verbs, {ENGINE}", {})
    rows = []
    for verb in ("start", "state", "kill", "delete"):
        series, floor = figures.get(f"{verb} ms", {}), figures.get(f"{INTERPRETER} ms", {}).get(INTERPRETER, Series())
        if series and floor.values:
            cells = [_cell(series[name].median - floor.median, ABOVE_FLOOR) for name in OURS]
            rows.append([f"{verb}: ms above a bare interpreter ({floor.median:.1f} ms)", f"{ABOVE_FLOOR}", *cells])
    return rows


def _small_memory(results: Results) -> list[list[str]]:
    series = results.get(f"memory, {PLAIN}", {}).get("smallest limit KiB", {})
    if not series:
        return []
    cells = [f"{series[name].median:.0f} {'reached' if series[name].median <= 512 else '**missed**'}" for name in OURS]
    return [["starts within a memory limit of KiB", "512", *cells]]


def _flat(results: Results) -> list[list[str]]:
    """`run` beside as many containers as were measured, against `run` beside one; and with 500 mounts,
    against the line through 1 and 100."""
    rows = []
    sizes = sorted(int(title.partition(": ")[2]) for title in results if title.startswith("containers: "))
    if len(sizes) > 1:
        one, many = (results[f"containers: {size}"]["run ms"] for size in (sizes[0], sizes[-1]))
        cells = [_cell(many[name].median / one[name].median, 1.1) for name in OURS]
        rows.append([f"run beside {sizes[-1]} containers: of run beside one", "1.1", *cells])
    figures = [results.get(f"mounts: {size}", {}).get("run ms", {}) for size in (1, 100, 500)]
    if all(figures):
        cells = []
        for name in OURS:
            at_1, at_100, at_500 = (one[name].median for one in figures)
            cells.append(_cell(at_500 / (at_1 + max(at_100 - at_1, 0.0) / 99 * 499), 1.25))
        rows.append(["run with 500 mounts: of what 1 and 100 foretell", "1.25", *cells])
    return rows
