"""`spec`: a configuration to start from."""

from __future__ import annotations

import os

from pyruntime.cli import log
from pyruntime.cli.create import CONFIG
from pyruntime.cli.flags import BOOL, Flag, Options, Verb
from pyruntime.errors import RuntimeFailure
from pyruntime.spec import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.main import Settings


def run(settings: Settings, options: Options) -> int:
    from pyruntime.spec import template

    directory = options.text("bundle") or "."
    path = os.path.join(directory, options.text("file") or CONFIG)
    text = jsontext.dumps(template.config(rootless=options.on("rootless")), indent="\t") + "\n"
    try:
        # O_EXCL makes one step of "is it there" and "write it", and does not follow a symbolic link.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        raise RuntimeFailure(f"File {options.text('file') or CONFIG} exists. Remove it first") from None
    except OSError as error:
        if not os.path.isdir(directory):
            raise RuntimeFailure(f"chdir {directory}: {log.reason(error)}") from None
        raise RuntimeFailure(f"open {path}: {log.reason(error)}") from None
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return 0


VERB = Verb(
    "spec",
    "write a starter configuration",
    run,
    about="""\
Writes config.json into a bundle directory, to be edited: it runs `sh` on a terminal from the root file system in the
directory rootfs.""",
    examples=(
        ("A bundle with a busybox root file system:",
         "mkdir -p web/rootfs/bin && cp /bin/busybox web/rootfs/bin/sh && pyruntime spec --bundle web"),
    ),
    flags=(
        Flag("bundle", "directory of the bundle (default: the current directory)", short="b", value="DIR"),
        Flag("file", "name of the file to write (default: config.json)", short="f", value="FILE"),
        Flag("rootless", "a configuration that an ordinary user can run", kind=BOOL),
    ),
)  # fmt: skip
