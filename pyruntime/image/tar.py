"""Reads tar headers: v7, POSIX ustar, PAX, GNU (long names, base-256 numbers, sparse files), star.

A layer is an untrusted program for whoever unpacks it, and every difference between two readers of the same archive is
a place to hide a file. So this reader is strict (checksums, numbers, lengths, PAX records), mirrors Go's archive/tar
where the formats leave room (that is what builds most images), and only parses: it never touches the file system.
`tarfile` is not used; it would also need about four times as long per entry. See tar(5), POSIX pax.
"""

from __future__ import annotations

from collections.abc import Callable
from zlib import adler32

from pyruntime.image import pax
from pyruntime.image.documents import ImageError, text
from pyruntime.image.limits import Limits

BLOCK = 512
_ZEROS = bytes(BLOCK)

REGULAR = ord("0")
HARD_LINK = ord("1")
SYMLINK = ord("2")
CHARACTER = ord("3")
BLOCK_DEVICE = ord("4")
DIRECTORY = ord("5")
FIFO = ord("6")
_CONTIGUOUS = ord("7")
_GNU_SPARSE = ord("S")
_GNU_LONG_NAME = ord("L")
_GNU_LONG_LINK = ord("K")
_GNU_VOLUME_LABEL = ord("V")
_PAX = ord("x")
_PAX_SOLARIS = ord("X")
_PAX_GLOBAL = ord("g")

# Kinds without data: a size in their header (hard links often carry that of their target) is not followed by any.
_HEADER_ONLY = frozenset((HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO))
_KINDS = _HEADER_ONLY | {REGULAR}


class Entry:
    """One entry of an archive. Names are bytes as they stand in it; `mtime` is in nanoseconds."""

    __slots__ = ("gid", "kind", "link", "major", "minor", "mode", "mtime", "name", "pieces", "size", "uid", "xattrs")

    def __init__(self, name: bytes, kind: int) -> None:
        self.name = name
        self.kind = kind
        self.mode = 0
        self.uid = 0
        self.gid = 0
        self.size = 0
        self.mtime = 0
        self.link = b""
        self.major = 0
        self.minor = 0
        self.xattrs: dict[bytes, bytes] | None = None
        self.pieces: list[tuple[int, int]] | None = None
        """Of a sparse file: (offset, length) of the data that follows, everything else being holes."""


