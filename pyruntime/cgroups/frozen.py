"""Whether a container is paused, for verbs that need nothing else of its cgroup. See cgroups(7), "freezer".

A module of its own, because `state`, `start` and `list` ask this of each container and should not load a driver.
"""

from __future__ import annotations

import posix
from time import sleep

SETTLING = 200
"""Milliseconds, about, that FREEZING gets to become something else."""


def is_frozen(paths: dict[str, str]) -> bool:
    """Whether the cgroup at `paths` (controller to directory, "" for cgroup2) was asked to be frozen itself.

    That a cgroup above is frozen does not count: the container was not paused. A missing cgroup is not frozen.
    """
    try:
        if list(paths) == [""]:
            return bool(paths[""]) and _read(paths[""] + "/cgroup.freeze") == b"1\n"
        directory = paths.get("freezer")
        if directory:
            # FREEZING will soon be one or the other, unless a process hangs in the kernel: then nobody may have to
            # wait with it, least of all who wants to kill it.
            for _ in range(SETTLING):
                state = _read(directory + "/freezer.state")
                if state == b"THAWED\n":
                    return False
                if state == b"FROZEN\n":
                    break
                sleep(0.001)
            # It may come from a cgroup above; this file says whether it was asked for here.
            return _read(directory + "/freezer.self_freezing") == b"1\n"
    except OSError:
        pass
    return False


def _read(path: str) -> bytes:
    file = posix.open(path, posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_CLOEXEC)
    try:
        return posix.read(file, 64)
    finally:
        posix.close(file)
