"""The command line: global flags, one verb, one exit status.

A verb's module is loaded when it is called for and no other. Whatever goes wrong ends here as one line of log and a
status; nothing that happens in Python ever reaches the user as a traceback.
"""

from __future__ import annotations

import posix

from pyruntime.cli import log, output
from pyruntime.cli.flags import BOOL, Flag, Options, UsageError, Verb, boolean, parse
from pyruntime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.container.context import Context

PROGRAM = "pyruntime"

VERBS = (
    "checkpoint", "completion", "create", "delete", "events", "exec", "features", "init", "kill", "list", "man",
    "mounts", "pause", "plan", "ps", "restore", "resume", "run", "seal", "spec", "start", "state", "update", "validate",
)  # fmt: skip

# What the message of a failed verb starts with. `runc` is not a slip: it is what scripts written for runc look for.
PREFIXES = {"create": "runc create failed: ", "run": "runc run failed: ", "exec": "exec failed: "}

# A container can look at the process that carries these out, and through it at the host's interpreter.
SEALED_VERBS = ("create", "run", "exec", "restore", "mounts")

FAILED = 1
UNKNOWN_VERB = 3
EXEC_FAILED = 255
INTERRUPTED = 130

GLOBAL_FLAGS = (
    Flag("root", "directory that holds the state of the containers; it should lie on a tmpfs "
         "(default: /run/pyruntime, for a user $XDG_RUNTIME_DIR/pyruntime)", value="DIR"),
    Flag("log", "append log lines to FILE instead of writing them to standard error; also journald:ID and syslog:ID",
         value="FILE"),
    Flag("log-format", "form of the log lines: text or json", default="text", value="FORMAT", choices=("text", "json")),
    Flag("log-level", "least important lines to log: error, warning or debug "
         "(default: warning, with the json format error)", value="LEVEL", choices=("error", "warning", "debug")),
    Flag("debug", "explain what is done, the same as --log-level debug", kind=BOOL),
    Flag("systemd-cgroup", "let systemd manage the cgroups; cgroupsPath is then slice:prefix:name, "
         "for example system.slice:pyruntime:web", kind=BOOL),
    Flag("cgroup-manager", "who manages the cgroups: cgroupfs, systemd, or disabled for no cgroup at all",
         value="MANAGER", choices=("cgroupfs", "systemd", "disabled")),
    Flag("rootless", "go without cgroups that may not be written to: true, false, or auto "
         "for anybody but the real root", default="auto", value="BOOL", choices=("true", "false", "auto")),
    Flag("criu", "the criu program for checkpoint and restore (default: found in the usual directories)", value="PATH"),
    Flag("profile", "write a timeline of steps and imports to FILE, for Perfetto or chrome://tracing; "
         "into a new file when it ends with a slash. The variable PYRUNTIME_PROFILE does the same", value="FILE"),
    Flag("version", "print the version", short="v", kind=BOOL),
    Flag("V", "print the version", kind=BOOL, hidden=True),
)  # fmt: skip


class Settings:
    """The global flags, checked."""

    __slots__ = ("cgroup_manager", "criu", "debug", "program", "root", "root_given", "rootless", "systemd_cgroup")

    def __init__(self, program: str, options: Options) -> None:
        self.program = program
        self.root_given = options.given("root")
        self.root = _absolute_root(options.text("root")) if self.root_given else default_root()
        self.debug = options.on("debug") or options.text("log-level") == "debug"
        self.criu = options.text_or_none("criu")
        self.rootless = options.text("rootless").lower() or "auto"
        if self.rootless != "auto":
            value = boolean(options.text("rootless"))
            if value is None:
                raise RuntimeFailure(
                    f'invalid value "{options.text("rootless")}" for --rootless: use true, false or auto'
                )
            self.rootless = "true" if value else "false"
        self.cgroup_manager = options.text_or_none("cgroup-manager")
        if self.cgroup_manager not in (None, "cgroupfs", "systemd", "disabled"):
            raise RuntimeFailure(f"unknown cgroup manager {self.cgroup_manager}: use cgroupfs, systemd or disabled")
        self.systemd_cgroup = options.on("systemd-cgroup") or self.cgroup_manager == "systemd"

    def context(self, new: bool = False) -> Context:
        """What the container room needs to know of all this; from now on its warnings come out as log lines.

        `new` when a container is to be made, and with it the user's state directory if it is not there.
        """
        from pyruntime.container import report
        from pyruntime.container.context import Context

        report.warn = log.warning
        report.debug = log.debug
        report.debugging = log.debugging()
        report.descriptor = log.descriptor()
        if new and not self.root_given and self.root != SYSTEM_ROOT:
            self._keep_user_root()
        return Context(
            root=self.root,
            systemd_cgroup=self.systemd_cgroup,
            rootless=self.rootless,
            cgroup_manager=self.cgroup_manager,
            debug=self.debug,
        )

    def _keep_user_root(self) -> None:
        # The XDG specification lets anything in $XDG_RUNTIME_DIR be removed after six hours without a sticky bit.
        try:
            try:
                posix.mkdir(self.root, 0o700)
            except FileExistsError:
                pass
            posix.chmod(self.root, 0o1700)
        except OSError as error:
            raise RuntimeFailure(
                f"{self.root}: {log.reason(error)}: $XDG_RUNTIME_DIR must be writable; or use --root"
            ) from None


SYSTEM_ROOT = "/run/pyruntime"


def default_root() -> str:
    """/run/pyruntime for the real root, a directory of the user's own for everybody else."""
    directory = posix.environ.get(b"XDG_RUNTIME_DIR", b"")
    if not directory:
        return SYSTEM_ROOT
    if posix.geteuid() == 0 and not (_in_user_namespace() and posix.environ.get(b"USER") != b"root"):
        return SYSTEM_ROOT
    return directory.decode("utf-8", "surrogateescape").rstrip("/") + "/pyruntime"


