"""`resume`: let a paused container go on."""

from __future__ import annotations

from pyruntime.cli.flags import Options, Verb, container_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.main import Settings


def run(settings: Settings, options: Options) -> int:
    identifier = container_id(options.arguments[0])
    from pyruntime.container import pause

    pause.resume(settings.context(), identifier)
    return 0


VERB = Verb(
    "resume",
    "let the processes of a paused container go on",
    run,
    arguments="<container-id>",
    about="Undoes `pause`.",
    minimum=1,
    maximum=1,
)
