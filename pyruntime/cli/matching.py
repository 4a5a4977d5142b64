"""Containers by regular expression, for `kill --regex` and `delete --regex`."""

from __future__ import annotations

import re

from pyruntime.container import inspect
from pyruntime.container.context import Context
from pyruntime.errors import RuntimeFailure


def containers(context: Context, expression: str) -> list[str]:
    """The ids in which `expression` is found anywhere, sorted. Raises RuntimeFailure for a wrong expression."""
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise RuntimeFailure(f"invalid regular expression {expression}: {error}") from None
    ids = [str(item["id"]) for item in inspect.listing(context)]
    return sorted(identifier for identifier in ids if pattern.search(identifier))
