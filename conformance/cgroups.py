"""Where a container's cgroup is and what it holds, on cgroup v1, v2 and the hybrid of both."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from functools import cache
from pathlib import Path

from conformance import process
from conformance.outcome import equal, require, skip


@cache
def mount_points() -> dict[str, Path]:
    """Mount point of every v1 controller, and of the v2 hierarchy under the empty name."""
    found: dict[str, Path] = {}
    for one in process.mounts_of():
        if not os.path.exists(f"{one.point}/cgroup.procs"):
            continue  # covered by another mount
        if one.type == "cgroup":
            for word in one.super_options - {"rw", "ro", "xattr", "noprefix", "clone_children"}:
                found.setdefault(word, Path(one.point))
        elif one.type == "cgroup2":
            found.setdefault("", Path(one.point))
    return found


def v2_only() -> bool:
    """True if no v1 controller is mounted: the unified layout."""
    return set(mount_points()) == {""}


def need_v1(why: str) -> None:
    """Skip the case unless cgroup v1 controllers are in use."""
    if v2_only() or not mount_points():
        skip(f"{why}; this host has cgroup v2 only")


def need_v2(why: str) -> None:
    """Skip the case unless the host uses cgroup v2 alone."""
    if not v2_only():
        skip(f"{why}; this host still has cgroup v1 controllers")


def own_paths(pid: int | str) -> dict[str, str]:
    """Path of the cgroup of a process per v1 controller, and for v2 under the empty name (/proc/PID/cgroup)."""
    paths = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for one in controllers.split(","):
            paths[one] = path
    return paths


def directory(pid: int, controller: str) -> Path:
    """Directory of the cgroup of a process for a controller, wherever that controller lives on this host."""
    points = mount_points()
    kind = controller if controller in points else ""
    if kind not in points:
        skip(f"the {controller} cgroup controller is not mounted on this host")
    if kind == "" and controller:
        enabled = (points[""] / "cgroup.controllers").read_text().split()
        if controller not in enabled:
            skip(f"the {controller} cgroup controller is not available on this host")
    return points[kind] / own_paths(pid)[kind].lstrip("/")


def value(folder: Path, name: str) -> str:
    """Content of a control file; the case is skipped if this kernel has no such file."""
    path = folder / name
    if not path.exists():
        skip(f"this kernel offers no {name}")
    return path.read_text().strip()


def expect(folder: Path, name: str, wanted: str) -> None:
    """The control file must hold `wanted`."""
    equal(value(folder, name), wanted, name)


def expect_line(folder: Path, name: str, wanted: str) -> None:
    """One line of the control file must be `wanted`."""
    lines = value(folder, name).splitlines()
    require(wanted in lines, f"{name}: no line {wanted!r} in {lines!r}")


def existing(path: str) -> list[Path]:
    """The directories a cgroup path has, over all hierarchies."""
    return sorted(
        {point / path.lstrip("/") for point in mount_points().values() if (point / path.lstrip("/")).is_dir()}
    )


def named_after(word: str) -> set[str]:
    """Paths of the cgroups right below a mount point whose name holds `word`: where runtimes put things."""
    return {
        f"/{folder.name}" for point in mount_points().values() for folder in point.glob(f"*{word}*") if folder.is_dir()
    }


def make(path: str) -> list[Path]:
    """Make a cgroup in every hierarchy; cpuset is filled so that tasks may enter."""
    made = []
    for name, point in mount_points().items():
        folder = point / path.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        made.append(folder)
        if name == "cpuset":
            for file in ("cpuset.cpus", "cpuset.mems"):
                (folder / file).write_text((folder.parent / file).read_text())
    return made


def thaw(path: str) -> None:
    """Let the processes of a cgroup run again: not even SIGKILL reaches a frozen one on cgroup v1."""
    for folder in existing(path):
        for file, word in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            if (folder / file).exists():
                with contextlib.suppress(OSError):
                    (folder / file).write_text(word)


def remove(path: str) -> None:
    """Kill what lives below a cgroup path of ours and remove the directories."""
    for top in existing(path):
        for _ in range(50):
            folders = sorted((Path(folder) for folder, _, _ in os.walk(top)), reverse=True)
            for folder in folders:
                with contextlib.suppress(OSError):
                    for pid in (folder / "cgroup.procs").read_text().split():
                        os.kill(int(pid), signal.SIGKILL)
                with contextlib.suppress(OSError):
                    folder.rmdir()
            if not top.exists():
                break
            time.sleep(0.02)
