"""What is remembered of a container between verbs: one directory per container below the state root.

    <root>/<id>/state.json    written to a temporary file and renamed, so it is always whole
    <root>/<id>/config.json   the configuration as it was at create; later edits in the bundle have no effect
    <root>/<id>/exec.fifo     the FIFO that the init waits on
    <root>/<id>/result        a FIFO by which a failed startContainer hook reaches `start`, where there are such hooks

The status is not stored but found out: from the process (its pid and its start time, so that a reused pid never
counts), from the FIFO (it has a reader as long as the program has not been executed) and from the freezer.
"""

from __future__ import annotations

import posix
from errno import ENXIO

from pyruntime.cgroups.frozen import is_frozen
from pyruntime.errors import RuntimeFailure
from pyruntime.kernel.pids import start_time
from pyruntime.spec import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.cgroups.manager import Manager

S_IFMT, S_IFIFO = 0o170000, 0o010000

STATE = "state.json"
CONFIG = "config.json"
START = "exec.fifo"  # the name that other runtimes give it, and that searches for leaked descriptors know
RESULT = "result"
FILTERS = ".filters"  # below the state root; the name can be no container id, and list() skips it

CREATING, CREATED, RUNNING, PAUSED, STOPPED = "creating", "created", "running", "paused", "stopped"


class NoContainer(RuntimeFailure):
    """There is no container with this id. Engines look for "does not exist"."""


class Damaged(RuntimeFailure):
    """What state.json says cannot be used."""


# What every verb relies on. A later version may know more; one that means something else by these uses other names.
MEMBERS: dict[str, type] = {
    "id": str, "pid": int, "started": int, "stage": str, "ociVersion": str, "bundle": str, "rootfs": str,
    "created": str, "annotations": dict, "privatePid": bool, "hooks": dict, "startHooks": bool, "hasProcess": bool,
    "cgroup": dict,
}  # fmt: skip
DRIVERS = ("v1", "v2", "systemd", "disabled")


