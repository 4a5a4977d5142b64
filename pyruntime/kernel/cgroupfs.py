"""Files and directories of a control group file system, version 1 or 2. See cgroups(7).

A control file takes one complete value per write(2) and answers a bad one with an errno; a cgroup is made with mkdir
and goes away with rmdir, its files with it, once no process and no child is left in it.
"""

from __future__ import annotations

import posix
from errno import EBUSY, EEXIST, EINVAL, ENODEV, ENOENT, ENOTEMPTY
from time import sleep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

DIRECTORY = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_NOFOLLOW | posix.O_CLOEXEC
READ = posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_CLOEXEC
# Never O_CREAT: a file that a controller does not have must be an error and not an EACCES of cgroupfs.
WRITE = posix.O_WRONLY | posix.O_NOFOLLOW | posix.O_CLOEXEC

UNIFIED = ""
"""The name that /proc/PID/cgroup gives the cgroup2 hierarchy: `0::/path`."""

PAGE = 65536
GONE = (ENOENT, ENODEV)
"""What a file of a cgroup answers that is removed meanwhile: ENODEV when it was open already."""


def read(directory: int | None, name: str) -> bytes:
    """The whole content of the file `name` below the descriptor `directory` (None: `name` is an absolute path)."""
    file = posix.open(name, READ, dir_fd=directory)
    try:
        data = posix.read(file, PAGE)
        # A read of a control file ends at a record, not at the end: only an empty answer means the end.
        if len(data) < 4096:
            return data
        parts = [data]
        while data:
            data = posix.read(file, PAGE)
            parts.append(data)
        return b"".join(parts)
    finally:
        posix.close(file)


def write(directory: int | None, name: str, value: bytes) -> None:
    """Write `value` into the file `name` with one write(2). Raises OSError as the controller answers."""
    file = posix.open(name, WRITE, dir_fd=directory)
    try:
        posix.write(file, value)
    finally:
        posix.close(file)


def enter(directory: int | None, name: str, pid: int) -> None:
    """Move the process `pid` with all its threads: write it to `name`, a cgroup.procs.

    EINVAL may mean a task that fork has not finished yet (TASK_NEW): worth a few tries. A v1 cpuset without cpus or
    memory nodes answers ENOSPC.
    """
    value = b"%d" % pid
    for attempt in range(5):
        try:
            return write(directory, name, value)
        except OSError as error:
            if error.errno != EINVAL or attempt == 4:
                raise
        sleep(0.03)
    raise AssertionError("unreachable")


def make(path: str) -> list[str]:
    """Make the cgroup `path` and its missing parents; the ones made, outermost first. Empty: it was there already.

    Another runtime may remove a parent that is empty for the moment, between our two mkdirs: tried again then.
    """
    made: list[str] = []
    for _ in range(64):
        try:
            posix.mkdir(path, 0o755)
        except OSError as error:
            if error.errno == EEXIST:
                return made
            parent = path.rpartition("/")[0]
            if error.errno != ENOENT or not parent:
                remove_empty(made)
                raise
            for new in make(parent):
                if new not in made:
                    made.append(new)
        else:
            made.append(path)
            return made
    raise OSError(ENOENT, "parents vanish as fast as they are made", path)


def remove_empty(paths: list[str]) -> None:
    """Remove the cgroups among `paths` (outermost first) that nobody uses; leave the others."""
    for path in reversed(paths):
        try:
            posix.rmdir(path)
        except OSError as error:
            if error.errno not in GONE:
                return


def remove(path: str) -> None:
    """Remove the cgroup `path` with the cgroups inside it. Gone already is fine.

    A process that was killed keeps its cgroup busy until it is dead to the last thread, so EBUSY is tried again for
    about two seconds. Raises OSError(EBUSY) when processes stay.
    """
    try:
        posix.rmdir(path)
        return
    except OSError as error:
        if error.errno in GONE:
            return
        if error.errno not in (EBUSY, ENOTEMPTY):
            # EROFS is answered even where nothing is: it counts only when there is something to remove.
            try:
                posix.lstat(path)
            except OSError:
                return
            raise
    delay = 0.0005
    while True:
        for child in children(path):
            remove(path + "/" + child)
        try:
            posix.rmdir(path)
            return
        except OSError as error:
            if error.errno in GONE:
                return
            if error.errno not in (EBUSY, ENOTEMPTY) or delay > 1:
                raise
        sleep(delay)
        delay *= 2


def children(path: str) -> list[str]:
    """Names of the cgroups directly inside `path`; empty when it is gone."""
    try:
        with posix.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        if error.errno in GONE:
            return []
        raise


def tree(path: str) -> Iterator[str]:
    """`path` and every cgroup below it, parents first."""
    yield path
    for child in children(path):
        yield from tree(path + "/" + child)


def processes(path: str, recursive: bool = True) -> list[int]:
    """Process ids in the cgroup `path`, with those of the cgroups below it if `recursive`. Gone means none.

    A threaded v2 cgroup refuses to be asked for processes (EOPNOTSUPP): their ids stand at its domain, an ancestor.
    """
    pids: list[int] = []
    for directory in tree(path) if recursive else (path,):
        try:
            data = read(None, directory + "/cgroup.procs")
        except OSError as error:
            if error.errno in GONE:
                continue
            if error.errno != 95:  # EOPNOTSUPP
                raise
            data = _thread_groups(directory)
        pids += [int(line) for line in data.split()]
    return list(dict.fromkeys(pids))  # the head of threaded cgroups lists the processes of those below as well


def _thread_groups(directory: str) -> bytes:
    """The processes whose threads are in the threaded cgroup `directory`, one a line."""
    found: list[bytes] = []
    for thread in read(None, directory + "/cgroup.threads").split():
        try:
            status = read(None, "/proc/" + thread.decode() + "/status")
        except OSError:
            continue
        for line in status.split(b"\n"):
            if line.startswith(b"Tgid:"):
                tgid = line[5:].strip()
                if tgid not in found:
                    found.append(tgid)
                break
    return b"\n".join(found)
