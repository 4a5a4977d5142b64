"""Reading a bundle's configuration, checked.

What comes out of here is complete and right as far as the document alone can tell: types, ranges, required
properties, and the rules between properties. What only the host can tell (does the root exist, has the kernel this
namespace) is found out by those who use it.
"""

from __future__ import annotations

from pyruntime.errors import RuntimeFailure, SpecError
from pyruntime.spec import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.spec.types import Process, Resources, Spec

CONFIG = "config.json"


def load_bundle(bundle: str) -> Spec:
    """The checked configuration of the bundle directory.

    Raises SpecError for a configuration that is wrong, RuntimeFailure for one that cannot be read.
    """
    config = _read(f"{bundle}/{CONFIG}", CONFIG)
    check(config)
    return config  # type: ignore[return-value]


def load_process(path: str) -> Process:
    """The checked process document of `exec --process FILE`. Raises as `load_bundle` does."""
    process = _read(path, path)
    check_process(process)
    return process  # type: ignore[return-value]


def parse_resources(data: bytes, name: str = "resources") -> Resources:
    """The checked document of `update --resources`; `name` says where it came from. Raises SpecError."""
    resources = jsontext.loads(data, name)
    check_resources(resources)
    return resources  # type: ignore[return-value]


def problems(config: object) -> list[SpecError]:
    """Everything that is wrong with a configuration."""
    if not isinstance(config, dict):
        return [SpecError("", "expected an object")]
    return [SpecError("", f'the property "{name}" is missing') for name in ("ociVersion", "root") if name not in config]


def check(config: object) -> None:
    """Raise the first of the `problems`, if there is one."""
    for problem in problems(config):
        raise problem


def check_process(process: object, path: str = "process") -> None:
    """Check a process object by itself. Raises SpecError; `path` is what its errors begin with."""
    if not isinstance(process, dict):
        raise SpecError(path, "expected an object")


def check_resources(resources: object, path: str = "resources") -> None:
    """Check a resources object by itself. Raises SpecError; `path` is what its errors begin with."""
    if not isinstance(resources, dict):
        raise SpecError(path, "expected an object")


def _read(path: str, name: str) -> object:
    try:
        data = jsontext.read_file(path)
    except FileNotFoundError:
        raise RuntimeFailure(f"JSON specification file {name} not found") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RuntimeFailure(f"cannot read {path}: {reason}") from None
    return jsontext.loads(data, name)
