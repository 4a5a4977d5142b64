"""The root filesystem: made the root of the container's mount namespace, then closed up.

The rootfs is opened by the runtime as a detached mount (with what is mounted below it), attached by the init over its
own `/`, and becomes the root by pivot_root(2). Attaching over `/` rather than where the rootfs lies means that no
mount of the host has to change its propagation type first.
"""

from __future__ import annotations

import posix
from errno import EINVAL, ENOENT, ENOTDIR, EPERM

from pyruntime.kernel import mounts as m
from pyruntime.kernel.libc import path as checked_path
from pyruntime.kernel.paths import O_DIRECTORY, O_PATH, open_in_root
from pyruntime.plan.step import HOST, Place, Step

S_IFMT, S_IFDIR, S_IFCHR = 0o170000, 0o040000, 0o020000
NULL_DEVICE = posix.makedev(1, 3)

PROPAGATION = {
    "shared": (m.MS_SHARED, False), "rshared": (m.MS_SHARED, True),
    "slave": (m.MS_SLAVE, False), "rslave": (m.MS_SLAVE, True),
    "private": (m.MS_PRIVATE, False), "rprivate": (m.MS_PRIVATE, True),
    "unbindable": (m.MS_UNBINDABLE, False), "runbindable": (m.MS_UNBINDABLE, True),
}  # fmt: skip
"""Words of linux.rootfsPropagation. The recursive forms are not in the spec, but engines write them."""


class OpenRoot(Step):
    """Open the rootfs as a detached mount."""

    __slots__ = ("path", "propagation")
    side = HOST

    def __init__(self, path: str, propagation: int) -> None:
        self.path = checked_path(path)
        self.propagation = propagation

    def describe(self) -> str:
        return f"open the root filesystem {self.path.decode('utf-8', 'replace')}"

    def apply(self, place: Place) -> None:
        place.rootfs = m.open_tree(m.AT_FDCWD, self.path, recursive=True)
        if not posix.fstat(place.rootfs).st_mode & S_IFMT == S_IFDIR:
            raise OSError(ENOTDIR, posix.strerror(ENOTDIR))
        if self.propagation:
            m.set_attributes(place.rootfs, propagation=self.propagation, recursive=True)
        else:
            # What is mounted below stays a peer of the host's, the root itself cannot: pivot_root(2) refuses that.
            m.set_attributes(place.rootfs, propagation=m.MS_PRIVATE)


class OpenPlainRoot(Step):
    """Open the rootfs directory itself, for a container that shares the mount namespace of its caller.

    `mounted`: it has to be a mount, which can turn read-only. As with runc the caller's namespace keeps that mount,
    like all others of the container.
    """

    __slots__ = ("mounted", "path")
    side = HOST

    def __init__(self, path: str, mounted: bool) -> None:
        self.path = checked_path(path)
        self.mounted = mounted

    def describe(self) -> str:
        return f"open the root filesystem {self.path.decode('utf-8', 'replace')}"

    def apply(self, place: Place) -> None:
        place.rootfs = posix.open(self.path, O_PATH | O_DIRECTORY | posix.O_CLOEXEC)
        if self.mounted:
            tree = m.clone_tree(place.rootfs, recursive=True)
            m.attach(tree, place.rootfs)
            posix.dup2(tree, place.rootfs, False)
            posix.close(tree)


class DetachFromHost(Step):
    """Stop mounts of the new namespace from propagating back to the host."""

    __slots__ = ("propagation", "recursive")

    def __init__(self, propagation: int, recursive: bool) -> None:
        self.propagation = propagation
        self.recursive = recursive

    def describe(self) -> str:
        return "stop mounts from propagating to the host"

    def apply(self, place: Place) -> None:
        m.set_propagation(b"/", self.propagation, self.recursive)


class AttachRoot(Step):
    """Attach the rootfs in the new mount namespace, at its own path: hooks look for it there.

    `shared`: mounts of the namespace may be peers of the host's. Then the one that holds the rootfs becomes private, as
    pivot_root(2) refuses a root whose parent mount is shared, and attaching must not reach the host.
    """

    __slots__ = ("path", "shared")

    def __init__(self, path: str, shared: bool) -> None:
        self.path = checked_path(path)
        self.shared = shared

    def describe(self) -> str:
        return "attach the root filesystem"

    def apply(self, place: Place) -> None:
        if self.shared:
            m.set_propagation(_mount_of(self.path), m.MS_PRIVATE, False)
        try:
            m.attach_at(place.rootfs, self.path)
        except PermissionError:
            # In a user namespace that may not walk to the rootfs. Over / is as good, but for hooks.
            m.set_propagation(b"/", m.MS_PRIVATE, False)
            m.attach_at(place.rootfs, b"/")


