"""The stage of one case: a bundle, a runtime, and every way to look at the container. Whatever was made is undone."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conformance import bundle, cgroups
from conformance import process as proc
from conformance.outcome import Skipped, fail, require
from conformance.runtime import Result, Runtime, read

# A program of a case that has not ended by then hangs.
PROGRAM_SECONDS = 10.0
NAP = ["/bin/sleep", "300"]


class Stage:
    """What a case gets. `config` is the configuration it may edit before the first `create`."""

    def __init__(self, name: str, command: str, directory: Path, number: int = 0) -> None:
        self.name = name
        self.command = command
        self.dir = directory
        self.number = number
        self.id = f"conformance-{os.getpid()}-{number}"
        self.bundle = directory / "bundle"
        self.rootfs = self.bundle / "rootfs"
        self.config = bundle.default_config(f"/{self.id}")
        self.out = directory / "program.out"
        self.err = directory / "program.err"
        self.pid_file = directory / "pid"
        self.runtime = Runtime(name, command, directory / "state")
        self.companions: list[Stage] = []
        self.undo = contextlib.ExitStack()
        self.bundle.mkdir(parents=True)
        bundle.build_rootfs(self.rootfs)

    # -- editing the configuration ------------------------------------------------------------------------------------

    @property
    def process(self) -> dict[str, Any]:
        """`process` of the configuration."""
        found: dict[str, Any] = self.config["process"]
        return found

    @property
    def linux(self) -> dict[str, Any]:
        """`linux` of the configuration."""
        found: dict[str, Any] = self.config["linux"]
        return found

    @property
    def resources(self) -> dict[str, Any]:
        """`linux.resources` of the configuration."""
        found: dict[str, Any] = self.linux.setdefault("resources", {})
        return found

    @property
    def mounts(self) -> list[dict[str, Any]]:
        """`mounts` of the configuration."""
        found: list[dict[str, Any]] = self.config["mounts"]
        return found

    def add_namespace(self, kind: str, **more: str) -> None:
        """Ask for a namespace: a new one, or the one at path=."""
        spaces = [one for one in self.linux["namespaces"] if one["type"] != kind]
        self.linux["namespaces"] = [*spaces, {"type": kind, **more}]

    def drop_namespace(self, kind: str) -> None:
        """Let the container inherit a namespace."""
        self.linux["namespaces"] = [one for one in self.linux["namespaces"] if one["type"] != kind]

    def add_user_namespace(self, maps: list[dict[str, int]] | None = None) -> None:
        """Ask for a user namespace (root is 100000 outside unless `maps` says otherwise) and what it needs.

        A network namespace, because sysfs can be mounted only by whoever owns that, and a root filesystem that belongs
        to the container's root, which is the caller's duty, not the runtime's.
        """
        maps = maps or [{"containerID": 0, "hostID": 100000, "size": 65536}]
        self.add_namespace("user")
        self.add_namespace("network")
        self.linux["uidMappings"] = copy.deepcopy(maps)
        self.linux["gidMappings"] = copy.deepcopy(maps)
        root = maps[0]["hostID"]
        for folder, _, files in os.walk(self.rootfs):
            os.lchown(folder, root, root)
            for file in files:
                os.lchown(os.path.join(folder, file), root, root)

    def add_capabilities(self, *names: str) -> None:
        """Give the program more capabilities in the sets that make them usable."""
        for members in self.process["capabilities"].values():
            members.extend(name for name in names if name not in members)

    def script(self, text: str) -> None:
        """Make a shell script the program of the container."""
        self.process["args"] = ["/bin/sh", "-c", text]

    def host_python(self) -> str:
        """Make the host's Python usable in the container, for probes no shell can write; returns its path.

        The libraries come in by read-only bind mounts; the case is skipped where the host has no /usr/bin/python3.
        """
        if not os.access("/usr/bin/python3", os.X_OK):
            raise Skipped("needs /usr/bin/python3 on the host for its probe")
        for name in ("lib", "lib64", "usr"):
            source = Path("/", name)
            if source.is_symlink():
                if not (self.rootfs / name).exists():
                    (self.rootfs / name).symlink_to(os.readlink(source))
            elif source.is_dir():
                self.mounts.append(bundle.bind(source, f"/{name}", "rbind", "ro"))
        return "/usr/bin/python3"

    # -- the operations of the runtime --------------------------------------------------------------------------------

    def write_config(self) -> None:
        """Write config.json as it stands."""
        (self.bundle / "config.json").write_text(json.dumps(self.config, ensure_ascii=False), encoding="utf-8")

    def create(self, *flags: str, ok: bool = True, write: bool = True, **more: Any) -> Result:
        """`create`. Fails the case if the runtime reports an error, unless `ok` is False."""
        if write:
            self.write_config()
        result = self.runtime.call(
            "create", "--bundle", str(self.bundle), "--pid-file", str(self.pid_file), *flags, self.id,
            stdout=self.out, stderr=self.err, **more,
        )  # fmt: skip
        require(result.ok or not ok, f"create failed: {result.message}")
        return result

    def start(self, ok: bool = True) -> Result:
        """`start`."""
        result = self.runtime.call("start", self.id)
        require(result.ok or not ok, f"start failed: {result.message}")
        return result

    def state(self) -> dict[str, Any]:
        """`state`, parsed."""
        result = self.runtime.call("state", self.id)
        require(result.ok, f"state failed: {result.message}")
        try:
            parsed = json.loads(result.out)
        except ValueError as error:
            fail(f"state printed no JSON ({error}): {result.out[:200]!r}")
        require(isinstance(parsed, dict), f"state printed no JSON object: {result.out[:200]!r}")
        return dict(parsed)

    def known(self) -> bool:
        """True if the runtime still knows the container."""
        return self.runtime.call("state", self.id).ok

    def kill(self, signal: str, ok: bool = True) -> Result:
        """`kill`."""
        result = self.runtime.call("kill", self.id, signal)
        require(result.ok or not ok, f"kill failed: {result.message}")
        return result

    def delete(self, *flags: str, ok: bool = True) -> Result:
        """`delete`."""
        result = self.runtime.call("delete", *flags, self.id)
        require(result.ok or not ok, f"delete failed: {result.message}")
        return result

    # -- several operations in one ------------------------------------------------------------------------------------

    def up(self, *args: str) -> int:
        """Create and start a container that stays; returns its pid."""
        self.process["args"] = list(args) or NAP
        self.create()
        self.start()
        return self.pid

    def run(self, *args: str, status: int | None = 0) -> str:
        """Create, start, wait, and return what the program wrote to standard output.

        Fails the case unless the program ends with exit status `status` (None: any end will do).
        """
        if args:
            self.process["args"] = list(args)
        self.create()
        self.start()
        return self.finish(status)

    def sh(self, text: str, status: int | None = 0) -> str:
        """Run a shell script as the program and return its output."""
        return self.run("/bin/sh", "-c", text, status=status)

    def python(self, source: str, status: int | None = 0) -> str:
        """Run Python source in the container with the host's interpreter and return its output."""
        return self.run(self.host_python(), "-I", "-S", "-c", source, status=status)

    def finish(self, status: int | None = 0) -> str:
        """Wait for the program to end and return its output."""
        ended = self.wait()
        output = read(self.out)
        if status is not None:
            seen = os.waitstatus_to_exitcode(ended)
            told = " ".join((read(self.err) or output).split())[-300:]
            require(seen == status, f"the program ended with status {seen} instead of {status}: {told or 'no output'}")
        return output

    def wait(self, seconds: float = PROGRAM_SECONDS) -> int:
        """Wait for the container process; returns its wait status. Fails the case if it does not end."""
        ended = proc.wait(self.pid, seconds)
        if ended is None:
            fail(f"the container process had not ended after {seconds:.0f} s")
        return ended

    def refused(self, why: str, at_start: bool = False) -> str:
        """The configuration must be refused: by create, or (what concerns the program) by start. Returns the message.

        A refusal counts only if it is an exit status; the program must not have run.
        """
        self.script("echo the program ran")
        result = self.create(ok=False)
        if result.ok and at_start:
            result = self.start(ok=False)
            if result.ok:
                self.wait()
        require(not result.ok, f"{why}, yet {'start' if at_start else 'create'} succeeded")
        require("the program ran" not in read(self.out), f"{why}, yet the program ran")
        return result.message

    # -- looking ------------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The container process as the host sees it."""
        try:
            return int(self.pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return int(
                self.state().get("pid", 0) or fail("neither --pid-file nor state tells the pid of the container")
            )

    def cgroup(self, controller: str) -> Path:
        """Directory of the container's cgroup for one controller; the case is skipped if the host lacks it."""
        return cgroups.directory(self.pid, controller)

    def inside(self, path: str) -> Path:
        """A path of the container's filesystem, seen from the host."""
        return Path(f"/proc/{self.pid}/root{path}")

    def mount_at(self, point: str) -> proc.Mount:
        """The topmost mount on a path of the container."""
        found = [one for one in proc.mounts_of(self.pid) if one.point == point]
        require(found, f"nothing is mounted on {point} in the container")
        return found[-1]

    def leftovers(self) -> list[str]:
        """What is still there of this container: state, cgroups, mounts, processes."""
        found = [f"state {path.name}" for path in sorted(self.runtime.root.glob("*")) if path.name == self.id]
        found += [f"cgroup {path}" for path in cgroups.existing(self.cgroup_path())]
        found += [f"mount {one.point}" for one in proc.mounts_of() if one.point.startswith(str(self.bundle))]
        with contextlib.suppress(FileNotFoundError, ValueError):
            pid = int(self.pid_file.read_text())
            if pid and proc.alive(pid):
                found.append(f"process {pid}")
        return found

    def cgroup_path(self) -> str:
        """The absolute `linux.cgroupsPath` of the configuration, or where one of ours would be."""
        linux = self.config.get("linux")
        path = linux.get("cgroupsPath") if isinstance(linux, dict) else None
        return path if isinstance(path, str) and path.startswith("/conformance-") else f"/{self.id}"

    # -- companions and the end ---------------------------------------------------------------------------------------

    def companion(self) -> Stage:
        """A second container with the same state directory; it is undone together with this one."""
        number = self.number * 10 + len(self.companions) + 1
        new = Stage(self.name, self.command, self.dir / f"companion{number}", number)
        new.id = f"{self.id}-{len(self.companions) + 1}"
        new.config = copy.deepcopy(bundle.default_config(f"/{new.id}"))
        new.runtime = Runtime(self.name, self.command, self.runtime.root)
        self.companions.append(new)
        return new

    def scratch(self) -> Path:
        """A new empty directory outside the bundle, removed with the stage."""
        made = Path(tempfile.mkdtemp(prefix="scratch-", dir=self.dir))
        made.chmod(0o755)
        return made

    def tree(self) -> Path:
        """A tmpfs with a second tmpfs on its directory `sub`, for bind mounts with submounts."""
        top = self.scratch()
        proc.mount("conformance", top, "tmpfs")
        (top / "sub").mkdir()
        proc.mount("conformance", top / "sub", "tmpfs")
        for directory in (top, top / "sub"):
            (directory / "file").write_text("content\n")
        return top

    def close(self) -> None:
        """Undo everything, whether or not the runtime helps."""
        self.undo.close()
        everyone = [*reversed(self.companions), self]
        for one in everyone:
            cgroups.thaw(one.cgroup_path())
        proc.end_children()
        for one in everyone:
            for found in one.runtime.root.glob("*"):
                if found.is_dir():
                    with contextlib.suppress(AssertionError, OSError):
                        one.runtime.call("delete", "--force", found.name)
            for path in {one.cgroup_path(), *cgroups.named_after(one.id)}:
                cgroups.remove(path)
        proc.end_children()
        points = [one.point for one in proc.mounts_of() if one.point.startswith(str(self.dir))]
        for point in sorted(points, reverse=True):
            with contextlib.suppress(OSError):
                proc.umount(point)
        shutil.rmtree(self.dir, ignore_errors=True)


def open_stage(name: str, command: str, parent: Path, number: int) -> Stage:
    """A stage in a fresh directory that every user may pass through (user namespaces walk down to the rootfs)."""
    directory = Path(tempfile.mkdtemp(prefix="case-", dir=parent))
    directory.chmod(stat.S_IRWXU | stat.S_IXGRP | stat.S_IXOTH | stat.S_IRGRP | stat.S_IROTH)
    return Stage(name, command, directory, number)


def wait_for(condition: Callable[[], object], seconds: float = 3.0) -> None:
    """Wait until `condition()` is true, at most `seconds`; what follows will judge."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)


def quiet(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a helper program of the host (ip, ...) for a case; skip the case if there is none."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except FileNotFoundError:
        raise Skipped(f"needs the program {command[0]} on the host") from None
