"""Looking at processes and mounts from outside: /proc, waiting, the kernel calls Python has no function for."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import struct
import time
from pathlib import Path
from typing import NamedTuple

libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000
MS_REC, MS_PRIVATE, MS_SHARED, MS_BIND = 0x4000, 0x40000, 0x100000, 0x1000
MNT_DETACH = 2
PR_SET_CHILD_SUBREAPER = 36


def check(result: int, what: str) -> None:
    """Raise OSError if a call of the C library failed."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def mount(source: str | Path, target: str | Path, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    pieces = (os.fsencode(source), os.fsencode(target), kind.encode())
    check(libc.mount(*pieces, ctypes.c_ulong(flags), data.encode() or None), f"mount {target}")


def umount(target: str | Path) -> None:
    """umount2(2), detached so that it never fails for being busy."""
    check(libc.umount2(os.fsencode(target), MNT_DETACH), f"umount {target}")


def isolate(adopt: bool = True, network: bool = True) -> None:
    """Prepare the process that runs cases.

    A mount and a network namespace of its own, so that no mount and no interface of a case or of a runtime reaches the
    host, even if the case is killed; what the cases call the host is this namespace. And it adopts orphans, so that it
    is the parent of every container and can wait for it as a container engine would.
    """
    check(libc.unshare(CLONE_NEWNS | (CLONE_NEWNET if network else 0)), "unshare the mount and network namespaces")
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    if adopt:
        check(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "become a subreaper")


def wait(pid: int, seconds: float) -> int | None:
    """Wait for a child of ours to end. Returns its wait status, or None if it still runs after `seconds`."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return 0
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(seconds * 1000):
            return None
    finally:
        os.close(descriptor)
    try:
        return os.waitpid(pid, 0)[1]
    except ChildProcessError:
        return 0


def children() -> list[int]:
    """Children of this process, adopted ones and zombies included."""
    return [int(word) for word in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()]


def end_children(seconds: float = 5.0) -> None:
    """Kill and reap every child of this process, adopted ones included.

    All are killed before any is waited for: the first process of a pid namespace ends only when the others of that
    namespace have been reaped, and a process that joined it from outside is our child too.
    """
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        for pid in children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)


def alive(pid: int) -> bool:
    """True if the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def status(pid: int | str, field: str) -> str:
    """One field of /proc/PID/status."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return value.strip()
    raise KeyError(field)


def namespace(pid: int | str, kind: str) -> str:
    """Identity of a namespace of a process: `net:[4026531840]`."""
    return os.readlink(f"/proc/{pid}/ns/{kind}")


class Mount(NamedTuple):
    """One line of /proc/PID/mountinfo, see proc(5)."""

    id: int
    parent: int
    device: str
    root: str
    point: str
    options: set[str]
    propagation: set[str]
    type: str
    source: str
    super_options: set[str]


def mounts(text: str) -> list[Mount]:
    """Parse the text of a mountinfo file."""
    found = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        number, parent, device, root, point, options, *tags = left.split(" ")
        kind, source, super_options = right.split(" ", 2)
        found.append(
            Mount(
                int(number), int(parent), device, root, point, set(options.split(",")),
                {tag.partition(":")[0] for tag in tags if tag}, kind, source, set(super_options.split(",")),
            )
        )  # fmt: skip
    return found


def mounts_of(pid: int | str = "self") -> list[Mount]:
    """The mount table a process sees."""
    return mounts(Path(f"/proc/{pid}/mountinfo").read_text())


def sched_attributes(pid: int) -> dict[str, int]:
    """sched_getattr(2) of a process."""
    buffer = ctypes.create_string_buffer(56)
    number = {"x86_64": 315, "aarch64": 275, "riscv64": 275}[os.uname().machine]
    check(libc.syscall(number, pid, buffer, len(buffer), 0), f"sched_getattr {pid}")
    names = ("size", "policy", "flags", "nice", "priority", "runtime", "deadline", "period")
    return dict(zip(names, struct.unpack_from("IIQiIQQQ", buffer.raw), strict=True))


def io_priority(pid: int) -> int:
    """ioprio_get(2) of a process: class in the bits from 13 up, priority below."""
    number = {"x86_64": 252, "aarch64": 31, "riscv64": 31}[os.uname().machine]
    value = int(libc.syscall(number, 1, pid))
    check(value, f"ioprio_get {pid}")
    return value


def has_weighted_interleave() -> bool:
    """Whether set_mempolicy(2) takes MPOL_WEIGHTED_INTERLEAVE, with memory node 0. Our own policy stays the default."""
    number = {"x86_64": 238, "aarch64": 237, "riscv64": 237}[os.uname().machine]
    taken: bool = libc.syscall(number, 6, ctypes.byref(ctypes.c_ulong(1)), ctypes.c_ulong(64)) == 0
    check(libc.syscall(number, 0, None, ctypes.c_ulong(0)), "set_mempolicy")
    return taken
