"""JSON as the runtime reads and writes it: strict, bounded, and without the `json` package.

`json` costs 9 ms of imports; its C core `_json` costs nothing, and every hot verb reads at least one JSON file. The C
scanner alone is too trusting, so these rules are added here, once:

* the text is UTF-8, without byte order mark (RFC 8259, section 8.1) and of at most `LIMIT` bytes;
* nesting deeper than `DEPTH` is refused before parsing;
* a name appears once in an object (runtime-spec glossary; Python and Go would silently take the last one);
* NaN, Infinity, and numbers too large for a double or for Python's digit limit are errors;
* no string holds NUL or half a surrogate pair: the kernel would cut the first and no file name can be the second.

Errors are `SpecError`s that name the place: line and column for broken syntax, the path of the value otherwise.
"""

from __future__ import annotations

import _json
import posix

from pyruntime.errors import RuntimeFailure, SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT = 16 << 20
DEPTH = 128
# inode(7); the modules os and stat would cost every verb a millisecond
S_IFMT, S_IFREG, S_IFIFO = 0o170000, 0o100000, 0o010000

_WHITESPACE = " \t\n\r"
_PARENTHESES = bytes.maketrans(b"[]{}", b"()()")
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


class _Refused(Exception):
    """The scanner met something that `_explain` has to name; it knows no path itself."""


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


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise _Refused
    return result


