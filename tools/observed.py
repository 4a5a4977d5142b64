"""Write docs/requirements.md: for each requirement of the specification, what observes it and where.

The list of requirements and the cases of the conformance suite come from `conformance/`; `tests/observed.tsv` says what
else looks at them. A row of it is about all requirements whose id begins with its first column: the longest such row
says where, the tests of all of them count.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from conformance import registry, requirements  # noqa: E402

PLACES = {
    "here": "by the conformance suite, on any host with cgroup v1",
    "guest": "by the conformance suite in the virtual machine, see [tests](testing.md)",
    "selinux": "by the tests named, in the virtual machine with SELinux",
    "stand-in": "with a stand-in for hardware or a kernel that neither has",
    "deviates": "what we do is observed; it is not what the specification says, see [conformance](conformance.md)",
    "nowhere": "no program can see it",
}
TABLE = ROOT / "tests" / "observed.tsv"
PAGE = ROOT / "docs" / "requirements.md"


class Row(NamedTuple):
    """One row of `tests/observed.tsv`. `tests` are files, or functions in them as pytest names them."""

    prefix: str
    where: str
    tests: tuple[str, ...]
    why: str


def rows() -> list[Row]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        table = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        next(table)
        return [Row(prefix, where, tuple(tests.split()), why) for prefix, where, tests, why in table]


def matching(identifier: str, table: list[Row]) -> list[Row]:
    """The rows about a requirement, the most special one last."""
    found = [row for row in table if identifier == row.prefix or identifier.startswith(row.prefix + ".")]
    return sorted(found, key=lambda row: len(row.prefix))


def page() -> str:
    table = rows()
    cases: dict[str, list[str]] = {}
    for case in registry.all_cases():
        for identifier in case.ids:
            names = cases.setdefault(identifier, [])
            name = case.nodeid.split("[")[0]
            if name not in names:
                names.append(name)
    counts: Counter[str] = Counter()
    lines = []
    for one in requirements.load().values():
        found = matching(one.id, table)
        where, why = found[-1].where, found[-1].why
        counts[where] += 1
        tests = dict.fromkeys(test for row in found for test in row.tests)
        shown = [f"`{name}`" for name in cases.get(one.id, [])]
        more = [f"`{test.removeprefix('tests/')}`" for test in tests]
        place = f"{where}: {why}" if why else where
        lines.append(f"| [{one.id}]({one.link}) | {'<br>'.join(shown) or '-'} | {'<br>'.join(more)} | {place} |")
    summary = "\n".join(f"| {place} | {counts[place]} | {text} |" for place, text in PLACES.items())
    return f"""# Requirements and what observes them

Written by `python3 tools/observed.py` from the list of requirements of the [conformance suite](conformance.md), its
cases and `tests/observed.tsv`. A test keeps this page up to date and makes sure that every test it names exists;
`tests/integration/test_requirements.py` runs the suite and makes sure that each requirement is observed where the page
says.

| observed | requirements | |
| --- | --- | --- |
{summary}

All are implemented, but for those that deviate. The second column names cases of the suite, the third what else looks
at the same property (below `tests/`).

| requirement | cases | further tests | observed |
| --- | --- | --- | --- |
{chr(10).join(lines)}
"""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
