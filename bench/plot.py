"""The picture of a comparison: bars of wall-clock times, and lines of cost against size, as one SVG without scripts."""

from __future__ import annotations

import math
from html import escape

from bench.measure import Series
from bench.report import TOTAL, Report

WIDTH = 960
LEFT, RIGHT = 240, 60  # of the bars
BAR, GAP = 9, 12
COLUMNS = 2
PANEL_WIDTH, PANEL_HEIGHT = 400, 200

OURS = {"pyruntime": "#d55e00", "pyruntime+seal": "#e69f00"}
OTHERS = ("#0072b2", "#56b4e9", "#009e73", "#cc79a7", "#7f7f7f", "#332288")

STYLE = """\
text { font: 12px system-ui, sans-serif; fill: #24292f; }
.small { font-size: 10px; } .title { font-weight: 600; font-size: 14px; }
.paper { fill: #ffffff; } .grid { stroke: #d0d7de; stroke-width: 1; } .spread { stroke: #24292f; stroke-width: 1; }
.line { fill: none; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; } .paper { fill: #0d1117; } .grid { stroke: #30363d; } .spread { stroke: #e6edf3; }
}"""

Group = tuple[str, dict[str, Series]]


def svg(report: Report) -> str:
    """The whole picture."""
    colours = dict(OURS)
    others = [name for name in report.names if name not in colours]
    colours.update(zip(others, OTHERS * len(others), strict=False))
    order = [*others, *(name for name in report.names if name in OURS)]
    parts, height = _legend(order, colours)
    bars, height = _bars(_groups(report), order, colours, height)
    lines, height = _lines(report, order, colours, height)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}">',
            f"<style>\n{STYLE}\n</style>",
            f'<rect class="paper" width="{WIDTH}" height="{height}"/>',
            *parts,
            *bars,
            *lines,
            "</svg>\n",
        ]
    )


def _groups(report: Report) -> list[Group]:
    """What has bars: everything that takes milliseconds rather than seconds."""
    groups: list[Group] = []
    for bundle in ("plain bundle", "podman's bundle", "containerd's bundle"):
        groups.append((f"run, {bundle}", report.results.get(f"run, {bundle}", {}).get("wall ms", {})))
    for bundle in ("plain bundle", "podman's bundle"):
        figures = report.results.get(f"verbs, {bundle}", {})
        label = {TOTAL: "create to delete"}
        groups += [(f"{label.get(verb, verb)}, {bundle}", figures.get(f"{verb} ms", {})) for verb in (TOTAL, "exec")]
    figures = report.results.get("verbs, podman's bundle", {})
    for verb in ("create", "start", "state", "kill", "delete"):
        groups.append((f"{verb}, podman's bundle", figures.get(f"{verb} ms", {})))
    return [(label, series) for label, series in groups if any(one.values for one in series.values())]


def _text(x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(words)}</text>'


def _legend(order: list[str], colours: dict[str, str]) -> tuple[list[str], float]:
    parts = []
    x = 20.0
    for name in order:
        parts.append(f'<rect x="{x:.1f}" y="14" width="12" height="12" fill="{colours[name]}"/>')
        parts.append(_text(x + 17, 24.5, name))
        x += 45 + 7 * len(name)
    return parts, 44


def _ticks(largest: float) -> list[float]:
    """Round numbers from 0 to the largest value: 4 to 9 of them."""
    step = 10 ** math.floor(math.log10(largest or 1))
    for finer in (0.2, 0.5, 1.0):
        if largest / (step * finer) <= 8:
            step *= finer
            break
    return [step * number for number in range(int(largest / step) + 1)]


