"""The cases: functions that take a Stage, tagged with the ids of the requirements they show."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from types import ModuleType

    from conformance.stage import Stage

Function = Callable[..., None]


class Case(NamedTuple):
    """One thing to try: `function(stage, *arguments)` returns, fails or skips."""

    name: str
    ids: tuple[str, ...]
    function: Function
    arguments: tuple[Any, ...]
    module: str

    @property
    def what(self) -> str:
        """What the case does and expects, for the report: the docstring of its function."""
        return " ".join((self.function.__doc__ or self.name.replace("_", " ")).split())

    @property
    def nodeid(self) -> str:
        """Name of the case that is unique in the suite, for example `mounts::bind_source_may_be_relative`."""
        return f"{self.module}::{self.name}"

    def __call__(self, stage: Stage) -> None:
        """Run the case; it returns, or raises Failed or Skipped."""
        self.function(stage, *self.arguments)


def case(*ids: str) -> Callable[[Function], Function]:
    """Tag a function as a case that shows the requirements `ids`."""

    def tag(function: Function) -> Function:
        add(Case(function.__name__, ids, function, (), short(function.__module__)))
        return function

    return tag


def each(table: Mapping[str, tuple[Any, ...]], *more_ids: str) -> Callable[[Function], Function]:
    """Tag a function as one case per row of `table`: requirement id -> further arguments of the function.

    An id may carry a suffix after `@` to name several cases of one requirement: `res.memory.limit@512M`.
    """

    def tag(function: Function) -> Function:
        for key, arguments in table.items():
            name = f"{function.__name__}[{key}]"
            add(Case(name, (key.partition("@")[0], *more_ids), function, arguments, short(function.__module__)))
        return function

    return tag


CASES: dict[str, list[Case]] = {}


def add(new: Case) -> None:
    """Register a case under its module."""
    CASES.setdefault(new.module, []).append(new)


def short(module: str) -> str:
    """`conformance.cases.mounts` -> `mounts`."""
    return module.rpartition(".")[2]


def import_module(name: str) -> ModuleType:
    """Import one module of cases by its short name."""
    return importlib.import_module(f"conformance.cases.{name}")


def all_cases() -> list[Case]:
    """Every case of the suite, in the order of modules and then of their lines."""
    package = importlib.import_module("conformance.cases")
    for module in sorted(entry.name for entry in pkgutil.iter_modules(package.__path__)):
        import_module(module)
    return [one for module in sorted(CASES) for one in CASES[module]]
