"""How much an image may unpack to before it is taken for a bomb.

A gzip member expands up to 1:1027, a zstd frame of run-length blocks beyond 1:30000, and an archive may name millions
of empty files: the numbers in the image say nothing about what it costs. Every limit can be raised by a flag.
"""

from __future__ import annotations

from pyruntime.image.documents import ImageError


class LimitError(ImageError):
    """The image is larger than it may be. Nothing more of it is read, not even to check a digest."""


class Limits:
    """Counts what one image (all its layers together) produces. 0 switches a limit off."""

    RATIO_FLOOR = 1 << 30
    """Below 1 GiB of output the ratio does not matter: a small layer of zeros is no danger."""

    DEPTH = 1024
    XATTR_BYTES = 1 << 20
    PAX_BYTES = 8 << 20
    SPARSE_PIECES = 1 << 20

    def __init__(self, size: int = 64 << 30, entries: int = 4_000_000, ratio: int = 200) -> None:
        self.size = size
        self.entries = entries
        self.ratio = ratio
        self.bytes_out = 0
        self.bytes_in = 0
        self.entries_out = 0

    def grow(self, output: int) -> None:
        """`output` more bytes were unpacked."""
        total = self.bytes_out = self.bytes_out + output
        if self.size and total > self.size:
            raise LimitError(f"unpacks to more than {self.size} bytes; --max-size raises the limit")
        if self.ratio and total > self.RATIO_FLOOR and total > self.bytes_in * self.ratio:
            raise LimitError(
                f"{self.bytes_in} compressed bytes became {total}: more than {self.ratio} to 1, which no ordinary "
                "image reaches; --max-ratio raises the limit"
            )

    def entry(self) -> None:
        """One more entry of an archive was read."""
        self.entries_out += 1
        if self.entries and self.entries_out > self.entries:
            raise LimitError(f"has more than {self.entries} entries; --max-entries raises the limit")
