"""`list`: all containers of the state directory."""

from __future__ import annotations

import os

from pyruntime.cli import output
from pyruntime.cli.flags import BOOL, Flag, Options, Verb
from pyruntime.errors import RuntimeFailure
from pyruntime.spec import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyruntime.cli.main import Settings

FORMAT_FLAG = Flag("format", "table or json", short="f", default="table", value="FORMAT", choices=("table", "json"))

TITLES = ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")
KEYS = ("id", "pid", "status", "bundle", "created", "owner")


def checked_format(options: Options) -> str:
    """`table` or `json`, or RuntimeFailure."""
    chosen = options.text("format")
    if chosen not in ("table", "json"):
        raise RuntimeFailure(f"invalid format option: {chosen}: use table or json")
    return chosen


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns of at least 12 characters with 3 blanks between them; the last one is as wide as it is."""
    widths = [max(12, *(len(row[column]) + 3 for row in rows)) for column in range(len(rows[0]) - 1)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("".join(cells) + row[-1] + "\n")
    return "".join(lines)


def run(settings: Settings, options: Options) -> int:
    from pyruntime.cli.logline import printable
    from pyruntime.container import inspect

    chosen = checked_format(options)
    if settings.root_given and not os.path.isdir(settings.root):  # more likely a slip than no containers
        reason = "not a directory" if os.path.exists(settings.root) else "no such file or directory"
        raise RuntimeFailure(f"open {settings.root}: {reason}")
    found = inspect.listing(settings.context())
    if options.on("quiet"):
        output.write("".join(f"{item['id']}\n" for item in found))
    elif chosen == "json":
        output.write(jsontext.dumps(found or None) + "\n")
    else:
        rows = [TITLES, *(tuple(printable(str(item[key])) for key in KEYS) for item in found)]
        output.write(table(rows))
    return 0


VERB = Verb(
    "list",
    "list the containers",
    run,
    about="Lists the containers whose state lies in the directory given with the global option --root.",
    examples=(("The containers of Docker:", "pyruntime --root /var/run/docker/runtime-runc/moby list"),),
    flags=(
        FORMAT_FLAG,
        Flag("quiet", "print the ids only", short="q", kind=BOOL),
    ),
)
