"""`mounts` of the configuration: each entry becomes one step, in the order listed.

A bind source is opened as a detached mount, with the host's files in sight: by the init at its turn, before the root
changes, or by the runtime where the init could not. Destinations are resolved inside the rootfs by the kernel
(kernel/paths.py), in the init, after the mounts before them are in place.
"""

from __future__ import annotations

import posix
from errno import EINVAL, ELOOP, ENODEV, ENOENT, ENOTDIR, EPERM

from pyruntime.errors import SpecError
from pyruntime.kernel import copyup
from pyruntime.kernel import mounts as m
from pyruntime.kernel.filesystems import PROC_SUPER_MAGIC, filesystem_type
from pyruntime.kernel.libc import path as checked_path
from pyruntime.kernel.paths import (
    O_DIRECTORY,
    O_PATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    clean,
    make_in_root,
    open_in_root,
    openat2,
)
from pyruntime.plan.bindflags import set_flags
from pyruntime.plan.options import Options
from pyruntime.plan.step import HOST, Place, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.spec.types import Mount

S_IFMT, S_IFDIR, S_IFLNK = 0o170000, 0o040000, 0o120000

# What lxcfs and the like put on top of procfs. Anything else inside /proc could stand in for a file that the runtime
# or an engine writes to (CVE-2019-16884, CVE-2025-52881).
_ALLOWED_IN_PROC = frozenset(
    b"/proc/" + name
    for name in (
        b"cpuinfo", b"diskstats", b"meminfo", b"stat", b"swaps", b"uptime", b"loadavg", b"slabinfo",
        b"sys/kernel/ns_last_pid", b"sys/crypto/fips_enabled",
    )
)  # fmt: skip


class OpenSource(Step):
    """Open the source of a bind mount as a detached mount."""

    __slots__ = ("index", "inner", "mapping", "nofollow", "path", "propagation", "recursive", "ridmap")
    side = HOST

    def __init__(
        self, index: int, source: str, options: Options, propagation: int, mapping: object | None, inner: str = ""
    ) -> None:
        self.index = index
        self.path = checked_path(source)
        self.inner = checked_path(inner)  # a source inside the rootfs, seen from there: earlier mounts are part of it
        self.recursive = options.recursive
        self.nofollow = options.src_nofollow or options.copy_symlink
        self.propagation = propagation
        self.mapping = mapping  # an object with descriptor() -> int: the user namespace of an id-mapped mount
        self.ridmap = options.idmap == "ridmap"

    def describe(self) -> str:
        words = f"open {_text(self.path)}" + (" and the mounts below it" if self.recursive else "")
        return words + (" with mapped ids" if self.mapping is not None else "")

    def apply(self, place: Place) -> None:
        if self.inner:
            tree = m.open_tree(place.rootfs, self.inner, self.recursive, self.nofollow)
        else:
            tree = m.open_tree(m.AT_FDCWD, self.path, self.recursive, self.nofollow)
        place.sources[self.index] = tree
        if self.propagation:
            m.set_attributes(tree, propagation=self.propagation, recursive=True)
        if self.mapping is not None:
            userns = self.mapping.descriptor()  # type: ignore[attr-defined]
            m.set_attributes(tree, add=m.MOUNT_ATTR_IDMAP, userns=userns, recursive=self.ridmap)


class MakeMapping(Step):
    """Make the user namespace of an id-mapped mount that the init opens itself, for which it has no way."""

    __slots__ = ("mapping",)
    side = HOST

    def __init__(self, mapping: object) -> None:
        self.mapping = mapping

    def describe(self) -> str:
        return "make a user namespace with the ids of a mount"

    def apply(self, place: Place) -> None:
        self.mapping.descriptor()  # type: ignore[attr-defined]