class Reader:
    """The bytes of one layer, in the portions a tar reader wants. `next_chunk` returns b"" at the end."""

    __slots__ = ("_chunk", "_next", "_position", "_view")

    def __init__(self, next_chunk: Callable[[], bytes]) -> None:
        self._next = next_chunk
        self._chunk = b""
        self._view = memoryview(b"")
        self._position = 0

    def _more(self) -> bool:
        self._chunk = self._next()
        self._view = memoryview(self._chunk)
        self._position = 0
        return bool(self._chunk)

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes; fewer only where the layer ends."""
        start = self._position
        end = start + size
        if end <= len(self._chunk):
            self._position = end
            return self._chunk[start:end]
        parts = [self._chunk[start:]]
        missing = size - len(parts[0])
        while missing:
            if not self._more():
                break
            parts.append(self._chunk[:missing])
            self._position = len(parts[-1])
            missing -= self._position
        return b"".join(parts)

    def pump(self, size: int, write: Callable[[memoryview], object]) -> None:
        """Hand the next `size` bytes to `write` in portions, without a copy."""
        while size:
            start = self._position
            portion = self._view[start : start + size]
            length = len(portion)
            if not length:
                if not self._more():
                    raise ImageError("the layer ends in the middle of a file")
                continue
            write(portion)
            self._position = start + length
            size -= length

    @property
    def buffered(self) -> int:
        """Bytes that were taken from `next_chunk` and not read yet."""
        return len(self._chunk) - self._position

    def discard(self) -> None:
        """Drop what is buffered: whoever supplies the chunks has moved on."""
        self._position = len(self._chunk)

    def skip(self, size: int) -> None:
        """Pass over `size` bytes."""
        while size:
            step = min(size, len(self._chunk) - self._position)
            if not step:
                if not self._more():
                    raise ImageError("the layer ends in the middle of a file")
                continue
            self._position += step
            size -= step


def number(field: bytes) -> int:
    """A numeric field: octal digits between spaces and NULs, or base-256 as GNU and star write large values."""
    first = field[0]
    if first & 0x80:
        value = int.from_bytes(field, "big", signed=False) & ((1 << (8 * len(field) - 1)) - 1)
        return value - (1 << (8 * len(field) - 1)) if first & 0x40 else value
    end = field.find(b"\0")
    digits = (field if end < 0 else field[:end]).strip(b" ")
    if not digits:
        return 0
    # int() would also take signs and underscores.
    if not digits.isdigit():
        raise ImageError(f"a tar header holds {text(repr(digits))} where an octal number belongs")
    try:
        return int(digits, 8)
    except ValueError:
        raise ImageError(f"a tar header holds {text(repr(digits))} where an octal number belongs") from None


def _string(field: bytes) -> bytes:
    end = field.find(b"\0")
    return field if end < 0 else field[:end]


def _check_sum(block: bytes) -> None:
    # The sum of all bytes, the checksum field counting as spaces. adler32's low half is 1 + that sum modulo 65521,
    # in C. Headers are mostly NULs and text, so the modulus is hardly ever reached, and the diff ID covers the rest.
    stored = number(block[148:156])
    low = (adler32(block) & 0xFFFF) - 1 - sum(block[148:156]) + 256
    if (low - stored) % 65521:
        # Some old tars summed signed bytes.
        signed = sum(b - 256 if b > 127 else b for b in block) - sum(block[148:156]) + 256
        if signed != stored:
            raise ImageError("a tar header has a wrong checksum: the layer is damaged or not a tar archive")


def _prefixed(block: bytes, name: bytes) -> bytes:
    # Only POSIX headers have a name prefix; GNU tar keeps times and sparse maps there.
    if block[257:263] != b"ustar\0":
        return name
    prefix = _string(block[345:476] if block[508:512] == b"tar\0" else block[345:500])
    return prefix + b"/" + name if prefix else name


def padding(size: int) -> int:
    """Bytes between data of `size` bytes and the next header."""
    return -size % BLOCK


class Archive:
    """The entries of one layer, in order. After `next()` returned an entry with data, read or skip that data first."""

    def __init__(self, reader: Reader, limits: Limits) -> None:
        self.reader = reader
        self.limits = limits
        self._globals: dict[bytes, bytes] = {}

    def next(self) -> Entry | None:
        """The next entry, or None at the end: two zero blocks, or simply no more bytes (umoci writes such layers)."""
        read = self.reader.read
        records: dict[bytes, bytes] | None = None
        long_name = long_link = b""
        while True:
            block = read(BLOCK)
            if len(block) < BLOCK:
                if block or records or long_name or long_link:
                    raise ImageError("the layer ends in the middle of a tar header")
                return None
            if block == _ZEROS:
                if records or long_name or long_link:
                    raise ImageError("the archive ends after an extended header that belongs to no entry")
                self._end()
                return None
            _check_sum(block)
            self.limits.entry()
            kind = block[156] or REGULAR
            if kind in _KINDS:
                break
            if kind in (_CONTIGUOUS, _GNU_SPARSE):
                break
            size = self._size(block)
            if kind in (_PAX, _PAX_SOLARIS):
                if records:
                    raise ImageError("two PAX headers for one entry")
                records = pax.records(self._body(size))
            elif kind == _PAX_GLOBAL:
                self._globals = pax.merge(self._globals, pax.records(self._body(size)))
            elif kind == _GNU_LONG_NAME:
                long_name = _string(self._body(size))
            elif kind == _GNU_LONG_LINK:
                long_link = _string(self._body(size))
            elif kind == _GNU_VOLUME_LABEL:
                self.reader.skip(size + padding(size))
            else:
                raise ImageError(f"an entry of the unknown kind {text(repr(chr(kind)))} in the tar archive")
        return self._entry(block, kind, records, long_name, long_link)

    def drain(self) -> None:
        """Read what follows the end of the archive, so that the digests cover it."""
        while self.reader.read(1 << 16):
            pass

    def _end(self) -> None:
        # One zero block may be all, at the end of the stream. A header after a lone one is seen by some readers only.
        following = self.reader.read(BLOCK)
        if following.strip(b"\0"):
            raise ImageError("a lone zero block in the middle of the tar archive")

    def _size(self, block: bytes) -> int:
        size = number(block[124:136])
        if not 0 <= size < 1 << 62:
            raise ImageError(f"a tar header gives the size {size}")
        return size

    def _body(self, size: int) -> bytes:
        if size > self.limits.PAX_BYTES:
            raise ImageError(f"an extended tar header of {size} bytes; {self.limits.PAX_BYTES} are the limit")
        data = self.reader.read(size)
        if len(data) < size:
            raise ImageError("the layer ends in the middle of a tar header")
        self.reader.skip(padding(size))
        return data

    def _entry(
        self, block: bytes, kind: int, records: dict[bytes, bytes] | None, long_name: bytes, long_link: bytes
    ) -> Entry:
        name = long_name or _prefixed(block, _string(block[:100]))
        # Before POSIX a directory was a file whose name ends in a slash.
        if block[156] == 0 and name.endswith(b"/"):
            kind = DIRECTORY
        entry = Entry(name, REGULAR if kind in (_CONTIGUOUS, _GNU_SPARSE) else kind)
        entry.mode = number(block[100:108]) & 0o7777
        entry.uid = number(block[108:116])
        entry.gid = number(block[116:124])
        if kind not in _HEADER_ONLY:
            entry.size = self._size(block)
        entry.mtime = number(block[136:148]) * 1_000_000_000
        if kind in (HARD_LINK, SYMLINK):
            entry.link = long_link or _string(block[157:257])
        elif kind in (CHARACTER, BLOCK_DEVICE):
            entry.major = number(block[329:337])
            entry.minor = number(block[337:345])
        if records or self._globals:
            pax.apply(entry, pax.merge(self._globals, records or {}), kind in _HEADER_ONLY, self)
        if kind == _GNU_SPARSE:
            self._old_sparse(entry, block)
        for what, value in (("user", entry.uid), ("group", entry.gid)):
            if not 0 <= value < 0xFFFFFFFF:  # 4294967295 is -1, "leave as it is", to chown(2)
                raise ImageError(f"{text(entry.name)}: {value} is not a {what} id")
        return entry

    def _old_sparse(self, entry: Entry, block: bytes) -> None:
        # GNU: four (offset, length) pairs in the header, 21 more in each extension block, then the data.
        pieces: list[tuple[int, int]] = []
        fields, more = block[386:482], block[482]
        while True:
            for start in range(0, len(fields) - 23, 24):
                pair = fields[start : start + 24]
                if pair[0] == 0 and pair[12] == 0:
                    break
                pieces.append((number(pair[:12]), number(pair[12:])))
            if not more:
                break
            if len(pieces) > self.limits.SPARSE_PIECES:
                raise ImageError(f"{text(entry.name)}: more than {self.limits.SPARSE_PIECES} pieces in a sparse file")
            extension = self.reader.read(BLOCK)
            if len(extension) < BLOCK:
                raise ImageError("the layer ends in the middle of a tar header")
            fields, more = extension[:504], extension[504]
        self.sparse(entry, pieces, number(block[483:495]))

    def sparse(self, entry: Entry, pieces: list[tuple[int, int]], real_size: int) -> None:
        """Make `entry` a sparse file of `real_size` bytes whose stored data belongs at `pieces`."""
        end = 0
        for offset, length in pieces:
            if offset < end or length < 0:
                raise ImageError(f"{text(entry.name)}: the map of the sparse file is out of order")
            end = offset + length
        stored = sum(length for _, length in pieces)
        if end > real_size or stored != entry.size:
            raise ImageError(f"{text(entry.name)}: the map of the sparse file does not fit its size")
        # What a reader of the file would get counts, not only what lies on the disk.
        self.limits.grow(real_size - stored)
        entry.pieces = pieces
        entry.size = real_size
