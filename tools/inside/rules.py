"""The rules, each a function that yields (node, message) for what breaks it. Their numbers: docs/container-side.md."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator

from tools.inside.code import Module, Unit

Found = Iterator[tuple[ast.AST, str]]

# Modules and functions that look something up by name when they are used: none of these names may be said inside.
LOOKUPS = {
    "P12": "faulthandler logging traceback warnings",
    "P15": "_thread multiprocessing threading concurrent",
    "P18": "codecs encodings ctypes expanduser find_library getaddrinfo gethostbyname getlogin getgrnam getgrgid"
    " getpwnam getpwuid glob grp importlib initgroups locale popen pwd shutil socket strptime subprocess system"
    " tempfile uuid",
    "P20": "execl execle execlp execlpe execv execve execvp execvpe get_exec_path posix_spawn posix_spawnp spawnv",
    "P21": "SystemExit atexit exit quit fork forkpty",
    "P22": "report",
    "P29": "eval exec compile marshal pickle shelve __import__",
}
RULE_OF = {name: rule for rule, names in LOOKUPS.items() for name in names.split()}
NOT_LOOKUPS = ("_socket.socket",)
CODECS = ("ascii", "latin-1", "utf-8")  # these have short cuts that look nothing up
HANDLERS = ("strict", "ignore", "replace", "surrogateescape", "surrogatepass", "backslashreplace")
LIBRARIES = ("dlopen", "CDLL", "function")
SECRETS = ("config", "env", "environ", "environment", "environb", "process", "spec", "strings", "annotations")

# Files of the container that are opened by name and may be reached through a link: by whom, and why that is right.
FOLLOWING = {
    "pyruntime.kernel.mounts.mount_over": "`.` is no link",
    "pyruntime.plan.command._read": "a program is what execve would run; regular files only, with a limit",
    "pyruntime.plan.command.Command.make_directory": "`/` is no link",
    "pyruntime.plan.lifecycle.OpenProcfs.apply": "before the root is changed; checked to be a procfs",
    "pyruntime.plan.rootfs.PivotRoot.apply": "`/` is no link",
    "pyruntime.plan.rootfs._mountinfo": "before the root is changed",
    "pyruntime.plan.rootfs._mount_id": "before the root is changed",
    "pyruntime.plan.rootfs._mount_of": "before the root is changed",
    "pyruntime.plan.seccomp_listener.Listener.load": "`/` is no link",
    "pyruntime.container.execute.EnterContainer.apply": "`/` is no link",
    "pyruntime.container.create_hooks._enter_namespaces": "before the namespaces are joined",
    "pyruntime.container.launch.Launch._help": "procfs of the caller",
}


def name_of(node: ast.AST) -> str:
    """`posix.open` for that call, "" for what has no name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = name_of(node.value)
        return f"{before}.{node.attr}" if before else node.attr
    return ""


def calls(node: ast.AST, *names: str) -> Iterator[ast.Call]:
    for one in ast.walk(node):
        if isinstance(one, ast.Call) and (not names or name_of(one.func) in names):
            yield one


