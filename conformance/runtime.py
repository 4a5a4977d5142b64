"""A runtime as its callers see it: a command that understands the OCI command line."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from pathlib import Path
from typing import IO, NamedTuple

from conformance.outcome import Failed

# No operation of a runtime takes this long; one that does hangs.
TIMEOUT_SECONDS = 20.0


class Result(NamedTuple):
    """One call of the runtime: exit status, standard output, standard error."""

    status: int
    out: str
    err: str

    @property
    def ok(self) -> bool:
        """True if the runtime reported success."""
        return self.status == 0

    @property
    def message(self) -> str:
        """What the runtime said when it failed, on one line."""
        return " ".join((self.err.strip() or self.out.strip() or f"exit status {self.status}, no message").split())[
            -400:
        ]


class Runtime:
    """A runtime under test. `command` may hold options of its own, `root` is its directory for state (--root)."""

    def __init__(self, name: str, command: str, root: Path) -> None:
        self.name = name
        self.command = shlex.split(command)
        self.root = root

    def call(
        self,
        *arguments: str,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: Path | None = None,
        stderr: Path | None = None,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        pass_fds: tuple[int, ...] = (),
        options: tuple[str, ...] = (),
        shell: str = "",
        timeout: float = TIMEOUT_SECONDS,
    ) -> Result:
        """Run one operation and wait for it.

        The output goes to files, never to pipes: after `create` the container holds the same descriptors, so a pipe
        would not end with the runtime. They are opened for appending, as the program may open them again through
        /dev/stdout. `shell` is a shell line such as `umask 077` that runs before the runtime, in the process that
        becomes it. Raises Failed if the operation does not end in `timeout` seconds.
        """
        out_path = stdout or self.root.parent / f"{self.root.name}.out"
        err_path = stderr or self.root.parent / f"{self.root.name}.err"
        command = [*self.command, "--root", str(self.root), *options, *arguments]
        if shell:
            command = ["/bin/sh", "-c", f'{shell}\nexec "$@"', "sh", *command]
        for path in (out_path, err_path):
            path.write_bytes(b"")
        with open(out_path, "ab") as out, open(err_path, "ab") as err:
            process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=out,
                stderr=err,
                cwd=cwd,
                env=env,
                pass_fds=pass_fds,
                start_new_session=True,
            )
            try:
                status = process.wait(timeout)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise Failed(f"`{self.name} {' '.join(arguments[:1])}` did not end in {timeout:.0f} s") from None
        return Result(status, read(out_path), read(err_path))

    def version(self) -> str:
        """First lines of `--version`, for the report."""
        done = subprocess.run([*self.command, "--version"], capture_output=True, text=True, timeout=30, check=False)
        return "; ".join((done.stdout or done.stderr).strip().splitlines()[:3])


def read(path: Path) -> str:
    """Text of a file whose bytes may be anything; undecodable bytes survive as surrogates."""
    return path.read_bytes().decode("utf-8", "surrogateescape")
