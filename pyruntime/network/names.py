"""/etc/resolv.conf and /etc/hosts of a container.

The files lie with the hook's state and are mounted over those of the container, so that containers that share a rootfs
have their own, and the rootfs stays as it is (except for an empty file where there was none to mount on).
"""

from __future__ import annotations

import os

from pyruntime.errors import RuntimeFailure
from pyruntime.kernel import mounts, paths
from pyruntime.kernel.processes import setns
from pyruntime.network.options import Settings
from pyruntime.network.state import State

CLONE_NEWNS = 0x00020000


def resolv_conf(settings: Settings) -> str | None:
    """The text of resolv.conf(5), or None if nothing of it was asked for."""
    lines = []
    if settings.dns_search:
        lines.append("search " + " ".join(settings.dns_search))
    lines += [f"nameserver {address}" for address in settings.dns]
    if settings.dns_options:
        lines.append("options " + " ".join(settings.dns_options))
    return "".join(line + "\n" for line in lines) or None


def hosts(settings: Settings, addresses: list[str], hostname: str) -> str | None:
    """The text of hosts(5), or None if nothing of it was asked for."""
    if not settings.hosts and not settings.extra_hosts:
        return None
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    if hostname:
        lines += [f"{address} {hostname}" for address in addresses]
    lines += [f"{address} {name}" for name, address in settings.extra_hosts]
    return "".join(line + "\n" for line in lines)


def texts(settings: Settings, addresses: list[str], hostname: str) -> dict[str, str]:
    """The files below /etc that were asked for, and what is in them."""
    files = {"resolv.conf": resolv_conf(settings), "hosts": hosts(settings, addresses, hostname)}
    return {file: text for file, text in files.items() if text is not None}


def give(state: State, name: str, files: dict[str, str], pid: int, rootfs: str) -> None:
    """Mount `files` of the record `name` into the mount namespace of `pid`, over /etc of the container's `rootfs`.

    Raises RuntimeFailure or OSError.
    """
    trees: list[tuple[bytes, int]] = []
    try:
        for file, text in files.items():
            path = state.save_file(name, file, text)
            trees.append((b"/etc/" + file.encode(), mounts.open_tree(mounts.AT_FDCWD, os.fsencode(path))))
        _attach(trees, pid, os.fsencode(rootfs))
    finally:
        for _, tree in trees:
            os.close(tree)


def _attach(trees: list[tuple[bytes, int]], pid: int, rootfs: bytes) -> None:
    wanted = os.stat(rootfs)
    home = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    if os.path.sameopenfile(home, there):
        raise RuntimeFailure("--dns, --hosts: the container has no mount namespace of its own to put files into")
    # From here to the way back the files below / may be the container's: nothing is imported, nothing looked up.
    try:
        setns(there, CLONE_NEWNS)
        try:
            root = _find(wanted, b"/")
            if root < 0:
                root = _find(wanted, rootfs)
            if root >= 0:
                for path, tree in trees:
                    target = paths.make_in_root(root, path, directory=False)
                    mounts.attach(tree, target)
                    os.close(target)
                os.close(root)
        finally:
            setns(home, CLONE_NEWNS)
    finally:
        os.close(home)
        os.close(there)
    if root < 0:
        raise RuntimeFailure(f"--dns, --hosts: {os.fsdecode(rootfs)} is not mounted in the container's mount namespace")


def _find(wanted: os.stat_result, path: bytes) -> int:
    """A descriptor of `path` if it is the directory `wanted`, else -1.

    Where the container's root is before pivot_root is the runtime's own affair: most leave it at its path on the
    host, some put it over /.
    """
    try:
        found = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return -1
    if os.path.samestat(os.fstat(found), wanted):
        return found
    os.close(found)
    return -1
