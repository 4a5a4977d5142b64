"""Help texts, made from the tables of the verbs."""

from __future__ import annotations

import textwrap

from pyruntime.cli.flags import BOOL, HELP, Flag, Verb
from pyruntime.cli.main import GLOBAL_FLAGS, PROGRAM, VERBS, load_verb

WIDTH = 80
INDENT = 3
WIDEST_NAME = 28

ABOUT = """\
Runs containers from OCI bundles: directories with a config.json and a root file system. It takes the same commands and
options as runc and can stand in for it under podman, containerd, Docker, buildah and CRI-O."""

EXAMPLES = (
    ("A bundle with a starter configuration:", "pyruntime spec --bundle /srv/web"),
    ("Run it as the container web:", "pyruntime run --bundle /srv/web web"),
    ("What would happen, step by step:", "pyruntime plan --bundle /srv/web"),
)


def all_verbs() -> list[Verb]:
    """The verbs that people are told about, by name."""
    verbs = [load_verb(name) for name in sorted(VERBS)]
    return [verb for verb in verbs if not verb.hidden]


def usage(verb: Verb, program: str = PROGRAM) -> str:
    """The one line that says how a verb is called; `program` is the name we go by, a link may have given us another."""
    parts = [program, verb.name, "[options]", verb.arguments]
    return " ".join(part for part in parts if part)


def flag_names(flag: Flag) -> str:
    """`--format FORMAT, -f FORMAT`, as it stands on the left."""
    value = f" {value_name(flag)}" if flag.kind is not BOOL else ""
    short = f", -{flag.short}" if flag.short else ""
    return f"--{flag.name}{value}{short}"


def value_name(flag: Flag) -> str:
    return flag.value or flag.kind.upper()


def flag_help(flag: Flag) -> str:
    """What stands on the right: the help, that it can be repeated, and the default where it is a real one."""
    text = flag.help
    if flag.repeatable:
        text += " (may be repeated)"
    if flag.default and not flag.repeatable:
        text += f" (default: {flag.default})"
    return text


def visible(flags: tuple[Flag, ...]) -> list[Flag]:
    """The flags that people are told about, `--help` the last."""
    return [*(flag for flag in flags if not flag.hidden), HELP]


def _usage_of_crun(verb: Verb) -> str:
    """The first line of crun's help, for those who look for it in what goes by that name."""
    arguments = {"exec": "CONTAINER cmd", "mounts": "[add|remove] CONTAINER FILE"}
    return (
        f"Usage: crun [OPTION...] {verb.name} {arguments.get(verb.name, 'CONTAINER' if verb.minimum else '')}".rstrip()
    )


def verb_help(verb: Verb, program: str = PROGRAM) -> str:
    parts = [_usage_of_crun(verb) + "\n"] if program == "crun" else []
    parts += [
        _section("NAME", [f"{program} {verb.name} - {verb.summary}"]),
        _section("USAGE", [usage(verb, program)]),
    ]
    if verb.about:
        parts.append(_section("DESCRIPTION", verb.about.split("\n\n")))
    parts.append("OPTIONS:\n" + _table([(flag_names(flag), flag_help(flag)) for flag in visible(verb.flags)]))
    parts += _examples(verb.examples)
    return "\n".join(parts)


def program_help(program: str = PROGRAM) -> str:
    parts = [
        _section("NAME", [f"{program} - Open Container Initiative runtime"]),
        _section("USAGE", [f"{program} [global options] command [options] [arguments...]"]),
        _section("DESCRIPTION", ABOUT.split("\n\n")),
        "COMMANDS:\n"
        + _table([*((verb.name, verb.summary) for verb in all_verbs()), ("help", "show the help of a command")]),
        "GLOBAL OPTIONS:\n" + _table([(flag_names(flag), flag_help(flag)) for flag in visible(GLOBAL_FLAGS)]),
        *_examples(EXAMPLES),
    ]
    return "\n".join(parts)


def _section(title: str, paragraphs: list[str]) -> str:
    filled = [_fill(" ".join(paragraph.split()), INDENT) for paragraph in paragraphs]
    return f"{title}:\n" + "\n\n".join(filled) + "\n"


def _examples(examples: tuple[tuple[str, str], ...]) -> list[str]:
    if not examples:
        return []
    blank = " " * INDENT
    lines = [f"{_fill(text, INDENT)}\n{blank}  # {command}\n" for text, command in examples]
    return ["EXAMPLES:\n" + "\n".join(lines)]


def _table(rows: list[tuple[str, str]]) -> str:
    column = INDENT + 2 + min(WIDEST_NAME, max(len(name) for name, _ in rows))
    lines = []
    for name, text in rows:
        left = (" " * INDENT + name).ljust(column)
        if len(left) > column:  # too long for the column: the text starts on the next line
            lines += [left, _fill(text, column)]
        else:
            lines.append(left + _fill(text, column)[column:])
    return "\n".join(lines) + "\n"


def _fill(text: str, indent: int) -> str:
    blank = " " * indent
    return textwrap.fill(
        text, WIDTH, initial_indent=blank, subsequent_indent=blank, break_long_words=False, break_on_hyphens=False
    )
