"""`features`: what this runtime can do, as JSON."""

from __future__ import annotations

from pyruntime.cli import output
from pyruntime.cli.flags import Options, Verb
from pyruntime.spec import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.main import Settings


def run(settings: Settings, options: Options) -> int:
    from pyruntime.container import host_features

    output.write(jsontext.dumps(host_features.document(), indent=4) + "\n")
    return 0


VERB = Verb(
    "features",
    "print what this runtime can do",
    run,
    about="""\
Prints the features document of the OCI runtime specification: namespaces, capabilities, mount options, hooks, seccomp
actions and so on. It needs no privileges and no container.""",
)
