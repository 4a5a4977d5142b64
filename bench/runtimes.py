"""The runtimes to compare, each with a state directory of its own."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from support.runtime import LAUNCHER, REPOSITORY, compile_launcher, find

SEALED = "/run/pyruntime-interpreter"
OURS = ("pyruntime", "pyruntime+seal")


class Contestant:
    """One runtime: a name for the tables, a program, and the flags of every call."""

    def __init__(self, name: str, program: str, root: Path) -> None:
        self.name = name
        self.program = program
        self.root = root
        root.mkdir(parents=True)

    def argv(self, *words: str | Path) -> list[str]:
        return [self.program, "--root", str(self.root), *map(str, words)]

    @property
    def version(self) -> str:
        return version(self.program)


def version(program: str) -> str:
    """The first line of `--version`, which names the program as well; "" when it cannot be run."""
    output = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    return output.split("\n", 1)[0]


def contestants(given: list[str], work: Path) -> list[Contestant]:
    """runc and crun where they are, the runtimes given (NAME=PATH or PATH), and pyruntime twice.

    Both have the launcher that an installation has (compiled, where there is a compiler). `pyruntime` seals its
    interpreter at each start; `pyruntime+seal` finds it on the mount that `pyruntime seal` makes once. The caller has a
    mount namespace of its own, where that mount is made.
    """
    found: list[Contestant] = []
    for words in ["runc", "crun", *given]:
        name, _, program = words.rpartition("=")
        try:
            path = find(program)
        except FileNotFoundError:
            continue
        number = re.search(r"\d+(\.\d+)+", version(path))
        name = name or f"{Path(path).name} {number[0] if number else ''}".strip()
        if any(other.name == name for other in found):
            raise SystemExit(f"bench: two runtimes are called {name}: give one another name, --runtime NAME=PATH")
        found.append(Contestant(name, path, work / f"state{len(found)}"))
    subprocess.run(["/usr/bin/python3", REPOSITORY / "tools" / "compile.py"], check=True)
    subprocess.run([LAUNCHER, "seal"], check=True, stdout=subprocess.DEVNULL)
    for name, mount in zip(OURS, ("/nowhere", SEALED), strict=True):
        launcher = work / name / "bin" / "pyruntime"
        launcher.parent.mkdir(parents=True)
        if shutil.which("gcc"):
            compile_launcher(launcher, mount)
        else:
            launcher.write_text(LAUNCHER.read_text().replace(SEALED, mount))
            launcher.chmod(0o755)
        (work / name / "pyruntime").symlink_to(REPOSITORY / "pyruntime")
        found.append(Contestant(name, str(launcher), work / f"state-{name}"))
    return found


def base_of(runtimes: list[Contestant], asked: str) -> str:
    """Which runtime the ratios are to: the one asked for, else the last runc (those given come after the system's)."""
    names = [one.name for one in runtimes]
    if asked and asked not in names:
        raise SystemExit(f"bench: no runtime is called {asked}: there are {', '.join(names)}")
    return asked or next((name for name in reversed(names) if name.startswith("runc")), names[0])


def clean_up(runtimes: list[Contestant]) -> None:
    """Remove what an interrupted benchmark has left, and the mount."""
    for runtime in runtimes:
        for container in runtime.root.iterdir():
            if not container.name.startswith("."):
                command = runtime.argv("delete", "--force", container.name)
                subprocess.run(command, stderr=subprocess.DEVNULL, check=False)
    subprocess.run([LAUNCHER, "seal", "--remove"], check=False, stdout=subprocess.DEVNULL)
