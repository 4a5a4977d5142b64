"""Where `exec --cgroup` puts a process: cgroups inside the container's."""

from __future__ import annotations

import posix

from pyruntime.cgroups.manager import Manager, cannot_enter
from pyruntime.errors import RuntimeFailure
from pyruntime.kernel import cgroupfs


class Joined:
    """A place for new processes inside a container's cgroup."""

    __slots__ = ("base", "subs")

    def __init__(self, base: Manager) -> None:
        self.base = base
        self.subs = dict.fromkeys(base.paths, "")  # controller -> path below the container's cgroup

    def join(self, text: str) -> Joined:
        """Add one more `--cgroup` argument. Raises RuntimeFailure for an unknown controller or a path that leaves."""
        names, colon, path = text.rpartition(":")
        chosen = names.split(",") if colon else list(self.subs)
        if ".." in path.split("/") or "\0" in path:
            raise RuntimeFailure(
                f"bad sub cgroup path: {path!r}: `..` components are not allowed, it stays below the container's"
            )
        if not colon and self.base.version == 1:
            # Somebody who makes a cgroup for one controller means that one; where there is none anywhere, all are meant
            # and the first is missed.
            chosen = [name for name in chosen if _is_there(self.base.paths[name], path)] or chosen
        for name in chosen:
            key = name if name in self.subs else "name=" + name
            if key not in self.subs or (colon and self.base.version == 2):
                known = ", ".join(sorted(filter(None, self.subs))) or "none: cgroup v2 has one tree, give just a path"
                raise RuntimeFailure(f"--cgroup {text}: unknown controller {name or '-'} (controllers here: {known})")
            self.subs[key] = path.strip("/")
        return self

    def add(self, pid: int, like: int = 0) -> None:
        """As Manager.add, into the chosen cgroups."""
        done = set()
        for name, sub in self.subs.items():
            base = self.base.paths.get(name)
            if base is None or (base, sub) in done:
                continue
            done.add((base, sub))
            if not sub:
                self.base._enter(base, pid, like)
                continue
            try:
                directory = open_below(base, sub)
                try:
                    cgroupfs.enter(directory, "cgroup.procs", pid)
                finally:
                    posix.close(directory)
            except OSError as error:
                raise cannot_enter(base + "/" + sub, pid, error) from error


def _is_there(base: str, sub: str) -> bool:
    try:
        posix.close(open_below(base, sub.strip("/") or "."))
    except OSError:
        return False
    return True


def open_below(base: str, sub: str) -> int:
    """The directory `sub` inside the cgroup `base`. The kernel holds it there: no link, no `..`, no other mount."""
    from pyruntime.kernel.paths import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, openat2

    top = posix.open(base, cgroupfs.DIRECTORY)
    try:
        name = sub.encode("utf-8", "surrogateescape")
        return openat2(top, name, cgroupfs.DIRECTORY, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV)
    finally:
        posix.close(top)
