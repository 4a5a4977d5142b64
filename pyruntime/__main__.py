"""Where the launcher (bin/pyruntime) starts the interpreter: `python3 -I -S -E -B -X utf8 __main__.py NAME ARGS...`.

What it does is counted in microseconds:

* Python compiles its main program anew at every start (0.5 to 1 ms); the compiled launcher names its .pyc instead, if
  that is up to date.

* The package is imported by its absolute path and never through `sys.path`: beside it may lie a whole site-packages,
  where a file named like a module of the standard library must not be found. It is searched only when all else has
  failed, for the verbs that use a third-party library.
* `from __future__ import annotations` stands in every module and would load a real file (0.4 ms) for a name that the
  compiler alone needs.
* The modules that each container needs come from one file, at one go.
* The garbage collector is off: it would run a dozen times while modules load (0.8 ms), and a finaliser in a container
  could close a descriptor that is somebody else's by then (P14).
* The process leaves by `_exit`: taking the interpreter down in order costs 1 ms and can run code (P21). Whoever wrote
  to a buffered stream has it flushed here; a closed or read-only standard output (containerd gives runtimes a
  read-only /dev/null) must not change the exit status.
"""

import _frozen_importlib
import _frozen_importlib_external
import _imp
import gc
import marshal
import posix
import sys

# create, run, exec and restore let a process of the container share this program's executable.
SEALED_VERBS = ("create", "run", "exec", "restore", "mounts")

# The sections of the file with the hot modules; tools/compile.py says what is in each.
START, SEAL, VERBS, CGROUPS, PROCESS, CREATE, EXEC, V1, V1_LIMITS, V2, V2_LIMITS, STATE, GO, KILL, DELETE = range(15)
# What a verb loads at one go, besides VERBS: of all hosts, of one with cgroup v1, of one with cgroup v2.
NEW = ((CGROUPS, PROCESS, CREATE), (V1, V1_LIMITS), (V2, V2_LIMITS))
NEEDS = {
    "create": NEW, "run": NEW, "exec": ((CGROUPS, PROCESS, EXEC), (V1,), (V2,)),
    "state": ((STATE,), (), ()), "start": ((GO,), (), ()), "kill": ((KILL,), (), ()),
    "delete": ((CGROUPS, DELETE), (V1,), (V2,)),
    "pause": ((CGROUPS,), (V1,), (V2,)), "ps": ((CGROUPS,), (V1,), (V2,)), "resume": ((CGROUPS,), (V1,), (V2,)),
}  # fmt: skip


class Extensions:
    """In `sys.meta_path` before Python's own search: the modules in C that verbs need, where Python keeps all of them.

    The search would look for each in every directory and list that one, which takes 0.1 to 0.2 ms of a verb.
    """

    NAMES = ("_json", "_struct", "_ctypes", "_socket", "fcntl", "select")
    directory = sys.path[-1]  # before anything is added: the one called lib-dynload

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> object:
        if name in Extensions.NAMES:
            file = f"{Extensions.directory}/{name}{_imp.extension_suffixes()[0]}"
            if posix.access(file, posix.R_OK):
                loader = _frozen_importlib_external.ExtensionFileLoader(name, file)
                return _frozen_importlib_external.spec_from_file_location(name, file, loader=loader)
        return None


