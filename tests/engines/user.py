"""An ordinary user, made for tests, who has podman and a copy of the runtime."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import Any

from engines.engine import ULIMITS, call, environment, lines, sweep
from support.container import wait_for
from support.runtime import REPOSITORY, Result


class User:
    """A user made for the test, with sub-ids as useradd gives them to everybody; `close()` takes the account away."""

    manager = "cgroupfs"

    def __init__(self, directory: Path, archive: Path) -> None:
        self.directory = directory
        self.name = f"engine{os.getpid()}"
        call("useradd", "--create-home", "--home-dir", directory, "--shell", "/bin/sh", self.name).ok()
        account = pwd.getpwnam(self.name)
        self.ids = (account.pw_uid, account.pw_gid)
        self.become: tuple[str, ...] = ("setpriv", f"--reuid={self.ids[0]}", f"--regid={self.ids[1]}")
        self.become += ("--init-groups", "--inh-caps=-all")
        for name in ("run", "tmp"):
            (directory / name).mkdir(mode=0o700)
            os.chown(directory / name, *self.ids)
        directory.chmod(0o755)
        # The checkout may lie where only root can look.
        shutil.copytree(REPOSITORY / "bin", directory / "pyruntime" / "bin")
        shutil.copytree(REPOSITORY / "pyruntime", directory / "pyruntime" / "pyruntime")
        limits = ", ".join(f'"{one}"' for one in ULIMITS)
        (directory / "containers.conf").write_text(
            lines(
                "[containers]",
                f"default_ulimits = [{limits}]",
                'netns = "none"',
                "[engine]",
                f'cgroup_manager = "{self.manager}"',
                'events_logger = "file"',
                'runtime_supports_json = ["pyruntime", "runc", "crun"]',
            )
        )
        self.env = environment(
            HOME=str(directory),
            USER=self.name,
            XDG_RUNTIME_DIR=str(directory / "run"),
            TMPDIR=str(directory / "tmp"),
            CONTAINERS_CONF=str(directory / "containers.conf"),
        )
        self.settle()
        self("podman", "load", "--input", archive).ok()

    def settle(self) -> None:
        """What happens between the account and its first command."""

    def __call__(self, *argv: str | Path, **options: Any) -> Result:
        return call(*self.become, *argv, env=self.env, cwd=self.directory, **options)

    def close(self) -> None:
        try:
            self("podman", "rm", "--all", "--force", "--time", "0")
            self("podman", "system", "migrate")
        finally:
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit() and _owner(entry) == self.ids[0]:
                    try:
                        os.kill(int(entry.name), 9)
                    except ProcessLookupError:
                        pass
            sweep(self.directory)
            wait_for(
                lambda: not any(_owner(one) == self.ids[0] for one in Path("/proc").glob("[0-9]*")), "the user's end"
            )
            subprocess.run(["userdel", "--force", self.name], check=False, stderr=subprocess.DEVNULL)


def _owner(process: Path) -> int:
    try:
        return process.stat().st_uid
    except OSError:
        return -1
