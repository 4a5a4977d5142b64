"""What is wrong with a JSON text: the second look, for an error message. Loaded when `jsontext` has refused one."""

from __future__ import annotations

import _json

from pyruntime.errors import SpecError
from pyruntime.spec import jsontext
from pyruntime.spec.quoting import join, shorten


class _Bad:
    """Stands for a value that is wrong in itself, while `_explain` looks for its path."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason


class _Pairs:
    """An object with its names in order, repeated ones included."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        self.pairs = pairs


def _number_or_bad(digits: str) -> object:
    try:
        return jsontext.finite(digits) if any(mark in digits for mark in ".eE") else int(digits)
    except jsontext.Refused:
        return _Bad(f"the number {digits[:20]} is too large")
    except ValueError:
        return _Bad(f"the number {digits[:20]}... has too many digits")


class _Forgiving(jsontext.Strict):
    """Settings of the second reading that finds out where the first one failed."""

    object_pairs_hook = staticmethod(_Pairs)  # type: ignore[assignment]
    parse_float = staticmethod(_number_or_bad)  # type: ignore[assignment]
    parse_int = staticmethod(_number_or_bad)  # type: ignore[assignment]
    parse_constant = staticmethod(lambda name: _Bad(f"{name} is not a number in JSON"))


def refusal(error: Exception, text: str, start: int, name: str) -> SpecError:
    """What the scanner of `jsontext` refused, and where. `error` is what it raised, `start` where the text begins."""
    # A ValueError without a place is not JSONDecodeError but int(), beyond its digit limit.
    if isinstance(error, jsontext.Refused) or (
        isinstance(error, ValueError) and not isinstance(getattr(error, "pos", None), int)
    ):
        return _explain(text, start, name)
    return _wrong_syntax(error, text, start, name)


def unexpected(text: str, where: int, name: str) -> SpecError:
    """Something stands after the end of the value."""
    return SpecError(name, f"unexpected {shorten(text[where])} after the end at {position(text, where)}")


def _explain(text: str, start: int, name: str) -> SpecError:
    """Read again, forgiving, and name the first value that is wrong."""
    try:
        value, _ = _json.make_scanner(_Forgiving)(text, start)  # type: ignore[arg-type]
    except (StopIteration, ValueError, RecursionError) as error:
        return _wrong_syntax(error, text, start, name)  # behind the value that the first reading did not pass
    found = _first_bad(value, "")
    if found is None:  # the numbers are fine here, so the limits changed between two readings: not ours to guess
        raise AssertionError("a JSON text was refused and then accepted")
    path, reason = found
    return SpecError(path or name, reason)


def _first_bad(value: object, path: str) -> tuple[str, str] | None:
    if isinstance(value, _Bad):
        return path, value.reason
    if isinstance(value, list):
        for index, item in enumerate(value):
            if found := _first_bad(item, f"{path}[{index}]"):
                return found
    if isinstance(value, _Pairs):
        seen = set()
        for key, item in value.pairs:
            if key in seen:
                return join(path, key), "the name appears twice in its object"
            seen.add(key)
            if found := _first_bad(item, join(path, key)):
                return found
    return None


def _wrong_syntax(error: Exception, text: str, start: int, name: str) -> SpecError:
    """What the scanner stumbled over, and where."""
    if isinstance(error, RecursionError):
        return SpecError(name, "nested too deeply")
    if isinstance(error, StopIteration):
        where = error.value if isinstance(error.value, int) else start
        what = "the text is empty" if start == len(text) else f"expected a value at {position(text, where)}"
        return SpecError(name, what)
    reason = str(getattr(error, "msg", error)).removesuffix(" at")
    place: int = getattr(error, "pos", start)
    return SpecError(name, f"{reason[:1].lower()}{reason[1:]} at {position(text, place)}")


def position(text: str, offset: int) -> str:
    """Where that is, for people."""
    before = text[:offset]
    return f"line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))}"


def check_text(value: object, path: str, name: str, surrogates: bool) -> None:
    """Refuse NUL and halves of surrogate pairs in any string of `value`. Raises SpecError."""
    if isinstance(value, str):
        if "\0" in value:
            raise SpecError(path or name, "a NUL character in a string")
        if not value.isascii():
            try:
                value.encode("utf-8", "surrogateescape" if surrogates else "strict")
            except UnicodeEncodeError:
                raise SpecError(path or name, "half of a surrogate pair in a string") from None
    elif isinstance(value, list):
        for index, item in enumerate(value):
            check_text(item, f"{path}[{index}]", name, surrogates)
    elif isinstance(value, dict):
        for key, item in value.items():
            check_text(key, f"{path or name} (a name in it)", name, surrogates)
            check_text(item, join(path, key), name, surrogates)
