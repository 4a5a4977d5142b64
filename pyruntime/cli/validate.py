"""`validate`: everything that is wrong with a bundle's configuration, at once."""

from __future__ import annotations

from pyruntime.cli import logline, output
from pyruntime.cli.create import BUNDLE_FLAG, bundle_directory
from pyruntime.cli.flags import Flag, Options, Verb
from pyruntime.cli.main import absolute
from pyruntime.errors import RuntimeFailure, SpecError
from pyruntime.spec import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.main import Settings


def problems(bundle: str) -> list[SpecError]:
    """What is wrong with the configuration, in the order of the document. Raises RuntimeFailure if there is none."""
    try:
        from pyruntime.spec import validate

        return validate.report(bundle)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("pyruntime"):
            raise
        # Without the library jsonschema: the checks of create and run, which accept and refuse the same documents.
        from pyruntime.spec import load

        return load.problems(load.read_config(bundle))


def run(settings: Settings, options: Options) -> int:
    chosen = options.text("format")
    if chosen not in ("text", "json"):
        raise RuntimeFailure(f"invalid format option: {chosen}: use text or json")
    bundle = absolute(options.arguments[0]) if options.arguments else bundle_directory(options)
    found = problems(bundle)
    if chosen == "json":
        listed = [{"path": problem.path, "problem": problem.reason} for problem in found]
        output.write(jsontext.dumps(listed, indent=2) + "\n")
    else:
        output.write("".join(logline.printable(str(problem)) + "\n" for problem in found))
    if found:
        count = "1 problem" if len(found) == 1 else f"{len(found)} problems"
        raise RuntimeFailure(f"{bundle}/config.json: {count}")
    return 0


VERB = Verb(
    "validate",
    "check the configuration of a bundle",
    run,
    arguments="[bundle]",
    about="""\
Prints every problem of config.json, one line each: where it is, and what is wrong. Nothing is printed, and the status
is 0, when there is none.""",
    examples=(("Check the bundle in /srv/web:", "pyruntime validate /srv/web"),),
    flags=(
        BUNDLE_FLAG,
        Flag("format", "text or json", short="f", default="text", value="FORMAT", choices=("text", "json")),
    ),
    maximum=1,
)
