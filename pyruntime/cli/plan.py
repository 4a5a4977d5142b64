"""`plan`, and `--dry-run` of `create` and `run`: what would be done, without doing it."""

from __future__ import annotations

from pyruntime.cli import output
from pyruntime.cli.create import BUNDLE_FLAG, CONFIG_FLAG, FORMAT_FLAG, bundle_directory
from pyruntime.cli.flags import Options, Verb
from pyruntime.errors import RuntimeFailure
from pyruntime.spec import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.main import Settings


def show(settings: Settings, options: Options) -> int:
    """Print the plan for the bundle that the flags name."""
    from pyruntime.cli.log import printable
    from pyruntime.container import lifecycle

    chosen = options.text("format") or "text"
    if chosen not in ("text", "json"):
        raise RuntimeFailure(f"invalid format option: {chosen}: use text or json")
    bundle = bundle_directory(options)
    identifier = options.arguments[0] if options.arguments else "ID"
    steps = lifecycle.preview(settings.context(), identifier, bundle, lifecycle.CreateOptions())
    if chosen == "json":
        listed = [{"side": step.side, "step": type(step).__name__, "description": step.describe()} for step in steps]
        output.write(jsontext.dumps(listed, indent=2) + "\n")
    else:
        output.write("".join(printable(step.describe()) + "\n" for step in steps))
    return 0


VERB = Verb(
    "plan",
    "show what run would do, without doing it",
    show,
    about="""\
Prints the steps in which a container of this bundle would be set up, in order, one line each. It needs neither root nor
a container and changes nothing.""",
    examples=(("The plan for the bundle in /srv/web:", "pyruntime plan --bundle /srv/web"),),
    flags=(BUNDLE_FLAG, CONFIG_FLAG, FORMAT_FLAG),
)
