"""The text form of GVariant values, in which `org.systemd.property.*` annotations are written.

`15` is an int32, `uint64 10000000` and `@t 10000000` an unsigned 64-bit number, `'text'` a string, `['a', 'b']` an
array, `(1, 2)` a tuple, `{'k': 1}` a dictionary, `<1>` a variant, `b'bytes'` an array of bytes. See "GVariant Text
Format" in GLib's documentation.
"""

from __future__ import annotations

from pyruntime.cgroups.dbus_wire import Variant, first

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KEYWORDS = {
    "boolean": "b", "byte": "y", "int16": "n", "uint16": "q", "int32": "i", "uint32": "u", "handle": "h",
    "int64": "x", "uint64": "t", "double": "d", "string": "s", "objectpath": "o", "signature": "g",
}  # fmt: skip
RANGES = {
    "y": (0, 0xFF), "n": (-(1 << 15), (1 << 15) - 1), "q": (0, 0xFFFF), "i": (-(1 << 31), (1 << 31) - 1),
    "u": (0, (1 << 32) - 1), "h": (0, (1 << 32) - 1), "x": (-(1 << 63), (1 << 63) - 1), "t": (0, (1 << 64) - 1),
}  # fmt: skip
ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
SPACE = " \t\n\r"
DEEPEST = 32  # D-Bus allows no more


def parse(text: str) -> Variant:
    """The value that `text` is. Raises ValueError, saying what is wrong and where."""
    parser = _Parser(text)
    value = parser.value("", 0)
    parser.space()
    if parser.offset != len(text):
        raise parser.wrong("text after the value")
    return value


