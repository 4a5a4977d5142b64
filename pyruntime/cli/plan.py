"""`plan`, and `--dry-run` of `create` and `run`: what would be done, without doing it."""

from __future__ import annotations

from pyruntime.cli import output
from pyruntime.cli.create import (
    BUNDLE_FLAG,
    CONFIG_FLAG,
    FORMAT_FLAG,
    absolute_or_none,
    bundle_directory,
    create_options,
)
from pyruntime.cli.flags import Options, Verb, container_id
from pyruntime.errors import RuntimeFailure
from pyruntime.spec import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.main import Settings
    from pyruntime.container import create

# Stands for the id where a plan is asked for without one; it is part of the cgroup's path.
ANY_ID = "container"


def run(settings: Settings, options: Options) -> int:
    from pyruntime.container import create

    made = create.CreateOptions()
    made.config = absolute_or_none(options, "config")
    return _show(settings, options, made)


def show(settings: Settings, options: Options) -> int:
    """Print what `create` or `run` with these flags would do."""
    return _show(settings, options, create_options(options))


def _show(settings: Settings, options: Options, made: create.CreateOptions) -> int:
    from pyruntime.cli.logline import printable
    from pyruntime.container import create

    chosen = options.text("format")
    if chosen not in ("text", "json"):
        raise RuntimeFailure(f"invalid format option: {chosen}: use text or json")
    identifier = container_id(options.arguments[0]) if options.arguments else ANY_ID
    steps = create.preview(settings.context(), identifier, bundle_directory(options), made)
    if chosen == "json":
        listed = [{"side": step.side, "step": type(step).__name__, "description": step.describe()} for step in steps]
        output.write(jsontext.dumps(listed, indent=2) + "\n")
    else:
        output.write("".join(printable(step.describe()) + "\n" for step in steps))
    return 0


VERB = Verb(
    "plan",
    "show what run would do, without doing it",
    run,
    arguments="[container-id]",
    about="""\
Prints the steps in which a container of this bundle would be set up, in order, one line each. It needs neither root nor
a container and changes nothing.""",
    examples=(("The plan for the bundle in /srv/web:", "pyruntime plan --bundle /srv/web"),),
    flags=(BUNDLE_FLAG, CONFIG_FLAG, FORMAT_FLAG),
    maximum=1,
)
