"""prestart, createRuntime, createContainer: the hooks that run while a container comes up. Runtime spec, "Hooks"."""

from __future__ import annotations

import posix

from pyruntime.container import hooks, init, store
from pyruntime.kernel import processes as p
from pyruntime.plan.namespaces import FILES, KINDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.container.launch import Launch


def run(launch: Launch) -> None:
    """Run the hooks that come before the root file system changes. Raises RuntimeFailure when one fails."""
    assert launch.record is not None
    lists: Any = launch.spec.get("hooks") or {}
    bundle = launch.record.data["bundle"]
    hooks.follow_annotations(launch.record.data["annotations"])
    document = launch.record.state_text(store.CREATED, launch.pid)
    for kind in ("prestart", "createRuntime"):
        if lists.get(kind):
            hooks.run_hooks(kind, lists[kind], document, bundle)
    if lists.get("createContainer"):
        inner = launch.record.state_text(store.CREATED, _inner_pid(launch.pid))
        hooks.run_hooks("createContainer", lists["createContainer"], inner, bundle, lambda: _enter_namespaces(launch))


def _inner_pid(pid: int) -> int:
    """The init's pid as the container sees it: the last of NSpid in /proc/PID/status."""
    descriptor = posix.open(f"/proc/{pid}/status", posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        text = b""
        while part := posix.read(descriptor, 1 << 16):  # thousands of supplementary groups stand before it
            text += part
        for line in text.split(b"\n"):
            if line.startswith(b"NSpid:"):
                return int(line.split()[-1])
    finally:
        posix.close(descriptor)
    return pid


def _enter_namespaces(launch: Launch) -> None:
    """Put a hook's process into the container's namespaces, with the host's root still in front of it.

    setns(2) with a mount namespace sets the root to the topmost mount of that namespace, which is the container's
    root file system by now; the init's own root still is the host's, so that is where we go back to.
    """
    spaces = launch.plan.namespaces
    root = posix.open(f"/proc/{launch.pid}/root", posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
    kinds = spaces.new
    for kind in spaces.paths:
        kinds |= KINDS[kind]
    init.close_imports()  # between the two roots, paths lead into the container
    if kinds & p.CLONE_NEWUSER:
        p.setns(launch.pidfd, p.CLONE_NEWUSER)
    for kind in FILES:
        if kind != "user" and kinds & KINDS[kind]:
            p.setns(launch.pidfd, KINDS[kind])
    posix.fchdir(root)
    posix.chroot(b".")
    if kinds & p.CLONE_NEWPID:
        child = p.clone(0)
        if child:
            posix.close(0)  # with everything else of ours: the hook must see the end of its input
            p.close_from(3)
            _, status = posix.waitpid(child, 0)
            posix._exit(posix.waitstatus_to_exitcode(status) & 0xFF)
