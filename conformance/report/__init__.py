"""The report: every requirement against every runtime, as a web page, JSON, junit and TAP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from conformance import requirements

if TYPE_CHECKING:
    from conformance.session import Found

ORDER = ("failed", "passed", "skipped")


def collect(founds: list[Found], host: dict[str, str], upstream: list[dict[str, Any]]) -> dict[str, Any]:
    """Everything the report shows, as one JSON value.

    The verdict on a requirement is `failed` if one of its cases failed, else `passed` if one passed, else `skipped`;
    requirements without a case are `unobservable`, with the reason.
    """
    reasons = requirements.unobservable()
    rows = []
    for one in requirements.load().values():
        results = {}
        for found in founds:
            cases = [number for number, row in enumerate(found.rows) if one.id in row["ids"]]
            verdicts = {found.rows[number]["verdict"] for number in cases}
            verdict = next(
                (word for word in ORDER if word in verdicts), "unobservable" if one.id in reasons else "not run"
            )
            results[found.name] = {"verdict": verdict, "cases": cases}
        rows.append({**one._asdict(), "link": one.link, "unobservable": reasons.get(one.id, ""), "results": results})
    return {
        "host": host,
        "runtimes": [
            {
                "name": found.name,
                "version": found.version,
                "cgroups": found.layout,
                "seconds": round(found.seconds, 1),
                "notes": found.notes,
                "cases": found.rows,
                "totals": totals([row["results"][found.name]["verdict"] for row in rows]),
                "case_totals": totals([row["verdict"] for row in found.rows]),
            }
            for found in founds
        ],
        "requirements": rows,
        "upstream": upstream,
    }


def totals(verdicts: list[str]) -> dict[str, int]:
    """How often each verdict occurs."""
    return {word: verdicts.count(word) for word in sorted(set(verdicts))}


def write(data: dict[str, Any], folder: Path) -> None:
    """Write index.html, results.json, junit.xml and results.tap into `folder`."""
    from conformance.report import files, page

    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(data, folder / "results.json")
    files.write_junit(data, folder / "junit.xml")
    files.write_tap(data, folder / "results.tap")
    page.write(data, folder / "index.html")
