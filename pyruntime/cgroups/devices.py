"""`linux.resources.devices`: which device nodes a container may make and open.

The rules are applied in their order to the list that cgroup v1 keeps in the kernel (security/device_cgroup.c): a
default, and exceptions from it. `DeviceList` keeps the same list here, so that a rule the kernel would silently
ignore is an error, and so that the program for cgroup v2 (devices_bpf.py) decides exactly as v1 would.
"""

from __future__ import annotations

from pyruntime.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FIELD = "linux.resources.devices"

ANY = -1
"""Any major or minor number: `*` in a rule."""

Rule = tuple[bool, str, int, int, str]
"""allow, type (a, b or c), major, minor, access (letters of r, w, m)."""

# Making a node is harmless while opening it is not allowed. The others are the nodes that every container gets (the
# default devices of the runtime spec), its terminals, and /dev/net/tun, which engines have come to rely on.
DEFAULT: tuple[Rule, ...] = (
    (True, "c", ANY, ANY, "m"),
    (True, "b", ANY, ANY, "m"),
    (True, "c", 1, 3, "rwm"),  # null
    (True, "c", 1, 8, "rwm"),  # random
    (True, "c", 1, 7, "rwm"),  # full
    (True, "c", 5, 0, "rwm"),  # tty
    (True, "c", 1, 5, "rwm"),  # zero
    (True, "c", 1, 9, "rwm"),  # urandom
    (True, "c", 136, ANY, "rwm"),  # pts/*
    (True, "c", 5, 2, "rwm"),  # ptmx
    (True, "c", 10, 200, "rwm"),  # net/tun
)

DENY_ALL: Rule = (False, "a", ANY, ANY, "rwm")


def rules(resources: dict[str, Any] | None) -> list[Rule]:
    """The rules in their order, the defaults appended. Raises SpecError for one that cannot be applied.

    A list that does not begin with a rule about everything begins from "nothing is allowed", not from what the parent
    cgroup happens to allow: a device that is neither listed nor a default is not reachable.
    """
    result: list[Rule] = []
    for index, entry in enumerate((resources or {}).get("devices") or ()):
        field = f"{FIELD}[{index}]"
        kind = entry.get("type") or "a"
        access = (entry.get("access") or "").replace("a", "")
        if "allow" not in entry:
            raise SpecError(field + ".allow", "is missing; a device rule says true (allow) or false (deny)")
        if kind not in ("a", "b", "c"):
            raise SpecError(field + ".type", f"must be a (all), b (block) or c (character), got {kind!r}")
        if not access or access.strip("rwm"):
            raise SpecError(field + ".access", f"must be one or more of the letters r, w and m, got {access!r}")
        major, minor = entry.get("major"), entry.get("minor")
        result.append((
            bool(entry["allow"]), kind, ANY if major is None else major, ANY if minor is None else minor, access
        ))  # fmt: skip
    if not result or result[0][1] != "a":
        result.insert(0, DENY_ALL)
    result += DEFAULT
    if any(not allow and kind != "a" for allow, kind, _, _, _ in result):
        DeviceList(result)  # only a denial of something particular can be one that the kernel would ignore
    return result


def line(rule: Rule) -> bytes:
    """The rule as devices.allow and devices.deny take it."""
    _, kind, major, minor, access = rule
    if kind == "a":
        return b"a *:* rwm"
    return f"{kind} {'*' if major == ANY else major}:{'*' if minor == ANY else minor} {access}".encode()


class DeviceList:
    """The device list of one cgroup: what holds by default, and the exceptions from it."""

    __slots__ = ("allow", "exceptions")

    def __init__(self, rules: list[Rule] | tuple[Rule, ...] = ()) -> None:
        self.allow = False
        self.exceptions: dict[tuple[str, int, int], str] = {}
        for rule in rules:
            self.apply(rule)

    def apply(self, rule: Rule) -> None:
        """One write to devices.allow or devices.deny."""
        allow, kind, major, minor, access = rule
        if kind == "a":  # the kernel looks neither at the numbers nor at the access of such a rule
            self.allow = allow
            self.exceptions.clear()
            return
        key = (kind, major, minor)
        there = self.exceptions.get(key, "")
        if allow != self.allow:
            self.exceptions[key] = "".join(c for c in "rwm" if c in there or c in access)
            return
        # Taking an exception back works for exactly the same numbers only. A narrower rule is ignored by the kernel
        # without an answer: somebody would believe that a device is denied that is not.
        for wider in ((kind, ANY, minor), (kind, major, ANY), (kind, ANY, ANY)):
            if wider != key and set(self.exceptions.get(wider, "")) & set(access):
                what = line(rule).decode()
                hole = line((allow, *wider, self.exceptions[wider])).decode()
                verb = "allow" if allow else "deny"
                raise SpecError(
                    FIELD,
                    f"cannot {verb} {what!r}: the earlier rule {hole!r} covers it, and device lists "
                    f"have no "
                    f"exceptions from exceptions; name the devices of the earlier rule one by one",
                )
        left = "".join(c for c in there if c not in access)
        if left:
            self.exceptions[key] = left
        else:
            self.exceptions.pop(key, None)

    def allows(self, kind: str, major: int, minor: int, access: str) -> bool:
        """Whether every letter of `access` is allowed for this device, as the kernel decides it.

        With "nothing" as the default one single exception must cover the whole access (rw is not allowed by one
        exception for r and another for w); with "everything" any exception that touches a letter denies it.
        """
        wanted = set(access)
        for (a_kind, a_major, a_minor), letters in self.exceptions.items():
            if a_kind == kind and a_major in (ANY, major) and a_minor in (ANY, minor):
                if not self.allow and wanted <= set(letters):
                    return True
                if self.allow and wanted & set(letters):
                    return False
        return self.allow
