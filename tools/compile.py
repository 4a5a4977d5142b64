"""Compile the modules of pyruntime: `python3 tools/compile.py [PACKAGE]`.

Writes a .pyc beside each module, because the runtime itself never writes one, and `hot.<tag>`: the modules that the
verbs of every container need, in the order in which they depend on each other, in one file that is loaded at one go.
Finding and reading sixty modules one by one through the import system takes 5 ms more of the 20 that a `run` takes.

The file is only ever a shortcut. It names the size and the time of each source; a module that does not match, or is
not in it, is imported as always. `load_hot` in pyruntime/__main__.py reads it.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import marshal
import os
import subprocess
import sys
import types
from importlib.util import MAGIC_NUMBER
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "pyruntime"

# In the order of the names START, SEAL, ... of pyruntime/__main__.py. Each section holds what the modules named here
# import when they are imported, less what is in the sections that are surely loaded before it, named by the numbers.
SECTIONS = (
    ((), ("pyruntime.errors",)),
    ((0,), ("pyruntime.kernel.seal", "pyruntime.kernel.filesystems")),
    (
        (0,),
        (
            "pyruntime.cli.main",
            "pyruntime.container.context",
            "pyruntime.container.report",
            "pyruntime.container.store",
        ),
    ),
    ((0, 2), ("pyruntime.cgroups.manager",)),
    (
        (0, 1, 2, 3),
        (
            "pyruntime.cli.create",
            "pyruntime.container.caller",
            "pyruntime.container.child",
            "pyruntime.container.foreground",
            "pyruntime.container.handover",
            "pyruntime.kernel.facts",
            "pyruntime.plan.namespaces",
            "pyruntime.plan.process",
            "pyruntime.plan.seccomp",
        ),
    ),
    (
        (0, 1, 2, 3, 4),
        (
            "pyruntime.cli.run",
            "pyruntime.container.create",
            "pyruntime.container.delete",
            "pyruntime.container.launch",
        ),
    ),
    ((0, 1, 2, 3, 4), ("pyruntime.cli.exec", "pyruntime.container.execute")),
    ((0, 2, 3), ("pyruntime.cgroups.v1",)),
    ((0, 1, 2, 3, 4, 5, 7), ("pyruntime.cgroups.limits_v1",)),
    ((0, 2, 3), ("pyruntime.cgroups.v2",)),
    ((0, 1, 2, 3, 4, 5, 9), ("pyruntime.cgroups.limits_v2",)),
    ((0, 2), ("pyruntime.cli.state",)),
    ((0, 2), ("pyruntime.cli.start", "pyruntime.container.start")),
    ((0, 2), ("pyruntime.cli.kill", "pyruntime.container.kill")),
    ((0, 2, 3), ("pyruntime.cli.delete", "pyruntime.container.delete", "pyruntime.container.directories")),
)

# No piece of a section is larger, unless one module is: bytes.
PIECE = 64 << 10
# The length of the file's head, as pyruntime/__main__.py reads it: bytes.
HEAD = 1024


def source(package: Path, module: str) -> Path:
    path = package.parent.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def closure(package: Path, module: str, seen: dict[str, ast.Module]) -> None:
    """Add `module`, after all that its top level imports, to `seen`."""
    if module in seen or not source(package, module).exists():
        return
    parent = module.rpartition(".")[0]
    if parent:
        closure(package, parent, seen)
    tree = ast.parse(source(package, module).read_bytes())
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("pyruntime"):
            for alias in statement.names:
                inner = f"{statement.module}.{alias.name}"
                closure(package, inner if source(package, inner).exists() else str(statement.module), seen)
        elif isinstance(statement, ast.Import):
            for alias in statement.names:
                if alias.name.startswith("pyruntime"):
                    closure(package, alias.name, seen)
    seen.setdefault(module, tree)


class ForMachines(ast.NodeTransformer):
    """Takes out what only people, type checkers and documentation read: a fifth of what would have to be loaded."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        return node.orelse if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING" else node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if node.value is None:
            return None
        return ast.copy_location(ast.Assign([node.target], node.value), node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self._without_docstring(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._without_docstring(node)

    def visit_Module(self, node: ast.Module) -> ast.AST:
        return self._without_docstring(node)

    def _without_docstring(self, node: ast.FunctionDef | ast.ClassDef | ast.Module) -> ast.AST:
        self.generic_visit(node)
        body = [one for one in node.body if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))]
        node.body = body if body or isinstance(node, ast.Module) else [ast.Pass()]
        return node


def image(package: Path, with_times: bool) -> bytes:
    """The content of the file: the magic number of the byte code; for each section where its pieces are, marshalled;
    the pieces.

    A piece is the marshalled list of (module, is it a package, source below the package, its time in ns or 0, its
    size, code).
    """
    sections: list[list[bytes]] = []
    within: list[set[str]] = []
    for before, roots in SECTIONS:
        modules: dict[str, ast.Module] = {}
        for root in roots:
            closure(package, root, modules)
        within.append(set(modules))
        there = set().union(*(within[number] for number in before))
        pieces: list[bytes] = []
        entries: list[tuple[object, ...]] = []
        for module in [one for one in modules if one not in there]:
            entry = entry_of(package, module, modules[module], with_times)
            if entries and len(marshal.dumps([*entries, entry])) > PIECE:
                pieces.append(marshal.dumps(entries))
                entries = []
            entries.append(entry)
        sections.append([*pieces, marshal.dumps(entries)])
    offset = HEAD
    table = []
    for pieces in sections:
        places = []
        for piece in pieces:
            places.append((offset, len(piece)))
            offset += len(piece)
        table.append(places)
    head = MAGIC_NUMBER + marshal.dumps(table)
    assert len(head) <= HEAD, "the head has outgrown what pyruntime/__main__.py reads"
    return head.ljust(HEAD, b"\0") + b"".join(piece for pieces in sections for piece in pieces)


def without_lines(code: types.CodeType) -> types.CodeType:
    """Which line an instruction comes from is for tracebacks; with --debug the file is not used."""
    constants = tuple(without_lines(one) if isinstance(one, types.CodeType) else one for one in code.co_consts)
    return code.replace(co_linetable=b"", co_consts=constants)


def entry_of(package: Path, module: str, tree: ast.Module, with_times: bool) -> tuple[object, ...]:
    path = source(package, module)
    status = path.stat()
    smaller = ast.fix_missing_locations(ForMachines().visit(tree))
    code = without_lines(compile(smaller, str(path), "exec", dont_inherit=True))
    time = status.st_mtime_ns if with_times else 0
    return module, path.name == "__init__.py", str(path.relative_to(package)), time, status.st_size, code


def main() -> int:
    parser = argparse.ArgumentParser(description="Compile the modules of pyruntime.")
    parser.add_argument("package", nargs="?", type=Path, default=PACKAGE, help="the directory of the package")
    parser.add_argument("--to-install", action="store_true", help="only hot.<tag>, for sources whose time will change")
    options = parser.parse_args()
    if "no_debug_ranges" not in sys._xoptions:  # columns for tracebacks, which nobody sees: a tenth of the code
        return subprocess.run([sys.executable, "-I", "-X", "no_debug_ranges", *sys.argv], check=False).returncode
    package = options.package.resolve()
    if not options.to_install and not compileall.compile_dir(str(package), quiet=1):
        return 1
    target = package / f"hot.{sys.implementation.cache_tag}"
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    unfinished.write_bytes(image(package, not options.to_install))
    unfinished.rename(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
