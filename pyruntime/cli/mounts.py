"""`mounts`: add mounts to a container that is there already, and take them away."""

from __future__ import annotations

from pyruntime.cli.flags import Options, UsageError, Verb, container_id
from pyruntime.cli.main import absolute

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.main import Settings


def run(settings: Settings, options: Options) -> int:
    action, identifier, file = options.arguments
    if action not in ("add", "remove"):
        raise UsageError(f"unknown command {action}: use add or remove")
    identifier = container_id(identifier)
    from pyruntime.container import live_mounts

    carry_out = live_mounts.add if action == "add" else live_mounts.remove
    carry_out(settings.context(), identifier, absolute(file))
    return 0


VERB = Verb(
    "mounts",
    "add mounts to a container, or remove them",
    run,
    arguments="add|remove <container-id> <file>",
    about="""\
The file is a JSON list like `mounts` of config.json. `add` mounts what it lists, in that order; `remove` unmounts the
destinations, the last first, and reads nothing else of the entries. A container that is restored later does not have
these mounts.""",
    examples=(
        (
            "One more tmpfs for the container web:",
            """echo '[{"destination": "/cache", "type": "tmpfs"}]' | pyruntime mounts add web /dev/stdin""",
        ),
    ),
    minimum=3,
    maximum=3,
)
