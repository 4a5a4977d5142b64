"""linux.seccomp → the filter, and the step that loads it. See seccomp(2).

The runtime process makes everything ready: the program lies in memory where the kernel can read it, and loading it is
one system call. After it the container's process may not be able to make any other call that it has not been allowed,
so nothing follows but execve(2).
"""

from __future__ import annotations

import posix
from errno import EACCES, EINVAL

from pyruntime.errors import SpecError
from pyruntime.kernel.seccomp import (
    FLAG_LOG,
    FLAG_NEW_LISTENER,
    FLAG_SPEC_ALLOW,
    FLAG_TSYNC,
    FLAG_TSYNC_ESRCH,
    FLAG_WAIT_KILLABLE_RECV,
    Program,
)
from pyruntime.plan.seccomp_cache import FORMAT, Cache
from pyruntime.plan.step import Place, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.plan.seccomp_listener import Listener

FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": FLAG_TSYNC,
    "SECCOMP_FILTER_FLAG_LOG": FLAG_LOG,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": FLAG_SPEC_ALLOW,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": FLAG_WAIT_KILLABLE_RECV,
}
NOTIFY = "SCMP_ACT_NOTIFY"

STRICT = "run.oci.seccomp_fail_unknown_syscall"
"""Annotation: with the value 1 a name that libseccomp does not know is an error (`strict` of `compile_filter`)."""


class Filter:
    """A compiled filter: `program` is an array of struct sock_filter, `flags` are seccomp(2)'s, `notify`: it asks."""

    __slots__ = ("flags", "notify", "program", "warnings")

    def __init__(self, program: bytes, flags: int, notify: bool, warnings: list[str]) -> None:
        self.program = program
        self.flags = flags
        self.notify = notify
        self.warnings = warnings


def compile_filter(section: dict[str, Any], cache_dir: str | None = None, strict: bool = False) -> Filter | None:
    """Compile a checked `linux.seccomp`, or take the result from `cache_dir` (a directory, made if missing).

    None when the section asks for nothing. `strict`: a name that libseccomp does not know is an error instead of
    skipped. Raises SpecError and RuntimeFailure. Must run before any file of a container is reachable.
    """
    if not section.get("defaultAction") and not section.get("syscalls"):
        return None
    notify = section["defaultAction"] == NOTIFY
    for entry in section.get("syscalls") or ():
        notify = notify or entry["action"] == NOTIFY
    flags = _flags(section, notify)

    key = _key(section, strict)
    cache = Cache(cache_dir) if cache_dir else None
    program = cache.find(key) if cache else None
    warnings: list[str] = []
    if program is None:
        from pyruntime.kernel.libseccomp import Library, where
        from pyruntime.plan.seccomp_rules import compile_rules

        program, warnings = compile_rules(section, Library(), strict)
        if cache:
            cache.keep(key, where(), program)
    if cache:
        cache.close()
    return Filter(program, flags, notify, warnings)


def _key(section: dict[str, Any], strict: bool) -> bytes:
    # repr is the fastest complete text of the section: 0.1 ms for a profile of 400 names.
    system = posix.uname()
    text = repr((FORMAT, strict, system.machine, system.release, system.version, section))
    return text.encode("utf-8", "surrogatepass")


def _flags(section: dict[str, Any], notify: bool) -> int:
    names = section.get("flags")
    if names is None:
        # Without it every program in the container pays for a mitigation that is long superseded; runc does the same.
        flags = FLAG_SPEC_ALLOW
    else:
        flags = 0
        for index, name in enumerate(names):
            if name not in FLAGS:
                raise SpecError(f"linux.seccomp.flags[{index}]", f"{name!r} is not one of {', '.join(FLAGS)}")
            flags |= FLAGS[name]
    if notify:
        flags |= FLAG_NEW_LISTENER
        if flags & FLAG_TSYNC:
            flags |= FLAG_TSYNC_ESRCH  # the kernel wants it, the result cannot be a thread id and a descriptor
    elif flags & FLAG_WAIT_KILLABLE_RECV:
        raise SpecError("linux.seccomp.flags", f"SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs a rule with {NOTIFY}")
    return flags


class InstallSeccomp(Step):
    """Load the filter; with a listener, hand the listener's descriptor over before anything else happens."""

    __slots__ = ("_program", "_text", "listener")

    def __init__(self, compiled: Filter, listener: Listener | None = None) -> None:
        self._program = Program(compiled.program, compiled.flags)
        self._text = f"load the seccomp filter ({len(compiled.program) // 8} instructions)"
        self.listener = listener

    def describe(self) -> str:
        return self._text

    def explain(self, errno: int) -> str:
        if self.listener is not None:
            return f"the filter, or the message to {self.listener.path}"
        if errno == EACCES:
            return "it needs CAP_SYS_ADMIN or process.noNewPrivileges"
        return "the kernel refuses the filter or one of linux.seccomp.flags" if errno == EINVAL else ""

    def apply(self, place: Place) -> None:
        if self.listener is None:
            self._program.load()
        else:
            self.listener.load(self._program)
