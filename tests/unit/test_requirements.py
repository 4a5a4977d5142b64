"""docs/requirements.md: it is up to date, it names what exists, and it forgets no requirement."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from conformance import requirements

ROOT = Path(__file__).resolve().parents[2]


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("observed", ROOT / "tools" / "observed.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["observed"] = module
    spec.loader.exec_module(module)
    return module


observed = load()
ROWS = observed.rows()


def test_the_page_is_up_to_date() -> None:
    assert observed.PAGE.read_text() == observed.page(), "run python3 tools/observed.py"


@pytest.mark.parametrize("identifier", requirements.load())
def test_every_requirement_has_a_place_and_a_test(identifier: str) -> None:
    found = observed.matching(identifier, ROWS)
    assert found and found[-1].where in observed.PLACES
    assert found[-1].tests
    assert bool(found[-1].why) == (found[-1].where != "here")


@pytest.mark.parametrize("row", ROWS, ids=[row.prefix for row in ROWS])
def test_what_is_named_exists(row: object) -> None:
    """The requirements that a row is about, its files, and their functions."""
    assert any(row in observed.matching(identifier, ROWS) for identifier in requirements.load())
    for test in row.tests:  # type: ignore[attr-defined]
        file, _, name = test.partition("::")
        tree = ast.parse((ROOT / file).read_text())
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert any(one.startswith("test_") for one in names)
        assert not name or name in names


def test_nothing_is_called_unobservable_without_a_reason() -> None:
    """What the suite cannot show is shown with a stand-in, or nowhere at all."""
    for identifier in requirements.unobservable():
        assert observed.matching(identifier, ROWS)[-1].where in ("stand-in", "nowhere"), identifier
