"""`state`: what a container is and does, as JSON."""

from __future__ import annotations

from pyruntime.cli import output
from pyruntime.cli.flags import Options, Verb, container_id
from pyruntime.spec import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.main import Settings


def run(settings: Settings, options: Options) -> int:
    identifier = container_id(options.arguments[0])
    from pyruntime.container import store

    record = store.open_container(settings.context().root, identifier)
    output.write(jsontext.dumps(record.describe(), indent=2))
    return 0


VERB = Verb(
    "state",
    "print the state of a container",
    run,
    arguments="<container-id>",
    about="""\
Prints the state document of the OCI runtime specification as JSON. The status is `created`, `running`, `paused` or
`stopped`.""",
    minimum=1,
    maximum=1,
)