class _Parser:
    __slots__ = ("offset", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.offset = 0

    def wrong(self, what: str) -> ValueError:
        return ValueError(f"{what} at position {self.offset} of {self.text!r}")

    def space(self) -> None:
        while self.offset < len(self.text) and self.text[self.offset] in SPACE:
            self.offset += 1

    def peek(self) -> str:
        self.space()
        return self.text[self.offset : self.offset + 1]

    def take(self, token: str) -> bool:
        if self.peek() and self.text.startswith(token, self.offset):
            self.offset += len(token)
            return True
        return False

    def word(self) -> str:
        self.space()
        start = self.offset
        while self.offset < len(self.text) and (self.text[self.offset].isalnum() or self.text[self.offset] in "+-._"):
            self.offset += 1
        return self.text[start : self.offset]

    def value(self, kind: str, depth: int) -> Variant:
        """The next value, of type `kind` if that is known already."""
        if depth > DEEPEST:
            raise self.wrong("values nested too deep")
        start = self.peek()
        if start == "@":
            return self._annotated(kind, depth)
        if start in ("'", '"'):
            text = self._string()
            kind = kind or "s"
            if kind not in ("s", "o", "g"):
                raise self.wrong(f"a string where a value of type {kind!r} belongs")
            return Variant(kind, text)
        if start == "b" and self.text[self.offset + 1 : self.offset + 2] in ("'", '"'):
            self.offset += 1
            try:
                raw = self._string(octal=True).encode("latin-1") + b"\0"
            except UnicodeEncodeError:
                raise self.wrong("a byte string with characters that are no bytes") from None
            return self._expect(kind, Variant("ay", list(raw)))
        if start == "[":
            return self._array(kind, depth)
        if start == "(":
            return self._tuple(kind, depth)
        if start == "{":
            return self._dictionary(kind, depth)
        if self.take("<"):
            inner = self.value("", depth + 1)
            if not self.take(">"):
                raise self.wrong("a missing '>'")
            return self._expect(kind, Variant("v", inner))
        return self._plain(kind, depth)

    def _expect(self, kind: str, value: Variant) -> Variant:
        if kind and kind != value.signature:
            raise self.wrong(f"a value of type {value.signature!r} where one of type {kind!r} belongs")
        return value

    def _annotated(self, kind: str, depth: int) -> Variant:
        self.offset += 1
        start = self.offset
        while self.offset < len(self.text) and self.text[self.offset] not in SPACE:
            self.offset += 1
        signature = self.text[start : self.offset]
        try:
            complete = first(signature)
        except ValueError as error:
            raise self.wrong(str(error)) from error
        if complete != signature or (kind and kind != signature):
            raise self.wrong(f"the type {signature!r}")
        return self.value(signature, depth)

    def _plain(self, kind: str, depth: int) -> Variant:
        """A number, true, false, or a type keyword and its value."""
        word = self.word()
        if word in KEYWORDS:
            return self._expect(kind, self.value(KEYWORDS[word], depth))
        if word in ("true", "false"):
            return self._expect(kind, Variant("b", word == "true"))
        if not word:
            raise self.wrong("no value")
        bare = word.lstrip("+-")
        whole = bare.isascii() and (bare.isdigit() or bare[:2].lower() == "0x")
        kind = kind or ("i" if whole else "d")
        try:
            if kind == "d":
                return Variant("d", float(word))
            octal = len(bare) > 1 and bare.isdigit() and bare[0] == "0"
            number = int(word, 8 if octal else 0)
        except ValueError:
            raise self.wrong(f"{word!r}, which is no value of type {kind!r},") from None
        low, high = RANGES.get(kind, (0, -1))
        if not low <= number <= high:
            raise self.wrong(f"{number}, which is no value of type {kind!r},")
        return Variant(kind, number)

    def _string(self, octal: bool = False) -> str:
        """A quoted string; in a byte string `octal` numbers after a backslash stand for bytes."""
        quote = self.text[self.offset]
        self.offset += 1
        result: list[str] = []
        while True:
            character = self.text[self.offset : self.offset + 1]
            self.offset += 1
            if not character:
                raise self.wrong("a string without an end")
            if character == quote:
                return "".join(result)
            if character == "\\":
                character = self.text[self.offset : self.offset + 1]
                self.offset += 1
                length = {"u": 4, "U": 8}.get(character)
                if length:
                    digits = self.text[self.offset : self.offset + length]
                    try:
                        character = chr(int(digits, 16))
                    except (ValueError, OverflowError):
                        raise self.wrong(f"no character {digits!r}") from None
                    self.offset += length
                elif octal and character in ("0", "1", "2", "3"):
                    digits = self.text[self.offset - 1 : self.offset + 2]
                    if len(digits) != 3 or digits.strip("01234567"):
                        raise self.wrong(f"no octal number {digits!r}")
                    character = chr(int(digits, 8))
                    self.offset += 2
                else:
                    character = ESCAPES.get(character, character)
            result.append(character)

    def _items(self, end: str) -> bool:
        """Whether another item follows; takes the comma before it or the end."""
        if self.take(end):
            return False
        if not self.take(","):
            raise self.wrong(f"a missing ',' or {end!r}")
        return not self.take(end)  # a comma may stand before the end, as in a tuple of one

    def _array(self, kind: str, depth: int) -> Variant:
        if kind and kind[0] != "a":
            raise self.wrong(f"an array where a value of type {kind!r} belongs")
        self.offset += 1
        item = kind[1:]
        values: list[Any] = []
        more = not self.take("]")
        if not more and not item:
            raise self.wrong("an empty array without a type, such as @as [],")
        while more:
            value = self.value(item, depth + 1)
            item = value.signature
            values.append(value.value)
            more = self._items("]")
        return Variant("a" + item, values)

    def _tuple(self, kind: str, depth: int) -> Variant:
        if kind and kind[0] != "(":
            raise self.wrong(f"a tuple where a value of type {kind!r} belongs")
        self.offset += 1
        rest = kind[1:-1]
        values: list[Variant] = []
        more = not self.take(")")
        while more:
            wanted = first(rest) if rest else ""
            if kind and not wanted:
                raise self.wrong(f"more values than {kind!r} has")
            value = self.value(wanted, depth + 1)
            rest = rest[len(wanted) :]
            values.append(value)
            more = self._items(")")
        if rest or not values:
            raise self.wrong("a tuple with too few values")
        return Variant("(" + "".join(v.signature for v in values) + ")", tuple(v.value for v in values))

    def _dictionary(self, kind: str, depth: int) -> Variant:
        if kind and kind[:2] != "a{":
            raise self.wrong(f"a dictionary where a value of type {kind!r} belongs")
        self.offset += 1
        key_kind = kind[2:3]
        value_kind = kind[3:-1]
        result: dict[Any, Any] = {}
        more = not self.take("}")
        if not more and not kind:
            raise self.wrong("an empty dictionary without a type, such as @a{ss} {},")
        while more:
            key = self.value(key_kind, depth + 1)
            if len(key.signature) != 1 or key.signature == "v":
                raise self.wrong("a dictionary key that is no plain value")
            if not self.take(":"):
                raise self.wrong("a missing ':'")
            value = self.value(value_kind, depth + 1)
            key_kind, value_kind = key.signature, value.signature
            result[key.value] = value.value
            more = self._items("}")
        return Variant("a{" + key_kind + value_kind + "}", result)
