"""What the tests of all engines share: calling a client, daemons that end with the test, cgroups of the host."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from support.bundles import find_busybox, make_busybox_rootfs
from support.container import wait_for
from support.images import docker_archive
from support.runtime import Result

IMAGE = "localhost/box:latest"
DOCKER_IMAGE = "box:latest"  # the same image under the name that docker can look up without a registry

# Root of a container in a container may not raise limits (no CAP_SYS_RESOURCE), and engines raise these two by default.
ULIMITS = ("nofile=1024:1024", "nproc=1024:1024")


def call(
    *argv: str | Path,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    timeout: float = 60,
    **options: Any,
) -> Result:
    """Run a program to its end. The streams are files: what it leaves running may keep them open."""
    words = [str(word) for word in argv]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as given:
        given.write(stdin or b"")
        given.seek(0)
        process = subprocess.Popen(
            words, stdin=given if stdin is not None else subprocess.DEVNULL, stdout=out, stderr=err, env=env, **options
        )
        try:
            status: int | str = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = f"none after {timeout} s"
        out.seek(0)
        err.seek(0)
        result = Result(words, -9 if isinstance(status, str) else status, out.read(), err.read())
    assert not isinstance(status, str), f"no end after {timeout} s: {result}"
    return result


class Daemon:
    """A daemon of the test, its output in a file. `stop()` ends it and, with it, nothing but its own children."""

    def __init__(self, log: Path, *argv: str | Path, env: Mapping[str, str] | None = None) -> None:
        self.argv = [str(word) for word in argv]
        self.log = log
        self.env = env
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, socket: Path, timeout: float = 30) -> None:
        """Start it and wait for its socket."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env, start_new_session=True
            )
        deadline = time.monotonic() + timeout
        while not socket.exists():
            assert self.process.poll() is None, f"{self.argv[0]} has ended: {self.tail()}"
            assert time.monotonic() < deadline, f"no {socket} after {timeout} s: {self.tail()}"
            time.sleep(0.05)

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def stop(self, timeout: float = 30) -> None:
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None


