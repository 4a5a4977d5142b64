"""A view of the cgroup hierarchies for the workers alone, in their own mount namespace.

Two reasons to change what a runtime sees of /sys/fs/cgroup, both chosen on the command line and told in the report:
`no-unified` leaves out the cgroup2 mount of a hybrid host (crun before 1.18 refuses a hybrid host on which cgroup2
holds any controller), and `all` adds the v1 controllers the kernel has but nobody mounted, so that their requirements
can be seen.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from pathlib import Path

from conformance import process

LAYOUTS = ("as-is", "no-unified", "all")
CGROUP = Path("/sys/fs/cgroup")


def apply(layout: str) -> None:
    """Give the calling process, which has a private mount namespace, one of the layouts."""
    mounted = {one.point: one for one in process.mounts_of() if one.type in ("cgroup", "cgroup2")}
    # Those of containers, which show up where mounts propagate to the host, have the same names elsewhere.
    present = {point: one for point, one in mounted.items() if Path(point) == CGROUP or Path(point).parent == CGROUP}
    if layout == "as-is" or str(CGROUP) in present or not present:
        return
    stage = Path(tempfile.mkdtemp(prefix="conformance-cgroup-"))
    process.mount("tmpfs", stage, "tmpfs", data="mode=755")
    for point, one in present.items():
        if one.type == "cgroup2" and layout == "no-unified":
            continue
        target = stage / Path(point).name
        target.mkdir()
        process.mount(point, target, flags=process.MS_BIND)
    if layout == "all":
        for name in unused_controllers():
            target = stage / name
            target.mkdir()
            with contextlib.suppress(OSError):
                process.mount("cgroup", target, "cgroup", data=name)
    process.mount(stage, CGROUP, flags=process.MS_BIND | process.MS_REC)
    process.umount(stage)
    stage.rmdir()


def unused_controllers() -> list[str]:
    """Controllers of the kernel that no visible mount has.

    A hierarchy may exist all the same: the kernel keeps one whose cgroups were still dying when it was unmounted, and
    a new mount joins it.
    """
    mounted = {word for one in process.mounts_of() if one.type == "cgroup" for word in one.super_options}
    rows = [line.split() for line in Path("/proc/cgroups").read_text().splitlines()[1:]]
    return [name for name, _, _, enabled in rows if enabled == "1" and name not in mounted]


def forget() -> None:
    """Make the kernel give back the controllers of hierarchies that nobody has mounted any more.

    Mounting and unmounting such a hierarchy once more destroys it, but only when its cgroups have died completely,
    which takes the kernel a moment: try for a few seconds.
    """
    place = Path(tempfile.mkdtemp(prefix="conformance-cgroup-"))
    end = time.monotonic() + 5
    while (names := forgotten()) and time.monotonic() < end:
        for name in names:
            with contextlib.suppress(OSError):
                process.mount("cgroup", place, "cgroup", data=name)
                try:
                    for folder in sorted(place.glob("**/"), reverse=True):
                        if folder != place:
                            folder.rmdir()
                finally:
                    process.umount(place)
        time.sleep(0.2)
    place.rmdir()


def forgotten() -> list[str]:
    """Controllers whose hierarchy exists although no mount of it is visible (column 2 of /proc/cgroups is not 0)."""
    unused = set(unused_controllers())
    rows = [line.split() for line in Path("/proc/cgroups").read_text().splitlines()[1:]]
    return [name for name, hierarchy, _, _ in rows if name in unused and hierarchy != "0"]


if __name__ == "__main__":
    process.isolate(adopt=False)
    forget()