def _float(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise _Refused
    return value


def _constant(name: str) -> object:
    raise _Refused(name)


class _Strict:
    """What `_json.make_scanner` reads its settings from."""

    strict = True
    object_hook = None
    object_pairs_hook = staticmethod(_object)
    parse_float = staticmethod(_float)
    parse_int = int
    parse_constant = staticmethod(_constant)
    array_hook = None
    memo: dict[str, str] = {}  # noqa: RUF012  (read by newer scanners, never shared: they copy it)


def _number_or_bad(digits: str) -> object:
    try:
        return _float(digits) if any(mark in digits for mark in ".eE") else int(digits)
    except _Refused:
        return _Bad(f"the number {digits[:20]} is too large")
    except ValueError:
        return _Bad(f"the number {digits[:20]}... has too many digits")


class _Forgiving(_Strict):
    """Settings of the second reading that finds out where the first one failed."""

    object_pairs_hook = staticmethod(_Pairs)  # type: ignore[assignment]
    parse_float = staticmethod(_number_or_bad)  # type: ignore[assignment]
    parse_int = staticmethod(_number_or_bad)  # type: ignore[assignment]
    parse_constant = staticmethod(lambda name: _Bad(f"{name} is not a number in JSON"))


def loads(data: bytes, name: str = "JSON", surrogates: bool = False) -> object:
    """The value of a JSON text. `name` says in errors what was read, such as `config.json`.

    `surrogates` admits U+DC80 to U+DCFF, which stand for the bytes of file names that are not UTF-8 (PEP 383): for
    files that the runtime wrote itself. Raises SpecError.
    """
    if len(data) > LIMIT:
        raise SpecError(name, f"{len(data)} bytes are too much, the limit is {LIMIT}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SpecError(name, f"not UTF-8: {_position(data[: error.start].decode(), error.start)}") from None
    if text.startswith("\ufeff"):
        raise SpecError(name, "begins with a byte order mark; JSON is written without one")
    if _too_deep(data):
        raise SpecError(name, f"nested more than {DEPTH} levels deep")
    start = len(text) - len(text.lstrip(_WHITESPACE))
    try:
        value, end = _scan(text, start)
    except _Refused:
        raise _explain(text, start, name) from None
    except (StopIteration, RecursionError) as error:
        raise _wrong_syntax(error, text, start, name) from None
    except ValueError as error:  # JSONDecodeError, or int() beyond its digit limit
        if not isinstance(getattr(error, "pos", None), int):
            raise _explain(text, start, name) from None
        raise _wrong_syntax(error, text, start, name) from None
    rest = text[end:].lstrip(_WHITESPACE)
    if rest:
        where = len(text) - len(rest)
        raise SpecError(name, f"unexpected {shorten(rest[:1])} after the end at {_position(text, where)}")
    # UTF-8 holds no surrogates and the scanner refuses a raw NUL, so both can only come from an escape.
    if "\\u" in text:
        _check_text(value, "", name, surrogates)
    return value


def read_file(path: str | bytes, dir_fd: int | None = None, limit: int = LIMIT, pipe: bool = False) -> bytes:
    """The bytes of a regular file of at most `limit` bytes.

    A pipe or device in its place can neither block the runtime nor feed it without end. With `pipe` it may be a pipe,
    which is read to its end, for files that the caller names: shells write a document as `<(...)`. Raises OSError when
    the file cannot be opened (so that a caller can tell a missing one), RuntimeFailure when it is of another kind or
    too big.
    """
    flags = posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOCTTY | (0 if pipe else posix.O_NONBLOCK)
    handle = posix.open(path, flags, dir_fd=dir_fd)
    try:
        kind = posix.fstat(handle).st_mode & S_IFMT
        if kind != S_IFREG and not (pipe and kind == S_IFIFO):
            raise RuntimeFailure(f"{_name(path)}: not a regular file")
        parts = []
        size = 0
        while part := posix.read(handle, min(1 << 20, limit + 1 - size)):
            parts.append(part)
            size += len(part)
            if size > limit:
                raise RuntimeFailure(f"{_name(path)}: larger than the limit of {limit} bytes")
        return b"".join(parts)
    finally:
        posix.close(handle)


def _name(path: str | bytes) -> str:
    return path if isinstance(path, str) else path.decode("utf-8", "surrogateescape")


def dumps(value: object, indent: int | str | None = None, sort: bool = False) -> str:
    """The JSON text of `value`, without final newline; in one line without spaces unless `indent` is given.

    `indent` is a number of spaces or the text of one level. Characters beyond ASCII stay as they are, except in a text
    with halves of surrogate pairs, which no encoder accepts. Raises TypeError and ValueError as `json.dumps` does.
    """
    text = _dumps(value, indent, sort, _json.encode_basestring)
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            text = _dumps(value, indent, sort, _json.encode_basestring_ascii)
    return text


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


def _scan(text: str, start: int) -> tuple[object, int]:
    scanner = _json.make_scanner(_Strict)  # type: ignore[arg-type]
    try:
        return scanner(text, start)
    except SystemError:
        # Up to Python 3.11 the scanner looks its exception up in `sys.modules` and, not finding it, fails without an
        # exception. Only a broken text pays for this import; newer scanners do it themselves.
        __import__("json.decoder")
        return scanner(text, start)


def _dumps(value: object, indent: int | str | None, sort: bool, quote: object) -> str:
    encode = _json.make_encoder({}, _unknown, quote, None, ":", ",", sort, False, False)  # type: ignore[arg-type]
    if indent is None:
        return "".join(encode(value, 0))
    writer = _Indenter(" " * indent if isinstance(indent, int) else indent, sort, encode)
    writer.write(value, "\n")
    return "".join(writer.parts)


class _Indenter:
    """Lays a value out over lines; the C encoder, which cannot indent, writes the leaves."""

    __slots__ = ("encode", "parts", "sort", "step")

    def __init__(self, step: str, sort: bool, encode: Callable[[object, int], tuple[str, ...]]) -> None:
        self.step = step
        self.sort = sort
        self.encode = encode
        self.parts: list[str] = []

    def write(self, value: object, newline: str) -> None:
        parts = self.parts
        inner = newline + self.step
        separator = inner
        if isinstance(value, dict) and value:
            parts.append("{")
            for key, item in sorted(value.items()) if self.sort else value.items():
                # The encoder itself turns a key into text: {1: 2} has the name "1".
                parts += (separator, "".join(self.encode({key: 0}, 0))[1:-2], " ")
                self.write(item, inner)
                separator = f",{inner}"
            parts += (newline, "}")
        elif isinstance(value, (list, tuple)) and value:
            parts.append("[")
            for item in value:
                parts.append(separator)
                self.write(item, inner)
                separator = f",{inner}"
            parts += (newline, "]")
        else:
            parts += self.encode(value, 0)


def _unknown(value: object) -> object:
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _position(text: str, offset: int) -> str:
    before = text[:offset]
    return f"line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))}"


def _too_deep(data: bytes) -> bool:
    """Whether brackets outside of strings nest deeper than DEPTH; at the speed of C, without recursion."""
    if data.count(b"[") + data.count(b"{") <= DEPTH:
        return False
    # Outside of a string the first quote begins one; a quote after a backslash ends none. Where this is wrong the
    # text is broken, and the scanner stops before it gets there.
    outside = b"".join(data.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    nesting = outside.translate(_PARENTHESES, _NOT_BRACKETS)
    for _ in range(DEPTH):
        shorter = nesting.replace(b"()", b"")  # takes away the innermost level
        if len(shorter) == len(nesting):
            break
        nesting = shorter
    return b"()" in nesting or nesting.count(b"(") > DEPTH


def _wrong_syntax(error: Exception, text: str, start: int, name: str) -> SpecError:
    """What the scanner stumbled over, and where."""
    if isinstance(error, RecursionError):
        return SpecError(name, "nested too deeply")
    if isinstance(error, StopIteration):
        where = error.value if isinstance(error.value, int) else start
        what = "the text is empty" if start == len(text) else f"expected a value at {_position(text, where)}"
        return SpecError(name, what)
    reason = str(getattr(error, "msg", error)).removesuffix(" at")
    place: int = getattr(error, "pos", start)
    return SpecError(name, f"{reason[:1].lower()}{reason[1:]} at {_position(text, place)}")


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


def join(path: str, key: str) -> str:
    """The path of the member `key` of the object at `path`; odd keys are quoted: `annotations["a b"]`."""
    if len(key) <= 60 and key.isascii() and key.replace("_", "a").isalnum():
        return f"{path}.{key}" if path else key
    return f"{path}[{shorten(key)}]"


def _check_text(value: object, path: str, name: str, surrogates: bool) -> None:
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
            _check_text(item, f"{path}[{index}]", name, surrogates)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_text(key, f"{path or name} (a name in it)", name, surrogates)
            _check_text(item, join(path, key), name, surrogates)
