"""Reading a bundle's configuration, checked.

What comes out of here is complete and right as far as the document alone can tell: types, ranges, required
properties, and the rules between properties. What only the host can tell (does the root exist, has the kernel this
namespace) is found out by those who use it.
"""

from __future__ import annotations

import posix

from pyruntime.errors import RuntimeFailure, SpecError
from pyruntime.spec import checker, jsontext, rules, rules_linux, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.spec.checker import Node
    from pyruntime.spec.types import Process, Resources, Spec

CONFIG = "config.json"


def load_bundle(bundle: str) -> Spec:
    """The checked configuration of the bundle directory.

    Raises SpecError for a configuration that is wrong, RuntimeFailure for one that cannot be read.
    """
    config = read_config(bundle)
    check(config)
    return config  # type: ignore[return-value]


def load_file(path: str) -> Spec:
    """The checked configuration in a file of any name (`create --config FILE`). Raises as `load_bundle` does."""
    config = _read(path, path, table.CONFIG)
    check(config)
    return config  # type: ignore[return-value]


def read_config(bundle: str) -> object:
    """The configuration of a bundle, read but not checked. Raises as `load_bundle` does."""
    try:
        data = jsontext.read_file(f"{bundle}/{CONFIG}")
    except (FileNotFoundError, NotADirectoryError):
        _explain_bundle(bundle)
        raise RuntimeFailure(f"JSON specification file {CONFIG} not found") from None
    except (OSError, ValueError) as error:
        raise _unreadable(f"{bundle}/{CONFIG}", error) from None
    return _parse(data, CONFIG, table.CONFIG)


def load_process(path: str) -> Process:
    """The checked process document of `exec --process FILE`. Raises as `load_bundle` does."""
    process = _read(path, path, table.PROCESS)
    check_process(process)
    return process  # type: ignore[return-value]


def parse_resources(data: bytes, name: str = "resources") -> Resources:
    """The checked document of `update --resources`; `name` says where it came from. Raises SpecError."""
    resources = _parse(data, name, table.RESOURCES)
    check_resources(resources)
    return resources  # type: ignore[return-value]


def problems(config: object) -> list[SpecError]:
    """Everything that is wrong with a configuration: what the schema says, then the rules between properties."""
    found: list[SpecError] = []
    checker.check(table.CONFIG, config, "", found)
    rules.apply(config, found)
    return found


def check(config: object) -> None:
    """Raise the first of the `problems`, if there is one."""
    for problem in problems(config):
        raise _familiar(problem)


# What is wrong with these fields is looked for in logs under these words.
_FAMILIAR = (
    ("linux.memoryPolicy.mode", "invalid memory policy mode"),
    ("linux.memoryPolicy.flags", "invalid memory policy flag"),
    ("linux.memoryPolicy.nodes", "invalid memory policy node"),
)


def _familiar(problem: SpecError) -> SpecError:
    for path, words in _FAMILIAR:
        if problem.path.startswith(path):
            return SpecError(problem.path, f"{words}: {problem.reason}")
    return problem


def check_process(process: object, path: str = "process") -> None:
    """Check a process object by itself. Raises SpecError; `path` is what its errors begin with."""
    _check_section(table.PROCESS, rules.PROCESS_RULES, process, path)


def check_resources(resources: object, path: str = "resources") -> None:
    """Check a resources object by itself. Raises SpecError; `path` is what its errors begin with."""
    _check_section(table.RESOURCES, rules_linux.RESOURCE_RULES, resources, path)


def _check_section(node: Node, section_rules: rules.Rules, value: object, path: str) -> None:
    found: list[SpecError] = []
    checker.check(node, value, path, found)
    if not found:
        rules.run(section_rules, value, path, found, found)  # type: ignore[arg-type]
    for problem in found:
        raise problem


def _read(path: str, name: str, node: Node) -> object:
    try:
        data = jsontext.read_file(path, pipe=True)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    return _parse(data, name, node)


def _explain_bundle(bundle: str) -> None:
    """Raise RuntimeFailure, in the words that scripts know, when it is the bundle itself that is not there."""
    try:
        posix.scandir(bundle).close()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RuntimeFailure(f"chdir {bundle}: {(error.strerror or '').lower()}") from None
    except OSError:
        pass


def _unreadable(path: str, error: OSError | ValueError) -> RuntimeFailure:
    reason = (error.strerror or "").lower() if isinstance(error, OSError) else error
    return RuntimeFailure(f"open {path}: {reason}")


def _parse(data: bytes, name: str, node: Node) -> object:
    value = jsontext.loads(data, name)
    if b"null" in data:
        checker.drop_nulls(node, value)
    return value
