"""Hooks: programs of the configuration that run at six points of a container's life.

A hook gets the state document on stdin, exactly its own environment (an image's LD_PRELOAD must not reach a program of
the host, CVE-2025-23266), the bundle as working directory and no descriptor of ours. stdin, output and the timeout are
served in one loop, so that no hook can block us by not reading or by writing without end. Runtime spec, "POSIX-platform
Hooks".
"""

from __future__ import annotations

import _signal
import posix
import select
from time import monotonic

from pyruntime.errors import RuntimeFailure
from pyruntime.kernel.execve import Vector, execve
from pyruntime.kernel.processes import ENDING, clone, close_from, pidfd_open
from pyruntime.plan.process import ResetSignals
from pyruntime.plan.step import Place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

KEPT_OUTPUT = 64 << 10
_signals = ResetSignals()
_nowhere = Place()


# crun's annotations: files that get what hooks write, instead of an error message when one fails. Not those of
# startContainer, which run where such a path means something else.
_STREAMS = (("run.oci.hooks.stdout", 1), ("run.oci.hooks.stderr", 2))
_streams: dict[int, int] = {}  # standard descriptor of a hook -> the file that takes its place


def follow_annotations(annotations: dict[str, str]) -> None:
    """Let hooks of this process write where the annotations say. Raises RuntimeFailure."""
    for name, number in _STREAMS:
        path = annotations.get(name)
        if path and number not in _streams:
            flags = posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND | posix.O_NOCTTY | posix.O_CLOEXEC
            try:
                _streams[number] = posix.open(path, flags, 0o644)
            except (OSError, ValueError) as error:
                why = (error.strerror or "").lower() if isinstance(error, OSError) else str(error)
                raise RuntimeFailure(f"annotation {name}: open {path}: {why}") from None


class Hook:
    """One entry of a hook list, ready to run."""

    __slots__ = ("arguments", "environment", "kind", "number", "path", "timeout")

    def __init__(self, kind: str, number: int, entry: dict[str, Any]) -> None:
        self.kind = kind
        self.number = number
        self.path = entry["path"].encode("utf-8", "surrogateescape")
        words = entry.get("args") or [entry["path"]]
        self.arguments = Vector([word.encode("utf-8", "surrogateescape") for word in words])
        self.environment = Vector([word.encode("utf-8", "surrogateescape") for word in entry.get("env") or []])
        self.timeout: int | None = entry.get("timeout")


def run_hooks(
    kind: str, entries: list[dict[str, Any]], state: bytes, directory: str, enter: Callable[[], None] | None = None
) -> None:
    """Run a hook list in order; the first failure raises RuntimeFailure and ends the list.

    `enter`, called in the hook's process, moves it into the container's namespaces.
    """
    for number, entry in enumerate(entries):
        failure = run_hook(Hook(kind, number, entry), state, directory.encode("utf-8", "surrogateescape"), enter)
        if failure:
            raise RuntimeFailure(f"error running {kind} hook #{number}: {failure}")


def run_hook(
    hook: Hook,
    state: bytes,
    directory: bytes,
    enter: Callable[[], None] | None = None,
    become: Callable[[], None] | None = None,
) -> str:
    """Run one hook to its end. Returns "" or what went wrong.

    In the hook's process `enter` is called first, to change namespaces, and `become` last, to give up privileges.
    """
    in_read, in_write = posix.pipe2(posix.O_CLOEXEC)
    out_read, out_write = posix.pipe2(posix.O_CLOEXEC)
    # A signal between the clone and the hook's own handlers must not have both processes undo the container.
    before = _signal.pthread_sigmask(_signal.SIG_BLOCK, ENDING)
    pid = clone(0)
    if pid == 0:
        try:
            _become(hook, in_read, out_write, directory, enter, become)
        except OSError as error:
            posix.write(2, b"cannot run " + hook.path + b": " + (error.strerror or "").encode() + b"\n")
        finally:
            posix._exit(127)
    pidfd = -1
    try:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, before)
        posix.close(in_read)
        posix.close(out_write)
        pidfd = pidfd_open(pid)
        output, timed_out = _serve(pid, pidfd, in_write, out_read, state, hook.timeout)
    except BaseException:
        _kill_group(pid)  # we are told to end: a hook without us has nobody to wait for
        posix.waitpid(pid, 0)
        raise
    finally:
        for descriptor in (in_write, out_read, pidfd):
            try:
                posix.close(descriptor)
            except OSError:
                pass  # _serve closes stdin when it is written
    _, status = posix.waitpid(pid, 0)
    name = hook.path.decode("utf-8", "replace")
    said = output.decode("utf-8", "replace").strip()
    said = f", output: {said[-500:]!r}" if said else ""
    if timed_out:
        return f"{name}: hook ran past specified timeout of {hook.timeout}s{said}"
    if posix.WIFSIGNALED(status):
        return f"{name}: signal: {signal_words(posix.WTERMSIG(status))}{said}"
    code = posix.WEXITSTATUS(status)
    return f"{name}: exit status {code}{said}" if code else ""


