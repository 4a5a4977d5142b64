"""Run a program under ptrace(2); at one chosen system call of one chosen process, kill that process or fail the call.

strace can do either as well, but counts calls per process without telling the processes apart: the third openat of the
runtime and the third of the container's init are one and the same to it. Here a fault is named by its process, by its
number, and by a marker: calls count from the first one of the runtime that names a path with the marker in it, so that
the interpreter's own start does not count; those of its children count until they execute a program.

    tracer.py RESULT ROLE ACTION INDEX MARKER[,MARKER...] -- PROGRAM ARGUMENTS...

INDEX is N or N:NAME, which means the first call of that name from the Nth on. ROLE is `runtime`, the process that is
started, or `child1`, `child2`, ...: what it clones, in that order. ACTION is `record`, `kill`, `stop:SIGNAL` (send a
signal) or an errno with which the call fails without being made. RESULT becomes a JSON document: {"calls": {role:
[[name, text], ...]}, "hit": [name, text] or null}. The exit status is that of the program, or 128 + the number of the
signal that ended it. When the program has ended its children go on untraced.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys

TRACEME, CONT, POKEUSER, SYSCALL, SEIZE = 0, 7, 6, 24, 0x4206
GETEVENTMSG, GET_SYSCALL_INFO = 0x4201, 0x420E
OPTIONS = 0x1 | 0x2 | 0x4 | 0x8 | 0x10  # SYSGOOD, FORK, VFORK, CLONE, EXEC
EVENTS_OF_BIRTH = (1, 2, 3)
EVENT_EXEC = 4
WALL = 0x40000000
ORIG_RAX, RAX = 15 * 8, 10 * 8  # struct user_regs_struct of x86-64
ENTRY, EXIT = 1, 2

# Which argument of a call is a path (or a name): what a marker is looked for in, and what a report shows.
PATHS = {
    "access": 0, "chdir": 0, "chmod": 0, "execve": 0, "lstat": 0, "mkdir": 0, "mknod": 0, "open": 0, "readlink": 0,
    "rename": 1, "rmdir": 0, "stat": 0, "symlink": 1, "unlink": 0, "mount": 1, "umount2": 0, "pivot_root": 0,
    "faccessat": 1, "faccessat2": 1, "fchmodat": 1, "fchmodat2": 1, "linkat": 1, "mkdirat": 1, "mknodat": 1,
    "newfstatat": 1, "openat": 1, "openat2": 1, "readlinkat": 1, "renameat": 3, "statx": 1, "symlinkat": 2,
    "unlinkat": 1, "execveat": 1, "open_tree": 1, "fsopen": 0, "fsconfig": 2, "mount_setattr": 1, "move_mount": 3,
    "sethostname": 0, "memfd_create": 0, "statfs": 0, "chroot": 0,
}  # fmt: skip

# How often they are made depends on the interpreter's mood: not counted, so that a number means the same each time.
UNCOUNTED = frozenset("brk mmap munmap mremap madvise mprotect futex rt_sigreturn".split())

# Calls on a descriptor: what is open there.
DESCRIPTORS = frozenset("read write pread64 fstat getdents64 fchmod fchown fstatfs fsync ftruncate".split())

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
libc.ptrace.restype = ctypes.c_long
seccomp = ctypes.CDLL("libseccomp.so.2")
seccomp.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
seccomp.seccomp_arch_native.restype = ctypes.c_uint32
ARCHITECTURE = seccomp.seccomp_arch_native()
names: dict[int, str] = {}


def ptrace(request: int, pid: int, address: int = 0, data: object = None) -> int:
    result: int = libc.ptrace(request, pid, address, data)
    if result == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def name_of(number: int) -> str:
    if number not in names:
        found = seccomp.seccomp_syscall_resolve_num_arch(ARCHITECTURE, number)
        names[number] = ctypes.string_at(found).decode() if found else str(number)
    return names[number]


def text_at(pid: int, address: int) -> str:
    try:
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            memory.seek(address)
            return memory.read(min(400, 4096 - address % 4096)).split(b"\0")[0].decode("utf-8", "replace")
    except (OSError, ValueError, OverflowError):
        return ""


class Tracer:
    """The processes that are followed, and the one fault."""

    def __init__(self, program: int, role: str, action: str, index: str, marker: str) -> None:
        self.program, self.role, self.action = program, role, action
        number, _, self.name = index.partition(":")
        self.index = int(number)
        self.markers = marker.split(",") if marker else []
        self.roles = {program: "runtime"}
        self.counting = not marker
        self.born_so_far = 0
        self.calls: dict[str, list[tuple[str, str]]] = {}
        self.hit: tuple[str, str] | None = None
        self.failing: int | None = None  # the process whose call is being failed
        self.info = ctypes.create_string_buffer(128)

    def loop(self) -> int:
        while True:
            pid, status = os.waitpid(-1, WALL)
            if os.WIFSTOPPED(status):
                self.stopped(pid, os.WSTOPSIG(status), status >> 16)
            elif pid == self.program:
                return os.waitstatus_to_exitcode(status)

    def stopped(self, pid: int, number: int, event: int) -> None:
        deliver = 0
        try:
            if number == signal.SIGTRAP | 0x80:
                self.at_call(pid)
            elif event in EVENTS_OF_BIRTH:
                message = ctypes.c_ulong()
                ptrace(GETEVENTMSG, pid, 0, ctypes.addressof(message))
                self.born(message.value)
            elif event == EVENT_EXEC and pid != self.program:
                self.roles[pid] = ""  # from here on it is somebody else's program
            elif not event:
                deliver = number
            ptrace(SYSCALL, pid, 0, deliver)
        except ProcessLookupError:
            pass

    def born(self, pid: int) -> None:
        # What the launcher or the seal starts before the marker are no parts of the container.
        self.born_so_far += self.counting
        self.roles[pid] = f"child{self.born_so_far}" if self.counting else ""

    def at_call(self, pid: int) -> None:
        ptrace(GET_SYSCALL_INFO, pid, len(self.info), ctypes.addressof(self.info))
        if self.info.raw[0] == EXIT:
            if self.failing == pid:
                self.failing = None
                ptrace(POKEUSER, pid, RAX, ctypes.c_void_p(-int(self.action) & (1 << 64) - 1))
            return
        role = self.roles.get(pid, "")
        number = int.from_bytes(self.info.raw[24:32], "little")
        name = name_of(number)
        text = ""
        if name in UNCOUNTED:
            return
        if name in PATHS:
            at = 32 + 8 * PATHS[name]
            text = text_at(pid, int.from_bytes(self.info.raw[at : at + 8], "little"))
        elif name in DESCRIPTORS and self.counting:
            try:
                text = os.readlink(f"/proc/{pid}/fd/{int.from_bytes(self.info.raw[32:40], 'little')}")
            except OSError:
                pass
        if not self.counting:
            if pid != self.program or not any(marker in text for marker in self.markers):
                return
            self.counting = True
        if not role:
            return
        made = self.calls.setdefault(role, [])
        made.append((name, text))
        if self.action == "record" or self.hit or role != self.role or len(made) <= self.index:
            return
        if self.name in ("", name):
            self.hit = (name, text)
            if self.action == "kill":
                os.kill(pid, signal.SIGKILL)
            elif self.action.startswith("stop:"):
                os.kill(pid, int(self.action[5:]))
            else:
                ptrace(POKEUSER, pid, ORIG_RAX, ctypes.c_void_p((1 << 64) - 1))
                self.failing = pid


def start(command: list[str]) -> int:
    ready, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go)
        os.read(ready, 1)
        os.close(ready)
        libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: whoever ends a tracer that hangs ends what hangs
        try:
            os.execv(command[0], command)
        finally:
            os._exit(127)
    os.close(ready)
    ptrace(SEIZE, pid, 0, OPTIONS)
    os.write(go, b"g")
    os.close(go)
    return pid


def main() -> int:
    result, role, action, index, marker, _, *command = sys.argv[1:]
    program = start(command)
    # It runs until it asks for a stop: the first is that of its exec, from which on calls are seen.
    tracer = Tracer(program, role, action, index, marker)
    status = tracer.loop()
    with open(result, "w") as file:
        json.dump({"calls": tracer.calls, "hit": tracer.hit}, file)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
