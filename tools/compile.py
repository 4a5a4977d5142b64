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
from importlib.util import MAGIC_NUMBER
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "pyruntime"

# Each section holds what these modules import when they are imported, less what the sections before it hold.
# A module that only some hosts or containers need (cgroup v2, seccomp, systemd) is left to the import system.
SECTIONS = (
    ("pyruntime.kernel.libc", "pyruntime.errors"),
    ("pyruntime.kernel.seal",),
    ("pyruntime.cli.main", "pyruntime.container.lifecycle"),
    (
        "pyruntime.cli.create",
        "pyruntime.cli.run",
        "pyruntime.container.setup",
        "pyruntime.container.launch",
        "pyruntime.container.foreground",
        "pyruntime.container.handover",
    ),
)


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


def without_docstrings(tree: ast.Module) -> ast.Module:
    """Nothing reads them at run time, and they are a tenth of what has to be loaded."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            body = [one for one in node.body if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))]
            node.body = body or [ast.Pass()]
    return ast.fix_missing_locations(tree)


def image(package: Path, with_times: bool) -> bytes:
    """The content of the file: the magic number of the byte code, the lengths of the sections, the sections.

    A section is the marshalled list of (module, is it a package, source below the package, its time in ns or 0, its
    size, code).
    """
    sections, done = [], dict[str, ast.Module]()
    for roots in SECTIONS:
        modules: dict[str, ast.Module] = dict(done)
        for root in roots:
            closure(package, root, modules)
        entries = []
        for module, tree in modules.items():
            if module in done:
                continue
            path = source(package, module)
            status = path.stat()
            code = compile(without_docstrings(tree), str(path), "exec", dont_inherit=True)
            time = status.st_mtime_ns if with_times else 0
            is_package = path.name == "__init__.py"
            entries.append((module, is_package, str(path.relative_to(package)), time, status.st_size, code))
        sections.append(marshal.dumps(entries))
        done = modules
    lengths = b"".join(len(section).to_bytes(4, "little") for section in sections)
    return MAGIC_NUMBER + lengths + b"".join(sections)


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
