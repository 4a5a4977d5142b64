"""Names, sysctls and the loopback interface: what belongs to a namespace rather than to a process."""

from __future__ import annotations

import posix

from pyruntime.kernel import loopback
from pyruntime.kernel.libc import NR, syscall
from pyruntime.kernel.paths import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, openat2
from pyruntime.plan.step import Place, Step


class SetHostname(Step):
    """`hostname`."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name.encode()

    def describe(self) -> str:
        return f"set the host name to {self.name.decode()}"

    def apply(self, place: Place) -> None:
        syscall(NR["sethostname"], self.name, len(self.name))


class SetDomainname(Step):
    """`domainname`, the NIS domain of setdomainname(2)."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name.encode()

    def describe(self) -> str:
        return f"set the domain name to {self.name.decode()}"

    def apply(self, place: Place) -> None:
        syscall(NR["setdomainname"], self.name, len(self.name))


class LoopbackUp(Step):
    """Bring `lo` up in the new network namespace."""

    __slots__ = ()

    def describe(self) -> str:
        return "bring the loopback interface up"

    def apply(self, place: Place) -> None:
        loopback.up()


class SetSysctl(Step):
    """One entry of linux.sysctl, written through a procfs that the container has never seen (CVE-2025-52881)."""

    __slots__ = ("key", "path", "value")

    def __init__(self, key: str, value: str) -> None:
        self.key = key
        # sysctl(8): with dots as separators, slashes stand for dots inside a component, and the other way round.
        dot, slash = key.find("."), key.find("/")
        dotted = slash < 0 or 0 <= dot < slash
        self.path = b"sys/" + (key.translate({46: "/", 47: "."}) if dotted else key).encode()
        self.value = value.encode()

    def describe(self) -> str:
        return f"set sysctl {self.key} to {self.value.decode()}"

    def apply(self, place: Place) -> None:
        resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
        descriptor = openat2(place.proc, self.path, posix.O_WRONLY, resolve)
        try:
            posix.write(descriptor, self.value)
        finally:
            posix.close(descriptor)
