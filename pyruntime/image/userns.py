"""Unpacking with other ids: a child in a user namespace, where the kernel does all the translation.

Owners, ACLs and file capabilities all hold ids; inside a namespace with the container's mapping they are written as the
layer has them and land on disk mapped. Root may use any mapping; everybody else gets the own id as 0 and the ranges
that /etc/subuid and /etc/subgid grant, through newuidmap(1) and newgidmap(1). See user_namespaces(7).
"""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from typing import Any

from pyruntime.errors import RuntimeFailure
from pyruntime.image import documents
from pyruntime.image.documents import ImageError, text
from pyruntime.image.stream import import_codecs
from pyruntime.kernel.processes import prctl, unshare
from pyruntime.spec import jsontext

CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_RANGE = re.compile(r"([0-9]{1,10}):([0-9]{1,10}):([0-9]{1,10})")

Map = list[tuple[int, int, int]]
"""(first id in the container, first id on the host, how many), as the lines of /proc/PID/uid_map."""


class Mapping:
    """The two maps of a user namespace."""

    __slots__ = ("gids", "uids")

    def __init__(self, uids: Map, gids: Map) -> None:
        self.uids = uids
        self.gids = gids

    def root(self) -> tuple[int, int]:
        """The ids on the host of the container's root. Raises ImageError if it has none."""
        return _outside(self.uids, "--uid-map"), _outside(self.gids, "--gid-map")

    def key(self) -> str:
        """One word for this mapping, fit for a file name."""
        return hashlib.sha256(repr((self.uids, self.gids)).encode()).hexdigest()[:12]

    def config(self) -> dict[str, Any]:
        """`uidMappings` and `gidMappings` of config.json."""
        names = ("containerID", "hostID", "size")
        return {
            "uidMappings": [dict(zip(names, line, strict=True)) for line in self.uids],
            "gidMappings": [dict(zip(names, line, strict=True)) for line in self.gids],
        }


def _outside(lines: Map, flag: str) -> int:
    for inside, outside, _ in lines:
        if inside == 0:
            return outside
    raise ImageError(f"{flag}: the container's id 0 is not mapped, and its root directory needs an owner")


def parse(values: list[str], flag: str) -> Map:
    """`CONTAINER:HOST:SIZE` of the command line."""
    result: Map = []
    for value in values:
        match = _RANGE.fullmatch(value)
        if not match:
            raise ImageError(f"{flag} {value!r}: expected CONTAINER:HOST:SIZE, three numbers")
        inside, outside, size = (int(part) for part in match.groups())
        if not size or inside + size > 1 << 32 or outside + size > 1 << 32:
            raise ImageError(f"{flag} {value!r}: no range of ids")
        result.append((inside, outside, size))
    return result


def in_user_namespace() -> bool:
    """Whether we are in a user namespace other than the first one (where no device node can be made)."""
    with open("/proc/self/uid_map", "rb") as file:
        return file.read().split() != [b"0", b"0", b"4294967295"]


def granted() -> Mapping:
    """What the calling user may map: the own ids as root, and all subordinate ids from 1 on."""
    return Mapping(
        [(0, os.geteuid(), 1), *_subordinate("/etc/subuid", os.geteuid(), "newuidmap")],
        [(0, os.getegid(), 1), *_subordinate("/etc/subgid", os.geteuid(), "newgidmap")],
    )


def _subordinate(path: str, uid: int, helper: str) -> Map:
    owners = {str(uid)}
    try:
        owners.add(pwd.getpwuid(uid).pw_name)
    except KeyError:
        pass
    if shutil.which(helper) is None:
        return []
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line.strip().split(":") for line in file]
    except OSError:
        return []
    result: Map = []
    inside = 1
    for fields in lines:
        if len(fields) == 3 and fields[0] in owners and fields[1].isdecimal() and fields[2].isdecimal():
            result.append((inside, int(fields[1]), int(fields[2])))
            inside += int(fields[2])
    return result


