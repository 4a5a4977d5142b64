"""/dev: default devices, `linux.devices`, and the links that programs expect.

Everything is done relative to one descriptor of the directory, never by path: an image whose /dev is a link to
somewhere else gets nothing made outside its rootfs (CVE-2026-41579, CVE-2026-47766).
"""

from __future__ import annotations

import posix
from errno import EEXIST, EINVAL, ENOENT, EPERM

from pyruntime.errors import SpecError
from pyruntime.kernel import mounts as m
from pyruntime.kernel.libc import path as checked_path
from pyruntime.kernel.paths import O_DIRECTORY, O_PATH, clean, make_in_root, open_in_root
from pyruntime.plan.step import Place, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.spec.types import Device as DeviceEntry

S_IFMT, S_IFCHR, S_IFBLK, S_IFIFO = 0o170000, 0o020000, 0o060000, 0o010000
_KINDS = {"c": S_IFCHR, "u": S_IFCHR, "b": S_IFBLK, "p": S_IFIFO}

DEFAULT_DEVICES = (
    ("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0),
)  # fmt: skip

_LINKS = ((b"fd", b"/proc/self/fd"), (b"stdin", b"/proc/self/fd/0"), (b"stdout", b"/proc/self/fd/1"),
          (b"stderr", b"/proc/self/fd/2"))  # fmt: skip


class Device:
    """A device node to be: what mknod(2) wants, and where."""

    __slots__ = ("gid", "kind", "mode", "number", "path", "uid")

    def __init__(self, path: str, kind: int, number: int, mode: int, uid: int, gid: int) -> None:
        self.path = clean(checked_path(path))
        self.kind = kind
        self.number = number
        self.mode = mode
        self.uid = uid
        self.gid = gid


class MakeDevices(Step):
    """Make the device nodes, or attach the host's where mknod(2) is refused, as it is in a user namespace."""

    __slots__ = ("bind", "devices")

    def __init__(self, devices: list[Device], bind: bool) -> None:
        self.devices = devices
        self.bind = bind

    def describe(self) -> str:
        verb = "bind" if self.bind else "make"
        return f"{verb} " + ", ".join(device.path.decode("utf-8", "replace") for device in self.devices)

    def apply(self, place: Place) -> None:
        folder, parent = b"", -1
        for device in self.devices:
            where, _, name = device.path.rpartition(b"/")
            if parent < 0 or where != folder:
                if parent >= 0:
                    posix.close(parent)
                folder, parent = where, make_in_root(place.rootfs, where or b"/", True)
            if self.bind and device.kind != S_IFIFO:
                self._bind(parent, name, device)
            else:
                try:
                    self._make(parent, name, device)
                except PermissionError:
                    self._bind(parent, name, device)
        if parent >= 0:
            posix.close(parent)

    @staticmethod
    def _make(parent: int, name: bytes, device: Device) -> None:
        try:
            posix.mknod(name, device.kind | device.mode, device.number, dir_fd=parent)
        except FileExistsError:
            status = posix.stat(name, dir_fd=parent, follow_symlinks=False)
            if status.st_mode & S_IFMT != device.kind or (device.kind != S_IFIFO and status.st_rdev != device.number):
                failure = m.FilesystemError(EEXIST, posix.strerror(EEXIST))
                failure.detail = device.path + b" is there and is not the device asked for"
                raise failure from None
        if device.uid or device.gid:
            posix.chown(name, device.uid, device.gid, dir_fd=parent, follow_symlinks=False)

    @staticmethod
    def _bind(parent: int, name: bytes, device: Device) -> None:
        tree = m.open_tree(m.AT_FDCWD, device.path)  # before pivot_root, so this is the host's device
        status = posix.fstat(tree)
        if status.st_mode & S_IFMT != device.kind or status.st_rdev != device.number:
            failure = m.FilesystemError(EINVAL, posix.strerror(EINVAL))
            failure.detail = device.path + b" of the host is another device"
            raise failure
        flags = posix.O_CREAT | posix.O_EXCL | posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_CLOEXEC
        try:
            posix.close(posix.open(name, flags, 0o644, dir_fd=parent))
        except FileExistsError:
            pass
        target = posix.open(name, O_PATH | posix.O_NOFOLLOW | posix.O_CLOEXEC, dir_fd=parent)
        m.attach(tree, target)
        posix.close(target)
        posix.close(tree)


class MakeDevLinks(Step):
    """/dev/fd, stdin, stdout, stderr, core and ptmx."""

    __slots__ = ("has_pts",)

    def __init__(self, has_pts: bool) -> None:
        self.has_pts = has_pts

    def describe(self) -> str:
        return "link /dev/fd, /dev/stdin, /dev/stdout, /dev/stderr" + (", /dev/ptmx" if self.has_pts else "")

    def apply(self, place: Place) -> None:
        dev = open_in_root(place.rootfs, b"/dev", O_PATH | O_DIRECTORY)
        try:
            posix.close(open_in_root(place.rootfs, b"/proc/self"))
            links: tuple[tuple[bytes, bytes], ...] = _LINKS
        except FileNotFoundError:
            links = ()  # the spec wants the links only where /proc/self/fd exists
        except OSError:
            links = _LINKS  # a magic link that the kernel will not follow for us, but there
        for name, target in links:
            self._link(dev, name, target)
        if links:
            try:
                posix.close(open_in_root(place.rootfs, b"/proc/kcore"))
                self._link(dev, b"core", b"/proc/kcore")
            except OSError as error:
                if error.errno not in (ENOENT, EPERM):
                    raise
        if self.has_pts:
            try:
                posix.unlink(b"ptmx", dir_fd=dev)
            except FileNotFoundError:
                pass
            self._link(dev, b"ptmx", b"pts/ptmx")
        posix.close(dev)

    @staticmethod
    def _link(dev: int, name: bytes, target: bytes) -> None:
        try:
            posix.symlink(target, name, dir_fd=dev)
        except FileExistsError:
            pass


def devices(entries: list[DeviceEntry], with_defaults: bool) -> list[Device]:
    """The nodes to make: the defaults that /dev must have, then those of `linux.devices`, which win by path."""
    wanted: dict[bytes, Device] = {}
    if with_defaults:
        for name, major, minor in DEFAULT_DEVICES:
            device = Device("/dev/" + name, S_IFCHR, posix.makedev(major, minor), 0o666, 0, 0)
            wanted[device.path] = device
    for number, entry in enumerate(entries):
        kind = _KINDS.get(entry["type"])
        if kind is None:
            raise SpecError(f"linux.devices[{number}].type", f"unknown device type {entry['type']!r}")
        node = 0 if kind == S_IFIFO else posix.makedev(entry.get("major", 0), entry.get("minor", 0))
        mode = entry.get("fileMode", 0o666) & 0o7777
        device = Device(entry["path"], kind, node, mode, entry.get("uid", 0), entry.get("gid", 0))
        wanted[device.path] = device
    return list(wanted.values())
