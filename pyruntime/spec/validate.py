"""The full report on a configuration, for people: every problem at once, by `jsonschema` and by our own rules.

Used by `pyruntime validate` and by tests, never on the hot path: `jsonschema` takes 80 ms to import. The schemas are
files beside the code; nothing is ever fetched.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pyruntime.errors import SpecError
from pyruntime.spec import load, rules
from pyruntime.spec.compile import SCHEMAS
from pyruntime.spec.quoting import join, quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_NAMES = {
    "string": "a string",
    "integer": "an integer",
    "boolean": "true or false",
    "array": "an array",
    "object": "an object",
    "null": "null",
}


def validator(schema: str) -> Any:
    """A `jsonschema` validator for the file `schema` of the schemas, such as `state.json`."""
    import jsonschema
    import referencing.jsonschema

    # JSON Schema counts 1.0 as an integer; no Go program does, and neither does the hot path.
    draft = jsonschema.Draft202012Validator
    types = draft.TYPE_CHECKER.redefine("integer", lambda _checker, value: type(value) is int)
    strict = jsonschema.validators.extend(draft, type_checker=types)  # type: ignore[no-untyped-call]
    # The registry holds our files and has no way to get others: a reference elsewhere is an error, not a request.
    registry: referencing.Registry[Any] = referencing.Registry().with_resources(
        (file.name, referencing.jsonschema.DRAFT202012.create_resource(_contents(file)))
        for file in SCHEMAS.glob("*.json")
    )
    return strict({"$ref": schema}, registry=registry)


def _contents(file: Path) -> Any:
    schema = json.loads(file.read_text(encoding="utf-8"))
    # At a file that names its draft jsonschema would change to that draft's own validator, whose integers include 1.0.
    schema.pop("$schema")
    return schema


def schema_problems(document: object, schema: str = "config.json", checked_by: Any = None) -> list[SpecError]:
    """Every place where `document` differs from the schema; `checked_by` is its `validator`, to use one many times."""
    return [
        SpecError(_path(error), _reason(error))
        for top in (checked_by or validator(schema)).iter_errors(document)
        for error in _leaves(top)
    ]


def report(bundle: str) -> list[SpecError]:
    """Everything that is wrong with the configuration of a bundle, in the order of the document.

    Raises RuntimeFailure if there is no configuration to report on, or it is no JSON.
    """
    config = load.read_config(bundle)
    found = schema_problems(config)
    rules.apply(config, found)
    return found


def _leaves(error: Any) -> Iterable[Any]:
    """The errors that `error` is about: the branches of an anyOf say nothing that the parent does not."""
    if error.validator in ("if", "allOf"):
        for inner in error.context:
            yield from _leaves(inner)
    else:
        yield error


def _path(error: Any) -> str:
    path = ""
    for step in error.absolute_path:
        path = f"{path}[{step}]" if isinstance(step, int) else join(path, step)
    if error.validator == "required":
        missing = next(name for name in error.validator_value if _is_missing(error, name))
        return join(path, missing)
    return path


def _is_missing(error: Any, name: str) -> bool:
    # jsonschema makes one error for each missing property and names it only in its message.
    return name not in error.instance and error.message.startswith(repr(name))


def _reason(error: Any) -> str:
    got = f"got {quote(error.instance, _path(error))}"
    value = error.validator_value
    schema: dict[str, Any] = error.schema
    if error.validator == "required":
        return "required, but missing"
    if error.validator == "type":
        types: Sequence[str] = [value] if isinstance(value, str) else value
        return f"expected {' or '.join(_NAMES[name] for name in types)}, {got}"
    if error.validator == "minItems":
        return "needs at least one entry"
    if error.validator in ("minimum", "maximum", "anyOf"):
        bounds = schema.get("anyOf", [schema])[0]
        return f"expected an integer from {bounds.get('minimum')} to {bounds.get('maximum')}, {got}"
    if error.validator == "enum":
        return f"expected one of {', '.join(name for name in value if name)}, {got}"
    if "title" in schema:
        return f"expected {schema['title']}, {got}"
    return str(error.message)
