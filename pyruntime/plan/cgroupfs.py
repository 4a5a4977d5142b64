"""A mount of type `cgroup`: the container's view of the cgroup file systems.

On v1 this is a tmpfs with one directory per hierarchy; on v2 the one cgroup2. With a cgroup namespace the kernel's own
mount shows the container's cgroup as the root; without one, the container's own directory is bound there and nothing
above it becomes reachable (CVE-2023-25809).
"""

from __future__ import annotations

import posix
from errno import EBUSY, EINVAL, EPERM

from pyruntime.kernel import mounts as m
from pyruntime.kernel.libc import path as checked_path
from pyruntime.kernel.paths import clean, make_in_root
from pyruntime.plan.mounts import check_proc
from pyruntime.plan.options import Options
from pyruntime.plan.step import Place, Step

_LOCKED = m.MOUNT_ATTR_NOSUID | m.MOUNT_ATTR_NODEV | m.MOUNT_ATTR_NOEXEC


class Hierarchy:
    """One mounted cgroup hierarchy of the host: where it is shown in the container, and how to get there."""

    __slots__ = ("links", "name", "options", "otherwise", "source", "unified")

    def __init__(self, name: str, controllers: list[str], source: str, otherwise: str, unified: bool) -> None:
        self.name = checked_path(name)  # directory below the mount: the last part of the host's mount point
        self.source = checked_path(source)  # the container's own cgroup, as a path of the host
        # The runtime's own: where a rootless container is that could not get a cgroup of its own.
        self.otherwise = checked_path(otherwise)
        self.unified = unified
        self.options: list[tuple[bytes, bytes | None]] = []
        for controller in controllers:
            key, equals, value = controller.partition("=")
            self.options.append((key.encode(), value.encode() if equals else None))
        # Co-mounted controllers can be found under each of their names.
        self.links = [checked_path(one) for one in controllers if one != name and "=" not in one]


class MountCgroups(Step):
    """Show the container its cgroups."""

    __slots__ = ("context", "destination", "hierarchies", "namespace", "options", "unified")

    def __init__(
        self, destination: str, options: Options, hierarchies: list[Hierarchy], unified: bool, namespace: bool
    ) -> None:
        self.destination = clean(checked_path(destination))
        self.options = options
        self.hierarchies = hierarchies
        self.unified = unified  # cgroup2 is the only hierarchy
        self.namespace = namespace
        self.context = b""  # of SELinux

    def describe(self) -> str:
        where = self.destination.decode("utf-8", "replace")
        how = "read-only" if self.options.add & m.MOUNT_ATTR_RDONLY else "writable"
        if self.unified:
            return f"mount cgroup2 on {where} ({how})"
        names = ", ".join(one.name.decode() for one in self.hierarchies)
        return f"mount cgroups on {where} ({how}): {names}"

    def apply(self, place: Place) -> None:
        target = make_in_root(place.rootfs, self.destination, True)
        check_proc(target, self.destination, -1)
        attributes = self.options.add | _LOCKED
        if self.unified:
            tree = self._show(self.hierarchies[0], attributes, self.options.filesystem())
            m.attach(tree, target)
        else:
            data: list[tuple[bytes, bytes | None]] = [(b"mode", b"755")]
            if self.context:
                data.append((b"context", self.context))
            tree = m.new_filesystem(b"tmpfs", data, b"tmpfs", attributes & ~m.MOUNT_ATTR_RDONLY)
            m.attach(tree, target)
            for hierarchy in self.hierarchies:
                posix.mkdir(hierarchy.name, 0o755, dir_fd=tree)
                inner = posix.open(hierarchy.name, posix.O_PATH | posix.O_NOFOLLOW | posix.O_CLOEXEC, dir_fd=tree)
                view = self._show(hierarchy, attributes, [])
                m.attach(view, inner)
                posix.close(view)
                posix.close(inner)
                for link in hierarchy.links:
                    posix.symlink(hierarchy.name, link, dir_fd=tree)
            if attributes & m.MOUNT_ATTR_RDONLY:
                m.set_attributes(tree, m.MOUNT_ATTR_RDONLY)
        for propagation, recursive in self.options.propagation:
            m.set_attributes(tree, propagation=propagation, recursive=recursive)
        posix.close(tree)
        posix.close(target)

    def _show(self, hierarchy: Hierarchy, attributes: int, options: list[tuple[bytes, bytes | None]]) -> int:
        """A detached mount with the container's cgroup at its root."""
        if self.namespace:
            # `ro` as an option of the filesystem would turn the host's cgroupfs read-only: they are the same.
            data = hierarchy.options + [pair for pair in options if pair[0] not in (b"ro", b"rw")]
            kind = b"cgroup2" if hierarchy.unified else b"cgroup"
            try:
                return m.new_filesystem(kind, data, b"cgroup", attributes)
            except OSError as error:
                # EPERM: the cgroup namespace belongs to an outer user namespace. EBUSY: other options than the host's.
                if error.errno not in (EPERM, EBUSY):
                    raise
        try:
            tree = _copy(hierarchy.source)
        except FileNotFoundError:
            # Not the container's alone, so it may look and not touch (CVE-2023-25809).
            tree = _copy(hierarchy.otherwise)
            attributes |= m.MOUNT_ATTR_RDONLY
        m.set_attributes(tree, attributes)
        return tree


def _copy(path: bytes) -> int:
    try:
        return m.open_tree(m.AT_FDCWD, path)
    except OSError as error:
        # In a user namespace, what somebody has covered with another mount is to stay so: both are copied, or none.
        if error.errno != EINVAL:
            raise
        return m.open_tree(m.AT_FDCWD, path, recursive=True)