def text(node: ast.AST | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


# Inside a container: each rule gets one function that runs there.


def no_import(unit: Unit) -> Found:
    """P9: everything is imported before the clone."""
    for node in ast.walk(unit.node):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, "P9: an import inside a container"


def no_library(unit: Unit) -> Found:
    """P10: no library is loaded, and no function of one looked up."""
    for node in calls(unit.node):
        name = name_of(node.func)
        if name == "libc.load" or ("." in name and name.rpartition(".")[2] in LIBRARIES):
            yield node, f"P10: {name} inside a container"


def no_lookup(unit: Unit) -> Found:
    """P12, P15, P18, P20, P21, P22, P29: none of the names of LOOKUPS."""
    for node in ast.walk(unit.node):
        name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
        rule = RULE_OF.get(name)
        ours = unit.module.names.get(name, "").startswith("pyruntime.kernel.")
        if rule and not ours and name_of(node) not in NOT_LOOKUPS:
            yield node, f"{rule}: {name} inside a container"


def known_codecs(unit: Unit) -> Found:
    """P18: only the codecs and error handlers that are built in."""
    for node in calls(unit.node):
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("encode", "decode"):
            given = [*node.args, *(one.value for one in node.keywords)]
            for index, argument in enumerate(given):
                if text(argument) not in (CODECS if index == 0 else HANDLERS):
                    yield node, f"P18: {ast.unparse(node)}: a codec that is looked up"


def descriptors_close(unit: Unit) -> Found:
    """P17: descriptors are made so that they close on execve, and standard ones alone are duplicated onto."""
    for node in calls(unit.node, "posix.open"):
        flags = _spelled(unit, node.args[1] if len(node.args) > 1 else node)
        if "O_CLOEXEC" not in flags:
            yield node, "P17: posix.open without O_CLOEXEC"
    for node in calls(unit.node, "posix.pipe"):
        yield node, "P17: posix.pipe instead of pipe2"
    for node in calls(unit.node, "posix.dup2"):
        target = node.args[1]
        standard = isinstance(target, ast.Constant) and target.value in (0, 1, 2)
        closed = ast.unparse(node).endswith((", False)", "inheritable=False)"))
        if not standard and not closed and not _runs_over_standard(unit, target):
            yield node, "P17: posix.dup2 makes a descriptor that outlives execve"


def _spelled(unit: Unit, flags: ast.AST) -> str:
    """The expression, with the values of the local names in it."""
    words = ast.unparse(flags)
    for node in ast.walk(unit.node):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if node.targets[0].id in words:
                words += " " + ast.unparse(node.value)
        elif isinstance(node, ast.keyword) and node.arg == "flags":
            words += " " + ast.unparse(node.value)
    return words


def _runs_over_standard(unit: Unit, target: ast.AST) -> bool:
    """Whether the name runs over 0, 1, 2 or over a list that was made from them."""
    wanted = [ast.unparse(target)]
    for _ in range(2):
        for node in ast.walk(unit.node):
            if isinstance(node, ast.For | ast.comprehension) and ast.unparse(node.target) in wanted:
                if ast.unparse(node.iter) == "(0, 1, 2)":
                    return True
                wanted.append(ast.unparse(node.iter))
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in wanted:
                wanted += [
                    ast.unparse(one.target) for one in ast.walk(node.value) if isinstance(one, ast.comprehension)
                ]
    return False


def files_by_bytes(unit: Unit) -> Found:
    """P19: files of the container are named in bytes and opened by descriptors, or without following a link."""
    for node in calls(unit.node, "open", "io.open", "os.open", "posix.open"):
        if name_of(node.func) != "posix.open":
            yield node, f"P19: {name_of(node.func)} inside a container"
            continue
        path = node.args[0]
        if text(path) is not None or (isinstance(path, ast.JoinedStr) and unit.name not in FOLLOWING):
            yield node, "P19: a path in text"
        words = _spelled(unit, node)
        if "dir_fd=" not in words and "O_NOFOLLOW" not in words and unit.name not in FOLLOWING:
            yield node, "P19: a path of the container that is followed (rules.FOLLOWING lists the exceptions)"


def no_stream(unit: Unit) -> Found:
    """P21: no buffered stream; a clone would flush what its parent has written."""
    for node in ast.walk(unit.node):
        if name_of(node) in ("print", "input", "sys.stdout", "sys.stderr", "sys.stdin", "sys.exit"):
            yield node, f"P21: {name_of(node)} inside a container"


INSIDE: tuple[Callable[[Unit], Found], ...] = (
    no_import,
    no_library,
    no_lookup,
    known_codecs,
    descriptors_close,
    files_by_bytes,
    no_stream,
)


# Anywhere in the package: each rule gets one module. The programs for images and networks enter no container.
APART = ("pyruntime.image.", "pyruntime.network.")
# `events` waits for two things at once. It is done with namespaces by then, and so are image layers, read ahead.
THREADS = ("pyruntime.container.events", "pyruntime.image.stream")
# An immediate of BPF is the low 32 bits of a number, negative ones included.
CUT_ON_PURPOSE = ("pyruntime.cgroups.devices_bpf",)


def no_extraction(module: Module) -> Found:
    """P4: archives are read by our own code; `tarfile` of an old Python has no filters."""
    if "tarfile" in module.names:
        yield module.tree, "P4: tarfile"


def no_finaliser(module: Module) -> Found:
    """P14: nothing runs when an object dies."""
    if module.name.startswith(APART):
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef) and node.name == "__del__":
            yield node, "P14: a finaliser"