class _MountStep(Step):
    """What all mounts share: a destination, attributes and propagation."""

    __slots__ = ("destination", "late_readonly", "number", "options")

    def __init__(self, number: int, destination: str, options: Options) -> None:
        self.number = number
        self.destination = clean(checked_path(destination))
        self.options = options
        # /dev gets its device nodes after it is mounted, so it turns read-only only at the end.
        self.late_readonly = self.destination == b"/dev" and bool(options.add & m.MOUNT_ATTR_RDONLY)
        if self.late_readonly:
            options.add &= ~m.MOUNT_ATTR_RDONLY
            if "ro" in options.superblock:
                options.superblock.remove("ro")

    def failure(self) -> str:
        return f'error mounting "{self._source()}" to rootfs at "{_text(self.destination)}"'

    def _source(self) -> str:
        return "none"

    def _words(self) -> str:
        return f" on {_text(self.destination)}" + _describe_options(self.options)

    def _finish(self, tree: int) -> None:
        """Give a mount its recursive attributes and its propagation type."""
        options = self.options
        if options.recursive_add or options.recursive_clear:
            m.set_attributes(tree, options.recursive_add, options.recursive_clear, recursive=True)
        for propagation, recursive in options.propagation:
            m.set_attributes(tree, propagation=propagation, recursive=recursive)

    def _close(self, place: Place, tree: int) -> None:
        """Let go of a mount that is in place. One on `/` is the rootfs from now on."""
        if self.destination == b"/":
            posix.dup2(tree, place.rootfs, False)
        posix.close(tree)


class Bind(_MountStep):
    """Attach a source to its destination in the rootfs.

    `opener` opens the source first, where the runtime has not done so.
    """

    __slots__ = ("index", "locked", "opener", "source")

    def __init__(
        self, index: int, source: str, destination: str, options: Options, locked: bool,
        opener: OpenSource | None = None,
    ) -> None:  # fmt: skip
        super().__init__(index, destination, options)
        self.index = index
        self.source = source
        self.locked = locked  # the flags of the source are not the container's to take away
        self.opener = opener

    def describe(self) -> str:
        return f"bind {self.source}{self._words()}"

    def _source(self) -> str:
        return self.source

    def apply(self, place: Place) -> None:
        if self.opener is not None:
            self.opener.apply(place)
        tree = place.sources.pop(self.index)
        options = self.options
        kind = posix.fstat(tree).st_mode & S_IFMT
        if kind == S_IFLNK and options.copy_symlink:
            self._copy_symlink(place.rootfs, tree)
            return
        target = _target(place.rootfs, self.destination, kind == S_IFDIR, options.dest_nofollow)
        check_proc(target, self.destination, tree)
        if (posix.fstat(target).st_mode & S_IFMT == S_IFDIR) != (kind == S_IFDIR):
            # The kernel would say EINVAL; engines explain "not a directory" to their users.
            failure = m.FilesystemError(ENOTDIR, posix.strerror(ENOTDIR))
            failure.detail = b"a directory and a file cannot be mounted onto each other"
            raise failure
        if options.flags:
            set_flags(tree, options, self.locked)
        m.attach(tree, target)
        posix.close(target)
        self._finish(tree)
        self._close(place, tree)

    def _copy_symlink(self, root: int, tree: int) -> None:
        """crun's copy-symlink: the link itself appears in the container, as a link."""
        parent = make_in_root(root, self.destination.rpartition(b"/")[0] or b"/", True)
        posix.symlink(posix.readlink(b"", dir_fd=tree), self.destination.rpartition(b"/")[2], dir_fd=parent)
        posix.close(parent)
        posix.close(tree)


