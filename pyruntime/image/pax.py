"""PAX extended headers: records, what they say about an entry, ACLs written as text, sparse maps.

See POSIX pax ("pax Extended Header"), GNU tar's manual ("Storing Sparse Files"), acl(5), and the header
include/uapi/linux/posix_acl_xattr.h for the binary form of an ACL.
"""

from __future__ import annotations

import base64
import binascii
import re
from struct import pack
from typing import TYPE_CHECKING

from pyruntime.image.documents import ImageError, text

if TYPE_CHECKING:
    from pyruntime.image.tar import Archive, Entry

_SCHILY_XATTR = b"SCHILY.xattr."
_LIBARCHIVE_XATTR = b"LIBARCHIVE.xattr."
_ACLS = {
    b"SCHILY.acl.access": b"system.posix_acl_access",
    b"SCHILY.acl.default": b"system.posix_acl_default",
}
_TIME = re.compile(rb"(-?)([0-9]{1,18})(?:\.([0-9]*))?")
_DIGITS = re.compile(rb"[0-9]{1,20}")
_QUOTED = re.compile(rb"%([0-9A-Fa-f]{2})")

_SPARSE_OFFSET = b"GNU.sparse.offset"
_SPARSE_LENGTH = b"GNU.sparse.numbytes"


def records(body: bytes) -> dict[bytes, bytes]:
    """The records `LENGTH KEY=VALUE\\n` of one extended header. A repeated key: the last one counts, as POSIX says."""
    result: dict[bytes, bytes] = {}
    offsets: list[bytes] = []
    position, end = 0, len(body)
    while position < end:
        space = body.find(b" ", position, position + 21)
        if space < 0:
            raise ImageError("a PAX header whose record has no length")
        length = _integer(body[position:space], "the length of a PAX record")
        stop = position + length
        if stop > end or stop <= space + 1 or body[stop - 1] != 0x0A:
            raise ImageError("a PAX header whose record is longer or shorter than it says")
        key, equals, value = body[space + 1 : stop - 1].partition(b"=")
        if not equals or not key:
            raise ImageError("a PAX header whose record is not KEY=VALUE")
        if key in (_SPARSE_OFFSET, _SPARSE_LENGTH):
            offsets.append(value)  # GNU sparse 0.0 repeats these two keys, once per piece
        else:
            result[key] = value
        position = stop
    if offsets:
        result[b"GNU.sparse.map"] = b",".join(offsets)
    return result


