"""`start`: let the process of a created container go."""

from __future__ import annotations

from pyruntime.cli.flags import Options, Verb, container_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.main import Settings


def run(settings: Settings, options: Options) -> int:
    identifier = container_id(options.arguments[0])
    from pyruntime.container import start

    start.start(settings.context(), identifier)
    return 0


VERB = Verb(
    "start",
    "start the process of a created container",
    run,
    arguments="<container-id>",
    about="Lets a container made with `create` run its process, and returns.",
    minimum=1,
    maximum=1,
)