def _bars(
    groups: list[Group], order: list[str], colours: dict[str, str], top: float
) -> tuple[list[str], float]:  # fmt: skip
    if not groups:
        return [], top
    largest = max(one.quartiles()[1] for _, series in groups for one in series.values() if one.values)
    scale = (WIDTH - LEFT - RIGHT) / largest
    bottom = top + 30 + sum(BAR * len(order) + GAP for _ in groups)
    parts = [_text(20, top + 14, "Wall-clock time, ms (medians; the thin lines are quartiles)", kind="title")]
    for tick in _ticks(largest):
        x = LEFT + tick * scale
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{top + 26}" x2="{x:.1f}" y2="{bottom - GAP + 2:.1f}"/>')
        parts.append(_text(x, bottom + 4, f"{tick:g}", "middle", "small"))
    y = top + 30
    for label, series in groups:
        parts.append(_text(LEFT - 8, y + BAR * len(order) / 2 + 4, label, "end"))
        for name in order:
            one = series.get(name)
            if one is not None and one.values:
                low, high = one.quartiles()
                end = LEFT + one.median * scale
                middle = y + BAR / 2
                parts.append(
                    f'<rect x="{LEFT}" y="{y:.1f}" width="{one.median * scale:.1f}" height="{BAR - 1}" '
                    f'fill="{colours[name]}"><title>{escape(f"{label}: {name}: {one.median:.1f} ms")}</title></rect>'
                )
                parts.append(
                    f'<line class="spread" x1="{LEFT + low * scale:.1f}" y1="{middle:.1f}" '
                    f'x2="{LEFT + high * scale:.1f}" y2="{middle:.1f}"/>'
                )
                parts.append(_text(max(end, LEFT + high * scale) + 4, y + BAR - 1, f"{one.median:.1f}", kind="small"))
            y += BAR
        y += GAP
    return parts, bottom + 24


def _lines(report: Report, order: list[str], colours: dict[str, str], top: float) -> tuple[list[str], float]:
    """One panel for each thing that grows: `run` in milliseconds against how many there are."""
    kinds: dict[str, list[int]] = {}
    for title in report.results:
        kind, _, size = title.partition(": ")
        if size.isdigit():
            kinds.setdefault(kind, []).append(int(size))
    parts = [_text(20, top + 14, "Cost of run against size, ms", kind="title")] if kinds else []
    for number, (kind, sizes) in enumerate(kinds.items()):
        x = 50 + number % COLUMNS * (PANEL_WIDTH + 70)
        y = top + 34 + number // COLUMNS * (PANEL_HEIGHT + 60)
        figures = {size: report.results[f"{kind}: {size}"]["run ms"] for size in sizes}
        parts += _panel(kind, figures, order, colours, x, y)
    rows = -(-len(kinds) // COLUMNS)
    return parts, top + (34 if kinds else 0) + rows * (PANEL_HEIGHT + 60)


def _panel(
    kind: str, figures: dict[int, dict[str, Series]], order: list[str], colours: dict[str, str], left: float, top: float
) -> list[str]:
    sizes = sorted(figures)
    largest = max(one.median for series in figures.values() for one in series.values() if one.values)
    width = math.log(sizes[-1] / sizes[0]) or 1.0
    bottom = top + PANEL_HEIGHT

    def at(size: int, value: float) -> tuple[float, float]:
        return left + math.log(size / sizes[0]) / width * PANEL_WIDTH, bottom - value / largest * PANEL_HEIGHT

    parts = [_text(left + PANEL_WIDTH / 2, bottom + 32, kind, "middle")]
    for tick in _ticks(largest):
        _, y = at(sizes[0], tick)
        parts.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{left + PANEL_WIDTH}" y2="{y:.1f}"/>')
        parts.append(_text(left - 6, y + 4, f"{tick:g}", "end", "small"))
    for size in sizes:
        parts.append(_text(at(size, 0)[0], bottom + 16, f"{size}", "middle", "small"))
    for name in order:
        points = [at(size, figures[size][name].median) for size in sizes if figures[size][name].values]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline class="line" stroke="{colours[name]}" points="{line}"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colours[name]}"/>' for x, y in points]
    return parts