def _in_user_namespace() -> bool:
    """Whether user ids are mapped in any way but all of them to themselves. See user_namespaces(7)."""
    try:
        descriptor = posix.open("/proc/self/uid_map", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return False  # no /proc, or a kernel without user namespaces
    try:
        return posix.read(descriptor, 4096).split() != [b"0", b"0", b"4294967295"]
    finally:
        posix.close(descriptor)


def _absolute_root(path: str) -> str:
    if "\0" in path or not path:
        raise RuntimeFailure("--root needs the path of a directory")
    root = absolute(path, clean=True)
    if root == "/":
        raise RuntimeFailure("Option --root argument should not be set to /")
    return root


def absolute(path: str, clean: bool = False) -> str:
    """`path` from the root directory. With `clean`, also without `.`, `..` and doubled slashes, by the letters alone
    (as runc treats --root); without it the kernel resolves `..`, after symbolic links."""
    if path[:1] != "/":
        try:
            path = posix.getcwd() if path == "." else f"{posix.getcwd()}/{path}"
        except OSError as error:
            raise RuntimeFailure(f"{path}: the current directory cannot be named: {log.reason(error)}") from None
    if not clean:
        return path
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def load_verb(name: str) -> Verb:
    """The verb called `name`, its module loaded now. `name` must be one of VERBS."""
    module = __import__(f"pyruntime.cli.{name}", None, None, ("VERB",))
    verb: Verb = module.VERB
    return verb


def main(argv: list[str], refused: RuntimeFailure | None = None) -> int:
    """Carry out a whole command line (`argv[0]` is the program's name) and return the exit status. Never raises.

    `refused` is why this process must not be seen by a container (kernel/seal.py): it becomes the error of a verb that
    would show it.
    """
    program = argv[0].rpartition("/")[2] if argv else PROGRAM
    owner = posix.getpid()
    prefix = ""
    failed = FAILED
    verb: Verb | None = None
    try:
        try:
            options = parse(argv[1:], GLOBAL_FLAGS, options_first=True)
            words = options.arguments
            if options.given("profile"):
                _profile(options.text("profile"))
            if options.on("version") or options.on("V"):
                from pyruntime.cli import version

                output.write(version.text(program))
                return 0
            if options.on("help") or not words or words[0] in ("help", "h"):
                return _help(program, words[1:])
            level = "debug" if options.on("debug") else options.text_or_none("log-level")
            log.configure(options.text("log"), options.text("log-format"), level)
            settings = Settings(program, options)
            if words[0] not in VERBS:
                return _unknown(words[0])
            verb = load_verb(words[0])
            options = parse(words[1:], verb.flags, verb.options_first)
            if options.on("help"):
                return _help(program, [verb.name])
            verb.check_arguments(program, len(options.arguments))
            prefix = PREFIXES.get(verb.name, "")
            failed = EXEC_FAILED if verb.name == "exec" else FAILED
            dry = options.given("dry-run") and options.on("dry-run")
            if refused is not None and verb.name in SEALED_VERBS and not dry:
                raise refused
            if log.debugging() and verb.name in SEALED_VERBS and not dry:
                settings.context()
                from pyruntime.container import narrate

                narrate.sealed()
            return verb.run(settings, options)
        except UsageError as error:
            log.error(str(error))
            _show_usage(program, error.complaint, verb)
            return FAILED
        except RuntimeFailure as error:
            log.error(prefix + str(error))
            return failed if failed != FAILED else error.status
        except OSError as error:
            # The kernel's own words, which engines search for, with the path they are about.
            place = f"{_path(error.filename)}: " if error.filename is not None else ""
            log.error(f"{prefix}{place}{log.reason(error)}")
            _explain(error)
            return failed
        except MemoryError:
            log.error(f"{prefix}out of memory: the runtime itself gets no more (RLIMIT_AS, or the limit of its cgroup)")
            return failed
    except output.OutputClosed:
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else FAILED
    except BaseException as error:
        if posix.getpid() != owner:  # a forked child has no business here, least of all a second exit of the parent
            posix._exit(FAILED)
        text = str(error)
        log.error(f"{prefix}internal error: {type(error).__name__}{': ' if text else ''}{text}")
        _explain(error)
        return failed


def _path(name: object) -> str:
    return name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else str(name)


def _profile(path: str) -> None:
    """Begin anew with a timeline, from the first import on."""
    from pyruntime import profile

    if "\0" in path or not path:
        raise RuntimeFailure("--profile needs the path of a file")
    try:
        profile.restart(absolute(path))
    except OSError as error:
        raise RuntimeFailure(f"--profile {path}: {log.reason(error)}") from None


def _help(program: str, words: list[str]) -> int:
    from pyruntime.cli import help

    if not words:
        output.write(help.program_help(program))
    elif words[0] in VERBS:
        output.write(help.verb_help(load_verb(words[0]), program))
    else:
        return _unknown(words[0])
    return 0


def _unknown(word: str) -> int:
    log.error(f"No help topic for '{word}'")
    return UNKNOWN_VERB


def _show_usage(program: str, complaint: str, verb: Verb | None) -> None:
    from pyruntime.cli import help, logline

    try:
        output.write(f"Incorrect Usage{logline.printable(complaint)}\n\n")
        output.write(help.verb_help(verb, program) if verb else help.program_help(program))
    except (RuntimeFailure, output.OutputClosed):
        pass  # the error is logged, and that was the point


def _explain(error: BaseException) -> None:
    if log.debugging():
        import traceback

        for part in traceback.format_exception(error):
            for line in part.rstrip().split("\n"):
                log.debug(line)