class PivotRoot(Step):
    """Make the rootfs the root directory and let go of the host's."""

    __slots__ = ()

    def describe(self) -> str:
        return "pivot_root into the root filesystem"

    def apply(self, place: Place) -> None:
        old = posix.open(b"/", O_PATH | O_DIRECTORY | posix.O_CLOEXEC)
        posix.fchdir(place.rootfs)
        m.pivot_root()
        # "." still is the new root, and the old one lies on top of it: go there by descriptor. Where its mounts are
        # peers of the host's (rootfsPropagation shared), unmounting them would unmount the host's as well.
        posix.fchdir(old)
        posix.close(old)
        m.set_propagation(b".", m.MS_SLAVE, True)
        m.umount(b".", m.MNT_DETACH)
        posix.chdir(b"/")


class ChrootOverRoot(Step):
    """`--no-pivot`: for a host whose root is a ramfs, which pivot_root(2) cannot leave."""

    __slots__ = ()

    def describe(self) -> str:
        return "chroot into the root filesystem (no pivot_root)"

    def apply(self, place: Place) -> None:
        # With the old root still mounted, a nested user namespace could mount a procfs or sysfs without the masks of
        # this container, because an unmasked one is visible in the mount namespace. So those go first.
        at, points = _hosts_proc_and_sys(_mount_id(place.rootfs))
        for point in points:
            try:
                # An unmount goes to the peers of the mount that lies below: with rootfsPropagation shared, to the host.
                m.set_propagation(_mount_of(point.rpartition(b"/")[0] or b"/"), m.MS_SLAVE, False)
                m.set_propagation(point, m.MS_PRIVATE, True)
                m.umount(point, m.MNT_DETACH)
            except OSError as error:
                if error.errno not in (EINVAL, EPERM, ENOENT):
                    raise
        if at != b"/":
            # Whoever joins this mount namespace lands on what is topmost on its `/`: `exec` must find the rootfs there.
            m.set_propagation(b"/", m.MS_PRIVATE, False)
            m.attach_at(place.rootfs, b"/")
        posix.fchdir(place.rootfs)
        posix.chroot(b".")
        posix.chdir(b"/")


class Chroot(Step):
    """Make the rootfs the root directory of this process alone: there is no mount namespace to pivot in."""

    __slots__ = ()

    def describe(self) -> str:
        return "chroot into the root filesystem (no mount namespace)"

    def apply(self, place: Place) -> None:
        posix.fchdir(place.rootfs)
        posix.chroot(b".")
        posix.chdir(b"/")


def _mountinfo() -> list[bytes]:
    """The lines of /proc/self/mountinfo. Of the host: we have not entered the container's root yet."""
    descriptor = posix.open(b"/proc/self/mountinfo", posix.O_RDONLY | posix.O_CLOEXEC)
    chunks = []
    while chunk := posix.read(descriptor, 65536):
        chunks.append(chunk)
    posix.close(descriptor)
    return b"".join(chunks).split(b"\n")


def _mount_of(path: bytes) -> bytes:
    """The mount point of the mount that `path` lies on."""
    descriptor = posix.open(path, O_PATH | posix.O_CLOEXEC)
    real = posix.readlink(b"/proc/self/fd/%d" % descriptor)
    posix.close(descriptor)
    found = b"/"
    for line in _mountinfo():
        fields = line.split(b" ")
        point = _unescape(fields[4]) if len(fields) > 4 else b"/"
        if (real == point or real.startswith(point + b"/")) and len(point) > len(found):
            found = point
    return found


def _mount_id(descriptor: int) -> bytes:
    """The number of the mount that a descriptor lies on, as mountinfo has it."""
    info = posix.open(b"/proc/self/fdinfo/%d" % descriptor, posix.O_RDONLY | posix.O_CLOEXEC)
    fields = posix.read(info, 4096).split()
    posix.close(info)
    return fields[fields.index(b"mnt_id:") + 1]


