"""D-Bus values as bytes and back, by their signatures. See the D-Bus specification, "Type System" and "Marshaling".

Little endian only: that is what we send, and a peer answers in the order of its own machine, which is ours.
"""

from __future__ import annotations

from _struct import pack, unpack_from

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ALIGN = {"y": 1, "g": 1, "v": 1, "n": 2, "q": 2, "x": 8, "t": 8, "d": 8, "(": 8, "{": 8}  # all others 4
BASIC = "ybnqiuxtdsogh"
DEPTH = 32  # of arrays, and of structures; twice as many with variants. See "Valid Signatures".
FORMAT = {"y": "<B", "n": "<h", "q": "<H", "i": "<i", "u": "<I", "b": "<I", "h": "<I", "x": "<q", "t": "<Q", "d": "<d"}


class Variant:
    """A value that carries its own type."""

    __slots__ = ("signature", "value")

    def __init__(self, signature: str, value: Any) -> None:
        self.signature = signature
        self.value = value

    def __repr__(self) -> str:
        return f"Variant({self.signature!r}, {self.value!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Variant) and (self.signature, self.value) == (other.signature, other.value)

    def __hash__(self) -> int:
        return hash(self.signature)


def first(signature: str) -> str:
    """The first complete type of a signature. Raises ValueError if there is none."""
    arrays = len(signature) - len(signature.lstrip("a"))
    if arrays > DEPTH:
        raise ValueError("a D-Bus signature that is nested too deep")
    code = signature[arrays : arrays + 1]
    if not code:
        raise ValueError("an empty D-Bus signature")
    if code in "({":
        depth = 0
        for index in range(arrays, len(signature)):
            depth += (signature[index] in "({") - (signature[index] in ")}")
            if depth > DEPTH:
                raise ValueError("a D-Bus signature that is nested too deep")
            if depth == 0:
                if index == arrays + 1:
                    break  # a value of no bytes; an array could hold any number of them
                if code == "{" and signature[arrays + 1] not in BASIC:
                    break
                return signature[: index + 1]
        raise ValueError(f"no complete D-Bus type: {signature[:80]!r}")
    if code not in BASIC + "v":
        raise ValueError(f"no D-Bus type: {code!r}")
    return signature[: arrays + 1]


def types(signature: str) -> list[str]:
    """The complete types of a signature."""
    result = []
    while signature:
        result.append(first(signature))
        signature = signature[len(result[-1]) :]
    return result


class Writer:
    """Bytes in the making; `data` starts at a multiple of 8."""

    __slots__ = ("data",)

    def __init__(self) -> None:
        self.data = bytearray()

    def align(self, size: int) -> None:
        self.data += bytes(-len(self.data) % size)

    def write(self, signature: str, *values: Any) -> Writer:
        """Append `values`, one for each complete type of `signature`."""
        for kind, value in zip(types(signature), values, strict=True):
            self._one(kind, value)
        return self

    def _one(self, kind: str, value: Any) -> None:
        code = kind[0]
        self.align(ALIGN.get(code, 4))
        if code in FORMAT:
            self.data += pack(FORMAT[code], value)
        elif code in "so":
            raw = value.encode()
            self.data += pack("<I", len(raw)) + raw + b"\0"
        elif code == "g":
            raw = value.encode()
            self.data += pack("<B", len(raw)) + raw + b"\0"
        elif code == "v":
            self._one("g", value.signature)
            self._one(value.signature, value.value)
        elif code == "a":
            self._array(kind[1:], value)
        else:
            self.write(kind[1:-1], *value)

    def _array(self, kind: str, values: Any) -> None:
        place = len(self.data)
        self.data += bytes(4)
        self.align(ALIGN.get(kind[0], 4))  # there even if the array is empty, and not part of its length
        start = len(self.data)
        for value in values.items() if isinstance(values, dict) else values:
            self._one(kind, value)
        self.data[place : place + 4] = pack("<I", len(self.data) - start)


class Reader:
    """Takes values from bytes. Raises ValueError for what cannot be a message."""

    __slots__ = ("data", "depth", "offset")

    def __init__(self, data: bytes, offset: int = 0) -> None:
        self.data = data
        self.offset = offset
        self.depth = 0

    def align(self, size: int) -> None:
        self.offset += -self.offset % size

    def read(self, signature: str) -> list[Any]:
        """One value for each complete type of `signature`; arrays as lists, dictionaries as dict."""
        return [self._one(kind) for kind in types(signature)]

    def _take(self, size: int) -> bytes:
        raw = self.data[self.offset : self.offset + size]
        if len(raw) != size:
            raise ValueError("a D-Bus message that is too short")
        self.offset += size
        return raw

    def _one(self, kind: str) -> Any:
        code = kind[0]
        self.align(ALIGN.get(code, 4))
        if code in FORMAT:
            (value,) = unpack_from(FORMAT[code], self._take(1 if code == "y" else max(ALIGN.get(code, 4), 2)))
            return bool(value) if code == "b" else value
        if code in "sog":
            (size,) = self._take(1) if code == "g" else unpack_from("<I", self._take(4))
            return self._take(size + 1)[:-1].decode("utf-8", "surrogateescape")
        if self.depth > 2 * DEPTH:
            raise ValueError("a D-Bus value that is nested too deep")
        self.depth += 1
        value = self._container(kind)
        self.depth -= 1
        return value

    def _container(self, kind: str) -> Any:
        code = kind[0]
        if code == "v":
            signature = self._one("g")
            return Variant(signature, self._one(first(signature)))
        if code == "a":
            (size,) = unpack_from("<I", self._take(4))
            self.align(ALIGN.get(kind[1], 4))
            end = self.offset + size
            if end > len(self.data):
                raise ValueError("a D-Bus array longer than its message")
            values = []
            while self.offset < end:
                values.append(self._one(kind[1:]))
            return dict(values) if kind[1] == "{" else values
        return tuple(self.read(kind[1:-1]))
