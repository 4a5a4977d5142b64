"""The lint of the code that runs inside containers: each rule catches its sample, and the program is clean."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools.inside import check, code, fixed

TOP = Path(__file__).parents[2]
SOURCES = code.read(TOP)

STEP = "class Step:\n    def apply(self, place):\n        raise AssertionError\n"
SAMPLE = """
import posix, _socket
from errno import ENOENT
from pyruntime.kernel.libc import syscall
from pyruntime.plan.step import HOST, Step

class Sample(Step):
    {side}
    def apply(self, place):
        {statement}
"""


def complaints(statement: str, side: str = "__slots__ = ()", **more: str) -> list[str]:
    """What the lint says of a step that does `statement`, with `more` modules below kernel/."""
    sample = SAMPLE.format(statement=statement, side=side)
    sources = {"pyruntime/plan/step.py": STEP, "pyruntime/plan/sample.py": sample}
    sources |= {f"pyruntime/kernel/{name}.py": text for name, text in more.items()}
    return list(check.complaints(code.Program(sources)))


INSIDE = [
    ("P9", "import json"),
    ("P9", "from pyruntime.kernel import mounts"),
    ("P10", "libc.load(b'libseccomp.so.2')"),
    ("P10", "_ctypes.dlopen('libc.so.6', 2)"),
    ("P12", "traceback.print_exc()"),
    ("P12", "logging.exception('bad')"),
    ("P15", "_thread.start_new_thread(print, ())"),
    ("P17", "posix.open(b'x', posix.O_RDONLY, dir_fd=place.rootfs)"),
    ("P17", "posix.pipe()"),
    ("P17", "posix.dup2(place.proc, 7)"),
    ("P18", "pwd.getpwnam('root')"),
    ("P18", "_socket.getaddrinfo('host', 80)"),
    ("P18", "os.path.expanduser('~')"),
    ("P18", "self.name.encode('idna')"),
    ("P18", "self.name.encode(self.codec)"),
    ("P18", "self.name.decode('utf-8', 'xmlcharrefreplace')"),
    ("P18", "posix.system('mount')"),
    ("P19", "open('/etc/passwd')"),
    ("P19", "posix.open('/etc/passwd', posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW)"),
    ("P19", "posix.open(f'/proc/{place.pid}', posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW)"),
    ("P19", "posix.open(self.path, posix.O_RDONLY | posix.O_CLOEXEC)"),
    ("P20", "posix.execve(b'/bin/sh', [], {})"),
    ("P21", "sys.exit(1)"),
    ("P21", "raise SystemExit"),
    ("P21", "print('hello')"),
    ("P21", "posix.fork()"),
    ("P22", "report.warn('bad')"),
    ("P29", "eval(self.words)"),
]


@pytest.mark.parametrize(("rule", "statement"), INSIDE)
def test_a_step_that_breaks_a_rule(rule: str, statement: str) -> None:
    assert f": {rule}: " in " ".join(complaints(statement))
    assert not complaints(statement, side="side = HOST"), "the host's side may do that"


@pytest.mark.parametrize(
    "statement",
    [
        "posix.open(b'x', posix.O_RDONLY | posix.O_CLOEXEC, dir_fd=place.rootfs)",
        "posix.open(self.path, posix.O_PATH | posix.O_NOFOLLOW | posix.O_CLOEXEC)",
        "posix.dup2(place.console, 0)",
        "[posix.dup2(place.console, number) for number in (0, 1, 2)]",
        "posix.dup2(place.console, place.proc, False)",
        "self.name.encode('utf-8', 'surrogateescape')",
        "syscall(165, b'x', self.target)",
    ],
)
def test_a_step_that_keeps_the_rules(statement: str) -> None:
    assert not complaints(statement)


ANYWHERE = [
    ("P4", "import tarfile"),
    ("P14", "class File:\n    def __del__(self): pass"),
    ("P15", "import threading"),
    ("P25", "from pyruntime.kernel.libc import syscall\ndef f(): syscall(1, '/etc')"),
    ("P26", "import ctypes"),
    ("P26", "import _ctypes"),
    ("P27", "import re\ndef f(x): return re.match('[0-9]+$', x)"),
    ("P28", "def f(text): return text.splitlines()"),
    ("P28", "def f(): return open('/proc/self/mountinfo').read()"),
    ("P29", "import pickle"),
    ("P30", "from _struct import pack\ndef f(x): return pack('H', x & 0xffff)"),
    ("P31", "def f(spec): return f'cannot use {spec}'"),
    ("P31", "def f(self): raise ValueError(repr(self.environment))"),
]


@pytest.mark.parametrize(("rule", "source"), ANYWHERE)
def test_a_module_that_breaks_a_rule(rule: str, source: str) -> None:
    assert f": {rule}: " in " ".join(complaints("pass", other=source))


BAD = "    import json\n"
REACHED = {
    "a function": ("other.help()", "def help():\n" + BAD),
    "a function of a function": ("other.help()", "def help():\n    more()\ndef more():\n" + BAD),
    "a method of an unknown object": (
        "self.thing.do()",
        "class Thing:\n  def do(self):\n" + BAD.replace("    ", "     "),
    ),
    "a constructor": ("other.Thing()", "class Thing:\n  def __init__(self):\n" + BAD.replace("    ", "     ")),
    "a function in a lambda": ("self.run(lambda: other.help())", "def help():\n" + BAD),
    "a function handed over": ("self.run(other.help)", "def help():\n" + BAD),
}


@pytest.mark.parametrize("how", REACHED)
def test_what_a_step_reaches_is_held_to_the_rules(how: str) -> None:
    statement, other = REACHED[how]
    sample = SAMPLE.format(statement=statement, side="__slots__ = ()").replace(
        "from errno", "from pyruntime.kernel import other\nfrom errno"
    )
    sources = {"pyruntime/plan/step.py": STEP, "pyruntime/plan/sample.py": sample, "pyruntime/kernel/other.py": other}
    assert ": P9: " in " ".join(check.complaints(code.Program(sources)))


def test_what_a_step_does_not_reach_is_not() -> None:
    assert not complaints("pass", other="def help():\n" + BAD)


# What the rules of fixed.py look at.
FIXED = (
    "container/create_hooks container/execute container/hooks container/init container/launch kernel/execve kernel/seal"
    " plan/command plan/lifecycle plan/process"
).split()

# A change to the program itself, and the rule that it breaks.
CHANGES = [
    ("P1", "bin/pyruntime", "-I -S -E -B", "-I -E -B"),
    ("P1", "launcher/launcher.c", '"-I", "-S"', '"-S"'),
    ("P3", "pyruntime/kernel/seal.py", 'b"HOME"', 'b"HOME", b"LD_PRELOAD"'),
    ("P11", "pyruntime/container/init.py", "    sys.path = []\n", ""),
    ("P11", "pyruntime/container/init.py", "        close_imports()\n", ""),
    ("P11", "pyruntime/container/create_hooks.py", "    init.close_imports()  # between", "    pass  # between"),
    ("P12", "pyruntime/container/init.py", "sys.excepthook = sys.unraisablehook = _silent", "pass"),
    ("P13", "pyruntime/container/init.py", "    sys.addaudithook(_audit)\n", ""),
    ("P13", "pyruntime/container/init.py", '"ctypes.dlopen", ', ""),
    ("P14", "pyruntime/container/init.py", "    gc.freeze()\n", ""),
    ("P16", "pyruntime/container/hooks.py", "    _signals.apply(_nowhere)\n", ""),
    ("P21", "pyruntime/container/init.py", "        posix._exit(status)", "        return"),
    (
        "P23",
        "pyruntime/plan/command.py",
        "        execve(self.path",
        "        posix.getpid()\n        execve(self.path",
    ),
    ("P24", "pyruntime/container/execute.py", "p.prctl(p.PR_SET_DUMPABLE, 0)", "pass"),
]


@pytest.mark.parametrize(("rule", "path", "old", "new"), CHANGES)
def test_a_change_that_breaks_a_rule(rule: str, path: str, old: str, new: str) -> None:
    files = {name: (TOP / name).read_text() for name in (*fixed.LAUNCHERS, "launcher/launcher.c")}
    sources = {f"pyruntime/{name}.py": SOURCES[f"pyruntime/{name}.py"] for name in FIXED}
    changed = sources if path in sources else files
    assert old in changed[path]
    changed[path] = changed[path].replace(old, new)
    program = code.Program(sources)
    found = list(fixed.launchers(files))
    for one in (fixed.environment, fixed.closing, fixed.cloning, fixed.joining, fixed.last_call, fixed.signals):
        found += one(program)
    assert f": {rule}: " in " ".join(found)


def test_the_program_is_clean() -> None:
    done = subprocess.run([sys.executable, "-m", "tools.inside"], cwd=TOP, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_code_that_matters_is_found() -> None:
    inside = set(code.Program(SOURCES).inside())
    for name in (
        "container.init.run",
        "container.hooks.run_hook",
        "kernel.copyup.copy_tree",
        "kernel.execve.execve",
        "plan.command.Command.find",
        "plan.mounts.Bind.apply",
        "plan.seccomp_listener.Listener.load",
    ):
        assert f"pyruntime.{name}" in inside
    assert not [name for name in inside if name.startswith(("pyruntime.cli.", "pyruntime.spec.", "pyruntime.cgroups."))]
