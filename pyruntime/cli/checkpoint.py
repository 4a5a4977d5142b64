"""`checkpoint`: save a running container to disk with CRIU."""

from __future__ import annotations

from pyruntime.cli.create import absolute_or_none
from pyruntime.cli.flags import BOOL, NUMBER, Flag, Options, Verb, container_id
from pyruntime.cli.main import Settings, absolute
from pyruntime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.container import checkpoint

MODES = ("soft", "full", "strict", "ignore")
NAMESPACES = ("network",)

# Shared with `restore`.
CRIU_FLAGS = (
    Flag("image-path", "directory of the images (default: checkpoint in the current directory)", value="DIR"),
    Flag("work-path", "directory of CRIU's log and other working files (default: that of the images)", value="DIR"),
    Flag("tcp-established", "save or restore open TCP connections", kind=BOOL),
    Flag("tcp-close", "let TCP connections be closed after the restore", kind=BOOL),
    Flag("ext-unix-sk", "allow Unix sockets whose other end is outside of the container", kind=BOOL),
    Flag("shell-job", "allow a container that belongs to the session of a shell", kind=BOOL),
    Flag("file-locks", "save or restore file locks", kind=BOOL),
    Flag("lazy-pages", "restore memory pages when they are first used, with userfaultfd", kind=BOOL),
    Flag("manage-cgroups-mode", "how CRIU treats cgroups: soft, full, strict or ignore (default: soft)", value="MODE",
         choices=MODES),
    Flag("empty-ns", "make a namespace of this type and do not restore what is in it", value="TYPE", repeatable=True,
         choices=NAMESPACES),
    Flag("auto-dedup", "drop memory pages from the images that a later image replaces", kind=BOOL),
)  # fmt: skip


def copy_criu_options(
    settings: Settings, options: Options, made: checkpoint.CheckpointOptions | checkpoint.RestoreOptions
) -> None:
    """Put what `checkpoint` and `restore` have in common into `made`. Raises RuntimeFailure for wrong values."""
    made.image_path = absolute(options.text("image-path") or "checkpoint")
    made.work_path = absolute_or_none(options, "work-path")
    made.tcp_established = options.on("tcp-established")
    made.tcp_close = options.on("tcp-close")
    made.ext_unix_sk = options.on("ext-unix-sk")
    made.shell_job = options.on("shell-job")
    made.file_locks = options.on("file-locks")
    made.lazy_pages = options.on("lazy-pages")
    made.auto_dedup = options.on("auto-dedup")
    mode = options.text("manage-cgroups-mode") or "soft"
    if mode not in MODES:
        raise RuntimeFailure(f"Invalid manage-cgroups-mode value {mode}: use soft, full, strict or ignore")
    made.manage_cgroups_mode = mode
    for name in options.texts("empty-ns"):
        if name not in NAMESPACES:
            raise RuntimeFailure(f'namespace "{name}" is not supported by --empty-ns: only network is')
    made.empty_ns = options.texts("empty-ns")
    made.criu = settings.criu


def page_server(text: str) -> tuple[str, int] | None:
    """ADDRESS:PORT, with an IPv6 address in brackets; None when empty. Raises RuntimeFailure."""
    if not text:
        return None
    address, _, port = text.rpartition(":")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    elif ":" in address:
        address = ""  # an IPv6 address without brackets: where it ends is a guess
    if not address or not port:
        raise RuntimeFailure("Use --page-server ADDRESS:PORT to specify page server")
    if not (port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536):
        raise RuntimeFailure(f"Invalid port number {port} in --page-server {text}")
    return address, int(port)


def run(settings: Settings, options: Options) -> int:
    identifier = container_id(options.arguments[0])
    from pyruntime.container import checkpoint

    made = checkpoint.CheckpointOptions()
    copy_criu_options(settings, options, made)
    made.parent_path = options.text_or_none("parent-path")
    if made.parent_path is not None and made.parent_path.startswith("/"):
        raise RuntimeFailure(f"--parent-path must be relative to --image-path, not {made.parent_path}")
    made.leave_running = options.on("leave-running")
    made.pre_dump = options.on("pre-dump")
    made.status_fd = options.number("status-fd")
    made.page_server = page_server(options.text("page-server"))
    made.tcp_skip_in_flight = options.on("tcp-skip-in-flight")
    made.link_remap = options.on("link-remap")
    checkpoint.checkpoint(settings.context(), identifier, made)
    return 0


VERB = Verb(
    "checkpoint",
    "save a running container to disk",
    run,
    arguments="<container-id>",
    about="""\
Writes the memory and the state of all processes of the container into a directory, with CRIU, and ends and deletes the
container. `restore` makes it go on.""",
    examples=(("Save web and let it run on:", "pyruntime checkpoint --leave-running --image-path /var/tmp/web web"),),
    flags=(
        *CRIU_FLAGS,
        Flag("parent-path", "directory of an earlier --pre-dump, relative to --image-path: only changes are saved",
             value="DIR"),
        Flag("leave-running", "let the container run on", kind=BOOL),
        Flag("pre-dump", "save the memory only and let the container run on", kind=BOOL),
        Flag("status-fd", "file descriptor that CRIU writes a zero byte to when --lazy-pages is ready", kind=NUMBER,
             default=-1, value="FD"),
        Flag("page-server", "send the memory to a CRIU page server", value="ADDRESS:PORT"),
        Flag("tcp-skip-in-flight", "leave out TCP connections that are still being set up", kind=BOOL),
        Flag("link-remap", "allow files that have been deleted and are still open, by linking them again", kind=BOOL),
    ),
    minimum=1,
    maximum=1,
)  # fmt: skip
