"""`man`: the manual pages."""

from __future__ import annotations

import os

from pyruntime.cli import log, output
from pyruntime.cli.flags import Flag, Options, Verb
from pyruntime.cli.main import VERBS, load_verb
from pyruntime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.main import Settings


def run(settings: Settings, options: Options) -> int:
    from pyruntime.cli import help, manual

    directory = options.text("directory")
    name = options.arguments[0] if options.arguments else ""
    if name and name not in VERBS:
        raise RuntimeFailure(f"no manual page for {name}: it is not a command")
    if not directory:
        output.write(manual.page(load_verb(name) if name else None))
        return 0
    verbs = [load_verb(name)] if name else [None, *help.all_verbs()]
    try:
        os.makedirs(directory, exist_ok=True)
        for verb in verbs:
            path = os.path.join(directory, f"{manual.page_name(verb)}.{manual.SECTION}")
            with open(path, "w", encoding="utf-8") as file:
                file.write(manual.page(verb))
    except OSError as error:
        raise RuntimeFailure(f"{error.filename or directory}: {log.reason(error)}") from None
    return 0


VERB = Verb(
    "man",
    "print or install the manual pages",
    run,
    arguments="[command]",
    about="Prints the manual page of a command, or of the whole program, as roff.",
    examples=(
        ("Read one:", "pyruntime man run | man -l -"),
        ("Install all of them:", "pyruntime man --directory /usr/local/share/man/man8"),
    ),
    flags=(Flag("directory", "write all pages, or the one asked for, into files of this directory", value="DIR"),),
    maximum=1,
)
