"""Lengths of time as Go programs write them: `5s`, `500ms`, `1h30m`, `1.5m`."""

from __future__ import annotations

import re
from decimal import Decimal

UNITS = {
    "ns": Decimal("1e-9"),
    "us": Decimal("1e-6"),
    "µs": Decimal("1e-6"),  # the micro sign
    "μs": Decimal("1e-6"),  # the Greek letter mu
    "ms": Decimal("1e-3"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
}
LONGEST = (1 << 63) / 1e9  # Go keeps nanoseconds in 64 bits

_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(" + "|".join(sorted(UNITS, key=len, reverse=True)) + ")")


def seconds(text: str) -> float:
    """The length in seconds. A bare number is no length, except 0. Raises ValueError."""
    sign = -1 if text.startswith("-") else 1
    rest = text[1:] if text[:1] in ("+", "-") else text
    if rest == "0":
        return 0.0
    total = Decimal(0)
    position = 0
    while position < len(rest):
        part = _PART.match(rest, position)
        if part is None:
            break
        total += Decimal(part[1]) * UNITS[part[2]]
        position = part.end()
    if not rest or position != len(rest) or total > LONGEST:
        raise ValueError(f"not a length of time: {text}")
    return sign * float(total)
