"""The documents name files, tests, links and targets of `make` that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TREE = Path(__file__).parents[2]
PAGES = [TREE / "README.md", TREE / "SECURITY.md", *sorted((TREE / "docs").glob("*.md"))]

THEIRS = {"web/config.json", "runtimetest"}
"""A file of the reader's, in an example, and a target of another project."""

FILE = re.compile(r"[\w./-]+/[\w.-]+\.(?:py|c|tsv|json|md|svg)")
TEST = re.compile(r"(test_\w+)(?:\.py)?")


def sources() -> list[Path]:
    rooms = ("bench", "bin", "bundles", "conformance", "docs", "launcher", "pyruntime", "schemas", "tests", "tools")
    return [path for room in rooms for path in (TREE / room).rglob("*") if "__pycache__" not in path.parts]


@pytest.fixture(scope="module")
def endings() -> set[str]:
    """Every way to name a file of the tree by the end of its path: `plan/mounts.py`, `mounts.py`."""
    found = set()
    for path in sources():
        parts = path.relative_to(TREE).parts
        found |= {"/".join(parts[start:]) for start in range(len(parts))}
    return found


@pytest.fixture(scope="module")
def tests() -> set[str]:
    """The names of all test functions, and of the modules they are in."""
    found = set()
    for path in (TREE / "tests").rglob("*.py"):
        found |= {path.stem, *re.findall(r"^\s*(?:def|class) (\w+)", path.read_text(), re.MULTILINE)}
    return found


def words(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path, endings: set[str]) -> None:
    named = {word for word in words(page) if FILE.fullmatch(word) and not word.startswith("/")}
    assert not named - endings - THEIRS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_are_named_exist(page: Path, tests: set[str]) -> None:
    assert not {match[1] for word in words(page) if (match := TEST.fullmatch(word))} - tests


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    assert not [link for link in links if "://" not in link and not (page.parent / link).exists()]


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (TREE / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"^    (?:sudo )?make ([a-z-]+)", page.read_text(), re.MULTILINE))
        named |= {match for word in words(page) for match in re.findall(r"^make ([a-z-]+)", word)}
        assert not named - targets - THEIRS, page.name


def test_every_kind_of_test_is_explained() -> None:
    kinds = {path.parent.name for path in (TREE / "tests").glob("*/*.py")}
    text = (TREE / "docs" / "testing.md").read_text()
    assert not {kind for kind in kinds if f"`tests/{kind}`" not in text}
