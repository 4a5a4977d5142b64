"""What the kernel and our own process allow, read once by the runtime process and handed to the planners."""

from __future__ import annotations

import posix


class Facts:
    """Everything that planning a process' attributes needs to know about the host."""

    __slots__ = ("apparmor", "bounding", "last_capability", "permitted", "selinux", "setgroups", "user_namespace")

    def __init__(
        self,
        *,
        last_capability: int = 40,
        permitted: int = (1 << 41) - 1,
        bounding: int = (1 << 41) - 1,
        apparmor: bool = False,
        selinux: bool = False,
        setgroups: bool = True,
        user_namespace: bool = False,
    ) -> None:
        self.last_capability = last_capability  # highest capability number of this kernel
        self.permitted = permitted  # what the process that applies the plan may have, a bit mask
        self.bounding = bounding
        self.apparmor = apparmor  # the kernel module is there and enabled
        self.selinux = selinux
        self.setgroups = setgroups  # whether setgroups(2) is allowed (user_namespaces(7), "setgroups file")
        self.user_namespace = user_namespace  # the process lives in a user namespace that the container brings

    def in_user_namespace(self, setgroups: bool) -> Facts:
        """The facts as they are for a process that was born in, or has joined, the container's user namespace.

        The kernel gives it every capability there is (user_namespaces(7)), whatever we have ourselves.
        """
        everything = (1 << (self.last_capability + 1)) - 1
        return Facts(
            last_capability=self.last_capability,
            permitted=everything,
            bounding=everything,
            apparmor=self.apparmor,
            selinux=self.selinux,
            setgroups=setgroups,
            user_namespace=True,
        )


def read_facts(labels: bool = False) -> Facts:
    """Ask the kernel. `labels`: also ask whether security modules are on, which costs two more file accesses."""
    permitted = bounding = 0
    # Not to be guessed: a container would get less than it asks for.
    for line in _read("/proc/self/status", needed=True).split(b"\n"):
        if line.startswith(b"CapPrm:"):
            permitted = int(line[7:], 16)
        elif line.startswith(b"CapBnd:"):
            bounding = int(line[7:], 16)
    last = _read("/proc/sys/kernel/cap_last_cap").strip()
    return Facts(
        # The file is missing when /proc/sys is masked; then the bounding set's highest bit is the best answer.
        last_capability=int(last) if last.isdigit() else max(bounding.bit_length() - 1, 0),
        permitted=permitted,
        bounding=bounding,
        apparmor=labels and _read("/sys/module/apparmor/parameters/enabled")[:1] == b"Y",
        selinux=labels and _selinux(),
        setgroups=_read("/proc/self/setgroups").strip() != b"deny",
    )


def _selinux() -> bool:
    # As libselinux tells: the pseudo file system is known to the kernel and there is a policy, so that a process has
    # a label other than "kernel".
    if b"selinuxfs\n" not in _read("/proc/filesystems"):
        return False
    return _read("/proc/self/attr/current").rstrip(b"\0\n") not in (b"", b"kernel")


def _read(path: str, needed: bool = False) -> bytes:
    """What a small file holds; unless it is `needed`, one that cannot be read is as good as empty."""
    try:
        descriptor = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        if needed:
            raise
        return b""
    try:
        return posix.read(descriptor, 8192)
    except OSError as error:
        if needed:
            error.filename = path
            raise
        return b""
    finally:
        posix.close(descriptor)
