"""`ps`: the processes of a container, seen from the host."""

from __future__ import annotations

import os
import subprocess

from pyruntime.cli import output
from pyruntime.cli.flags import Options, Verb, container_id
from pyruntime.cli.list import FORMAT_FLAG, checked_format
from pyruntime.errors import RuntimeFailure
from pyruntime.spec import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.main import Settings

# Engines may call a runtime with an empty environment: then the program is looked for where it is installed everywhere.
USUAL_DIRECTORIES = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


def find_program(name: str) -> str:
    """The path of a program of the host. Empty entries of PATH, which mean the current directory, are left out."""
    for directory in (*os.environ.get("PATH", "").split(":"), *USUAL_DIRECTORIES):
        path = f"{directory}/{name}"
        if directory.startswith("/") and os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    raise RuntimeFailure(
        f'exec: "{name}": executable file not found in $PATH: install it on the host, or use --format json'
    )


def rows_of(text: str, pids: set[int]) -> list[str]:
    """The title line of a `ps` and those of its lines whose PID column is one of `pids`."""
    lines = text.split("\n")
    titles = lines[0].split()
    if "PID" not in titles:
        raise RuntimeFailure("couldn't find PID field in ps output: choose a format that has the column PID")
    column = titles.index("PID")
    chosen = [lines[0]]
    for line in lines[1:]:
        cells = line.split()
        # A line without a number there is a second line of a process (a thread of `ps -m`): it cannot be told whose.
        if len(cells) > column and cells[column].isdigit() and int(cells[column]) in pids:
            chosen.append(line)
    return chosen


def run(settings: Settings, options: Options) -> int:
    chosen = checked_format(options)
    identifier = container_id(options.arguments[0])
    from pyruntime.container import inspect

    pids = inspect.ps(settings.context(), identifier)
    if chosen == "json":
        output.write(jsontext.dumps(pids or None) + "\n")
        return 0
    command = [find_program("ps"), *(options.arguments[1:] or ["-ef"])]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    text = done.stdout.decode("utf-8", "backslashreplace")
    if done.returncode != 0:
        raise RuntimeFailure(f"exit status {done.returncode}: {' '.join(command)}: {text.strip()}")
    output.write("\n".join(rows_of(text, set(pids))) + "\n")
    return 0


VERB = Verb(
    "ps",
    "show the processes of a container",
    run,
    arguments="<container-id> [ps option...]",
    about="""\
Runs the `ps` of the host with the options that follow the id (-ef when there are none) and shows the lines of the
container's processes. With --format json only the process ids are printed.""",
    examples=(("Memory and arguments of the processes of web:", "pyruntime ps web -o pid,rss,args"),),
    flags=(FORMAT_FLAG,),
    minimum=1,
    maximum=None,
    options_first=True,
)