def one_thread(module: Module) -> Found:
    """P15: one thread: unshare, setns, setresuid and capset act on the thread that calls them."""
    for name in ("threading", "_thread", "multiprocessing", "concurrent.futures", "asyncio"):
        if name in module.names.values() and module.name not in THREADS:
            yield module.tree, f"P15: {name}"


def one_door(module: Module) -> Found:
    """P25, P26: foreign functions are called through kernel/libc.py, which checks results; paths are bytes there."""
    for name in ("ctypes", "_ctypes"):
        if name in module.names.values() and module.name != "pyruntime.kernel.libc":
            yield module.tree, f"P26: {name} outside of kernel/libc.py"
    for node in calls(module.tree, "syscall", "libc.syscall"):
        for argument in node.args[1:]:
            if text(argument) is not None or isinstance(argument, ast.JoinedStr):
                yield node, "P25: text for a system call: it is not checked for NUL"


def whole_matches(module: Module) -> Found:
    """P27: `match` with `$` accepts a newline at the end; isdigit of a str accepts other alphabets' digits."""
    for node in calls(module.tree, "re.match", "re.search"):
        pattern = text(node.args[0]) or ""
        if pattern.endswith("$"):
            yield node, "P27: a pattern that ends in $: use fullmatch"


def lines_of_bytes(module: Module) -> Found:
    """P28: files of the kernel are bytes that end in \\n; splitlines cuts at eight other characters as well."""
    if module.name.startswith(APART):
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and node.attr == "splitlines":
            yield node, "P28: splitlines"
    for node in calls(module.tree, "open"):
        binary = len(node.args) > 1 and "b" in (text(node.args[1]) or "")
        if node.args and (text(node.args[0]) or "").startswith(("/proc", "/sys")) and not binary:
            yield node, "P28: a file of the kernel read as text"


def plain_messages(module: Module) -> Found:
    """P29, P30: what our processes tell each other is bytes with checked widths, and never code."""
    for name in ("pickle", "shelve", "marshal"):
        if name in module.names.values() and module.name != "pyruntime.__main__":
            yield module.tree, f"P29: {name}"
    for node in calls(module.tree, "pack") if module.name not in CUT_ON_PURPOSE else ():
        for one in ast.walk(node):
            if isinstance(one, ast.BinOp) and isinstance(one.op, ast.BitAnd) and "0xff" in _hex(one.right):
                yield node, "P30: a value is cut to its field instead of checked"


def _hex(node: ast.AST) -> str:
    return hex(node.value) if isinstance(node, ast.Constant) and type(node.value) is int else ""


def no_secret(module: Module) -> Found:
    """P31: the configuration and environments are not printed."""
    if module.name.startswith(APART):
        return
    for node in ast.walk(module.tree):
        value = node.value if isinstance(node, ast.FormattedValue) else None
        if isinstance(node, ast.Call) and name_of(node.func) in ("repr", "str") and node.args:
            value = node.args[0]
        if value is not None and name_of(value).rpartition(".")[2] in SECRETS:
            yield node, f"P31: {name_of(value)} in a message"


ANYWHERE: tuple[Callable[[Module], Found], ...] = (
    no_extraction,
    no_finaliser,
    one_thread,
    one_door,
    whole_matches,
    lines_of_bytes,
    plain_messages,
    no_secret,
)
