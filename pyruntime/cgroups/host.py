"""Which cgroup hierarchies this host has, and where a container's cgroup goes in each of them.

Three layouts exist. *v1*: one hierarchy per controller, or per group of co-mounted controllers (`cpu,cpuacct`), and
named ones without a controller (`name=systemd`). *hybrid*: v1 and beside it a cgroup2 without resource controllers.
*v2* ("unified"): one cgroup2 for everything. See cgroups(7), mountinfo in proc(5).
"""

from __future__ import annotations

import posix

from pyruntime.errors import RuntimeFailure, SpecError
from pyruntime.kernel.cgroupfs import UNIFIED

ROOT = "/sys/fs/cgroup"

# Options of a cgroup v1 mount that are no controller.
_OPTIONS = (
    b"rw", b"ro", b"none", b"all", b"clone_children", b"noprefix", b"xattr", b"release_agent", b"cpuset_v2_mode",
    b"favordynmods", b"nofavordynmods", b"seclabel", b"nosuid", b"nodev", b"noexec",
)  # fmt: skip


class Host:
    """The cgroup mounts and our own place in them, as `detect()` finds them."""

    __slots__ = ("mounts", "own", "unified")

    def __init__(self, mounts: dict[str, tuple[str, str]], unified: bool, own: dict[str, str]) -> None:
        self.mounts = mounts  # controller, `name=X` or UNIFIED -> (mount point, directory of the hierarchy shown there)
        self.unified = unified  # cgroup2 is the hierarchy of the controllers
        self.own = own  # controller, `name=X` or UNIFIED -> our own cgroup, from the root of our cgroup namespace

    @property
    def layout(self) -> str:
        """`v1`, `hybrid`, `v2`, or `none`."""
        if self.unified:
            return "v2"
        if not self.mounts:
            return "none"
        return "hybrid" if UNIFIED in self.mounts else "v1"

    def mount(self, controller: str) -> str:
        """Where the hierarchy of `controller` is mounted."""
        return self.mounts[controller][0]

    def own_directory(self, controller: str) -> str:
        """Our own cgroup as a directory below the mount point.

        /proc/self/cgroup counts from the root of the cgroup namespace, the mount may show a part of the hierarchy
        only: inside a container without a cgroup namespace both say /docker/ID, and the directory is the mount point.
        """
        mount, root = self.mounts[controller]
        own = self.own.get(controller, "/")
        if root in ("/", "/.."):
            inside = own
        elif own == root or own.startswith(root + "/"):
            inside = own[len(root) :]
        else:
            inside = "/"  # we live outside of what is mounted here
        return (mount + inside).rstrip("/")


def text(raw: bytes) -> str:
    """A name or path of the kernel as Python's file functions take it: bytes that are no UTF-8 become surrogates."""
    return raw.decode("utf-8", "surrogateescape")


def detect() -> Host:
    """Read the mounts and our own cgroups. Both files are read as bytes and split at newlines only: a mount point may
    hold any other character, and `str.splitlines` would take U+0085 or a form feed for the end of a line."""
    try:
        mountinfo = _slurp("/proc/self/mountinfo")
    except OSError as error:
        raise RuntimeFailure(f"cannot read /proc/self/mountinfo: {error.strerror}; is /proc mounted?") from error
    try:
        own = _slurp("/proc/self/cgroup")
    except OSError:
        own = b""  # a kernel without cgroups
    return parse(mountinfo, own)


def parse(mountinfo: bytes, own: bytes) -> Host:
    """The Host that these contents of /proc/self/mountinfo and /proc/self/cgroup describe."""
    mounts: dict[str, tuple[str, str]] = {}
    unified = False
    for line in mountinfo.split(b"\n"):
        if b" - cgroup" not in line:
            continue
        before, _, after = line.partition(b" - ")
        fields, kind = before.split(b" "), after.split(b" ")
        if len(fields) < 6 or len(kind) < 3:
            continue
        root, point = _unescape(fields[3]), _unescape(fields[4])
        if kind[0] == b"cgroup2":
            # The first one counts; but if the well-known place is one, then the whole host is v2.
            if point == ROOT:
                unified = True
                mounts[UNIFIED] = (point, root)
            elif mounts.setdefault(UNIFIED, (point, root))[0] == point:
                mounts[UNIFIED] = (point, root)
        elif kind[0] == b"cgroup":
            for option in kind[2].split(b","):
                if option in _OPTIONS or (b"=" in option and not option.startswith(b"name=")):
                    continue
                # A container's copy of a hierarchy is mounted somewhere too: ours came first. But what is mounted on
                # the very same point later covers it.
                if mounts.setdefault(text(option), (point, root))[0] == point:
                    mounts[text(option)] = (point, root)
    if len(mounts) == 1 and UNIFIED in mounts:
        unified = True
    places: dict[str, str] = {}
    for line in own.split(b"\n"):
        fields = line.split(b":", 2)
        if len(fields) == 3:
            for controller in fields[1].split(b","):
                places[text(controller)] = text(fields[2])
    if unified:
        # v1 controllers that somebody mounted beside a unified hierarchy (a VPN does it with net_cls) are not ours.
        mounts = {UNIFIED: mounts[UNIFIED]}
    return Host(mounts, unified, places)


def _slurp(path: str) -> bytes:
    file = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        parts = []
        while data := posix.read(file, 65536):
            parts.append(data)
        return b"".join(parts)
    finally:
        posix.close(file)


def _unescape(field: bytes) -> str:
    r"""mountinfo writes space, tab, newline and backslash as \040 \011 \012 \134."""
    if b"\\" in field:
        for code, character in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
            field = field.replace(code, character)
    return text(field)


def clean(path: str) -> str:
    """`path` without `.`, `..` and doubled slashes, absolute if it was; `..` stops at the root, it never leaves."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            if parts:
                parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return ("/" if path.startswith("/") else "") + "/".join(parts)


def inner(container_id: str, cgroups_path: str | None) -> str:
    """The container's cgroup relative to what `place` decides. Raises SpecError for what cannot be a cgroup."""
    if not cgroups_path:
        return container_id
    field = "linux.cgroupsPath"
    if "\0" in cgroups_path or "\n" in cgroups_path:
        raise SpecError(field, "contains a NUL byte or a newline, which no cgroup name can")
    path = clean(cgroups_path)
    if path in ("", "/"):
        raise SpecError(
            field, f"{cgroups_path!r} is the root of the cgroup hierarchy; a container needs its own cgroup"
        )
    for name in path.split("/"):
        if len(name.encode("utf-8", "surrogateescape")) > 255:
            raise SpecError(field, f"{name[:20]!r}... is longer than the 255 bytes that a directory name can have")
    return path


def place(host: Host, controller: str, path: str) -> str:
    """The absolute directory of the cgroup `path` (from `inner`) in the hierarchy of `controller`.

    An absolute path counts from the root of each hierarchy. A relative one lies below our own cgroup on v1, and beside
    it on v2: our own cgroup has processes (us), so no controller can be enabled for its children.
    """
    mount = host.mount(controller).rstrip("/")
    if path.startswith("/"):
        return mount + path
    own = host.own_directory(controller)
    if host.unified:
        own = own.rpartition("/")[0] if own != mount else mount
    return own + "/" + path
