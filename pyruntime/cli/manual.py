"""Manual pages, made from the tables of the verbs. See man(7) for the macros."""

from __future__ import annotations

import pyruntime
from pyruntime.cli import help
from pyruntime.cli.flags import BOOL, Flag, Verb
from pyruntime.cli.main import GLOBAL_FLAGS, PROGRAM

SECTION = 8

FILES = (
    ("/run/pyruntime", "State of the containers, when --root is not given and the user is root."),
    ("$XDG_RUNTIME_DIR/pyruntime", "The same for every other user."),
    ("config.json", "In the bundle: the configuration of the container."),
)
STATUS = (
    ("0", "The command did what it was asked for."),
    ("1", "It failed; the reason is on standard error, and in the file given with --log."),
    ("3", "There is no such command."),
    ("255", "exec could not start the process."),
    ("other", "run and exec, in the foreground: the status of the process, or 128 + N when signal N ended it."),
)


def page_name(verb: Verb | None) -> str:
    """The name of the page, without the section: `pyruntime-kill`."""
    return f"{PROGRAM}-{verb.name}" if verb else PROGRAM


def page(verb: Verb | None) -> str:
    """The manual page of a verb, or of the whole program, as roff."""
    lines = [f'.TH "{page_name(verb).upper()}" "{SECTION}" "" "{PROGRAM} {pyruntime.VERSION}" "System administration"']
    if verb is None:
        lines += [".SH NAME", f"{PROGRAM} \\- Open Container Initiative runtime"]
        lines += [".SH SYNOPSIS", *_synopsis(f"{PROGRAM} [global options] command [options] [arguments...]")]
        lines += [".SH DESCRIPTION", *_paragraphs(help.ABOUT)]
        lines.append(".SH COMMANDS")
        for item in help.all_verbs():
            lines += [".TP", f"\\fB{_text(page_name(item))}\\fR({SECTION})", _text(item.summary) + "."]
        lines += [".SH GLOBAL OPTIONS", *_flags(GLOBAL_FLAGS)]
        examples: tuple[tuple[str, str], ...] = help.EXAMPLES
    else:
        lines += [".SH NAME", f"{_text(page_name(verb))} \\- {_text(verb.summary)}"]
        lines += [".SH SYNOPSIS", *_synopsis(help.usage(verb))]
        lines += [".SH DESCRIPTION", *_paragraphs(verb.about)]
        lines += [".SH OPTIONS", *_flags(verb.flags)]
        examples = verb.examples
    if examples:
        lines.append(".SH EXAMPLES")
        for text, command in examples:
            lines += [".PP", _text(text), ".PP", ".nf", ".RS", _text(command), ".RE", ".fi"]
    if verb is None:
        lines += [".SH EXIT STATUS", *_definitions(STATUS), ".SH FILES", *_definitions(FILES)]
        others = [page_name(item) for item in help.all_verbs()]
    else:
        others = [PROGRAM]
    lines += [".SH SEE ALSO", ",\n".join(f"\\fB{_text(name)}\\fR({SECTION})" for name in others)]
    return "\n".join(lines) + "\n"


def _text(text: str) -> str:
    """`text` with roff's own characters made harmless, and hyphens that can be copied from the screen."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text[:1] in (".", "'") else text


def _paragraphs(text: str) -> list[str]:
    lines = []
    for number, paragraph in enumerate(text.split("\n\n")):
        lines += [".PP"] * bool(number) + [_text(" ".join(paragraph.split()))]
    return lines


def _synopsis(usage: str) -> list[str]:
    name, _, rest = usage.partition(" ")
    return [f"\\fB{_text(name)}\\fR {_text(rest)}"]


def _flags(flags: tuple[Flag, ...]) -> list[str]:
    lines = []
    for flag in help.visible(flags):
        value = f" \\fI{_text(help.value_name(flag))}\\fR" if flag.kind is not BOOL else ""
        names = [f"--{flag.name}"] + ([f"-{flag.short}"] if flag.short else [])
        lines += [
            ".TP",
            ", ".join(f"\\fB{_text(name)}\\fR{value}" for name in names),
            _text(help.flag_help(flag)) + ".",
        ]
    return lines


def _definitions(pairs: tuple[tuple[str, str], ...]) -> list[str]:
    lines = []
    for name, text in pairs:
        lines += [".TP", f"\\fB{_text(name)}\\fR", _text(text)]
    return lines