class Filesystem(_MountStep):
    """Make a filesystem and attach it."""

    __slots__ = ("kind", "label_root", "plain", "source", "type_name")

    def __init__(self, number: int, kind: str, source: str | None, destination: str, options: Options) -> None:
        super().__init__(number, destination, options)
        self.type_name = kind
        self.kind = kind.encode()
        self.source = checked_path(source) if source else None
        # A link below /proc or /sys would let the image choose where the kernel's own files appear
        # (CVE-2019-19921, CVE-2023-27561, CVE-2025-54867).
        self.plain = kind in ("proc", "sysfs")
        self.label_root: Callable[[int], None] | None = None  # where the filesystem cannot be told when it is made

    def describe(self) -> str:
        return f"mount {self.type_name}{self._words()}"

    def _source(self) -> str:
        return _text(self.source) if self.source else self.type_name

    def explain(self, errno: int) -> str:
        return f"the kernel has no filesystem of type {self.type_name}" if errno == ENODEV else ""

    def apply(self, place: Place) -> None:
        options = self.options
        target, covers = self._find(place.rootfs)
        data = options.filesystem()
        if self.kind != b"proc":
            check_proc(target, self.destination, -1)
        has_mode = any(name == b"mode" for name, _ in data)
        if self.kind == b"tmpfs" and covers and not has_mode:
            # A tmpfs takes over the mode of the directory that it covers, as with every other runtime. Where there was
            # none it is the kernel's 1777.
            data.append((b"mode", b"%o" % (posix.fstat(target).st_mode & 0o7777)))
        readonly = m.MOUNT_ATTR_RDONLY if options.copy_up else 0
        if readonly:
            data = [pair for pair in data if pair[0] != b"ro"]
        if any(value is not None and len(value) > m.FSCONFIG_VALUE_MAX for _, value in data):
            tree = m.mount_over(target, self.kind, data, self.source, options.add)
        else:
            try:
                tree = m.new_filesystem(self.kind, data, self.source, options.add & ~readonly)
            except OSError as error:
                if self.kind != b"sysfs" or error.errno != EPERM:
                    raise
                tree = self._sysfs_of_host()
            if options.copy_up:
                copyup.copy_tree(target, tree, mode=covers and not has_mode)
                if options.add & readonly:
                    m.set_attributes(tree, readonly)
            m.attach(tree, target)
        posix.close(target)
        if self.label_root is not None:
            self.label_root(tree)
        self._finish(tree)
        self._close(place, tree)

    def _sysfs_of_host(self) -> int:
        """The host's /sys: a sysfs belongs to a network namespace, and who does not own that one cannot make it.

        Read-only with all that is mounted below, whatever the options say: the host's root may be in there under its
        own id, and below /sys ids are all that counts.
        """
        tree = m.open_tree(m.AT_FDCWD, b"/sys", True)
        flags = m.MOUNT_ATTR_NOSUID | m.MOUNT_ATTR_NODEV | m.MOUNT_ATTR_NOEXEC
        m.set_attributes(tree, self.options.add & flags | m.MOUNT_ATTR_RDONLY, recursive=True)
        m.set_attributes(tree, propagation=m.MS_PRIVATE, recursive=True)
        return tree

    def _find(self, root: int) -> tuple[int, bool]:
        """The directory to mount on, and whether it was there before."""
        if self.plain:
            return _plain_target(root, self.destination), True
        try:
            return open_in_root(root, self.destination, O_PATH | O_DIRECTORY), True
        except FileNotFoundError:
            return make_in_root(root, self.destination, True), False


class Remount(_MountStep):
    """Change the flags (and, unless `bind` is given, the options) of what is mounted at a destination."""

    __slots__ = ()

    _ALL = (
        m.MOUNT_ATTR_RDONLY | m.MOUNT_ATTR_NOSUID | m.MOUNT_ATTR_NODEV | m.MOUNT_ATTR_NOEXEC
        | m.MOUNT_ATTR_NODIRATIME | m.MOUNT_ATTR_NOSYMFOLLOW
    )  # fmt: skip

    def describe(self) -> str:
        return f"remount{self._words()}"

    def apply(self, place: Place) -> None:
        target = open_in_root(place.rootfs, self.destination)
        options = self.options
        if not options.bind:
            changes = options.filesystem()
            if b"ro" not in [name for name, _ in changes]:
                changes.append((b"rw", None))
            m.reconfigure(target, changes)
        # The access time is one field: the kernel wants it cleared whole, also where a value is set.
        m.set_attributes(target, options.add, self._ALL & ~options.add | options.clear)
        self._finish(target)
        posix.close(target)


class ReadonlyDev(Step):
    """Turn the tmpfs on /dev read-only, now that its nodes are made."""

    __slots__ = ()

    def describe(self) -> str:
        return "make /dev read-only"

    def apply(self, place: Place) -> None:
        target = open_in_root(place.rootfs, b"/dev")
        m.set_attributes(target, m.MOUNT_ATTR_RDONLY)
        posix.close(target)


def _target(root: int, destination: bytes, directory: bool, nofollow: bool = False) -> int:
    if nofollow:
        parent = make_in_root(root, destination.rpartition(b"/")[0] or b"/", True)
        try:
            return openat2(parent, destination.rpartition(b"/")[2], O_PATH | posix.O_NOFOLLOW, 0)
        finally:
            posix.close(parent)
    return make_in_root(root, destination, directory)


def _plain_target(root: int, destination: bytes) -> int:
    """The destination as a directory that is reached without any symbolic link."""
    resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
    try:
        return openat2(root, destination[1:], O_PATH | O_DIRECTORY, resolve)
    except OSError as error:
        if error.errno == ENOENT:
            posix.close(make_in_root(root, destination, True))
            try:
                return openat2(root, destination[1:], O_PATH | O_DIRECTORY, resolve)
            except OSError as again:
                error = again
        if error.errno in (ELOOP, ENOTDIR):
            failure = m.FilesystemError(error.errno, error.strerror)
            failure.detail = b"it must be mounted on ordinary directory, not on a symbolic link or a file"
            raise failure from None
        raise


