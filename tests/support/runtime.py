"""An OCI runtime as an engine drives it: a program, a state directory, verbs."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCHER = REPOSITORY / "bin" / "pyruntime"
# The same with an audit hook that ends a process in a container that looks for code by name: what most tests start.
AUDITED = REPOSITORY / "tests" / "support" / "audited" / "pyruntime"
FOUND = b"AUDIT: "  # how its complaints begin


class Result:
    """How one call of the runtime ended, with all that it (and the container, sharing its streams) wrote so far."""

    def __init__(self, argv: Sequence[str], status: int, stdout: bytes, stderr: bytes) -> None:
        self.argv = list(argv)
        self.status = status
        self.raw = stdout
        self.stdout = stdout.decode("utf-8", "replace")
        self.stderr = stderr.decode("utf-8", "replace")

    @property
    def output(self) -> str:
        return self.stdout + self.stderr

    def json(self) -> Any:
        return json.loads(self.stdout)

    def ok(self) -> Result:
        """This result, after making sure that the call succeeded."""
        assert self.status == 0, f"{self}"
        return self

    def __repr__(self) -> str:
        return f"{' '.join(self.argv)}\n  exit status {self.status}\n  stdout: {self.stdout}\n  stderr: {self.stderr}"


class Runtime:
    """One runtime with a state directory of its own. Calling it runs a verb: `runtime("state", "id")`."""

    def __init__(self, program: Sequence[str] | str | Path, root: Path, flags: Sequence[str] = ()) -> None:
        self.program = [str(program)] if isinstance(program, str | Path) else [str(word) for word in program]
        self.root = root
        self.flags = list(flags)

    @property
    def name(self) -> str:
        return Path(self.program[0]).name

    def argv(self, *arguments: str | Path) -> list[str]:
        """The command line for a verb, global flags included."""
        return [*self.program, "--root", str(self.root), *self.flags, *map(str, arguments)]

    def __call__(
        self,
        *arguments: str | Path,
        stdin: bytes | None = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 60,
        pass_fds: Sequence[int] = (),
        preexec: Any = None,
    ) -> Result:
        """Run a verb to its end. The streams are files and not pipes: a detached container keeps them open.

        `stdin` None is /dev/null. A verb that takes longer than `timeout` seconds is killed and fails the test.
        """
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as given:
            source: int | IO[bytes] = subprocess.DEVNULL
            if stdin is not None:
                given.write(stdin)
                given.seek(0)
                source = given
            argv = self.argv(*arguments)
            process = subprocess.Popen(
                argv, stdin=source, stdout=out, stderr=err, cwd=cwd, env=env, pass_fds=pass_fds, preexec_fn=preexec
            )
            try:
                status = process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                out.seek(0)
                err.seek(0)
                raise AssertionError(f"no end after {timeout} s: {Result(argv, -9, out.read(), err.read())}") from None
            out.seek(0)
            err.seek(0)
            result = Result(argv, status, out.read(), err.read())
            assert FOUND.decode() not in result.stderr, f"what no process in a container may do: {result}"
            return result

    def popen(self, *arguments: str | Path, **options: Any) -> subprocess.Popen[bytes]:
        """Start a verb and do not wait. The caller ends it."""
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        return subprocess.Popen(self.argv(*arguments), **options)


def compile_launcher(target: Path, seal_mount: str = "/run/pyruntime-interpreter") -> Path:
    """The compiled launcher at `target`; with `seal_mount` it looks elsewhere for the mount of `pyruntime seal`."""
    source = target.with_name("launcher.c")
    text = (REPOSITORY / "launcher" / "launcher.c").read_text()
    assert "/run/pyruntime-interpreter" in text
    source.write_text(text.replace("/run/pyruntime-interpreter", seal_mount))
    command = ["gcc", "-O2", "-static", "-Wall", "-Wextra", "-Werror", "-o", str(target), str(source)]
    subprocess.run(command, check=True, stderr=subprocess.PIPE)
    source.unlink()
    return target


def find(program: str) -> str:
    """The absolute path of a runtime given by name or path."""
    if "/" in program:
        return os.path.abspath(program)
    for directory in ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"):
        path = os.path.join(directory, program)
        if os.access(path, os.X_OK):
            return path
    raise FileNotFoundError(f"no program {program}")
