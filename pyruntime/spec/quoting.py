"""How error messages quote what a document says: paths and values."""

from __future__ import annotations

import _json


def join(path: str, key: str) -> str:
    """The path of the member `key` of the object at `path`; odd keys are quoted: `annotations["a b"]`."""
    if len(key) <= 60 and key.isascii() and key.replace("_", "a").isalnum():
        return f"{path}.{key}" if path else key
    return f"{path}[{shorten(key)}]"


def quote(value: object, path: str) -> str:
    """`value`, found at `path`, for an error message; only its kind where people keep secrets."""
    if type(value) is str and value and ("env" in path.replace("[", ".").split(".") or path[:11] == "annotations"):
        return "some text"
    return shorten(value)


def shorten(value: object, length: int = 60) -> str:
    """`value` as an error message quotes it: JSON, on one line, at most about `length` characters."""
    if isinstance(value, str):
        cut = value if len(value) <= length else value[: length - 3]
        quoted = _json.encode_basestring(cut) if cut.isprintable() else _json.encode_basestring_ascii(cut)
        return quoted if cut is value else f'{quoted[:-1]}..."'
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, (list, tuple)):
        return "an array"
    if value is None or isinstance(value, bool):
        return "null" if value is None else "true" if value else "false"
    try:
        text = repr(value)
    except ValueError:  # an integer beyond the digit limit
        return "a very large number"
    return text if len(text) <= length else f"{text[: length - 3]}..."
