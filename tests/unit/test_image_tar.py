"""The tar reader: against tarfile and GNU tar on what they write, against nonsense on what nobody should."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.images import Layer

from pyruntime.image import pax
from pyruntime.image.documents import ImageError
from pyruntime.image.limits import Limits
from pyruntime.image.tar import Archive, Entry, Reader, number, padding


def read(raw: bytes, chunk: int = 1 << 18) -> list[tuple[Entry, bytes]]:
    """All entries with their data (of a sparse file: with the holes filled in)."""
    stream = io.BytesIO(raw)
    archive = Archive(reader := Reader(lambda: stream.read(chunk)), Limits(size=1 << 26, entries=10_000))
    result = []
    while (entry := archive.next()) is not None:
        parts: list[bytes] = []
        if entry.pieces is None:
            reader.pump(entry.size, lambda view, parts=parts: parts.append(bytes(view)))  # type: ignore[misc]
            reader.skip(padding(entry.size))
            data = b"".join(parts)
        else:
            whole = bytearray(entry.size)
            stored = 0
            for offset, length in entry.pieces:
                parts.clear()
                reader.pump(length, lambda view, parts=parts: parts.append(bytes(view)))  # type: ignore[misc]
                whole[offset : offset + length] = b"".join(parts)
                stored += length
            reader.skip(padding(stored))
            data = bytes(whole)
        result.append((entry, data))
    return result


NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=120
).filter(lambda s: s not in (".", ".."))
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    members=st.lists(
        st.tuples(
            PATHS,
            st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]),
            st.binary(max_size=1500),
            PATHS,
            st.integers(0, 2**32 - 2),
            st.integers(0, 0o7777),
            st.integers(0, 2**40),
        ),
        max_size=5,
    ),
    format=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    chunk=st.integers(1, 3000),
)
def test_reads_what_tarfile_writes(
    members: list[tuple[str, bytes, bytes, str, int, int, int]], format: int, chunk: int
) -> None:
    layer = Layer(format)
    for name, kind, data, link, owner, mode, mtime in members:
        linked = link if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
        content = data if kind == tarfile.REGTYPE else b""
        layer.add(name, kind, content, linked, uid=owner, gid=owner, mode=mode, mtime=mtime)
    raw = layer.tar()
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        expected = [(m.name, m.type, m.linkname, m.size, m.uid, m.gid, m.mode, int(m.mtime)) for m in tar.getmembers()]
    found = read(raw, chunk)
    assert [
        (
            e.name.decode().rstrip("/"), bytes([e.kind]), e.link.decode(), e.size, e.uid, e.gid, e.mode,
            e.mtime // 1_000_000_000,
        )
        for e, _ in found
    ] == expected  # fmt: skip
    assert [d for e, d in found if e.kind == ord("0")] == [m[2] for m in members if m[1] == tarfile.REGTYPE]


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, 3 * 512 + 600), value=st.binary(min_size=1, max_size=12), data=st.data())
def test_a_damaged_archive_is_an_error_or_an_archive_and_nothing_else(
    position: int, value: bytes, data: st.DataObject
) -> None:
    raw = bytearray(
        Layer()
        .file("a" * 150, b"x" * 700, pax_headers={"SCHILY.xattr.user.a": "1", "mtime": "1.5"})
        .hard_link("b", "a" * 150)
        .tar()
    )
    raw[position : position + len(value)] = value
    if data.draw(st.booleans()):
        # Damage behind a right checksum: mend the header that was hit.
        start = position // 512 * 512
        block = raw[start : start + 512]
        block[148:156] = b" " * 8
        raw[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    try:
        read(bytes(raw))
    except ImageError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"0000644\0", 0o644),
        (b"   644 \0", 0o644),
        (b"755\0junk", 0o755),
        (b"\0" * 8, 0),
        (b"\x80" + (5_000_000).to_bytes(7, "big"), 5_000_000),
        (b"\xff" * 8, -1),
    ],
)
def test_numbers(field: bytes, value: int) -> None:
    assert number(field) == value


@pytest.mark.parametrize("field", [b"-0000001", b"+1\0", b"1_0\0", b"0x10\0", b"99\0", b"7\xd9\xa1\0", b"1 2\0"])
def test_what_is_no_number(field: bytes) -> None:
    with pytest.raises(ImageError, match="octal"):
        number(field)


def mend(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def header(**fields: bytes) -> bytes:
    block = bytearray(Layer().file("x").tar()[:512])
    places = {"name": 0, "mode": 100, "uid": 108, "size": 124, "mtime": 136, "kind": 156, "link": 157, "magic": 257}
    for key, value in fields.items():
        block[places[key] : places[key] + len(value)] = value
    return mend(block)


END = bytes(1024)


def test_the_end_may_be_missing_or_half() -> None:
    one = header()
    for end in (b"", bytes(512), END, bytes(10240)):
        assert [e.name for e, _ in read(one + end)] == [b"x"]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (header()[:500], "middle of a tar header"),
        (header(size=b"00000001000\0") + b"short", "middle of a file"),
        (header() + bytes(512) + header() + END, "lone zero block"),
        (header(size=b"\xff" * 12) + END, "size -1"),
        (header(size=b"\x80" + b"\xff" * 11) + END, "size"),
        (header(kind=b"Z") + END, "unknown kind"),
        (header(kind=b"M") + END, "unknown kind"),
        (header(uid=b"\xff" * 8) + END, "not a user id"),
        (header(uid=b"\x80\0\0\0\xff\xff\xff\xff") + END, "not a user id"),
        (header(kind=b"x", size=b"00000000003\0") + b"abc" + bytes(509) + END, "no length"),
        (header(kind=b"x", size=b"00000000006\0") + b"9 a=b\n" + bytes(506) + END, "longer or shorter"),
        (header(kind=b"x", size=b"00000000006\0") + b"6 abc\n" + bytes(506) + header() + END, "KEY=VALUE"),
        (header(kind=b"x", size=b"00000000006\0") + b"6 a=b\n" + bytes(506) + END, "belongs to no entry"),
        (header(kind=b"L", size=b"77777777777\0") + END, "extended tar header"),
        (b"\x7fELF" + bytes(508), "checksum"),
    ],
)
def test_refused_archives(raw: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        read(raw)


def test_a_directory_of_before_posix() -> None:
    ((entry, _),) = read(header(name=b"old/\0", kind=b"\0", magic=bytes(8)))
    assert (entry.name, entry.kind) == (b"old/", ord("5"))


def test_bytes_of_names_are_kept() -> None:
    ((entry, _),) = read(header(name=b"caf\xe9\0"))
    assert entry.name == b"caf\xe9"


def test_global_headers_hold_until_they_are_taken_back() -> None:
    raw = b"".join(
        [
            header(kind=b"g", size=b"00000000012\0") + b"10 uid=42\n" + bytes(502),
            header(name=b"a\0"),
            header(kind=b"g", size=b"00000000007\0") + b"7 uid=\n" + bytes(505),
            header(name=b"b\0"),
        ]
    )
    assert [(e.name, e.uid) for e, _ in read(raw + END)] == [(b"a", 42), (b"b", 0)]


def test_times_below_a_second_and_before_1970() -> None:
    raw = Layer().file("a", pax_headers={"mtime": "1.123456789123"}).file("b", pax_headers={"mtime": "-1.5"}).tar()
    assert [e.mtime for e, _ in read(raw)] == [1_123_456_789, -1_500_000_000]


def test_attributes_of_both_dialects() -> None:
    raw = (
        Layer()
        .file("a", pax_headers={"SCHILY.xattr.user.one": "x", "LIBARCHIVE.xattr.user.t%77o": "AAE"})
        .file("b", pax_headers={"SCHILY.xattr.user.both": "right", "LIBARCHIVE.xattr.user.both": "d3Jvbmc"})
        .tar()
    )
    assert [e.xattrs for e, _ in read(raw)] == [{b"user.one": b"x", b"user.two": b"\0\1"}, {b"user.both": b"right"}]


def test_acl_text() -> None:
    no_id = 0xFFFFFFFF
    expected = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", *entry)
        for entry in [(1, 6, no_id), (2, 4, 1000), (4, 4, no_id), (8, 7, 50), (16, 7, no_id), (32, 0, no_id)]
    )
    gnu = b"user::rw-\nuser:1000:r--\ngroup::r--\ngroup:50:rwx\nmask::rwx\nother::---\n"
    star = b"user::rw-,user:lisa:r--:1000,group::r--,group:staff:rwx:50,mask::rwx,other::---"
    short = b"u::rw-,u:1000:r--,g::r--,g:50:rwx,m:rwx,o:---"
    assert pax.parse_acl(gnu) == pax.parse_acl(star) == pax.parse_acl(short) == expected
    assert pax.parse_acl(b"") == b""


@pytest.mark.parametrize("text", [b"user:lisa:rw-", b"nobody::rwx", b"user::rwz", b"mask:5:rwx", b"user:99999999999:r"])
def test_acl_entries_that_say_nothing(text: bytes) -> None:
    with pytest.raises(ImageError):
        pax.parse_acl(text)


@pytest.mark.skipif(shutil.which("tar") is None, reason="GNU tar writes the archives")
@pytest.mark.parametrize(
    "options",
    [
        ["--format=gnu"],
        ["--format=posix", "--sparse-version=0.0"],
        ["--format=posix", "--sparse-version=0.1"],
        ["--format=posix", "--sparse-version=1.0"],
    ],
    ids=["old", "0.0", "0.1", "1.0"],
)
def test_sparse_files_of_gnu_tar(tmp_path: Path, options: list[str]) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        for piece in range(40):
            file.seek(piece * 100_000)
            file.write(b"%05d" % piece * 300)
        file.truncate(5_000_000)
    done = subprocess.run(
        ["tar", "--sparse", *options, "-C", tmp_path, "-cf", "-", "sparse"], stdout=subprocess.PIPE, check=True
    )
    ((entry, data),) = read(done.stdout, 700)
    assert entry.name == b"sparse"
    assert data == (tmp_path / "sparse").read_bytes()
    assert entry.pieces and len(entry.pieces) >= 40


def test_a_sparse_file_counts_as_large_as_it_seems() -> None:
    records = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.map": "0,0",
        "GNU.sparse.size": str(1 << 40),
    }
    with pytest.raises(ImageError, match="--max-size"):
        read(Layer().file("bomb", pax_headers=records).tar())


@pytest.mark.parametrize("map", ["5,1,0,1", "0,1,0,1", "0,-1", "0", "0,3", "99,1"])
def test_sparse_maps_that_do_not_fit(map: str) -> None:
    records = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": map, "GNU.sparse.size": "10"}
    with pytest.raises(ImageError):
        read(Layer().file("x", b"ab", pax_headers=records).tar())


def test_millions_of_entries_end_at_the_limit() -> None:
    def endless() -> bytes:
        return header() * 100

    archive = Archive(Reader(endless), Limits(entries=5000))
    with pytest.raises(ImageError, match="--max-entries"):
        while archive.next():
            pass
