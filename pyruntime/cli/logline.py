"""What a log line looks like: the formats of the Go library logrus, for people, for scripts and for terminals.

Loaded with the first line that is logged; most verbs log none.
"""

from __future__ import annotations

import _json
import time

_UNQUOTED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/@^+")
_SHORT_ESCAPES = {
    "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v", "\\": "\\\\", '"': '\\"',
}  # fmt: skip
_COLOURS = {"error": 31, "warning": 33, "info": 36, "debug": 37}


def format_text(level: str, message: str, when: str, fields: dict[str, str]) -> str:
    """The line without colours; of `fields` the keys `func` and `file` are appended."""
    line = f"time={quote(when)} level={level}"
    if message:
        line += f" msg={quote(message)}"
    for key in ("func", "file"):
        if key in fields:
            line += f" {key}={quote(fields[key])}"
    return line


def format_colour(level: str, message: str, seconds: int, fields: dict[str, str]) -> str:
    """The line for a terminal: level, seconds since the start, message."""
    caller = f"{fields['file']} {fields['func']}" if fields else ""
    return f"\x1b[{_COLOURS[level]}m{level.upper()[:4]}\x1b[0m[{seconds:04d}]{caller} {printable(message):<44} "


def format_json(level: str, message: str, when: str, fields: dict[str, str]) -> str:
    """The line as one JSON object with its keys in order."""
    pairs = {**fields, "level": level, "msg": _unicode(message), "time": when}
    return "{" + ",".join(f'"{key}":{_json.encode_basestring_ascii(pairs[key])}' for key in sorted(pairs)) + "}"


def _unicode(text: str) -> str:
    """Bytes that are no text arrive as lone surrogates, which a strict JSON parser refuses: they become U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if 0xD800 <= ord(character) <= 0xDFFF else character for character in text)
    return text


def timestamp(seconds: float | None = None) -> str:
    """RFC 3339 in whole seconds and the local zone, as containerd must be able to parse it."""
    local = time.localtime(seconds)
    offset = local.tm_gmtoff // 60
    zone = "Z" if offset == 0 else f"{'+' if offset > 0 else '-'}{abs(offset) // 60:02d}:{abs(offset) % 60:02d}"
    date = f"{local.tm_year:04d}-{local.tm_mon:02d}-{local.tm_mday:02d}"
    return f"{date}T{local.tm_hour:02d}:{local.tm_min:02d}:{local.tm_sec:02d}{zone}"


def quote(text: str) -> str:
    """The value of a key: as it is when made of harmless characters, else in double quotes with Go's escapes."""
    if _UNQUOTED.issuperset(text):
        return text
    return f'"{_escape(text, quotes=True)}"'


def printable(text: str) -> str:
    """The text on one line and without anything a terminal would obey: names of files and of processes are in it."""
    return text if text.isprintable() else _escape(text, quotes=False)


def _escape(text: str, quotes: bool) -> str:
    if text.isprintable() and not (quotes and ('"' in text or "\\" in text)):
        return text
    parts = []
    for character in text:
        code = ord(character)
        if character in _SHORT_ESCAPES and (quotes or character not in '"\\'):
            parts.append(_SHORT_ESCAPES[character])
        elif character.isprintable():
            parts.append(character)
        elif code < 0x20 or code == 0x7F:
            parts.append(f"\\x{code:02x}")
        elif 0xDC80 <= code <= 0xDCFF:  # a byte of an argument or a path that is not UTF-8
            parts.append(f"\\x{code - 0xDC00:02x}")
        elif 0xD800 <= code <= 0xDFFF:
            parts.append("\\ufffd")
        else:
            parts.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return "".join(parts)
