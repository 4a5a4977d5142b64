"""`init`: a word that other runtimes use between their own two stages. Here nobody may call it."""

from __future__ import annotations

from pyruntime.cli.flags import Options, Verb
from pyruntime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.main import Settings


def run(settings: Settings, options: Options) -> int:
    raise RuntimeFailure("init is not a command: a container's first process is made by create or run")


VERB = Verb("init", "not a command", run, maximum=None, options_first=True, hidden=True)
