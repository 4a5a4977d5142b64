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


class Refused(Exception):
    """The scanner met something that `jsonfaults` has to name; it knows no path itself."""


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise Refused
    return result


def finite(digits: str) -> float:
    """A number with point or exponent. Raises Refused when it is too large for a double."""
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise Refused
    return value


def _constant(name: str) -> object:
    raise Refused(name)


class Strict:
    """What `_json.make_scanner` reads its settings from."""

    strict = True
    object_hook = None
    object_pairs_hook = staticmethod(_object)
    parse_float = staticmethod(finite)
    parse_int = int
    parse_constant = staticmethod(_constant)
    array_hook = None
    memo: dict[str, str] = {}  # noqa: RUF012  (read by newer scanners, never shared: they copy it)


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
        from pyruntime.spec import jsonfaults

        where = jsonfaults.position(data[: error.start].decode(), error.start)
        raise SpecError(name, f"not UTF-8: {where}") from None
    if text.startswith("\ufeff"):
        raise SpecError(name, "begins with a byte order mark; JSON is written without one")
    if _too_deep(data):
        raise SpecError(name, f"nested more than {DEPTH} levels deep")
    start = len(text) - len(text.lstrip(_WHITESPACE))
    try:
        value, end = _scan(text, start)
    except (Refused, StopIteration, RecursionError, ValueError) as error:
        from pyruntime.spec import jsonfaults

        raise jsonfaults.refusal(error, text, start, name) from None
    rest = text[end:].lstrip(_WHITESPACE)
    if rest:
        from pyruntime.spec import jsonfaults

        raise jsonfaults.unexpected(text, len(text) - len(rest), name)
    # UTF-8 holds no surrogates and the scanner refuses a raw NUL, so both can only come from an escape.
    if "\\u" in text:
        from pyruntime.spec import jsonfaults

        jsonfaults.check_text(value, "", name, surrogates)
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


def _scan(text: str, start: int) -> tuple[object, int]:
    scanner = _json.make_scanner(Strict)  # type: ignore[arg-type]
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
