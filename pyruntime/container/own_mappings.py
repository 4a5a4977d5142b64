"""The mappings of a new user namespace for which the configuration has none: those that the caller can give.

The specification leaves them out without a word about what then; runc refuses, crun does this. The caller becomes the
user that the process runs as, and the ids that /etc/subuid and /etc/subgid grant it fill the room around that one:
newuidmap(1) accepts exactly these of an ordinary user, and root without an entry there shares nothing but its own id.
"""

from __future__ import annotations

import os
import pwd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.spec.types import IdMapping


def complete(spec: Any) -> None:
    """Write `uidMappings` and `gidMappings` into a checked configuration that wants a new user namespace."""
    user = (spec.get("process") or {}).get("user") or {}
    linux = spec["linux"]
    linux["uidMappings"] = around(user.get("uid", 0), os.geteuid(), granted("/etc/subuid"))
    linux["gidMappings"] = around(user.get("gid", 0), os.getegid(), granted("/etc/subgid"))


def around(inside: int, own: int, subordinate: tuple[int, int] | None) -> list[IdMapping]:
    """`own` as the id `inside`, with the ids of the range `subordinate` (the first, how many) below and above it.

    Without a range there is nothing below it, and root has to be there: `own` is root then.
    """
    if subordinate is None:
        return [{"containerID": 0, "hostID": own, "size": 1}]
    first, count = subordinate
    below = min(inside, count)
    found: list[IdMapping] = []
    if below:
        found.append({"containerID": 0, "hostID": first, "size": below})
    found.append({"containerID": inside, "hostID": own, "size": 1})
    # Not beyond 4294967294: the last number is no id.
    above = min(count - below, 0xFFFFFFFE - inside)
    if above > 0:
        found.append({"containerID": inside + 1, "hostID": first + below, "size": above})
    return found


def granted(path: str) -> tuple[int, int] | None:
    """The first range (the first id, how many) that a file like /etc/subuid grants the caller. See subuid(5)."""
    names = {b"%d" % os.geteuid()}
    try:
        names.add(os.fsencode(pwd.getpwuid(os.geteuid()).pw_name))
    except KeyError:
        pass  # a user without a name may still be there by number
    try:
        with open(path, "rb") as file:
            lines = file.read().split(b"\n")
    except OSError:
        return None
    for line in lines:
        name, _, numbers = line.partition(b":")
        first, _, count = numbers.partition(b":")
        if name not in names or not first.isdigit() or not count.isdigit():
            continue
        if int(count) and int(first) + int(count) <= 0xFFFFFFFF:
            return int(first), int(count)
    return None