class Libraries:
    """The last of `sys.meta_path`: asked for a module that is nowhere, it adds the places of third-party libraries."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> object:
        if path is not None:
            return None
        sys.meta_path.remove(Libraries)  # type: ignore[arg-type]
        from pyruntime import libraries

        libraries.add_to_path()
        return _frozen_importlib_external.PathFinder.find_spec(name)


def own_directory() -> str:
    """The directory of the package: this file may run as __main__.py or as the .pyc of it."""
    return __file__.rpartition("/")[0].removesuffix("/__pycache__")


def load_package(directory: str) -> None:
    """Put the package `pyruntime`, found in `directory`, into `sys.modules`."""
    sys.meta_path.insert(2, Extensions)  # type: ignore[arg-type]  # after what is built in or frozen
    sys.meta_path.append(Libraries)  # type: ignore[arg-type]
    future = type(sys)("__future__")
    future.annotations = None  # type: ignore[attr-defined]
    sys.modules["__future__"] = future
    load_hot(directory, START)
    if "pyruntime" in sys.modules:
        return
    spec = _frozen_importlib_external.spec_from_file_location(
        "pyruntime", directory + "/__init__.py", submodule_search_locations=[directory]
    )
    assert spec is not None and spec.loader is not None
    package = _frozen_importlib.module_from_spec(spec)
    sys.modules["pyruntime"] = package
    spec.loader.exec_module(package)


def load_hot(directory: str, section: int) -> None:
    """Load the modules of one section of the file that tools/compile.py has written, where they are still the same.

    What is missing or does not match is imported when somebody asks for it. The file is closed again at once: a
    descriptor that we hold would stand where the caller's are expected (`--preserve-fds`). With --debug nothing comes
    from the file: it knows no line numbers.
    """
    if "--debug" in sys.argv:
        return
    try:
        file = posix.open(f"{directory}/hot.{sys.implementation.cache_tag}", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return
    entries = []
    try:
        head = posix.pread(file, 1024, 0)
        if head[:4] == _frozen_importlib_external.MAGIC_NUMBER:
            # Read in small pieces: a large one would be new memory, each page of which costs a page fault.
            for offset, length in marshal.loads(head[4:])[section]:
                entries += marshal.loads(posix.pread(file, length, offset))
    except (EOFError, ValueError, TypeError, IndexError):
        pass  # damaged
    finally:
        posix.close(file)
    new = type(sys)
    modules = sys.modules
    for name, is_package, source, time, size, code in entries:
        path = f"{directory}/{source}"
        parent, _, child = name.rpartition(".")
        if name in modules or (parent and parent not in modules):
            continue
        try:
            status = posix.stat(path)
        except OSError:
            continue
        if status.st_size != size or (time and status.st_mtime_ns != time):
            continue
        module = new(name)
        module.__file__ = path
        if is_package:
            module.__path__ = [path[:-12]]  # less /__init__.py
        modules[name] = module
        exec(code, module.__dict__)
        if parent:
            setattr(modules[parent], child, module)


def load_needs(directory: str, verb: str) -> None:
    """Load what the verb needs. Which word is the verb only the full parser knows; a wrong guess costs time only."""
    always, v1, v2 = NEEDS[verb]
    for section in always:
        load_hot(directory, section)
    for section in v2 if posix.access("/sys/fs/cgroup/cgroup.controllers", posix.F_OK) else v1:
        load_hot(directory, section)


def must_seal(arguments: list[str]) -> bool:
    """Whether the verb is one of SEALED_VERBS. Which word is the verb only the full parser knows, so any word counts:
    a needless seal costs milliseconds, a missed one the host's interpreter (CVE-2019-5736)."""
    if arguments and arguments[0][:1] != "-":
        return arguments[0] in SEALED_VERBS
    return any(word in SEALED_VERBS for word in arguments)


def open_standard_streams() -> None:
    """Put /dev/null where the caller has closed a standard stream. Otherwise the number would go to a descriptor of
    ours: the container would wait with it in place of a stream, and what is written to a stream would end up in it."""
    for number in (0, 1, 2):
        try:
            posix.fstat(number)
        except OSError:
            posix.set_inheritable(posix.open("/dev/null", posix.O_RDWR), True)  # the lowest number that is free


def flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass


def start() -> int:
    if None in (sys.stdin, sys.stdout, sys.stderr):  # the interpreter has found them closed
        open_standard_streams()
    directory = own_directory()
    load_package(directory)
    words = sys.argv[1:] or ["pyruntime"]
    name = words[0].rpartition("/")[2]
    if name == "pyruntime-image":
        from pyruntime.image.cli import main as image

        return image(words[1:])
    if name == "pyruntime-bridge":
        from pyruntime.network.cli import main as bridge

        return bridge(words[1:])
    refused = None
    sealed = must_seal(words[1:])
    if sealed:
        load_hot(directory, SEAL)
        from pyruntime.errors import RuntimeFailure
        from pyruntime.kernel import seal

        try:
            seal.protect(__file__, words)
        except RuntimeFailure as failure:
            refused = failure  # for the command line to report in the form, and to the file, that the flags ask for
    load_hot(directory, VERBS)
    for word in words[1:]:
        if word in NEEDS:
            load_needs(directory, word)
            break
    from pyruntime.cli.main import main

    return main(words, refused)


if __name__ == "__main__":
    gc.disable()
    if b"PYRUNTIME_PROFILE" in posix.environ:
        profile = type(sys)("profile")
        loader = _frozen_importlib_external.SourceFileLoader("profile", own_directory() + "/profile.py")
        exec(loader.get_code("profile"), profile.__dict__)  # type: ignore[arg-type]
        start = profile.of(start, globals())
    try:
        status = start()
    except Exception as error:  # of our own modules; the command line catches everything else itself
        if "--debug" in sys.argv:
            raise
        sys.stderr.write(
            f"pyruntime: the installation is damaged ({type(error).__name__}: {error}): install it again\n"
        )
        status = 1
    flush()
    posix._exit(status)
