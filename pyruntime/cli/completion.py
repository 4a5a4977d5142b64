"""`completion`: the completion script for a shell."""

from __future__ import annotations

from pyruntime.cli import output
from pyruntime.cli.flags import Options, Verb
from pyruntime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.main import Settings


def run(settings: Settings, options: Options) -> int:
    from pyruntime.cli import completions

    shell = options.arguments[0]
    if shell not in completions.SHELLS:
        raise RuntimeFailure(f"no completion for {shell}: there is one for {', '.join(completions.SHELLS)}")
    output.write(completions.script(shell))
    return 0


VERB = Verb(
    "completion",
    "print the completion script for a shell",
    run,
    arguments="bash|fish|zsh",
    about="The script completes commands, options, their values, and the ids of containers.",
    examples=(
        ("For bash, in this shell only:", "source <(pyruntime completion bash)"),
        ("For fish, for good:", "pyruntime completion fish > ~/.config/fish/completions/pyruntime.fish"),
    ),
    minimum=1,
    maximum=1,
)
