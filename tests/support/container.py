"""One container of a test, and the proof that nothing of it is left."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.bundles import Bundle
from support.runtime import Result, Runtime

_numbers = itertools.count(1)


def new_id(prefix: str = "t") -> str:
    """An id that no other test and no other test run on this machine uses."""
    return f"{prefix}-{os.getpid()}-{next(_numbers)}-{os.urandom(3).hex()}"


class Container:
    """A container named `id`, of one bundle, under one runtime."""

    def __init__(self, runtime: Runtime, bundle: Bundle, id: str | None = None) -> None:
        self.runtime = runtime
        self.bundle = bundle
        self.id = id or new_id()

    def run(self, *flags: str, **options: Any) -> Result:
        """`run` to the container's end, unless `--detach` is among the flags."""
        return self.runtime("run", "--bundle", self.bundle.path, *flags, self.id, **options)

    def create(self, *flags: str, **options: Any) -> Result:
        return self.runtime("create", "--bundle", self.bundle.path, *flags, self.id, **options)

    def start(self, **options: Any) -> Result:
        return self.runtime("start", self.id, **options)

    def exec(self, *arguments: str, **options: Any) -> Result:
        """`exec`: the verb's flags first, then the words of the command."""
        flags = list(itertools.takewhile(lambda word: word.startswith("-"), arguments))
        return self.runtime("exec", *flags, self.id, *arguments[len(flags) :], **options)

    def kill(self, number: str | int = "KILL", *flags: str) -> Result:
        return self.runtime("kill", *flags, self.id, str(number))

    def delete(self, *flags: str) -> Result:
        return self.runtime("delete", *flags, self.id)

    def state(self) -> dict[str, Any]:
        """The document of `state`."""
        document = self.runtime("state", self.id).ok().json()
        assert isinstance(document, dict)
        return document

    @property
    def status(self) -> str:
        return str(self.state()["status"])

    @property
    def pid(self) -> int:
        """The init as the host sees it; 0 when stopped."""
        return int(self.state()["pid"])

    def proc(self, name: str) -> Path:
        """A file of the init below /proc."""
        return Path(f"/proc/{self.pid}/{name}")

    def cgroup(self, controller: str) -> Path:
        """The init's directory in the hierarchy of `controller`: a v1 one when there is one, else the unified one."""
        unified = None
        for line in self.proc("cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                return _mount_of(controller) / path.lstrip("/")
            if not controllers:
                unified = path
        assert unified is not None
        return _mount_of(None) / unified.lstrip("/")

    def wait(self, status: str, timeout: float = 10) -> None:
        """Wait until `state` says `status`."""
        wait_for(lambda: self.status == status, f"{self.id} to be {status}", timeout)

    def remove(self) -> list[str]:
        """Delete by force, then by hand whatever the runtime left. Returns a description of each thing left."""
        self.runtime("delete", "--force", self.id)
        left = self.leaks()
        self._sweep()
        return left

    def leaks(self) -> list[str]:
        """What exists of this container: processes, cgroups, mounts, files of the state directory."""
        found = [f"process {pid} ({command})" for pid, command in self._processes()]
        found += [f"cgroup {path}" for path in self._cgroups()]
        found += [f"mount {path}" for path in self._mounts()]
        found += [f"state {path}" for path in self.runtime.root.glob(f"*{self.id}*")]
        return found

    def _processes(self) -> list[tuple[int, str]]:
        inside = {int(pid) for path in self._cgroups() for pid in _read(path / "cgroup.procs").split()}
        for directory in Path("/proc").iterdir():
            if directory.name.isdigit():
                command = _read(directory / "cmdline").replace("\0", " ")
                if self.id in command or str(self.bundle.rootfs) in _link(directory / "root"):
                    inside.add(int(directory.name))
        return [(pid, _read(Path(f"/proc/{pid}/cmdline")).replace("\0", " ").strip()) for pid in sorted(inside)]

    def _cgroups(self) -> list[Path]:
        found: list[Path] = []
        for mount in _cgroup_mounts():
            for directory, names, _ in os.walk(mount):
                found += [Path(directory, name) for name in names if self.id in name]
        return found

    def _mounts(self) -> list[str]:
        points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().split("\n") if line]
        return [point for point in points if point.startswith(f"{self.bundle.path}/") or self.id in point]

    def _sweep(self) -> None:
        for path in self._cgroups():
            if (path / "freezer.state").exists():
                _write(path / "freezer.state", "THAWED")
            if (path / "cgroup.freeze").exists():
                _write(path / "cgroup.freeze", "0")
        for pid, _ in self._processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        deadline = time.monotonic() + 5
        while self._processes() and time.monotonic() < deadline:
            time.sleep(0.02)
        for point in reversed(self._mounts()):
            subprocess.run(["umount", "--lazy", point], check=False, stderr=subprocess.DEVNULL)
        for path in sorted(self._cgroups(), key=lambda path: len(path.parts), reverse=True):
            try:
                path.rmdir()
            except OSError:
                pass
        for path in self.runtime.root.glob(f"*{self.id}*"):
            subprocess.run(["rm", "-rf", "--", path], check=False)


def wait_for(condition: Callable[[], object], what: str, timeout: float = 10) -> None:
    """Poll until `condition()` is true. Fails the test after `timeout` seconds, naming `what` was waited for."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout} s in vain for {what}"
        time.sleep(0.01)


def _cgroup_mounts() -> list[str]:
    found = []
    for line in Path("/proc/self/mountinfo").read_text().split("\n"):
        before, _, after = line.partition(" - ")
        if after.startswith(("cgroup ", "cgroup2 ")):
            found.append(before.split()[4])
    return found


def _mount_of(controller: str | None) -> Path:
    """Where the hierarchy of a v1 controller (of cgroup v2 for None) is mounted."""
    for line in Path("/proc/self/mountinfo").read_text().split("\n"):
        before, _, after = line.partition(" - ")
        if (controller is None and after.startswith("cgroup2 ")) or (
            controller is not None and after.startswith("cgroup ") and controller in after.split()[2].split(",")
        ):
            return Path(before.split()[4])
    raise AssertionError(f"no cgroup hierarchy for {controller or 'version 2'}")


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError:
        pass
