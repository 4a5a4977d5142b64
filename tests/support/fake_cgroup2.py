"""A directory that behaves like a cgroup2 mount, as far as the v2 driver can tell: for tests without root.

mkdir makes the files of a cgroup, controllers are handed down by cgroup.subtree_control, rmdir takes a cgroup with its
files away. Processes are numbers in cgroup.procs.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyruntime.cgroups.host import Host
from pyruntime.kernel import cgroupfs

FILES = {
    "memory": {"memory.max": "max", "memory.low": "0", "memory.swap.max": "max", "memory.current": "4096",
               "memory.high": "max", "memory.oom.group": "0"},
    "cpu": {"cpu.weight": "100", "cpu.max": "max 100000", "cpu.max.burst": "0", "cpu.idle": "0"},
    "pids": {"pids.max": "max", "pids.current": "0"},
    "io": {"io.max": "", "io.weight": "default 100"},
    "cpuset": {"cpuset.cpus": "", "cpuset.mems": ""},
}  # fmt: skip

ALWAYS = {
    "cgroup.procs": "", "cgroup.threads": "", "cgroup.subtree_control": "", "cgroup.type": "domain\n",
    "cgroup.freeze": "0\n", "cgroup.events": "populated 0\nfrozen 0\n", "cgroup.max.depth": "max\n",
}  # fmt: skip
ALL = "cpuset cpu io memory pids"


class FakeCgroup2:
    """The mount point is `root`; `writes` has what was written, in order: (path below the root, value)."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, controllers: str = ALL) -> None:
        self.root = root
        self.writes: list[tuple[str, str]] = []
        self._fill(root, controllers.split())
        self._mkdir, self._rmdir = os.mkdir, os.rmdir

        class Posix:
            mkdir = staticmethod(self.mkdir)
            rmdir = staticmethod(self.rmdir)

            def __getattr__(self, name: str) -> object:
                return getattr(os, name)

        monkeypatch.setattr(cgroupfs, "posix", Posix())
        monkeypatch.setattr(cgroupfs, "write", self.write)

    def host(self, own: str = "/") -> Host:
        return Host({"": (str(self.root), "/")}, True, {"": own})

    def _fill(self, directory: Path, controllers: list[str]) -> None:
        """Give a directory the files of its controllers and take those of the others away."""
        for name, content in ALWAYS.items():
            if not (directory / name).exists():
                (directory / name).write_text(content)
        (directory / "cgroup.controllers").write_text(" ".join(controllers) + "\n")
        for controller, files in FILES.items():
            for name, content in files.items():
                file = directory / name
                if controller in controllers and not file.exists():
                    file.write_text(content + "\n")
                elif controller not in controllers and file.exists():
                    file.unlink()

    def mkdir(self, path: str, mode: int = 0o777) -> None:
        self._mkdir(path, mode)
        self._fill(Path(path), (Path(path).parent / "cgroup.subtree_control").read_text().split())

    def rmdir(self, path: str) -> None:
        directory = Path(path)
        if not directory.exists():
            raise FileNotFoundError(2, "No such file or directory")
        if any(child.is_dir() for child in directory.iterdir()) or (directory / "cgroup.procs").read_text():
            raise OSError(16, "Device or resource busy")
        for file in directory.iterdir():
            file.unlink()
        self._rmdir(path)

    def write(self, directory: int | None, name: str, value: bytes) -> None:
        path = Path(name) if directory is None else Path(os.readlink(f"/proc/self/fd/{directory}"), name)
        text = value.decode()
        if not path.exists():
            raise FileNotFoundError(2, "No such file or directory")
        if path.name == "cgroup.subtree_control":
            self._hand_down(path.parent, text)
        elif path.name == "cgroup.procs":
            path.write_text(path.read_text() + text + "\n")
        else:
            path.write_text(text + "\n")
        self.writes.append((str(path.relative_to(self.root)), text))

    def _hand_down(self, directory: Path, text: str) -> None:
        available = (directory / "cgroup.controllers").read_text().split()
        enabled = (directory / "cgroup.subtree_control").read_text().split()
        if directory != self.root and (directory / "cgroup.procs").read_text():
            raise OSError(16, "Device or resource busy")
        for word in text.split():
            if word[1:] not in available:
                raise FileNotFoundError(2, "No such file or directory")
            if word[1:] not in enabled:
                enabled.append(word[1:])
        (directory / "cgroup.subtree_control").write_text(" ".join(enabled))
        for child in directory.iterdir():
            if child.is_dir():
                self._fill(child, enabled)
