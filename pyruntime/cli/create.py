"""`create`: everything but the start."""

from __future__ import annotations

from pyruntime.cli.flags import BOOL, NUMBER, Flag, Options, Verb, container_id
from pyruntime.cli.main import Settings, absolute
from pyruntime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.container import create

CONFIG = "config.json"

BUNDLE_FLAG = Flag("bundle", "directory of the bundle (default: the current directory)", short="b", value="DIR")
CONFIG_FLAG = Flag(
    "config", "read the configuration from FILE instead of config.json in the bundle", short="f", value="FILE"
)
FORMAT_FLAG = Flag("format", "form of the plan: text or json", default="text", value="FORMAT", choices=("text", "json"))

# Shared with `run`.
CREATE_FLAGS = (
    BUNDLE_FLAG,
    CONFIG_FLAG,
    Flag("console-socket", "Unix socket that receives the master side of the container's terminal", value="PATH"),
    Flag("pidfd-socket", "Unix socket that receives a pidfd of the container's init process", value="PATH"),
    Flag("pid-file", "write the process id of the container's init to FILE", value="FILE"),
    Flag("no-pivot", "change the root with MS_MOVE and chroot instead of pivot_root, for a root on a ramdisk",
         kind=BOOL),
    Flag("no-new-keyring", "keep the caller's session keyring instead of giving the container a new one", kind=BOOL),
    Flag("preserve-fds", "pass N more file descriptors to the container, after standard error and $LISTEN_FDS",
         kind=NUMBER, value="N"),
    Flag("no-subreaper", "do not become the reaper of orphaned processes of the container", kind=BOOL),
    Flag("dry-run", "print the steps that would be taken, in order, and change nothing", kind=BOOL),
    FORMAT_FLAG,
)  # fmt: skip


def create_options(options: Options) -> create.CreateOptions:
    """The flags as the container room takes them. Paths are made absolute where the room changes directory first."""
    from pyruntime.container import create

    made = create.CreateOptions()
    made.console_socket = options.text_or_none("console-socket")
    made.pidfd_socket = options.text_or_none("pidfd-socket")
    made.pid_file = absolute_or_none(options, "pid-file")
    made.config = absolute_or_none(options, "config")
    made.no_pivot = options.on("no-pivot")
    made.no_new_keyring = options.on("no-new-keyring")
    made.preserve_fds = preserved_descriptors(options)
    made.no_subreaper = options.on("no-subreaper")
    return made


def preserved_descriptors(options: Options) -> int:
    """The value of --preserve-fds. Raises RuntimeFailure for a negative one."""
    count = options.number("preserve-fds")
    if count < 0:
        raise RuntimeFailure(f"--preserve-fds {count}: the number of descriptors cannot be negative")
    return count


def absolute_or_none(options: Options, name: str) -> str | None:
    """The path given with the flag, seen from the caller's directory; None when there is none."""
    path = options.text_or_none(name)
    return path and absolute(path)


def bundle_directory(options: Options) -> str:
    """The bundle, absolute. A missing one is reported by whoever opens it."""
    return absolute(options.text("bundle") or ".")


def run(settings: Settings, options: Options) -> int:
    if options.on("dry-run"):
        from pyruntime.cli import plan

        return plan.show(settings, options)
    identifier = container_id(options.arguments[0])
    from pyruntime.container import create

    create.create(settings.context(new=True), identifier, bundle_directory(options), create_options(options))
    return 0


VERB = Verb(
    "create",
    "create a container, ready to be started",
    run,
    arguments="<container-id>",
    about="""\
Sets up a container for a bundle: a directory with a config.json and the container's root file system. The container's
process is there when the command returns, with all its limits, mounts and namespaces; what it waits for is `start`.

The id is new on this machine and consists of letters, digits and the characters _ + . and -.""",
    examples=(("A container called web from the bundle in the current directory:", "pyruntime create web"),),
    flags=CREATE_FLAGS,
    minimum=1,
    maximum=1,
)
