"""`seal`: keep the interpreter on a read-only mount, so that containers start without sealing it each time."""

from __future__ import annotations

from pyruntime.cli import output
from pyruntime.cli.flags import BOOL, Flag, Options, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.main import Settings


def run(settings: Settings, options: Options) -> int:
    from pyruntime.container import interpreter

    output.write((interpreter.withdraw() if options.on("remove") else interpreter.publish()) + "\n")
    return 0


VERB = Verb(
    "seal",
    "mount the interpreter read-only, so that containers start faster",
    run,
    about="Whatever a container does, it must not be able to write to the interpreter that started it. Without this "
    "command each `create`, `run`, `exec` and `restore` starts a protected interpreter first, which takes some "
    "milliseconds. With it, the interpreter is mounted once, read-only for good, in /run, until the next boot.",
    flags=(Flag("remove", "unmount it again", kind=BOOL),),
    examples=(("At boot, from a unit or a start script:", "pyruntime seal"),),
)
