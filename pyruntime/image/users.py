"""Who an image wants to run as: `Config.User`, looked up in the image's own passwd and group files.

image-spec config.md ("User") and conversion.md. The files are data of a stranger: they are opened below the root of the
image only, must be regular files, and are read as bytes up to a limit. A number is never looked up as a name, and
never wraps around (CVE-2016-3697, CVE-2024-40635, CVE-2026-46680).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from pyruntime.image.documents import ImageError, text

PASSWD = b"etc/passwd"
GROUP = b"etc/group"
FILE_MAX = 16 << 20
_GROUPS_MAX = 65536  # NGROUPS_MAX of the kernel
_NUMBER = re.compile(r"[0-9]+")
_ID = re.compile(rb"[0-9]{1,10}")

ReadFile = Callable[[bytes], bytes]
"""Contents of a file of the image; b"" if there is none."""


class User:
    """What becomes of `process.user`."""

    __slots__ = ("additional", "gid", "uid")

    def __init__(self, uid: int, gid: int, additional: list[int]) -> None:
        self.uid = uid
        self.gid = gid
        self.additional = additional

    def config(self) -> dict[str, object]:
        """`process.user` of config.json."""
        result: dict[str, object] = {"uid": self.uid, "gid": self.gid}
        if self.additional:
            result["additionalGids"] = self.additional
        return result


def _lines(raw: bytes, fields: int) -> Iterator[list[bytes]]:
    for line in raw.split(b"\n"):
        parts = line.split(b":")
        if len(parts) >= fields and parts[0]:
            yield parts


def _id(raw: bytes) -> int:
    if not _ID.fullmatch(raw) or int(raw) > 0xFFFFFFFE:
        return -1
    return int(raw)


def _number(part: str, spec: str) -> int | None:
    if not _NUMBER.fullmatch(part):
        return None
    if len(part) > 20 or int(part) > 0xFFFFFFFE:
        raise ImageError(f"user {text(repr(spec))}: {part[:20]} is larger than any id")
    return int(part)


def resolve(spec: str, read: ReadFile) -> User:
    """The ids behind `spec`: `user`, `uid`, `user:group`, `uid:gid` or a mixture. "" is root.

    Raises ImageError if a name is not in the image's files.
    """
    user, colon, group = spec.partition(":")
    if colon and not group:
        raise ImageError(f"user {text(repr(spec))}: no group after the colon")
    name: bytes | None = None
    gid = 0
    uid = _number(user, spec) if user else 0
    if uid is None:
        name = user.encode("utf-8", "surrogateescape")
        for fields in _lines(read(PASSWD), 4):
            if fields[0] == name and _id(fields[2]) >= 0 and _id(fields[3]) >= 0:
                uid, gid = _id(fields[2]), _id(fields[3])
                break
        else:
            raise ImageError(f"user {text(repr(spec))}: {text(user)} is not in the image's /etc/passwd")
    else:
        for fields in _lines(read(PASSWD), 4):
            if _id(fields[2]) == uid and _id(fields[3]) >= 0:
                gid = _id(fields[3])
                name = fields[0]
                break
    if group:
        number = _number(group, spec)
        return User(uid, _group(group, spec, read) if number is None else number, [])
    if _NUMBER.fullmatch(user):
        return User(uid, gid, [])  # conversion.md: no additional groups for a number
    return User(uid, gid, _additional(name, gid, read))


def _group(group: str, spec: str, read: ReadFile) -> int:
    name = group.encode("utf-8", "surrogateescape")
    for fields in _lines(read(GROUP), 3):
        if fields[0] == name and _id(fields[2]) >= 0:
            return _id(fields[2])
    raise ImageError(f"user {text(repr(spec))}: the group {text(group)} is not in the image's /etc/group")


def _additional(name: bytes | None, gid: int, read: ReadFile) -> list[int]:
    found: list[int] = []
    for fields in _lines(read(GROUP), 4):
        if name in fields[3].split(b","):
            number = _id(fields[2])
            if number not in (-1, gid) and number not in found:
                found.append(number)
    if len(found) > _GROUPS_MAX:
        raise ImageError(
            f"user {text(repr(name))}: a member of {len(found)} groups, {_GROUPS_MAX} are the kernel's limit"
        )
    return found
