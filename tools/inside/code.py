"""Which functions a process in a container may reach: found by following calls through the syntax trees.

Python has no static types to follow, so the search errs on the side of too much: a method called on an object of
unknown class is every method of that name in the rooms that work inside, `plan` and `kernel`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

# Where such a process begins, beside the `apply` methods of the steps of the init.
BEGINNINGS = (
    "pyruntime.container.init.run",
    "pyruntime.container.init._audit",
    "pyruntime.container.init._die",
    "pyruntime.container.init._silent",
    "pyruntime.container.hooks._become",
    "pyruntime.container.create_hooks._enter_namespaces",
    "pyruntime.container.launch.Launch._help",
)
# Methods of these names are of sockets, lists, dicts: not of the classes of ours that have one as well.
COMMON = frozenset(
    "__init__ add append apply close describe encode get items join keys pop read send sort split values write".split()
)
# Steps have no reason to go there; `find` of a Command looks like one.
OUTSIDE = ("pyruntime.plan.seccomp_cache.",)

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Unit:
    """One function or method, under its full name."""

    def __init__(self, name: str, module: Module, owner: ast.ClassDef | None, node: Function) -> None:
        self.name = name
        self.module = module
        self.owner = owner
        self.node = node


class Module:
    """One source file."""

    def __init__(self, name: str, path: str, source: str) -> None:
        self.name = name
        self.path = path
        self.tree = ast.parse(source)
        self.classes: dict[str, ast.ClassDef] = {}
        self.units: dict[str, Unit] = {}  # by the name inside the module: `run`, `Child.begin`
        self.names: dict[str, str] = {}  # imported name -> what it is, in full
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    self.names[alias.asname or alias.name.split(".")[0]] = alias.name
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    self.names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        for node in self.tree.body:
            if isinstance(node, Function):
                self._add(node.name, None, node)
            elif isinstance(node, ast.ClassDef):
                self.classes[node.name] = node
                for inner in node.body:
                    if isinstance(inner, Function):
                        self._add(f"{node.name}.{inner.name}", node, inner)

    def _add(self, short: str, owner: ast.ClassDef | None, node: Function) -> None:
        self.units[short] = Unit(f"{self.name}.{short}", self, owner, node)


class Program:
    """All source files, by the name of their module."""

    def __init__(self, sources: dict[str, str]) -> None:
        """`sources`: path from the top of the repository -> text."""
        self.modules: dict[str, Module] = {}
        for path, text in sources.items():
            name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            self.modules[name] = Module(name, path, text)
        self.methods: dict[str, list[Unit]] = {}
        for unit in self.units():
            inside = unit.name.startswith(("pyruntime.plan.", "pyruntime.kernel.")) and not unit.name.startswith(
                OUTSIDE
            )
            if unit.owner is not None and inside:
                self.methods.setdefault(unit.node.name, []).append(unit)

    def units(self) -> Iterator[Unit]:
        for module in self.modules.values():
            yield from module.units.values()

    def find(self, name: str) -> Unit | None:
        """A function by its full name; for a class its __init__."""
        for split in (1, 2):
            parts = name.rsplit(".", split)
            module = self.modules.get(parts[0])
            if module is not None:
                short = ".".join(parts[1:])
                return module.units.get(short) or module.units.get(f"{short}.__init__")
        return None

    def bases(self, module: Module, node: ast.ClassDef) -> Iterator[tuple[Module, ast.ClassDef]]:
        """The class and those of ours that it inherits from."""
        yield module, node
        for base in node.bases:
            name = module.names.get(base.id, f"{module.name}.{base.id}") if isinstance(base, ast.Name) else ""
            where, _, short = name.rpartition(".")
            found = self.modules.get(where)
            if found is not None and short in found.classes:
                yield from self.bases(found, found.classes[short])

    def is_step_of_the_init(self, module: Module, node: ast.ClassDef) -> bool:
        """Whether the class is a Step, and no class nearer than Step says that the host applies it."""
        for where, one in self.bases(module, node):
            if one.name == "Step" and where.name == "pyruntime.plan.step":
                return one is not node
            for statement in one.body:
                if isinstance(statement, ast.Assign) and ast.unparse(statement) == "side = HOST":
                    return False
        return False

    def inside(self) -> dict[str, Unit]:
        """All functions that a process in a container may reach."""
        found: dict[str, Unit] = {}
        queue = [unit for name in BEGINNINGS if (unit := self.find(name)) is not None]
        for module in self.modules.values():
            for node in module.classes.values():
                if self.is_step_of_the_init(module, node) and f"{node.name}.apply" in module.units:
                    queue.append(module.units[f"{node.name}.apply"])
        while queue:
            unit = queue.pop()
            if unit.name not in found:
                found[unit.name] = unit
                queue += self.calls(unit)
        return found

    def calls(self, unit: Unit) -> Iterator[Unit]:
        """The functions of ours that `unit` calls, or hands to somebody who may."""
        module = unit.module
        for node in ast.walk(unit.node):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                target = self.find(module.names.get(node.id, f"{module.name}.{node.id}"))
                if target is not None and target.owner is None:
                    yield target
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                target = self.find(module.names.get(node.func.id, f"{module.name}.{node.func.id}"))
                if target is not None:
                    yield target  # a class: its __init__
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                yield from self._attribute(unit, node)

    def _attribute(self, unit: Unit, node: ast.Attribute) -> Iterator[Unit]:
        module = unit.module
        if isinstance(node.value, ast.Name):
            name = node.value.id
            if name in module.names:
                target = self.find(f"{module.names[name]}.{node.attr}")
                if target is not None:
                    yield target
                return
            if name in ("self", "cls") and unit.owner is not None:
                for where, one in self.bases(module, unit.owner):
                    if f"{one.name}.{node.attr}" in where.units:
                        yield where.units[f"{one.name}.{node.attr}"]
                        return
                return
        if node.attr not in COMMON:
            yield from self.methods.get(node.attr, [])


def read(top: Path) -> dict[str, str]:
    """The sources of the package, by path from `top`."""
    return {
        str(path.relative_to(top)): path.read_text(encoding="utf-8")
        for path in sorted((top / "pyruntime").rglob("*.py"))
    }