def merge(below: dict[bytes, bytes], above: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Global records under those of an entry; an empty value removes a record."""
    if not below:
        return above
    return {key: value for key, value in {**below, **above}.items() if value or key.startswith(_SCHILY_XATTR)}


def _integer(value: bytes, what: str) -> int:
    if not _DIGITS.fullmatch(value):
        raise ImageError(f"{what} is {text(repr(value))}, not a number")
    return int(value)


def _nanoseconds(value: bytes) -> int:
    match = _TIME.fullmatch(value)
    if not match:
        raise ImageError(f"a PAX header gives the time {text(repr(value))}")
    sign, seconds, fraction = match.groups()
    total = int(seconds) * 1_000_000_000 + int((fraction or b"")[:9].ljust(9, b"0"))
    return -total if sign else total


def _name(value: bytes, key: str) -> bytes:
    if b"\0" in value:
        raise ImageError(f"the PAX record {key!r} holds a NUL byte")
    return value


def apply(entry: Entry, found: dict[bytes, bytes], header_only: bool, archive: Archive) -> None:
    """Let the records in `found` replace what the header of `entry` says."""
    for key, value in found.items():
        if not value and not key.startswith(_SCHILY_XATTR):
            continue  # an empty value takes back what a global header said
        if key == b"path":
            entry.name = _name(value, "path")
        elif key == b"linkpath":
            if entry.link:
                entry.link = _name(value, "linkpath")
        elif key == b"size":
            if not header_only:
                entry.size = _integer(value, "the size in a PAX header")
                if entry.size >= 1 << 62:
                    raise ImageError(f"{text(entry.name)}: a size of {entry.size} bytes")
        elif key == b"uid":
            entry.uid = _integer(value, "the uid in a PAX header")
        elif key == b"gid":
            entry.gid = _integer(value, "the gid in a PAX header")
        elif key == b"mtime":
            entry.mtime = _nanoseconds(value)
        elif key.startswith(_SCHILY_XATTR):
            _xattr(entry, key[len(_SCHILY_XATTR) :], value)
        elif key.startswith(_LIBARCHIVE_XATTR):
            # SCHILY is exact; the libarchive form of the same attribute is written beside it.
            name = _QUOTED.sub(lambda m: bytes((int(m[1], 16),)), key[len(_LIBARCHIVE_XATTR) :])
            if _SCHILY_XATTR + name not in found:
                _xattr(entry, name, _base64(value))
        elif key in _ACLS and _SCHILY_XATTR + _ACLS[key] not in found:
            acl = parse_acl(value)
            if acl:
                _xattr(entry, _ACLS[key], acl)
    if b"GNU.sparse.map" in found or b"GNU.sparse.major" in found:
        _sparse(entry, found, archive)


def _xattr(entry: Entry, name: bytes, value: bytes) -> None:
    if not name or b"\0" in name or len(name) > 255:
        raise ImageError(f"{text(entry.name)}: {text(repr(name))} is no name of an extended attribute")
    if entry.xattrs is None:
        entry.xattrs = {}
    entry.xattrs[name] = value


def _base64(value: bytes) -> bytes:
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error:
        raise ImageError("an extended attribute in a PAX header is not valid base64") from None


def _sparse(entry: Entry, found: dict[bytes, bytes], archive: Archive) -> None:
    """GNU sparse formats 0.0 and 0.1 (map in the header) and 1.0 (map in front of the data)."""
    name = found.get(b"GNU.sparse.name")
    if name:
        entry.name = _name(name, "GNU.sparse.name")
    size = found.get(b"GNU.sparse.realsize", found.get(b"GNU.sparse.size", b""))
    real_size = _integer(size, "the size of a sparse file")
    if found.get(b"GNU.sparse.major", b"0") == b"0":
        numbers = [_integer(n, "a sparse map") for n in found.get(b"GNU.sparse.map", b"").split(b",") if n]
    else:
        numbers = _map_before_data(entry, archive)
    if len(numbers) % 2 or len(numbers) > 2 * archive.limits.SPARSE_PIECES:
        raise ImageError(f"{text(entry.name)}: the map of the sparse file is not a list of pairs")
    archive.sparse(entry, list(zip(numbers[::2], numbers[1::2], strict=True)), real_size)


def _map_before_data(entry: Entry, archive: Archive) -> list[int]:
    """Decimal numbers, one a line, in whole blocks: how many pieces, then offset and length of each."""
    numbers: list[int] = []
    wanted, rest, taken = 1, b"", 0
    while len(numbers) < wanted:
        if taken + 512 > entry.size:
            raise ImageError(f"{text(entry.name)}: the map of the sparse file is longer than the file")
        block = archive.reader.read(512)
        taken += 512
        *lines, rest = (rest + block).split(b"\n")
        if len(rest) > 512:
            raise ImageError(f"{text(entry.name)}: the map of the sparse file is not a list of numbers")
        for line in lines:
            if len(numbers) == wanted:
                break
            numbers.append(_integer(line, "a sparse map"))
            if len(numbers) == 1:
                wanted = 1 + 2 * numbers[0]
                if numbers[0] > archive.limits.SPARSE_PIECES:
                    raise ImageError(f"{text(entry.name)}: {numbers[0]} pieces in a sparse file")
    entry.size -= taken
    return numbers[1:]


# posix_acl_xattr: version 2, then entries of tag, permissions, id; sorted by tag, then id.
_ACL_VERSION = 2
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_NO_ID = 0xFFFFFFFF
_TAGS = {b"user": (_USER_OBJ, _USER), b"group": (_GROUP_OBJ, _GROUP), b"mask": (_MASK,), b"other": (_OTHER,)}
_SHORT = {b"u": b"user", b"g": b"group", b"m": b"mask", b"o": b"other"}
_PERMISSION = {ord("r"): 4, ord("w"): 2, ord("x"): 1, ord("-"): 0}


def parse_acl(value: bytes) -> bytes:
    """An ACL as GNU tar and star write it (`user::rw-,user:lisa:rw-:1000,…`) in the kernel's binary form.

    A name is of no use here, the id behind it is: star appends it, GNU tar writes numbers with --numeric-owner. An
    entry with a name and no id is refused, for a guess would give the right to somebody else.
    """
    entries: list[tuple[int, int, int]] = []
    for line in value.replace(b"\n", b",").split(b","):
        words = line.split(b"#", 1)[0].strip()
        if not words:
            continue
        fields = words.split(b":")
        kind = _SHORT.get(fields[0], fields[0])
        tags = _TAGS.get(kind)
        if tags is None or len(fields) < 2:
            raise ImageError(f"{text(repr(line))} is not an entry of an ACL")
        if len(fields) == 2:  # other:r--, mask:r--
            fields.insert(1, b"")
        bits = 0
        for letter in fields[2]:
            if letter not in _PERMISSION:
                raise ImageError(f"{text(repr(line))} is not an entry of an ACL")
            bits |= _PERMISSION[letter]
        if not fields[1]:
            entries.append((tags[0], _NO_ID, bits))
            continue
        number = fields[3] if len(fields) > 3 else fields[1]
        if len(tags) < 2 or not _DIGITS.fullmatch(number):
            raise ImageError(f"the ACL entry {text(repr(line))} names somebody without a number")
        if int(number) >= _NO_ID:
            raise ImageError(f"{text(repr(number))} in an ACL is not an id")
        entries.append((tags[1], int(number), bits))
    if not entries:
        return b""
    return pack("<I", _ACL_VERSION) + b"".join(pack("<HHI", tag, bits, who) for tag, who, bits in sorted(entries))
