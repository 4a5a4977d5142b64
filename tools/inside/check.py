"""Put the rules to a program."""

from __future__ import annotations

from collections.abc import Iterator

from tools.inside.code import Program
from tools.inside.rules import ANYWHERE, INSIDE


def complaints(program: Program) -> Iterator[str]:
    """`path:line: function: rule: what is wrong`, for each place that breaks a rule."""
    for unit in program.inside().values():
        for rule in INSIDE:
            for node, message in rule(unit):
                yield f"{unit.module.path}:{getattr(node, 'lineno', 1)}: {unit.name}: {message}"
    for module in program.modules.values():
        for module_rule in ANYWHERE:
            for node, message in module_rule(module):
                yield f"{module.path}:{getattr(node, 'lineno', 1)}: {message}"
