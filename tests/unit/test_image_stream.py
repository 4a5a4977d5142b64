"""Layers as streams: every compression, every way of being damaged, and bombs."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import threading
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyruntime.image.documents import ImageError
from pyruntime.image.limits import Limits
from pyruntime.image.stream import LayerStream, decompress

zstandard = pytest.importorskip("zstandard")

DATA = b"".join(b"%d\n" % n for n in range(200_000))


class Blob:
    def __init__(self, raw: bytes, digest: str | None = None, size: int | None = None) -> None:
        self.size = len(raw) if size is None else size
        self.digest = "sha256:" + hashlib.sha256(raw).hexdigest() if digest is None else digest
        self._file = io.BytesIO(raw)
        self.closed = False

    def read(self, size: int) -> bytes:
        return self._file.read(size)

    def close(self) -> None:
        self.closed = True


def flow(blob: Blob, data: bytes = DATA, limits: Limits | None = None) -> bytes:
    diff_id = "sha256:" + hashlib.sha256(data).hexdigest()
    with LayerStream(blob, diff_id, limits or Limits(), lambda count: None) as stream:
        parts = []
        while chunk := stream.next_chunk():
            parts.append(chunk)
    assert blob.closed
    return b"".join(parts)


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)  # type: ignore[no-any-return]


def flip(raw: bytes, place: int) -> bytes:
    damaged = bytearray(raw)
    damaged[place] ^= 0xFF
    return bytes(damaged)


HALF = len(DATA) // 2
SKIPPABLE = b"\x50\x2a\x4d\x18\x04\0\0\0note"


@pytest.mark.parametrize(
    "raw",
    [
        DATA,
        gzip.compress(DATA),
        gzip.compress(DATA[:HALF]) + gzip.compress(DATA[HALF:]),
        b"".join(gzip.compress(DATA[i : i + 5000]) for i in range(0, len(DATA), 5000)),
        gzip.compress(DATA) + bytes(1000),
        gzip.compress(b"") + gzip.compress(DATA),
        zstd(DATA),
        zstd(DATA[:HALF]) + zstd(DATA[HALF:]),
        SKIPPABLE + zstd(DATA[:HALF]) + SKIPPABLE + zstd(DATA[HALF:]),
    ],
    ids=["plain", "gzip", "members", "many", "padded", "empty-first", "zstd", "frames", "skippable"],
)
def test_compressions(raw: bytes) -> None:
    assert flow(Blob(raw)) == DATA


def test_nothing_is_an_empty_layer() -> None:
    assert flow(Blob(b""), b"") == b""


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=3000), cut=st.integers(1, 400), kind=st.sampled_from([gzip.compress, zstd, bytes]))
def test_it_does_not_matter_how_the_bytes_arrive(data: bytes, cut: int, kind: object) -> None:
    raw = b"_" + data if kind is bytes else kind(data)  # type: ignore[operator]
    pieces = [raw[i : i + cut] for i in range(0, len(raw), cut)][::-1]
    assert b"".join(decompress(lambda: pieces.pop() if pieces else b"")) == (b"_" + data if kind is bytes else data)


@pytest.mark.parametrize(
    ("blob", "reason"),
    [
        (Blob(gzip.compress(DATA)[:-100]), "middle of its gzip"),
        (Blob(gzip.compress(DATA)[:5]), "middle of its gzip"),
        (Blob(gzip.compress(DATA) + b"more"), "after the end of its gzip"),
        (Blob(flip(gzip.compress(DATA), -6)), "not valid gzip"),
        (Blob(flip(gzip.compress(DATA), 10)), "not valid gzip"),
        (Blob(zstd(DATA)[:3000]), "configuration says"),
        (Blob(flip(zstd(DATA), 4)), "not valid zstd"),
        (Blob(bz2.compress(DATA)), "bzip2"),
        (Blob(b"\xfd7zXZ\0" + DATA), "xz"),
        (Blob(gzip.compress(DATA), digest="sha256:" + "0" * 64), "digest the manifest gives"),
        (Blob(gzip.compress(DATA)[:-100], digest="sha256:" + "0" * 64), "digest the manifest gives"),
        (Blob(gzip.compress(DATA), size=5), "the manifest says 5"),
        (Blob(gzip.compress(DATA) + bytes(9), size=len(gzip.compress(DATA))), "the manifest says"),
        (Blob(gzip.compress(DATA + b"x")), "configuration says sha256:"),
    ],
)
def test_damage(blob: Blob, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        flow(blob)
    assert blob.closed


def test_sha512_digests() -> None:
    raw = gzip.compress(DATA)
    blob = Blob(raw, digest="sha512:" + hashlib.sha512(raw).hexdigest())
    assert flow(blob) == DATA


class Zeros(Blob):
    """A gzip bomb: gigabytes of zeros in megabytes."""

    def __init__(self, megabytes: int) -> None:
        super().__init__(b"")
        self.size = 1 << 40
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        self._head = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
        self._block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
        self._left = megabytes
        self.taken = 0

    def read(self, size: int) -> bytes:
        block, self._head = self._head or self._block, b""
        self._left -= 1
        self.taken += len(block)
        return block if self._left >= 0 else b""


def test_a_bomb_stops_at_the_size() -> None:
    bomb = Zeros(10_000)
    with pytest.raises(ImageError, match="--max-size"):
        flow(bomb, limits=Limits(size=50 << 20))
    assert bomb.taken < 2 << 20


def test_a_bomb_stops_at_the_ratio() -> None:
    with pytest.raises(ImageError, match="200 to 1"):
        flow(Zeros(10_000), limits=Limits(size=0))


def test_a_zstd_frame_that_wants_all_memory() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=30, compression_level=1)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    raw = packer.compress(b"x" * 1000) + packer.flush()
    with pytest.raises(ImageError, match="not valid zstd"):
        flow(Blob(raw), b"x" * 1000)


def test_a_reader_that_leaves_ends_the_thread() -> None:
    before = threading.active_count()
    blob = Blob(gzip.compress(DATA))
    with LayerStream(blob, "sha256:" + "0" * 64, Limits(), lambda count: None) as stream:
        assert stream.next_chunk()
    assert blob.closed
    assert threading.active_count() == before


def test_a_wrong_digest_explains_a_broken_archive() -> None:
    blob = Blob(gzip.compress(DATA), digest="sha256:" + "0" * 64)
    with LayerStream(blob, "sha256:" + "0" * 64, Limits(), lambda count: None) as stream:
        stream.next_chunk()
        assert "digest the manifest gives" in str(stream.explain(ImageError("a tar header is wrong")))
    blob = Blob(gzip.compress(DATA))
    diff_id = "sha256:" + hashlib.sha256(DATA).hexdigest()
    with LayerStream(blob, diff_id, Limits(), lambda count: None) as stream:
        stream.next_chunk()
        assert str(stream.explain(ImageError("a tar header is wrong"))) == "a tar header is wrong"
