"""docs/commands.md, made from the tables of the verbs: `python3 -m pyruntime.cli.reference > docs/commands.md`.

A test fails when the file and the tables differ.
"""

from __future__ import annotations

import sys

from pyruntime.cli import help
from pyruntime.cli.flags import BOOL, Flag, Verb
from pyruntime.cli.main import GLOBAL_FLAGS, PROGRAM
from pyruntime.cli.manual import STATUS

INTRODUCTION = f"""\
# Commands

    {PROGRAM} [global options] command [options] [arguments...]

{help.ABOUT}

Options are written `--name value` or `--name=value`; one dash does as well as two. An option without a value is
switched off again with `--name=false`. They may stand before and after the arguments, except for `exec` and `ps`, where
everything after the container's id belongs to the other program. `--` ends the options.

This page says what `{PROGRAM} COMMAND --help` and the manual pages (`{PROGRAM} man COMMAND | man -l -`) say.
"""


def markdown() -> str:
    parts = [
        INTRODUCTION,
        "## Global options\n",
        _flags(GLOBAL_FLAGS),
        "## Exit status\n",
        _table(STATUS, "status", "meaning"),
    ]
    for verb in help.all_verbs():
        parts += _verb(verb)
    return "\n".join(parts)


def _verb(verb: Verb) -> list[str]:
    parts = [f"## {verb.name}\n", f"    {help.usage(verb)}\n", f"{_sentence(verb.summary)}\n"]
    if verb.about:
        parts.append(verb.about + "\n")
    flags = help.visible(verb.flags)
    if len(flags) > 1:  # --help alone is not worth a table
        parts.append(_flags(verb.flags))
    for text, command in verb.examples:
        parts.append(f"{text}\n\n    {command}\n")
    return parts


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _flags(flags: tuple[Flag, ...]) -> str:
    rows = []
    for flag in help.visible(flags):
        names = [f"--{flag.name}"] + ([f"-{flag.short}"] if flag.short else [])
        value = f" {help.value_name(flag)}" if flag.kind is not BOOL else ""
        rows.append((", ".join(f"`{name}{value}`" for name in names), help.flag_help(flag)))
    return _table(tuple(rows), "option", "meaning")


def _table(rows: tuple[tuple[str, str], ...], left: str, right: str) -> str:
    lines = [f"| {left} | {right} |", "| --- | --- |"]
    lines += [f"| {name.replace('|', chr(92) + '|')} | {text.replace('|', chr(92) + '|')} |" for name, text in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
