"""`pause`: freeze every process of a container."""

from __future__ import annotations

from pyruntime.cli.flags import Options, Verb, container_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.main import Settings


def run(settings: Settings, options: Options) -> int:
    identifier = container_id(options.arguments[0])
    from pyruntime.container import pause

    pause.pause(settings.context(), identifier)
    return 0


VERB = Verb(
    "pause",
    "freeze all processes of a container",
    run,
    arguments="<container-id>",
    about="Freezes the container with the cgroup freezer. `resume` lets it go on.",
    minimum=1,
    maximum=1,
)
