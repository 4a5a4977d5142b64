"""The text form of values in `org.systemd.property.*` annotations."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyruntime.cgroups.dbus_wire import Variant, Writer
from pyruntime.cgroups.gvariant import parse

GOOD: list[tuple[str, str, Any]] = [
    ("15", "i", 15),
    ("-15", "i", -15),
    ("0x1F", "i", 31),
    ("017", "i", 15),
    ("uint64 10000000", "t", 10000000),
    ("@t 10000000", "t", 10000000),
    ("byte 255", "y", 255),
    ("int16 -3", "n", -3),
    ("true", "b", True),
    ("boolean false", "b", False),
    ("1.5", "d", 1.5),
    ("1e3", "d", 1000.0),
    ("double 3", "d", 3.0),
    ("'text'", "s", "text"),
    ('"it\'s"', "s", "it's"),
    (r"'a\'b\\c\n\u00e9'", "s", "a'b\\c\né"),
    ("objectpath '/a'", "o", "/a"),
    ("['a', 'b']", "as", ["a", "b"]),
    ("[uint32 1, 2]", "au", [1, 2]),
    ("@as []", "as", []),
    ("@a(ss) [('x', 'y')]", "a(ss)", [("x", "y")]),
    ("(1, 'x')", "(is)", (1, "x")),
    ("(1,)", "(i)", (1,)),
    ("{'k': 1, 'l': 2}", "a{si}", {"k": 1, "l": 2}),
    ("@a{sv} {}", "a{sv}", {}),
    ("{'k': <1>}", "a{sv}", {"k": Variant("i", 1)}),
    ("<'x'>", "v", Variant("s", "x")),
    (r"b'a\101'", "ay", [97, 65, 0]),
    ("[['a'], ['b', 'c']]", "aas", [["a"], ["b", "c"]]),
    ("  7  ", "i", 7),
]


@pytest.mark.parametrize(("text", "signature", "value"), GOOD)
def test_values(text: str, signature: str, value: Any) -> None:
    assert parse(text) == Variant(signature, value)


@pytest.mark.parametrize(
    "text",
    [
        "", "text", "'open", "[", "[1,", "[]", "{}", "()", "1 2", "[1, 'a']", "byte 256", "2147483648", "uint32 -1",
        "@t 'x'", "@ 5", "@ii 5", "@z 5", "int32 'x'", "@as [1]", "<1", "{1 2}", "{'a': 1,", "(1", "@(ii) (1,)",
        "@(i) (1, 2)", "nothing", "'\\u12'", "b'\\9x", "{[1]: 2}", "<" * 50 + "1" + ">" * 50, "1.5.5", "--5", "b'é€'",
    ],
)  # fmt: skip
def test_what_is_no_value(text: str) -> None:
    with pytest.raises(ValueError, match="position"):
        parse(text)


@pytest.mark.parametrize("text", ["@" + "a" * 5000 + "y []", "@" + "(" * 5000, "@a{" * 5000, "<" * 5000, "[" * 5000])
def test_nothing_is_nested_without_end(text: str) -> None:
    with pytest.raises(ValueError, match="position"):
        parse(text)


@given(st.text(alphabet="[](){}<>@'\",:abisut0123456789 \\.-", max_size=25))
def test_any_text_is_a_value_or_an_error(text: str) -> None:
    try:
        value = parse(text)
    except ValueError:
        return
    Writer().write("v", value)


@given(st.text(max_size=20))
def test_strings_survive_quoting(text: str) -> None:
    quoted = text.replace("\\", "\\\\").replace("'", "\\'")
    assert parse(f"'{quoted}'") == Variant("s", text)