def check_proc(target: int, destination: bytes, source: int) -> None:
    """Refuse to cover procfs or a part of it, but for files that cannot mislead the runtime."""
    if destination in _ALLOWED_IN_PROC:
        return
    inside = destination.startswith(b"/proc/")
    if destination == b"/proc":
        if source >= 0 and filesystem_type(source) == PROC_SUPER_MAGIC:
            return
        inside = True
    if inside or filesystem_type(target) == PROC_SUPER_MAGIC:
        failure = m.FilesystemError(EINVAL, posix.strerror(EINVAL))
        failure.detail = b"it cannot be mounted because it is inside /proc"
        raise failure


def _text(path: bytes) -> str:
    return path.decode("utf-8", "replace")


def _describe_options(options: Options) -> str:
    words = []
    if options.add & m.MOUNT_ATTR_RDONLY or options.recursive_add & m.MOUNT_ATTR_RDONLY:
        words.append("read-only")
    for bit, word in (
        (m.MOUNT_ATTR_NOSUID, "nosuid"), (m.MOUNT_ATTR_NODEV, "nodev"), (m.MOUNT_ATTR_NOEXEC, "noexec"),
        (m.MOUNT_ATTR_NOSYMFOLLOW, "nosymfollow"),
    ):  # fmt: skip
        if (options.add | options.recursive_add) & bit:
            words.append(word)
    for kind, recursive in options.propagation:
        name = {m.MS_SHARED: "shared", m.MS_SLAVE: "slave", m.MS_PRIVATE: "private"}.get(kind, "unbindable")
        words.append(("r" if recursive else "") + name)
    if options.copy_up:
        words.append("with a copy of what it covers")
    for key, value in options.data:
        words.append(_text(key if value is None else key + b"=" + value))
    return f" ({', '.join(words)})" if words else ""


def mount_steps(
    entries: list[Mount],
    bundle: str,
    root_path: str,
    propagation: int,
    mapping_for: MappingFor,
    cgroup_mount: Callable[[str, Options], Step],
    early: bool,
    userns: bool,
) -> tuple[list[Step], list[Step]]:
    """The steps of `mounts`: (those of the runtime, those of the init).

    `root_path` is the rootfs (a source inside it shows what is mounted there by then);
    `propagation` is what a bind source is set to before its own options count (0: stays a peer of the host's mount);
    `mapping_for(number, entry, options)` gives the user namespace of an id-mapped mount, or None;
    `cgroup_mount(destination, options)` gives the step of a cgroup mount; `early`: bind sources are opened by the
    runtime, because the init could not (or not those of the host), otherwise by the init when it is their turn, which
    keeps the order of the entries in mountinfo too; `userns`: the container has a user namespace of its own.
    """
    host: list[Step] = []
    init: list[Step] = []
    for number, entry in enumerate(entries):
        options = Options(entry.get("options") or [])
        destination = entry["destination"]
        where = f"mounts[{number}]"
        kind = entry.get("type", "")
        if options.remount:
            init.append(Remount(number, destination, options))
            continue
        if options.bind:
            source = entry.get("source")
            if not source:
                raise SpecError(f"{where}.source", "a bind mount needs a source")
            if not source.startswith("/"):
                source = f"{bundle}/{source}"
            mapping = mapping_for(number, entry, options)
            inner = source[len(root_path) + 1 :] if source.startswith(root_path + "/") else ""
            if userns and mapping is not None:
                inner = ""  # that takes the rights of the host's root
            opener = OpenSource(number, source, options, propagation, mapping, inner)
            if not inner and (early or mapping is not None):
                host.append(opener)
                init.append(Bind(number, source, destination, options, userns))
            else:
                if mapping is not None:
                    host.append(MakeMapping(mapping))
                init.append(Bind(number, source, destination, options, userns, opener))
            continue
        if not kind:
            raise SpecError(f"{where}.type", "missing; a mount needs a type, or bind or rbind among its options")
        if kind in ("cgroup", "cgroup2"):
            init.append(cgroup_mount(destination, options))
            continue
        if options.idmap or entry.get("uidMappings") or entry.get("gidMappings"):
            raise SpecError(where, "only bind mounts can have id mappings")
        init.append(Filesystem(number, kind, entry.get("source"), destination, options))
    return host, init


if TYPE_CHECKING:
    from collections.abc import Callable

    MappingFor = Callable[[int, Mount, Options], "object | None"]
