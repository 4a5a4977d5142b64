"""Turns `schemas/` into `table.py`: run `python -m pyruntime.spec.compile` after changing a schema.

Only the part of JSON Schema that the configuration needs is understood; anything else stops the compilation, so that
no keyword is ever silently without effect on the hot path. `--check` compares instead of writing.
"""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

from pyruntime.spec.predicates import PATTERNS, non_empty

SCHEMAS = Path(__file__).resolve().parent.parent / "schemas"
"""Inside the package; in a source tree that is a link to the directory at the top."""

TABLE = Path(__file__).with_name("table.py")

ROOTS = ("config.json", "process.json", "process.json#/$defs/consoleSize", "resources.json")
"""What is checked by itself: bundles, `exec --process`, the console of a process with a terminal, `update`."""

# Keywords without effect, and those that every kind of node reads.
_SILENT = {"$schema", "$comment", "$defs", "title", "description"}

_HEADER = '''"""The schemas of the configuration, compiled. Written by `python -m pyruntime.spec.compile`; do not edit.

`checker.py` says what the tuples mean.
"""

from __future__ import annotations

from pyruntime.spec import predicates
from pyruntime.spec.checker import ANY, ARRAY, BOOLEAN, ENUM, INTEGER, MAP, OBJECT, STRING

# fmt: off
'''


class _Compiler:
    def __init__(self) -> None:
        self.documents: dict[str, Any] = {}
        self.names: dict[str, str] = {}  # reference -> name in the table
        self.lines: list[str] = []

    def reference(self, reference: str, document: str) -> str:
        """The name of what `reference`, met in `document`, points to; compiled on first sight."""
        file, _, pointer = reference.partition("#")
        file = file or document
        key = f"{file}#{pointer}"
        if key not in self.names:
            if file not in self.documents:
                self.documents[file] = json.loads((SCHEMAS / file).read_text(encoding="utf-8"))
            schema = self.documents[file]
            for step in filter(None, pointer.split("/")):
                schema = schema[step]
            last = pointer.rpartition("/")[2] or Path(file).stem
            name = "".join(f"_{letter}" if letter.isupper() else letter.upper() for letter in last)
            if name in self.names.values():
                name = f"{Path(file).stem.upper()}_{name}"
            expression = self.node(schema, file)
            self.names[key] = name
            self.lines.append(f"{name} = {expression}")
        return self.names[key]

    def node(self, schema: dict[str, Any], document: str) -> str:
        """The tuple of one schema, as Python text."""
        rest = {keyword: value for keyword, value in schema.items() if keyword not in _SILENT}
        if "$ref" in rest:
            expression = self.reference(rest.pop("$ref"), document)
        elif "enum" in rest:
            names = rest.pop("enum")
            expression = f"(ENUM, ({_wrapped(names)}))"
        else:
            kind = rest.pop("type", "any")
            expression = str(getattr(self, f"_{kind}")(rest, schema.get("title"), document))
        if rest:
            raise SystemExit(f"{document}: keywords that the compiler does not know: {', '.join(rest)}")
        return expression

    def _any(self, rest: dict[str, Any], title: str | None, document: str) -> str:
        return "(ANY,)"

    def _boolean(self, rest: dict[str, Any], title: str | None, document: str) -> str:
        return "(BOOLEAN,)"

    def _string(self, rest: dict[str, Any], title: str | None, document: str) -> str:
        pattern = rest.pop("pattern", None)
        if rest.pop("minLength", 0):
            predicate = non_empty
        elif pattern is not None:
            predicate = PATTERNS[pattern]
        else:
            return "(STRING, None, None)"
        if title is None:
            raise SystemExit(f"{document}: a restricted string needs a title for its error message")
        return f"(STRING, predicates.{predicate.__name__}, {title!r})"

    def _integer(self, rest: dict[str, Any], title: str | None, document: str) -> str:
        also = None
        if "anyOf" in rest:
            bounds, constant = rest.pop("anyOf")
            also = constant["const"]
        else:
            bounds = {"minimum": rest.pop("minimum"), "maximum": rest.pop("maximum")}
        return f"(INTEGER, {bounds['minimum']}, {bounds['maximum']}, {also})"

    def _array(self, rest: dict[str, Any], title: str | None, document: str) -> str:
        return f"(ARRAY, {self.node(rest.pop('items'), document)}, {rest.pop('minItems', 0)})"

    def _object(self, rest: dict[str, Any], title: str | None, document: str) -> str:
        if "additionalProperties" in rest:
            values = self.node(rest.pop("additionalProperties"), document)
            names = self.node(rest.pop("propertyNames"), document) if "propertyNames" in rest else None
            return f"(MAP, {values}, {names})"
        properties = {name: self.node(schema, document) for name, schema in rest.pop("properties").items()}
        text = "".join(f"{name!r}: {node},\n" for name, node in properties.items())
        return f"(OBJECT, {{\n{textwrap.indent(text, '    ')}}}, {tuple(rest.pop('required', ()))!r})"


def _wrapped(names: list[str]) -> str:
    text = " ".join(f"{name!r}," for name in names)
    return (
        text if len(text) < 60 else f"\n{textwrap.fill(text, 110, initial_indent='    ', subsequent_indent='    ')}\n"
    )


def compile_schemas() -> str:
    """The text of `table.py`."""
    compiler = _Compiler()
    for root in ROOTS:
        compiler.reference(root, "")
    return _HEADER + "\n".join(compiler.lines) + "\n"


def main() -> None:
    """Write `table.py`, or with `--check` fail if it is out of date."""
    text = compile_schemas()
    if sys.argv[1:] == ["--check"]:
        if not TABLE.exists() or TABLE.read_text(encoding="utf-8") != text:
            raise SystemExit(f"{TABLE.name} is out of date: run python -m pyruntime.spec.compile")
    else:
        TABLE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
