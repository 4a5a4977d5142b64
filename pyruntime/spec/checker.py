"""Checks a document against a compiled schema (`table.py`), without `jsonschema` and its 80 ms of imports.

A schema node is a tuple whose first item is one of the kinds below. The interpreter is one function, because it runs
for every value of every configuration; paths are only built while descending into objects and arrays of objects.
"""

from __future__ import annotations

from pyruntime.errors import SpecError
from pyruntime.spec.quoting import join, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Node = tuple[Any, ...]

STRING = 0  # (predicate or None, what it is)
ENUM = 1  # (the strings)
INTEGER = 2  # (least, greatest, another allowed value or None)
BOOLEAN = 3
ARRAY = 4  # (node of the items, least number of items)
OBJECT = 5  # (nodes by property, names of required properties)
MAP = 6  # (node of the values, node of the names or None)
ANY = 7

NAME_LIMIT = 100  # no property has a longer name, and a hostile one can have any
LIMIT = 1000
"""So many problems are enough for anybody; a hostile document could have millions."""

_NAMES = ("a string", "a string", "an integer", "true or false", "an array", "an object", "an object", "anything")


def check(node: Node, value: object, path: str, found: list[SpecError]) -> None:
    """Append to `found` a problem for every part of `value` that the schema `node` refuses. `path` is where it is."""
    kind = node[0]
    if kind == OBJECT:
        if type(value) is not dict:
            _expected(_NAMES[kind], value, path, found)
            return
        properties = node[1]
        if not properties.keys() >= value.keys():
            _adopt(properties, value)
        for name, item in value.items():
            inner = properties.get(name)
            if inner is not None:
                check(inner, item, f"{path}.{name}" if path else name, found)
        for name in node[2]:
            if name not in value:
                report(found, f"{path}.{name}" if path else name, "required, but missing")
    elif kind == STRING:
        if type(value) is not str:
            _expected("a string", value, path, found)
        elif node[1] is not None and not node[1](value):
            _expected(node[2], value, path, found)
    elif kind == ARRAY:
        _check_array(node, value, path, found)
    elif kind == INTEGER:
        # `true` and 1.0 are equal to 1 in Python, and are no integers in the documents.
        if type(value) is not int:
            _expected("an integer", value, path, found)
        elif not node[1] <= value <= node[2] and value != node[3]:
            _expected(f"an integer from {node[1]} to {node[2]}", value, path, found)
    elif kind == ENUM:
        if type(value) is not str or value not in node[1]:
            _expected(f"one of {', '.join(name for name in node[1] if name)}", value, path, found)
    elif kind == BOOLEAN:
        if type(value) is not bool:
            _expected("true or false", value, path, found)
    elif kind == MAP:
        _check_map(node, value, path, found)


def _adopt(properties: dict[str, Node], value: dict[str, Any]) -> None:
    """Give properties that are written with other capitals (`CPU`, `Cpus`) their right names, in place.

    Every runtime written in Go reads them so, because encoding/json does. What is there under both names is merged.
    """
    right = {name.lower(): name for name in properties}
    for name in list(value):
        known = right.get(name.lower()) if len(name) < NAME_LIMIT and name not in properties else None
        if known is None:
            continue
        item = value.pop(name)
        drop_nulls(properties[known], item)
        there = value.get(known)
        if type(there) is dict and type(item) is dict:
            there.update(item)
        elif item is not None:
            value[known] = item


def _check_array(node: Node, value: object, path: str, found: list[SpecError]) -> None:
    if type(value) is not list:
        _expected("an array", value, path, found)
        return
    if len(value) < node[2]:
        report(found, path, "needs at least one entry")
    item = node[1]
    # A seccomp profile has hundreds of names: one set of their types is all that has to be looked at.
    if item[0] == STRING and item[1] is None and set(map(type, value)) <= {str}:
        return
    for index, inner in enumerate(value):
        check(item, inner, f"{path}[{index}]", found)
        if len(found) >= LIMIT:
            return


def _check_map(node: Node, value: object, path: str, found: list[SpecError]) -> None:
    if type(value) is not dict:
        _expected("an object", value, path, found)
        return
    for name, item in value.items():
        place = join(path, name)
        if node[2] is not None:
            check(node[2], name, f"{place} (the name)", found)
        check(node[1], item, place, found)
        if len(found) >= LIMIT:
            return


def report(found: list[SpecError], path: str, reason: str) -> None:
    """Append one problem, unless there are more than enough."""
    if len(found) < LIMIT:
        found.append(SpecError(path, reason))


def drop_nulls(node: Node, value: object) -> None:
    """Remove the properties of `value` that are null, in place.

    Go's encoder writes null for a slice or pointer that is not set, and its decoder takes it so; a schema that allowed
    null everywhere would hand every reader a second way to say "unset". Values of maps and items of arrays stay.
    """
    kind = node[0]
    if kind == OBJECT and type(value) is dict:
        for name, inner in node[1].items():
            if name in value:
                if value[name] is None:
                    del value[name]
                else:
                    drop_nulls(inner, value[name])
    elif kind == ARRAY and type(value) is list:
        for item in value:
            drop_nulls(node[1], item)
    elif kind == MAP and type(value) is dict:
        for item in value.values():
            drop_nulls(node[1], item)


def _expected(what: str, value: object, path: str, found: list[SpecError]) -> None:
    report(found, path, f"expected {what}, got {quote(value, path)}")
