"""The mounts of a container that come from the host. CRIU neither saves nor makes them: it is told where they are when
a container is saved, and what to put there when it is restored.

The two are tied together by keys that we make from the bundle alone, never by a path of the image, which could be made
to look like another one (CVE-2026-119101). Keys that the images do not know do no harm.
"""

from __future__ import annotations

import os
import stat

from pyruntime.cgroups.host import detect
from pyruntime.container import setup
from pyruntime.errors import RuntimeFailure
from pyruntime.kernel.paths import open_in_root
from pyruntime.plan.devices import DEFAULT_DEVICES
from pyruntime.plan.options import Options as MountOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def saved(cgroup: Any, config: Any, pid: int) -> list[str]:
    """`mnt[place in the container]:key` of every mount from the host."""
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        names = [f"mnt[{_place(root, entry['destination'])}]:{_key(entry)}" for _, entry in binds(config)]
        names += [f"mnt[{_place(root, where)}]:{key}" for key, where, _ in _cgroups(cgroup, config)]
        for key, where, _ in _nodes(config):
            if _is_device(root, where):
                names.append(f"mnt[{_place(root, where)}]:{key}")
    finally:
        os.close(root)
    return names


def restored(cgroup: Any, config: Any, bundle: str) -> list[str]:
    """`mnt[key]:source` of the same mounts."""
    names = [f"mnt[{_key(entry)}]:{source(entry, bundle)}" for _, entry in binds(config)]
    return names + [f"mnt[{key}]:{path}" for key, _, path in (*_cgroups(cgroup, config), *_nodes(config))]


def _key(entry: Any) -> str:
    """The destination, in letters that cannot be taken for anything else. Engines that restore under another name make
    a new configuration, with the mounts in another order: a number would not do."""
    return "mount" + os.fsencode(entry["destination"]).hex()


def binds(config: Any) -> list[tuple[int, Any]]:
    """(index, entry) of the bind mounts of a configuration."""
    return [
        (index, entry)
        for index, entry in enumerate(config.get("mounts") or [])
        if MountOptions(entry.get("options") or []).bind
    ]


def source(entry: Any, bundle: str) -> str:
    """Where a bind mount comes from; relative paths are the bundle's."""
    path: str = entry["source"]
    return path if path.startswith("/") else f"{bundle}/{path}"


def _place(root: int, destination: str) -> str:
    """The path of a mount in the container, links resolved. Raises RuntimeFailure for one CRIU would misread."""
    descriptor = open_in_root(root, destination.encode("utf-8", "surrogateescape"))
    try:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    if "]" in path or not path.isprintable():
        raise RuntimeFailure(f"{path}: a mount with this name cannot be saved")
    return path


def _cgroups(cgroup: Any, config: Any) -> list[tuple[str, str, str]]:
    """(key, destination, source) of the cgroup directories that a container without cgroup namespace is shown.

    They are binds of the host's mounts, also on v2: CRIU takes them for file systems of the container, and refuses the
    one that gets mounts from the host (systemd makes all mounts shared)."""
    if _has_namespace(config, "cgroup"):
        return []
    found = []
    for entry in config.get("mounts") or []:
        if entry.get("type") not in ("cgroup", "cgroup2"):
            continue
        for one in setup.hierarchies(cgroup, detect()):
            name = os.fsdecode(one.name)
            place = entry["destination"] if detect().unified else f"{entry['destination']}/{name}"
            found.append((f"cgroup-{name}", place, os.fsdecode(one.source)))
    return found


def _nodes(config: Any) -> list[tuple[str, str, str]]:
    """(key, destination, source) of the host's devices in a container that may not make any: one with a user namespace.

    Files that are masked are covered by its /dev/null, hence by the host's."""
    if not _has_namespace(config, "user"):
        return []
    linux = config["linux"]
    paths = [f"/dev/{name}" for name, _, _ in DEFAULT_DEVICES]
    paths += [entry["path"] for entry in linux.get("devices") or []]
    found = [(f"device{index}", path, path) for index, path in enumerate(dict.fromkeys(paths))]
    masked = dict.fromkeys(linux.get("maskedPaths") or [])
    return found + [(f"masked{index}", path, "/dev/null") for index, path in enumerate(masked)]


def _is_device(root: int, where: str) -> bool:
    try:
        descriptor = open_in_root(root, where.encode("utf-8", "surrogateescape"))
    except OSError:
        return False  # masks of what is not there
    try:
        mode = os.fstat(descriptor).st_mode
    finally:
        os.close(descriptor)
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def _has_namespace(config: Any, kind: str) -> bool:
    return any(entry["type"] == kind for entry in (config.get("linux") or {}).get("namespaces") or [])
