"""Reading JSON strictly, writing it, and what either costs a hostile document."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyruntime.errors import RuntimeFailure, SpecError
from pyruntime.spec import jsontext, quoting

# Text that JSON can carry and the kernel can take: no NUL, no half of a surrogate pair.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=30,
)


def refusal(data: bytes, name: str = "config.json") -> str:
    with pytest.raises(SpecError) as caught:
        jsontext.loads(data, name)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 250
    return message


@given(VALUES, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_reads_what_python_reads(value: object, ascii_only: bool, indent: int | str | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert jsontext.loads(text.encode()) == value


@given(VALUES, st.sampled_from([None, 0, 1, 4, "\t"]), st.booleans())
def test_writes_what_python_writes(value: object, indent: int | str | None, sort: bool) -> None:
    separators = (",", ":") if indent is None else (",", ": ")
    expected = json.dumps(value, ensure_ascii=False, indent=indent, sort_keys=sort, separators=separators)
    assert jsontext.dumps(value, indent, sort) == expected


@given(st.text())
def test_writes_any_text_so_that_it_can_be_encoded(text: str) -> None:
    for value in (text, {text: [text]}):
        written = jsontext.dumps(value)
        assert json.loads(written.encode()) == value
        assert jsontext.dumps(value, indent=2).encode()


@given(st.binary(max_size=60) | st.text('{}[]",:\\u0019eE+-. truefalsn', max_size=40).map(str.encode))
def test_agrees_with_python_on_what_is_json(data: bytes) -> None:
    def no_constant(name: str) -> None:
        raise ValueError(name)

    try:
        text = data.decode()
        if text.startswith("\ufeff"):
            raise ValueError
        expected = json.loads(text, parse_constant=no_constant)
    except ValueError:
        refusal(data)
        return
    try:
        assert jsontext.loads(data) == expected
    except SpecError as error:  # the rules that Python does not have
        assert any(word in str(error) for word in ("twice", "too large", "NUL", "surrogate")), error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": {"b": 1, "b": 2}}', "a.b: the name appears twice in its object"),
        ('{"a": [0, {"x y": {"": 1, "": 1}}]}', 'a[1]["x y"][""]: the name appears twice in its object'),
        (
            '{"linux": {"resources": {"cpu": {"quota": 1e400}}}}',
            "linux.resources.cpu.quota: the number 1e400 is too large",
        ),
        ('{"a": [1, -1e999]}', "a[1]: the number -1e999 is too large"),
        ('{"a": NaN}', "a: NaN is not a number in JSON"),
        ('{"a": -Infinity}', "a: -Infinity is not a number in JSON"),
        ('{"a": "x\\u0000y"}', "a: a NUL character in a string"),
        ('{"x\\u0000": 1}', "config.json (a name in it): a NUL character in a string"),
        ('{"a": {"b": ["\\ud800"]}}', "a.b[0]: half of a surrogate pair in a string"),
        ('{"a": "\\udc80"}', "a: half of a surrogate pair in a string"),
        ("", "config.json: the text is empty"),
        (" \n", "config.json: the text is empty"),
        ('{"a": }', "config.json: expected a value at line 1, column 7"),
        ('{"a": 1}\n x', 'config.json: unexpected "x" after the end at line 2, column 2'),
        ('{\n "a" 1}', "config.json: expecting ':' delimiter at line 2, column 6"),
        ("[1 2]", "config.json: expecting ',' delimiter at line 1, column 4"),
        ('["\t"]', "config.json: invalid control character at line 1, column 3"),
        ("nul", "config.json: expected a value at line 1, column 1"),
        ("\ufeff{}", "config.json: begins with a byte order mark; JSON is written without one"),
        ('{"a": ' + "[" * 200 + "]" * 200 + "}", "config.json: nested more than 128 levels deep"),
    ],
)
def test_refusals_name_the_place(text: str, message: str) -> None:
    assert refusal(text.encode()) == message


def test_other_encodings_are_refused() -> None:
    assert refusal('{"a": 1}'.encode("utf-16")) == "config.json: not UTF-8: line 1, column 1"
    assert refusal('{"a": 1}'.encode("utf-16-le")).startswith("config.json: ")
    assert refusal(b'{\n"a": "\xc3\xa4\xff"}') == "config.json: not UTF-8: line 2, column 8"


def test_an_integer_beyond_the_digit_limit_is_an_error_like_any_other() -> None:
    assert refusal(b'{"a": [%s]}' % (b"1" * 5000)) == "a[0]: the number 11111111111111111111... has too many digits"
    assert jsontext.loads(b"1" * 4300) == int("1" * 4300)


def test_pairs_of_surrogates_and_bytes_of_file_names_are_text() -> None:
    assert jsontext.loads(b'"\\ud83d\\ude00"') == "\U0001f600"
    path = os.fsdecode(b"/srv/\xff")
    written = jsontext.dumps({path: path}).encode()
    assert jsontext.loads(written, "state.json", surrogates=True) == {path: path}
    with pytest.raises(SpecError):
        jsontext.loads(written)
    with pytest.raises(SpecError):
        jsontext.loads(b'"\\ud800"', surrogates=True)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": "[[[[{{{{"}',
        "[" + ",".join(['"]}["'] * 200) + "]",
        '["' + '\\"[' * 300 + '"]',
        '["\\\\", "' + "[" * 300 + '"]',
    ],
)
def test_brackets_in_strings_do_not_nest(text: str) -> None:
    assert jsontext.loads(text.encode()) == json.loads(text)


@given(st.integers(120, 136), st.sampled_from(["[", '{"a":', '[0, {"b]":']), st.text('[]{}\\"', max_size=5))
def test_the_limit_of_nesting_is_exact(levels: int, opening: str, noise: str) -> None:
    closing = {"[": "]", '{"a":': "}", '[0, {"b]":': "}]"}[opening]
    depth = levels * len(closing)
    text = opening * levels + json.dumps(noise) + closing * levels
    if depth <= jsontext.DEPTH:
        assert jsontext.loads(text.encode()) == json.loads(text)
    else:
        assert "nested" in refusal(text.encode())


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 10_000_000,
        b"[]" * 5_000_000,
        b"[" * 5_000_000 + b"]" * 5_000_000,
        b'{"a":' * 2_000_000,
        b'"' + b"\\" * 10_000_000,
        b"1" * 10_000_000,
        b"-" * 10_000_000,
        b'"\\u0000' * 1_000_000,
        b"[" + b'"\\ud800",' * 1_000_000 + b"1]",
        b'{"a":1,' + b'"b":1,' * 1_000_000 + b'"c":1}',
    ],
    ids=lambda data: data[:6].decode(),
)
def test_hostile_documents_are_refused_soon(data: bytes) -> None:
    start = time.process_time()
    refusal(data)
    assert time.process_time() - start < 5


def test_too_much_is_refused_before_it_is_looked_at() -> None:
    assert refusal(b" " * (jsontext.LIMIT + 1)) == "config.json: 16777217 bytes are too much, the limit is 16777216"


@pytest.mark.parametrize("bad", ['"a":1,"a":2', '"a":NaN', '"a":1e400', '"a":' + "9" * 4400])
@pytest.mark.parametrize("end", ["", ",", ",x", ', "b": }', "] }", ' "'])
def test_a_wrong_value_before_wrong_syntax(bad: str, end: str) -> None:
    """Whichever of the two is named: it is a SpecError."""
    with pytest.raises(SpecError, match=r"^(config\.json|a): "):
        jsontext.loads(f"{{{bad}{end}".encode(), "config.json")


def test_read_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 10)
    assert jsontext.read_file(str(file)) == b"x" * 10
    assert jsontext.read_file(os.fsencode(file), limit=10) == b"x" * 10
    with pytest.raises(RuntimeFailure, match="larger than the limit of 9 bytes"):
        jsontext.read_file(str(file), limit=9)
    handle = os.open(tmp_path, os.O_PATH)
    try:
        assert jsontext.read_file("file", dir_fd=handle) == b"x" * 10
    finally:
        os.close(handle)


def test_read_file_neither_waits_nor_reads_without_end(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    before = sorted(os.listdir("/proc/self/fd"))
    for odd in (str(pipe), "/dev/zero", str(tmp_path)):
        with pytest.raises(RuntimeFailure, match="not a regular file"):
            jsontext.read_file(odd)
    assert sorted(os.listdir("/proc/self/fd")) == before
    huge = tmp_path / "huge"
    huge.touch()
    os.truncate(huge, 4 << 30)  # sparse
    with pytest.raises(RuntimeFailure, match="larger than the limit"):
        jsontext.read_file(str(huge))
    with pytest.raises(FileNotFoundError):
        jsontext.read_file(str(tmp_path / "missing"))


@given(st.text() | st.integers() | st.floats() | st.none() | st.booleans() | st.lists(st.none()))
def test_shorten_is_one_short_line(value: object) -> None:
    text = quoting.shorten(value)
    assert text.isprintable()
    assert len(text) <= 400  # 60 characters, each of which may need an escape of six


def test_shorten() -> None:
    assert quoting.shorten("512m") == '"512m"'
    assert quoting.shorten("é\n\u2028") == '"\\u00e9\\n\\u2028"'
    assert quoting.shorten("x" * 100) == f'"{"x" * 57}..."'
    assert quoting.shorten([1]) == "an array"
    assert quoting.shorten({}) == "an object"
    assert (quoting.shorten(True), quoting.shorten(None), quoting.shorten(1.0)) == ("true", "null", "1.0")
    assert quoting.shorten(10**5000) == "a very large number"
    assert len(quoting.shorten(10**100)) == 60


def test_dumps_refuses_what_json_cannot_say() -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON compliant"):
            jsontext.dumps(value)
    with pytest.raises(TypeError, match="bytes has no form in JSON"):
        jsontext.dumps({"a": b""})
    with pytest.raises(TypeError):
        jsontext.dumps({(1, 2): 3}, indent=2)