def make_archive(directory: Path) -> Path:
    """An image of busybox that podman, docker and containerd all can load, called both IMAGE and DOCKER_IMAGE."""
    busybox = find_busybox()
    assert busybox is not None, "these tests need a static busybox: apt-get install busybox-static"
    rootfs = make_busybox_rootfs(directory / "rootfs", busybox)
    tar = call("tar", "-C", rootfs, "--numeric-owner", "--owner=0", "--group=0", "-c", ".").ok().raw
    path = directory / "box.tar"
    config = {"Cmd": ["sh"], "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "OF_IMAGE=yes"]}
    docker_archive(path, tar, tags=[IMAGE, f"docker.io/library/{DOCKER_IMAGE}"], config=config)
    return path


def hide_controllers_of_version_2(directory: Path) -> None:
    """Move to a mount namespace of our own, in which cgroup v2, beside mounts of version 1, has no controllers.

    crun refuses a host where version 2 has any (one that nobody has mounted as version 1 falls to it). The file that
    it reads is covered for us and our children; the host's mounts stay as they are.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x00020000) != 0:  # CLONE_NEWNS
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNS)")
    subprocess.run(["mount", "--make-rslave", "/"], check=True)  # mounts of others go away here when they do outside
    empty = directory / "empty"
    empty.touch()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split()[4]
        if " - cgroup" in line and not point.startswith("/sys/fs/cgroup/"):  # engines would look there
            subprocess.run(["umount", "--lazy", point], check=True)
    if cgroup_mounts("cgroup"):
        for mount in cgroup_mounts("cgroup2"):
            subprocess.run(["mount", "--bind", empty, mount / "cgroup.controllers"], check=True)


def mounts_below(directory: Path) -> list[str]:
    """Mount points below a directory, the innermost last."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), line.split()[4])
        if point.startswith(f"{directory}/"):
            found.append(point)
    return found


def sweep(directory: Path) -> list[str]:
    """Unmount and end what is left of an engine that lived in `directory`; a description of each thing."""
    left = []
    for pid in processes_of(directory):
        left.append(f"process {pid}: {command_line(pid)}")
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    if left:
        wait_for(lambda: not processes_of(directory), f"the processes of {directory} to end")
    for point in reversed(mounts_below(directory)):
        subprocess.run(["umount", "--lazy", point], check=False, stderr=subprocess.DEVNULL)
        left.append(f"mount {point}")
    return left


def processes_of(directory: Path) -> list[int]:
    """Processes that have the path of the directory, which is unique to this test run, in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid() and f"{directory}/" in command_line(int(entry.name)):
            found.append(int(entry.name))
    return found


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        return ""


def remove_cgroups(name: str) -> list[str]:
    """End what is left in cgroups called `name` and remove them, from the leaves up. What was there is described."""
    left = []
    for mount in cgroup_mounts():
        top = mount / name
        for procs in top.rglob("cgroup.procs"):
            for pid in map(int, procs.read_text().split()):
                left.append(f"process {pid}: {command_line(pid)}")
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                wait_for(lambda path=Path(f"/proc/{pid}"): not path.exists(), "its end")  # type: ignore[misc]
        for directory, _, _ in os.walk(top, topdown=False):
            try:
                os.rmdir(directory)
            except OSError:
                pass
        if top.is_dir():
            left.append(f"cgroup {top}")
    return left


def cgroup_mounts(*types: str) -> list[Path]:
    """Where cgroup hierarchies are mounted: all, or those of type "cgroup" (version 1) or "cgroup2"."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        point = Path(before.split()[4])
        if after.split()[0] in (types or ("cgroup", "cgroup2")) and point.is_relative_to("/sys/fs/cgroup"):
            found.append(point)  # and not what containers without a mount namespace have mounted
    return found


def unmounted_hierarchies() -> list[str]:
    """Hierarchies of cgroup version 1 that exist, but not here: another mount namespace has, or had, them."""
    mounted = set()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup ") and before.split()[4].startswith("/sys/fs/cgroup/"):
            mounted.update(after.split()[2].split(","))
    words = [line.split(":")[1] for line in Path("/proc/self/cgroup").read_text().splitlines()]
    return [word for word in words if word and not mounted & set(word.split(","))]


def release(hierarchy: str, directory: Path) -> None:
    """Let a hierarchy go that outlived its last mount, as happens when a cgroup of it did: by one more mount of it."""
    directory.mkdir(exist_ok=True)
    script = 'mount -t cgroup -o "$1" none "$2" && umount "$2"'
    call("unshare", "--mount", "sh", "-c", script, "sh", hierarchy, directory)


def cgroup_of(pid: int, controller: str) -> Path:
    """The directory of a process in the hierarchy of `controller`, be it of version 1 or 2."""
    mounts = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        words = after.split()
        if not before.split()[4].startswith("/sys/fs/cgroup"):
            continue
        if words[0] == "cgroup2":
            mounts[""] = Path(before.split()[4])
        elif words[0] == "cgroup":
            mounts.update({one: Path(before.split()[4]) for one in words[2].split(",")})
    path = Path()
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, inside = line.split(":", 2)
        if controller in controllers.split(","):
            return mounts[controller] / inside.lstrip("/")
        if not controllers:
            path = mounts.get("", Path("/sys/fs/cgroup")) / inside.lstrip("/")
    return path


def memory_limit(pid: int) -> int:
    """The limit in bytes of the cgroup of a process."""
    directory = cgroup_of(pid, "memory")
    for name in ("memory.limit_in_bytes", "memory.max"):
        if (directory / name).exists():
            return int((directory / name).read_text())
    raise AssertionError(f"no memory limit in {directory}")


def cpu_quota(pid: int) -> tuple[int, int]:
    """Quota and period in microseconds of the cgroup of a process."""
    directory = cgroup_of(pid, "cpu")
    if (directory / "cpu.max").exists():
        quota, period = (directory / "cpu.max").read_text().split()
        return int(quota), int(period)
    return (
        int((directory / "cpu.cfs_quota_us").read_text()),
        int((directory / "cpu.cfs_period_us").read_text()),
    )


def pids_limit(pid: int) -> int:
    return int((cgroup_of(pid, "pids") / "pids.max").read_text())


def lines(*text: str) -> str:
    return "".join(f"{line}\n" for line in text)


def status_field(text: str, name: str) -> str:
    """A field of a /proc/PID/status file."""
    return next(line.partition(":")[2].strip() for line in text.splitlines() if line.startswith(f"{name}:"))


def environment(**more: str) -> dict[str, str]:
    """A plain environment: what engines and runtimes get in a test must not depend on who runs it."""
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        **more,
    }


def need(*programs: str) -> Sequence[str]:
    """The paths of programs; the names of the missing ones when any is."""
    missing = []
    for name in programs:
        if not any(os.access(f"{directory}/{name}", os.X_OK) for directory in environment()["PATH"].split(":")):
            missing.append(name)
    return missing
