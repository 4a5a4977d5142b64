"""The mounts of a process as the kernel lists them: /proc/PID/mountinfo, see proc_pid_mountinfo(5)."""

from __future__ import annotations

import subprocess
from pathlib import Path


class Mount:
    """One line of mountinfo."""

    def __init__(self, line: str) -> None:
        before, _, after = line.partition(" - ")
        self.id, self.parent, self.device, self.root, self.point, options, *tags = before.split(" ")
        self.options = set(options.split(","))
        self.type, self.source, superblock = after.split(" ", 2)
        self.superblock = set(superblock.split(","))
        self.tags = {tag.partition(":")[0] for tag in tags}
        self.peers = next((tag for tag in tags if tag.startswith("shared:")), None)

    def __repr__(self) -> str:
        return f"{self.type} on {self.point} {sorted(self.options)} {sorted(self.tags)}"


def mounts(pid: int | str) -> dict[str, Mount]:
    """By mount point, the topmost one where several are stacked."""
    return {one.point: one for one in map(Mount, Path(f"/proc/{pid}/mountinfo").read_text().splitlines())}


def host_mounts_at(*directories: Path) -> set[str]:
    """Mount points of the host below these directories, and at the places where a container has its own. Elsewhere
    other programs of this machine come and go."""
    places = (*map(str, directories), "/proc", "/sys", "/dev", "/m", "/n", "/volume")
    return {point for point in mounts("self") if any(point == one or point.startswith(f"{one}/") for one in places)}


def mount_inside(pid: int, *words: str) -> subprocess.CompletedProcess[str]:
    """Run mount(8) of the container (a busybox) in the mount namespace of `pid`, with all privileges."""
    return subprocess.run(
        ["nsenter", f"--mount=/proc/{pid}/ns/mnt", "--", "/bin/mount", *words],
        check=False,
        capture_output=True,
        text=True,
    )


class HostMounts:
    """Mounts that a test makes on the host. `close()` takes them away, the last first."""

    def __init__(self) -> None:
        self._points: list[Path] = []

    def tmpfs(self, point: Path, propagation: str | None = None) -> Path:
        """A new tmpfs at `point`, which is made if it is missing."""
        point.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "pyruntime-test", point], check=True)
        self._points.append(point)
        if propagation is not None:
            subprocess.run(["mount", f"--make-{propagation}", point], check=True)
        return point

    def close(self) -> None:
        for point in reversed(self._points):
            subprocess.run(["umount", "--lazy", "--recursive", point], check=False)