def _hosts_proc_and_sys(rootfs: bytes) -> tuple[bytes, list[bytes]]:
    """Where the mount `rootfs` is attached; the procfs and sysfs mounts that do not lie on it, the deepest first."""
    at = b"/"
    parents = {}
    points = []
    for line in _mountinfo():
        before, separator, after = line.partition(b" - ")
        if not separator:
            continue
        number, parent, _, _, point = before.split(b" ")[:5]
        parents[number] = parent
        if number == rootfs:
            at = _unescape(point)
        elif after.split(b" ", 1)[0] in (b"proc", b"sysfs"):
            points.append((number, _unescape(point)))
    found = []
    for number, point in points:
        above: bytes | None = number
        while above is not None and above != rootfs:
            above = parents.get(above)
        if above is None:
            found.append(point)
    found.sort(key=len, reverse=True)
    return at, found


def _unescape(field: bytes) -> bytes:
    for code, character in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        field = field.replace(code, character)
    return field


class SetRootPropagation(Step):
    """linux.rootfsPropagation, for mounts that appear later."""

    __slots__ = ("kind", "recursive", "word")

    def __init__(self, word: str) -> None:
        self.word = word
        self.kind, self.recursive = PROPAGATION[word]

    def describe(self) -> str:
        return f"make / {self.word}"

    def apply(self, place: Place) -> None:
        m.set_propagation(b"/", self.kind, self.recursive)


class ReadonlyRoot(Step):
    """root.readonly."""

    __slots__ = ()

    def describe(self) -> str:
        return "make / read-only"

    def apply(self, place: Place) -> None:
        m.set_attributes(place.rootfs, m.MOUNT_ATTR_RDONLY)


class ReadonlyPath(Step):
    """One of linux.readonlyPaths: a read-only copy of what is there is attached on top; a missing path is skipped."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = checked_path(path)

    def describe(self) -> str:
        return f"make {self.path.decode('utf-8', 'replace')} read-only"

    def apply(self, place: Place) -> None:
        try:
            target = open_in_root(place.rootfs, self.path)
        except (FileNotFoundError, NotADirectoryError):
            return
        tree = m.clone_tree(target, recursive=True)
        m.set_attributes(tree, m.MOUNT_ATTR_RDONLY)
        m.attach(tree, target)
        posix.close(tree)
        posix.close(target)


class MaskedPaths(Step):
    """linux.maskedPaths: files get /dev/null on top, directories one shared empty read-only tmpfs."""

    __slots__ = ("paths", "tmpfs_options")

    def __init__(self, paths: list[str], context: str | None = None) -> None:
        self.paths = [checked_path(path) for path in dict.fromkeys(paths)]  # one mask on a path is enough
        self.tmpfs_options: list[tuple[bytes, bytes | None]] = [
            (b"ro", None),
            (b"nr_blocks", b"1"),
            (b"nr_inodes", b"1"),
        ]
        if context:
            self.tmpfs_options.append((b"context", context.encode()))

    def describe(self) -> str:
        return "mask " + ", ".join(path.decode("utf-8", "replace") for path in self.paths)

    def apply(self, place: Place) -> None:
        null = empty = -1
        for path in self.paths:
            try:
                target = open_in_root(place.rootfs, path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if posix.fstat(target).st_mode & S_IFMT == S_IFDIR:
                if empty < 0:
                    # Before Linux 6.15 a mount can only be copied once it is attached: the first directory gets the
                    # file system itself, the others copies.
                    empty = tree = m.new_filesystem(b"tmpfs", self.tmpfs_options, b"tmpfs", m.MOUNT_ATTR_RDONLY)
                else:
                    tree = m.clone_tree(empty)
            else:
                if null < 0:
                    null = self._null(place.rootfs)
                tree = m.clone_tree(null)
            m.attach(tree, target)
            if tree != empty:
                posix.close(tree)
            posix.close(target)
        if null >= 0:
            posix.close(null)
        if empty >= 0:
            posix.close(empty)

    @staticmethod
    def _null(root: int) -> int:
        """The container's /dev/null. If it is a link or another file, it would undo the mask (CVE-2025-31133)."""
        null = open_in_root(root, b"/dev/null", O_PATH | posix.O_NOFOLLOW)
        status = posix.fstat(null)
        if status.st_mode & S_IFMT != S_IFCHR or status.st_rdev != NULL_DEVICE:
            failure = m.FilesystemError(EINVAL, posix.strerror(EINVAL))
            failure.detail = b"/dev/null of the container is not the null device"
            raise failure
        return null