class Record:
    """One container's directory and what state.json says."""

    __slots__ = ("data", "directory", "id")

    def __init__(self, root: str, container_id: str, data: dict[str, Any]) -> None:
        self.id = container_id
        self.directory = f"{root}/{container_id}"
        self.data = data

    def save(self) -> None:
        """Replace state.json."""
        from pyruntime.container import directories

        text = jsontext.dumps(self.data).encode("utf-8", "surrogatepass")
        directories.write_file(f"{self.directory}/{STATE}", text)

    def pid(self) -> int:
        """The init's pid if it is alive (a zombie is not), else 0."""
        pid: int = self.data["pid"]
        return pid if pid and start_time(pid) == self.data["started"] else 0

    def cgroup(self) -> Manager:
        """The manager of the container's cgroup."""
        from pyruntime.cgroups import manager

        return manager.load(self.data["cgroup"])

    def has_cgroup(self) -> bool:
        """Whether the container was given a cgroup; `disabled` gives none."""
        return bool(self.data["cgroup"].get("paths"))

    def config(self) -> dict[str, Any]:
        """The configuration that the container was created with."""
        try:
            data = jsontext.read_file(f"{self.directory}/{CONFIG}")
        except OSError as error:
            raise RuntimeFailure(f"cannot read {self.directory}/{CONFIG}: {error.strerror}") from None
        value: dict[str, Any] = jsontext.loads(data, CONFIG, surrogates=True)  # type: ignore[assignment]
        return value

    def status(self) -> tuple[str, int]:
        """(status, pid): one of the spec's words or `paused`; the pid is 0 when stopped."""
        pid = self.pid()
        if not pid:
            return STOPPED, 0
        if self.data["stage"] == CREATING:
            return CREATING, pid
        if self.waits_for_start():
            # A created container may be frozen too; what counts is that it can be started.
            return (PAUSED if self.frozen() else CREATED), pid
        return (PAUSED if self.frozen() else RUNNING), pid

    def waits_for_start(self) -> bool:
        """Whether the init still reads the start FIFO. What is not that FIFO is read by nobody."""
        try:
            gate = self.open_gate()
        except RuntimeFailure:
            return False  # deleting must be possible
        if gate < 0:
            return False
        posix.close(gate)
        return True

    def open_gate(self) -> int:
        """The start FIFO for writing, or -1 when the init reads it no more.

        Raises RuntimeFailure when something else has taken its place: what is written to it must not end up elsewhere.
        """
        path = f"{self.directory}/{START}"
        try:
            gate = posix.open(path, posix.O_WRONLY | posix.O_NONBLOCK | posix.O_NOFOLLOW | posix.O_CLOEXEC)
        except OSError as error:
            if error.errno == ENXIO or isinstance(error, FileNotFoundError):
                return -1
            raise RuntimeFailure(f"cannot open {path}: {(error.strerror or '').lower()}") from None
        try:
            mode = posix.fstat(gate).st_mode
        except OSError as error:
            posix.close(gate)
            raise RuntimeFailure(f"cannot look at {path}: {(error.strerror or '').lower()}") from None
        if mode & S_IFMT != S_IFIFO:
            posix.close(gate)
            raise RuntimeFailure(f"{path} is not the FIFO that create has made: delete --force removes the container")
        return gate

    def frozen(self) -> bool:
        """Whether the freezer holds the processes of the container's cgroup."""
        return is_frozen(self.data["cgroup"].get("paths") or {})

    def describe(self) -> dict[str, Any]:
        """The state document. Runtime spec, "State"; the additional members are runc's."""
        status, pid = self.status()
        return self.document(status, pid)

    def document(self, status: str, pid: int) -> dict[str, Any]:
        """The state document with a given status and pid."""
        data = self.data
        document = {
            "ociVersion": data["ociVersion"],
            "id": self.id,
            "pid": pid,
            "status": status,
            "bundle": data["bundle"],
            "rootfs": data["rootfs"],
            "created": data["created"],
        }
        if data["annotations"]:
            document["annotations"] = data["annotations"]
        document["owner"] = ""
        return document

    def state_text(self, status: str, pid: int) -> bytes:
        """The state document as hooks and agents get it."""
        return jsontext.dumps(self.document(status, pid)).encode("utf-8", "surrogatepass")

    def remove(self) -> None:
        """Remove the directory. Only names that we make are touched; repeating it is fine."""
        from pyruntime.container import directories

        directories.remove_directory(self.directory)

    def lock(self) -> int:
        """Exclude other verbs that change this container; held until the descriptor is closed."""
        import fcntl

        try:
            descriptor = posix.open(self.directory, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
        except FileNotFoundError:
            raise NoContainer("container does not exist") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            posix.close(descriptor)
            raise RuntimeFailure(f"cannot lock {self.directory}: {(error.strerror or '').lower()}") from None
        return descriptor


def open_container(root: str, container_id: str) -> Record:
    """The container's record. Raises NoContainer."""
    directory = f"{root}/{container_id}"
    try:
        descriptor = posix.open(
            f"{directory}/{STATE}", posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW | posix.O_NONBLOCK
        )
    except (FileNotFoundError, NotADirectoryError):
        raise NoContainer("container does not exist") from None
    except OSError as error:
        raise RuntimeFailure(f"cannot open {directory}/{STATE}: {(error.strerror or '').lower()}") from None
    try:
        # Whoever can write here decides which pids get signals: it must be us.
        if posix.fstat(descriptor).st_uid not in (0, posix.geteuid()):
            raise RuntimeFailure(f"{directory}/{STATE} belongs to another user")
        chunks = []
        while chunk := posix.read(descriptor, 1 << 16):
            chunks.append(chunk)
    except OSError as error:
        raise RuntimeFailure(f"cannot read {directory}/{STATE}: {(error.strerror or '').lower()}") from None
    finally:
        posix.close(descriptor)
    advice = "delete --force removes the container"
    try:
        data = jsontext.loads(b"".join(chunks), STATE, surrogates=True)
    except RuntimeFailure as error:
        raise Damaged(f"{directory}/{STATE} is damaged ({error}); {advice}") from None
    if not isinstance(data, dict) or data.get("id") != container_id:
        raise Damaged(f"{directory}/{STATE} is damaged; {advice}")
    for name, kind in MEMBERS.items():
        if type(data.get(name)) is not kind:
            raise Damaged(f"{directory}/{STATE} is damaged, or of another version ({name}); {advice}")
    if data["cgroup"].get("driver") not in DRIVERS:
        raise Damaged(f"{directory}/{STATE} is damaged, or of another version (cgroup); {advice}")
    return Record(root, container_id, data)
