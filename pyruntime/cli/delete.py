"""`delete`: remove what is left of a container."""

from __future__ import annotations

from pyruntime.cli.flags import BOOL, Flag, Options, Verb, container_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.main import Settings


def run(settings: Settings, options: Options) -> int:
    identifier = "" if options.on("regex") else container_id(options.arguments[0])
    from pyruntime.container import delete

    context = settings.context()
    force = options.on("force")
    if options.on("regex"):
        from pyruntime.cli import matching

        for matched in matching.containers(context, options.arguments[0]):
            delete.delete(context, matched, force)
        return 0
    delete.delete(context, identifier, force)
    return 0


VERB = Verb(
    "delete",
    "remove a container that has stopped",
    run,
    arguments="<container-id>",
    about="""\
Removes the container's cgroup and its state and runs the poststop hooks. A container that has been created and not
started is ended first; one that runs is deleted with --force only.""",
    examples=(("End and remove the container web, whatever it does:", "pyruntime delete --force web"),),
    flags=(
        Flag("force", "kill the container with SIGKILL first; succeed when there is no such container",
             short="f", kind=BOOL),
        Flag("regex", "treat the id as a regular expression and delete every container whose id matches",
             short="r", kind=BOOL),
    ),
    minimum=1,
    maximum=1,
)  # fmt: skip