def _write_map(pid: int, kind: str, lines: Map) -> None:
    if os.geteuid() == 0 or len(lines) == 1:
        if kind == "gid" and os.geteuid() != 0:
            with open(f"/proc/{pid}/setgroups", "w", encoding="ascii") as file:
                file.write("deny")  # without it the kernel accepts no gid_map of an unprivileged writer
        with open(f"/proc/{pid}/{kind}_map", "w", encoding="ascii") as file:
            file.write("".join(f"{inside} {outside} {size}\n" for inside, outside, size in lines))
        return
    arguments = [str(number) for line in lines for number in line]
    done = subprocess.run([f"new{kind}map", str(pid), *arguments], stderr=subprocess.PIPE, check=False, text=True)
    if done.returncode:
        raise ImageError(f"new{kind}map: {done.stderr.strip()}")


def _preload() -> None:
    """Import what is imported late: the ids in the namespace may have no access to the interpreter's files."""
    text("\x1b")
    "".encode("ascii")
    import_codecs()


def run(mapping: Mapping, work: Callable[[], Any]) -> Any:
    """`work()` as root of a user namespace with `mapping`, in a child. Its result must be JSON.

    Raises what it raised, as RuntimeFailure. Must be called while there is one thread.
    """
    _preload()
    ready_r, ready_w = os.pipe()
    mapped_r, mapped_w = os.pipe()
    answer_r, answer_w = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(ready_r)
            os.close(mapped_w)
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == parent:
                status = _child(ready_w, mapped_r, answer_w, work)
        finally:
            os._exit(status)
    for fd in (ready_w, mapped_r, answer_w):
        os.close(fd)
    old = signal.signal(signal.SIGTERM, lambda number, _: os.kill(pid, number))
    try:
        if os.read(ready_r, 1):
            # The uid map last: it makes the child root, and it is what the child waits for.
            _write_map(pid, "gid", mapping.gids)
            _write_map(pid, "uid", mapping.uids)
            os.write(mapped_w, b"!")
        os.close(mapped_w)
        mapped_w = -1
        with os.fdopen(answer_r, "rb") as file:
            answer = file.read()
    except OSError as error:
        raise ImageError(f"cannot map ids in a user namespace: {error.strerror}") from None
    finally:
        if mapped_w >= 0:
            os.close(mapped_w)
        os.close(ready_r)
        _, status = os.waitpid(pid, 0)
        signal.signal(signal.SIGTERM, old)
    if not answer:
        raise ImageError(f"the unpacking process died with status {os.waitstatus_to_exitcode(status)}")
    result = documents.parse(answer, "answer of the unpacking process")
    if "error" in result:
        raise RuntimeFailure(result["error"])
    return result.get("value")


def _child(ready: int, mapped: int, answer: int, work: Callable[[], Any]) -> int:
    try:
        try:
            unshare(CLONE_NEWUSER)
        except OSError as error:
            raise ImageError(f"cannot make a user namespace: {error.strerror}") from None
        os.write(ready, b"!")
        os.close(ready)
        if not os.read(mapped, 1):
            return 1
        os.setresgid(0, 0, 0)
        try:
            os.setgroups([])
        except PermissionError:
            pass  # denied together with an unprivileged gid_map; the groups we have then map to nobody
        os.setresuid(0, 0, 0)
        prctl(_PR_SET_DUMPABLE, 1)  # changing ids took it away, and with it our own /proc/self/fd
        reply: dict[str, Any] = {"value": work()}
    except KeyboardInterrupt:
        reply = {"error": "interrupted; nothing of the new bundle remains"}
    except Exception as error:  # the parent raises it
        reply = {"error": documents.explain(error)}
    with os.fdopen(answer, "wb") as file:
        file.write(jsontext.dumps(reply).encode("utf-8", "backslashreplace"))
    return 0
