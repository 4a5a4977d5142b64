"""`events`: statistics and out-of-memory events of a container, one JSON object per line."""

from __future__ import annotations

from pyruntime.cli import output
from pyruntime.cli.duration import seconds
from pyruntime.cli.flags import BOOL, Flag, Options, UsageError, Verb, container_id
from pyruntime.errors import RuntimeFailure
from pyruntime.spec import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.cli.main import Settings


def write_event(event: dict[str, Any]) -> None:
    output.write(jsontext.dumps(event) + "\n")


def run(settings: Settings, options: Options) -> int:
    try:
        interval = seconds(options.text("interval"))
    except ValueError:
        raise UsageError(f'invalid value "{options.text("interval")}" for flag -interval: parse error') from None
    identifier = container_id(options.arguments[0])
    if interval <= 0:
        raise RuntimeFailure("duration interval must be greater than 0")
    from pyruntime.container import events

    events.stream(settings.context(), identifier, interval, options.on("stats"), write_event)
    return 0


VERB = Verb(
    "events",
    "show statistics and out-of-memory events of a container",
    run,
    arguments="<container-id>",
    about="Prints one JSON object per line until the container has ended: its statistics at every interval, and each "
    "time the kernel ended a process of it for want of memory.",
    flags=(
        Flag("interval", "time between two statistics, such as 500ms, 5s or 1m", default="5s", value="DURATION"),
        Flag("stats", "print the statistics once and exit", kind=BOOL),
    ),
    minimum=1,
    maximum=1,
)
