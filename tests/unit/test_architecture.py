"""The arrows of docs/architecture.md: which room may import which, and what the hot path may import at all."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "pyruntime"

# A room, and the rooms it may import. "types" of a room may be imported under `if TYPE_CHECKING:` only.
ALLOWED = {
    "errors": set[str](),
    "kernel": {"errors"},
    "spec": {"errors"},
    "plan": {"kernel", "errors", "spec types"},
    "cgroups": {"kernel", "errors", "spec types"},
    "container": {"plan", "cgroups", "kernel", "spec", "errors"},
    "cli": {"container", "plan", "spec", "errors", "profile"},
    "image": {"spec", "kernel", "errors"},
    "network": {"spec", "kernel", "errors"},
    "__main__": {"cli", "image", "network", "kernel", "errors", "libraries"},
    "libraries": set[str](),
    "profile": {"kernel"},
}

# What a module of the hot path must never load: each costs milliseconds (docs/architecture.md, "The hot path").
SLOW = frozenset(
    """
    argparse asyncio collections contextlib copy ctypes dataclasses datetime enum fnmatch functools glob hashlib heapq
    importlib inspect io json linecache locale logging operator pathlib pickle platform random re shlex shutil signal
    socket string struct subprocess tempfile textwrap threading tokenize traceback types typing uuid warnings weakref
    jsonschema pyroute2 prctl
    """.split()
)
HOT_VERBS = ("create", "delete", "exec", "kill", "run", "start", "state")
# Third-party libraries, and the only modules that may load them.
LIBRARIES = {
    "isal": {"pyruntime.image"},
    "jsonschema": {"pyruntime.spec"},
    "pyroute2": {"pyruntime.network", "pyruntime.container"},
    "referencing": {"pyruntime.spec"},
    "zstandard": {"pyruntime.image"},
}


class Import:
    """One import: of `module`, in line `line`; whether only a type checker sees it; whether it waits in a function."""

    def __init__(self, module: str, line: int, types_only: bool, lazy: bool) -> None:
        self.module = module
        self.line = line
        self.types_only = types_only
        self.lazy = lazy


def imports(path: Path) -> Iterator[Import]:
    tree = ast.parse(path.read_bytes())
    package = ".".join(path.relative_to(PACKAGE.parent).parent.parts)

    def visit(node: ast.AST, types_only: bool, lazy: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, types_only, lazy)
            return
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import in {package}"
            module = node.module or ""
            for alias in node.names:
                # `from pyruntime.kernel import libc` names a module, `from pyruntime.errors import SpecError` does not.
                full = f"{module}.{alias.name}"
                yield Import(full if is_module(full) else module, node.lineno, types_only, lazy)
            return
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for statement in node.body:
                yield from visit(statement, True, lazy)
            for statement in node.orelse:
                yield from visit(statement, types_only, lazy)
            return
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, types_only, inside)

    yield from visit(tree, False, False)


def is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def source(module: str) -> Path:
    path = PACKAGE.parent.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


MODULES = sorted(PACKAGE.rglob("*.py"))


def name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_point_one_way(path: Path) -> None:
    here = room(name(path))
    if not here:
        assert not [found for found in imports(path) if found.module.startswith("pyruntime")]
        return
    assert here in ALLOWED, f"{path} is in no room of docs/architecture.md"
    for found in imports(path):
        there = room(found.module)
        if not found.module.startswith("pyruntime") or there in ("", here):
            continue
        allowed = there in ALLOWED[here] or (found.types_only and f"{there} types" in ALLOWED[here])
        assert allowed, f"{path}:{found.line}: {here} must not import {found.module}"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_libraries_are_loaded_in_their_place_only(path: Path) -> None:
    for found in imports(path):
        top = found.module.split(".")[0]
        if top == "pyruntime" or top in sys.stdlib_module_names or found.types_only:
            continue
        assert top in LIBRARIES, f"{path}:{found.line}: {top} is not required by pyproject.toml"
        place = ".".join(name(path).split(".")[:2])
        assert place in LIBRARIES[top], f"{path}:{found.line}: {top} belongs into {LIBRARIES[top]}"
        assert found.lazy or place == "pyruntime.network", f"{path}:{found.line}: {top} is loaded by whoever needs it"


def loaded_with(module: str) -> dict[str, str]:
    """Every module that importing `module` loads, and the place that asks for it."""
    found: dict[str, str] = {module: ""}
    queue = [module]
    while queue:
        current = queue.pop()
        parts = current.split(".")
        for index in range(1, len(parts)):
            package = ".".join(parts[:index])
            if package not in found:
                found[package] = current
                queue.append(package)
        for entry in imports(source(current)):
            if entry.types_only or entry.lazy or entry.module in found:
                continue
            found[entry.module] = f"{source(current)}:{entry.line}"
            if entry.module.startswith("pyruntime"):
                queue.append(entry.module)
    return found


@pytest.mark.parametrize("verb", HOT_VERBS)
def test_hot_verbs_load_nothing_slow(verb: str) -> None:
    for start in ("pyruntime.__main__", "pyruntime.cli.main", f"pyruntime.cli.{verb}"):
        for module, where in loaded_with(start).items():
            assert module.split(".")[0] not in SLOW, f"{where}: {module} is too slow for `{verb}`"


def test_the_rooms_are_those_of_the_document() -> None:
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert not {one for one in rooms if f"`pyruntime/{one}/`" not in text}


@pytest.mark.parametrize("path", sorted((PACKAGE.parent / "conformance").rglob("*.py")), ids=str)
def test_the_conformance_suite_knows_no_runtime(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_bytes())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not [name for name in names if name.split(".")[0] == "pyruntime"]
