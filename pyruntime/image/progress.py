"""What is shown while layers are unpacked: a bar on a terminal, a line per layer elsewhere.

A bar of its own in thirty lines: rich takes 90 ms to import, a tenth of what unpacking an ordinary image takes.
"""

from __future__ import annotations

import os
import sys
import time


def human(size: int) -> str:
    """`size` bytes with a unit."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


class Progress:
    """Counts compressed bytes of `total`. `advance` may be called from another thread than the rest."""

    INTERVAL = 0.1

    def __init__(self, total: int, layers: int, quiet: bool = False) -> None:
        self._total = total
        self._layers = layers
        self._done = 0
        self._layer = 0
        self._shown = 0.0
        self._started = time.monotonic()
        self._bar = not quiet and os.isatty(2)
        self._lines = not quiet and not self._bar

    def layer(self, number: int, name: str, size: int, what: str = "unpacking") -> None:
        """Layer `number` (from 1) begins."""
        self._layer = number
        if self._lines:
            self._write(f"{what} layer {number} of {self._layers}, {name[:19]}, {human(size)}\n")

    def advance(self, count: int) -> None:
        """`count` more compressed bytes are read."""
        self._done += count
        if self._bar:
            now = time.monotonic()
            if now - self._shown >= self.INTERVAL:
                self._shown = now
                self._draw()

    def _draw(self) -> None:
        share = self._done / self._total if self._total else 1.0
        seconds = max(time.monotonic() - self._started, 0.001)
        figures = f" {share:4.0%} layer {self._layer}/{self._layers} {human(int(self._done / seconds))}/s"
        try:
            columns = os.get_terminal_size(2).columns
        except OSError:
            columns = 80
        width = max(columns - len(figures) - 3, 0)
        filled = int(width * min(share, 1.0))
        self._write(f"\r[{'#' * filled}{'.' * (width - filled)}]{figures}\x1b[K")

    def close(self) -> None:
        """Remove the bar."""
        if self._bar:
            self._write("\r\x1b[K")

    @staticmethod
    def _write(line: str) -> None:
        try:
            os.write(2, line.encode())
        except OSError:
            pass  # nobody watches


def warn(message: str) -> None:
    """One line for people, beside the progress."""
    if sys.stderr is not None:
        sys.stderr.write(f"warning: {message}\n")
