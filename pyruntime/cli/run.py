"""`run`: create, start and, in the foreground, wait and delete."""

from __future__ import annotations

from pyruntime.cli.create import CREATE_FLAGS, bundle_directory, create_options
from pyruntime.cli.flags import BOOL, Flag, Options, Verb, container_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.main import Settings


def run(settings: Settings, options: Options) -> int:
    if options.on("dry-run"):
        from pyruntime.cli import plan

        return plan.show(settings, options)
    identifier = container_id(options.arguments[0])
    from pyruntime.container import create

    made = create_options(options)
    made.detach = options.on("detach")
    made.keep = options.on("keep")
    return create.run(settings.context(new=True), identifier, bundle_directory(options), made)


VERB = Verb(
    "run",
    "create and start a container",
    run,
    arguments="<container-id>",
    about="""\
Runs the process that config.json of the bundle names. In the foreground signals are passed on to it, and the exit
status is its own (128 + N when signal N ended it); the container is deleted afterwards.

The id is new on this machine and consists of letters, digits and the characters _ + . and -.""",
    examples=(
        ("Run the bundle in the current directory:", "pyruntime run web"),
        ("See what would be done, without being root:", "pyruntime run --dry-run --bundle /srv/web web"),
    ),
    flags=(
        *CREATE_FLAGS[:2],
        Flag("detach", "return as soon as the container has started", short="d", kind=BOOL),
        Flag("keep", "do not delete the container when it ends", kind=BOOL),
        *CREATE_FLAGS[2:],
    ),
    minimum=1,
    maximum=1,
)
