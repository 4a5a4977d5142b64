"""`restore`: a new container that goes on where a checkpoint was made."""

from __future__ import annotations

from pyruntime.cli.checkpoint import CRIU_FLAGS, copy_criu_options
from pyruntime.cli.create import BUNDLE_FLAG, absolute_or_none, bundle_directory, preserved_descriptors
from pyruntime.cli.flags import BOOL, NUMBER, Flag, Options, Verb, container_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.main import Settings


def run(settings: Settings, options: Options) -> int:
    identifier = container_id(options.arguments[0])
    from pyruntime.container import checkpoint

    made = checkpoint.RestoreOptions()
    copy_criu_options(settings, options, made)
    made.console_socket = options.text_or_none("console-socket")
    made.pid_file = absolute_or_none(options, "pid-file")
    made.detach = options.on("detach")
    made.no_subreaper = options.on("no-subreaper")
    made.no_pivot = options.on("no-pivot")
    made.preserve_fds = preserved_descriptors(options)
    made.lsm_profile = options.text_or_none("lsm-profile")
    made.lsm_mount_context = options.text_or_none("lsm-mount-context")
    return checkpoint.restore(settings.context(new=True), identifier, bundle_directory(options), made)


VERB = Verb(
    "restore",
    "restore a container from a checkpoint",
    run,
    arguments="<container-id>",
    about="Makes a container from a bundle and from the images that `checkpoint` wrote, and lets its processes go on.",
    examples=(
        ("Let web go on in the background:",
         "pyruntime restore --detach --image-path /var/tmp/web --bundle /srv/web web"),
    ),
    flags=(
        BUNDLE_FLAG,
        *CRIU_FLAGS,
        Flag("console-socket", "Unix socket that receives the master side of the container's terminal", value="PATH"),
        Flag("detach", "return as soon as the container has started", short="d", kind=BOOL),
        Flag("pid-file", "write the process id of the container's init to FILE", value="FILE"),
        Flag("no-subreaper", "do not become the reaper of orphaned processes of the container", kind=BOOL),
        Flag("no-pivot", "change the root with MS_MOVE and chroot instead of pivot_root", kind=BOOL),
        # conmon appends it to every restore when podman's `keyring` is off; CRIU makes no keyring anyway.
        Flag("no-new-keyring", "accepted and without effect", kind=BOOL, hidden=True),
        Flag("preserve-fds", "pass N more file descriptors to the container", kind=NUMBER, value="N", hidden=True),
        Flag("lsm-profile", "label of a security module for the restored processes", value="TYPE:NAME"),
        Flag("lsm-mount-context", "SELinux context for the mounts of the container", value="CONTEXT"),
    ),
    minimum=1,
    maximum=1,
)  # fmt: skip
