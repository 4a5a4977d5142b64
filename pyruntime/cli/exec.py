"""`exec`: one more process in a container."""

from __future__ import annotations

from pyruntime.cli.create import absolute_or_none, preserved_descriptors
from pyruntime.cli.flags import BOOL, NUMBER, Flag, Options, Verb, container_id
from pyruntime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.main import Settings

LAST_ID = (1 << 32) - 2  # (uid_t)-1 means "no change" to the kernel


def check_user(text: str) -> str:
    """Return UID or UID:GID as it is, or raise RuntimeFailure: names are known only inside the container."""
    parts = text.split(":")
    if len(parts) > 2:
        raise RuntimeFailure(f"--user {text}: give it as UID or UID:GID")
    for part, what in zip(parts, ("uid", "gid"), strict=False):
        if not (part.isascii() and part.isdigit() and len(part) < 11 and int(part) <= LAST_ID):
            raise RuntimeFailure(f"--user {text}: bad {what}: {part or 'empty'} is not a number from 0 to {LAST_ID}")
    return text


def check_groups(groups: list[int]) -> list[int]:
    for group in groups:
        if not 0 <= group <= LAST_ID:
            raise RuntimeFailure(f"additional-gids must be a positive number {group}: ids go from 0 to {LAST_ID}")
    return groups


def run(settings: Settings, options: Options) -> int:
    identifier = container_id(options.arguments[0])
    from pyruntime.container import exec_document, execute

    made = exec_document.ExecOptions()
    made.process = absolute_or_none(options, "process")
    made.args = options.arguments[1:]
    if made.args[:1] == ["--"]:  # `exec ID -- ls`: nobody means a program called `--`
        del made.args[0]
    made.cwd = options.text_or_none("cwd")
    made.env = options.texts("env")
    made.tty = options.on("tty")
    made.user = check_user(options.text("user")) if options.text("user") else None
    made.additional_gids = check_groups(options.numbers("additional-gids"))
    made.process_label = options.text_or_none("process-label")
    made.apparmor = options.text_or_none("apparmor")
    made.no_new_privs = options.on("no-new-privs") if options.given("no-new-privs") else None
    made.caps = options.texts("cap")
    made.cgroups = options.texts("cgroup")
    made.detach = options.on("detach")
    made.pid_file = absolute_or_none(options, "pid-file")
    made.console_socket = options.text_or_none("console-socket")
    made.pidfd_socket = options.text_or_none("pidfd-socket")
    made.preserve_fds = preserved_descriptors(options)
    made.ignore_paused = options.on("ignore-paused")
    return execute.exec_process(settings.context(), identifier, made)


VERB = Verb(
    "exec",
    "run another process in a container",
    run,
    arguments="<container-id> <command> [argument...]",
    about="""\
The process gets the environment, user, capabilities and limits of config.json, changed by the options. With --process
a document of the OCI specification describes it completely and the other options about the process are ignored.

Options stand before the container's id; what follows belongs to the command. The exit status is that of the command,
or 255 when it could not be started.""",
    examples=(
        ("List the processes of the container web:", "pyruntime exec web ps"),
        ("A shell as user 1000:", "pyruntime exec --tty --user 1000:1000 web sh"),
    ),
    flags=(
        Flag("process", "take the process from FILE, a `process` object of the specification", short="p", value="FILE"),
        Flag("cwd", "current directory of the process", value="DIR"),
        Flag("env", "set an environment variable", short="e", value="NAME=VALUE", repeatable=True),
        Flag("tty", "give the process a terminal", short="t", kind=BOOL),
        Flag("user", "user and group of the process, as numbers", short="u", value="UID[:GID]"),
        Flag("additional-gids", "one more group of the process", short="g", kind=NUMBER, value="GID", repeatable=True),
        Flag("detach", "return as soon as the process has started", short="d", kind=BOOL),
        Flag("pid-file", "write the process id to FILE", value="FILE"),
        Flag("process-label", "SELinux label of the process", value="LABEL"),
        Flag("apparmor", "AppArmor profile of the process", value="PROFILE"),
        Flag("no-new-privs", "the process cannot gain privileges by execve", kind=BOOL),
        Flag("cap", "one more capability of the process", short="c", value="CAP_NAME", repeatable=True),
        Flag("cgroup", "put the process into an existing cgroup below the container's; on cgroup v1 with the "
             "controllers in front: cpu,cpuacct:PATH", value="PATH", repeatable=True),
        Flag("console-socket", "Unix socket that receives the master side of the terminal", value="PATH"),
        Flag("pidfd-socket", "Unix socket that receives a pidfd of the process", value="PATH"),
        Flag("preserve-fds", "pass N more file descriptors, after standard error", kind=NUMBER, value="N"),
        Flag("ignore-paused", "do it in a paused container too: the process runs when the container is resumed",
             kind=BOOL),
    ),
    minimum=1,
    maximum=None,
    options_first=True,
)  # fmt: skip
