"""The runtimes to compare, each with a state directory of its own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from support.runtime import LAUNCHER, REPOSITORY, compile_launcher, find

SEALED = "/run/pyruntime-interpreter"


class Contestant:
    """One runtime: a name for the tables, a program, and the flags of every call."""

    def __init__(self, name: str, program: str, root: Path) -> None:
        self.name = name
        self.program = program
        self.root = root
        root.mkdir(parents=True)

    def argv(self, *words: str | Path) -> list[str]:
        return [self.program, "--root", str(self.root), *map(str, words)]

    def version(self) -> str:
        output = subprocess.run([self.program, "--version"], capture_output=True, text=True, check=False).stdout
        return output.split("\n", 1)[0]


def contestants(given: list[str], work: Path) -> list[Contestant]:
    """Debian's runc (the base of all ratios) and crun where they are, the runtimes given, and pyruntime twice.

    Both have the launcher that an installation has (compiled, where there is a compiler). `pyruntime` seals its
    interpreter at each start; `pyruntime+seal` finds it on the mount that `pyruntime seal` makes once. The caller has a
    mount namespace of its own, where that mount is made.
    """
    found: list[Contestant] = []
    for program in ["runc", "crun", *given]:
        try:
            path = find(program)
        except FileNotFoundError:
            continue
        name = Path(path).name
        if any(other.name == name for other in found):
            name = path
        found.append(Contestant(name, path, work / f"state{len(found)}"))
    subprocess.run(["/usr/bin/python3", REPOSITORY / "tools" / "compile.py"], check=True)
    subprocess.run([LAUNCHER, "seal"], check=True, stdout=subprocess.DEVNULL)
    for name, mount in {"pyruntime": "/nowhere", "pyruntime+seal": SEALED}.items():
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


def clean_up(runtimes: list[Contestant]) -> None:
    """Remove what an interrupted benchmark has left, and the mount."""
    for runtime in runtimes:
        for container in runtime.root.iterdir():
            subprocess.run(runtime.argv("delete", "--force", container.name), stderr=subprocess.DEVNULL, check=False)
    subprocess.run([LAUNCHER, "seal", "--remove"], check=False, stdout=subprocess.DEVNULL)
