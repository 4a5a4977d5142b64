"""What `--debug` tells of a container on its way up. Loaded only when somebody listens.

Some lines begin like those of runc's debug log, whose readers look for them: `nsexec`, `child process in init()`,
`setns_init`, `seccomp filter flags`.
"""

from __future__ import annotations

import os

from pyruntime.container import report
from pyruntime.kernel.filesystems import filesystem_type
from pyruntime.kernel.seccomp import FLAG_TSYNC, FLAG_TSYNC_ESRCH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyruntime.plan.step import Step

OVERLAYFS_SUPER_MAGIC = 0x794C7630
TMPFS_MAGIC = 0x01021994


def sealed() -> None:
    """How the interpreter that we are is kept out of the container's reach (kernel/seal.py)."""
    report.debug("runc exeseal: using /proc/self/exe clone")
    descriptor = os.open("/proc/self/exe", os.O_PATH | os.O_CLOEXEC)
    try:
        kind = filesystem_type(descriptor)
    finally:
        os.close(descriptor)
    words = {OVERLAYFS_SUPER_MAGIC: "overlayfs", TMPFS_MAGIC: "a memfd"}.get(kind, "a read-only copy")
    report.debug(f"runc exeseal: using {words} for sealed /proc/self/exe")


def seccomp(flags: int) -> None:
    """The flags the filter is loaded with. TSYNC is left out: the process has one thread, so it says nothing."""
    report.debug(f"seccomp filter flags: {flags & ~(FLAG_TSYNC | FLAG_TSYNC_ESRCH)}")


def host_steps(steps: Sequence[Step]) -> None:
    """What the runtime does itself before there is an init."""
    for step in steps:
        report.debug(f"runtime: {step.describe()}")


def cloned(pid: int, namespaces: str, steps: Sequence[Step]) -> None:
    """The init is there, and what it is going to do."""
    report.debug(f"nsexec container setup: process {pid}: {namespaces}")
    report.debug(f"child process in init(): {len(steps)} steps")
    for step in steps:
        report.debug(f"init: {step.describe()}")


def affinity(cpus: str) -> None:
    """The CPUs that an exec starts on: process.execCPUAffinity.initial."""
    mask = 0
    for part in cpus.replace(" ", "").split(","):
        first, _, last = part.partition("-")
        for cpu in range(int(first), int(last or first) + 1) if part else ():
            mask |= 1 << cpu
    report.debug(f"nsexec[{os.getpid()}]: affinity: {mask:#x}")


def created() -> None:
    """Everything but the program is there."""
    report.debug("init: closing the pipe to signal completion: all steps up to the program are done")


def about_to_exec(program: bytes) -> None:
    """As `created`, of a process that was added to a container."""
    report.debug(f"setns_init: about to exec {program.decode('utf-8', 'replace')}")
