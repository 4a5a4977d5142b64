"""Rules about one place of the program each: how it starts, what is done before and right after the clone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tools.inside.code import Program, Unit

FLAGS = "-I -S -E -B -X utf8"
LAUNCHERS = ("bin/pyruntime", "bin/pyruntime-image", "bin/pyruntime-bridge")
FORBIDDEN_VARIABLES = ("LD_", "PYTHON", "GLIBC_", "GCONV_", "LC_", "LANG", "BASH_ENV", "NLSPATH", "LOCPATH")
INIT = "pyruntime.container.init"

# What the init does before its first step, in its words.
CLOSED = {
    "P11": ("sys.meta_path = []", "sys.path_hooks = []", "sys.path_importer_cache = {}", "sys.path = []"),
    "P12": ("sys.excepthook = sys.unraisablehook = _silent",),
    "P13": ("sys.addaudithook(_audit)",),
}
EVENTS = ("import", "compile", "exec", "ctypes.dlopen", "subprocess.Popen", "os.fork", "os.system", "os.exec")


def launchers(files: dict[str, str]) -> Iterator[str]:
    """P1, P2: every launcher starts the interpreter isolated, by the path of the program, and writes no .pyc."""
    for path in LAUNCHERS:
        text = files[path]
        if f'"$python" {FLAGS} "$package/__main__.py"' not in text:
            yield f"{path}: P1: the interpreter is not started with {FLAGS}"
    in_c = ", ".join(f'"{flag}"' for flag in FLAGS.split())
    if in_c not in files["launcher/launcher.c"]:
        yield f"launcher/launcher.c: P1: the interpreter is not started with {FLAGS}"


def environment(program: Program) -> Iterator[str]:
    """P3: nothing that a loader, an interpreter or a locale obeys is carried into the sealed interpreter."""
    module = program.modules["pyruntime.kernel.seal"]
    for node in module.tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ENVIRONMENT":
            for name in ast.literal_eval(node.value):
                if name.decode().startswith(FORBIDDEN_VARIABLES):
                    yield f"{module.path}:{node.lineno}: P3: {name.decode()} is passed on"
            return
    yield f"{module.path}: P3: no ENVIRONMENT"


def closing(program: Program) -> Iterator[str]:
    """P11 to P14: the import system is closed first, the audit hook is armed, and no collection runs."""
    module = program.modules[INIT]
    closes = _statements(module.units["close_imports"])
    for rule, statements in CLOSED.items():
        for statement in statements:
            if statement not in closes:
                yield f"{module.path}: {rule}: close_imports does not say `{statement}`"
    text = ast.unparse(module.tree)
    for event in EVENTS:
        if f"'{event}'" not in text:
            yield f"{module.path}: P13: the event {event} is not forbidden"
    for statement in ("gc.disable()", "gc.freeze()"):
        if statement not in _statements(module.units["freeze_memory"]):
            yield f"{module.path}: P14: freeze_memory does not say `{statement}`"
    run = ast.unparse(module.units["run"].node)
    if not 0 < run.find("close_imports()") < run.find("step.apply("):
        yield f"{module.path}: P11: steps are applied before the import system is closed"
    if "finally:\n        posix._exit(" not in run:
        yield f"{module.path}: P21: run does not end in _exit"


def _statements(unit: Unit) -> list[str]:
    return [ast.unparse(node) for node in unit.node.body]


def cloning(program: Program) -> Iterator[str]:
    """P14, P24: before every clone of a process that goes inside, memory is frozen and the process not dumpable."""
    for name in ("pyruntime.container.launch.Launch._clone", "pyruntime.container.execute._Exec.run"):
        unit = program.find(name)
        text = ast.unparse(unit.node) if unit is not None else ""
        dumpable, frozen = text.find("p.prctl(p.PR_SET_DUMPABLE, 0)"), text.find("init.freeze_memory()")
        clone = min((at for at in (text.find("p.clone("), text.find("self._clone(")) if at >= 0), default=-1)
        if not 0 <= dumpable < clone:
            yield f"{name}: P24: cloned while it is dumpable"
        if not 0 <= frozen < clone:
            yield f"{name}: P14: cloned with the garbage collector on"


def joining(program: Program) -> Iterator[str]:
    """P11: who joins namespaces, a mount namespace maybe, has closed the import system before."""
    for name in ("create_hooks._enter_namespaces", "launch.Launch._help"):
        unit = program.find(f"pyruntime.container.{name}")
        text = ast.unparse(unit.node) if unit is not None else ""
        joins = min((at for at in (text.find("p.setns("), text.find("join_all(")) if at >= 0), default=-1)
        if not 0 <= text.find("init.close_imports()") < joins:
            yield f"{name}: P11: namespaces are joined with the import system open"


def last_call(program: Program) -> Iterator[str]:
    """P23: between the seccomp filter and the program there is one system call, on arrays made beforehand."""
    for name in ("plan.lifecycle.Execute.apply", "plan.command.Command.run", "kernel.execve.execve"):
        unit = program.find(f"pyruntime.{name}")
        if unit is None:
            yield f"{name}: P23: gone"
            continue
        body = [
            node
            for node in unit.node.body
            if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant)
        ]
        if len(body) != 1 or sum(isinstance(node, ast.Call) for node in ast.walk(body[0])) != 1:
            yield f"{unit.module.path}:{unit.node.lineno}: P23: {name} does more than one call"


def signals(program: Program) -> Iterator[str]:
    """P16: every process that becomes somebody else's program has its signals reset."""
    for name in ("pyruntime.plan.process.process_steps", "pyruntime.container.hooks._become"):
        unit = program.find(name)
        text = ast.unparse(unit.node) if unit is not None else ""
        if "ResetSignals()" not in text and "_signals.apply(" not in text:
            yield f"{name}: P16: signals are not reset"


def complaints(top: Path, program: Program) -> Iterator[str]:
    """All of them, for the repository at `top`."""
    files = {path: (top / path).read_text(encoding="utf-8") for path in (*LAUNCHERS, "launcher/launcher.c")}
    yield from launchers(files)
    for rule in (environment, closing, cloning, joining, last_call, signals):
        yield from rule(program)