def poststop_warning(number: int, failure: str) -> str:
    """What is said of a poststop hook that failed: runc's words for which one, crun's for how."""
    how = failure.replace(": exit status ", ": poststop hook failed with exit code ", 1)
    return f"error running poststop hook #{number}: {how}"


def signal_words(number: int) -> str:
    """What a signal is called in other runtimes' messages: `killed`, `bad system call`; its number otherwise.

    A table and not signal.strsignal: for startContainer hooks this runs inside the container, where nothing may be
    imported and no locale be asked.
    """
    return _SIGNALS.get(number, str(number))


_SIGNALS = {
    1: "hangup", 2: "interrupt", 3: "quit", 4: "illegal instruction", 5: "trace/breakpoint trap", 6: "aborted",
    7: "bus error", 8: "floating point exception", 9: "killed", 11: "segmentation fault", 13: "broken pipe",
    14: "alarm clock", 15: "terminated", 24: "CPU time limit exceeded", 25: "file size limit exceeded",
    31: "bad system call",
}  # fmt: skip


def _become(
    hook: Hook,
    stdin: int,
    output: int,
    directory: bytes,
    enter: Callable[[], None] | None,
    become: Callable[[], None] | None,
) -> None:
    posix.setpgid(0, 0)  # so that a timeout ends what the hook started as well
    posix.dup2(stdin, 0)
    posix.dup2(_streams.get(1, output), 1)
    posix.dup2(_streams.get(2, output), 2)
    if enter is not None:
        enter()
    posix.chdir(directory)
    close_from(3)
    posix.umask(0o022)
    _signals.apply(_nowhere)
    if become is not None:
        become()
    execve(hook.path, hook.arguments, hook.environment)


def _kill_group(pid: int) -> None:
    """The hook with what it has started, or the hook alone as long as it has not made itself a group."""
    try:
        posix.killpg(pid, 9)
    except ProcessLookupError:
        posix.kill(pid, 9)


def _serve(pid: int, pidfd: int, stdin: int, output: int, state: bytes, timeout: int | None) -> tuple[bytes, bool]:
    """Feed the state, keep the end of the output, wait for the exit. Returns (output, timed out)."""
    deadline = monotonic() + timeout if timeout is not None else None
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(output, select.POLLIN)
    if state:
        poll.register(stdin, select.POLLOUT)
        posix.set_blocking(stdin, False)
    else:
        posix.close(stdin)
    kept = b""
    while True:
        left = None if deadline is None else max(0.0, deadline - monotonic())
        events = dict(poll.poll(None if left is None else left * 1000 + 1))
        if deadline is not None and monotonic() >= deadline and pidfd not in events:
            _kill_group(pid)
            return kept, True
        if stdin in events:
            try:
                state = state[posix.write(stdin, state) :]
            except BlockingIOError:
                pass
            except OSError:
                state = b""  # the hook does not want to know
            if not state:
                poll.unregister(stdin)
                posix.close(stdin)
                stdin = -1
        if output in events:
            chunk = posix.read(output, 65536)
            kept = (kept + chunk)[-KEPT_OUTPUT:]
            if not chunk:
                poll.unregister(output)
        if pidfd in events:
            # What is in the pipe belongs to the message; a daemon that keeps it open must not hold us up.
            posix.set_blocking(output, False)
            try:
                kept = (kept + posix.read(output, 65536))[-KEPT_OUTPUT:]
            except BlockingIOError:
                pass
            return kept, False
