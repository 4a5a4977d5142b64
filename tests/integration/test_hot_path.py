"""What the hot verbs really load, seen in a whole life of a container: each import is paid for by every container."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.container import Container
from support.runtime import LAUNCHER, REPOSITORY, Runtime

# Modules of the standard library that are in the interpreter itself or cost next to nothing.
CHEAP = frozenset(
    """
    __future__ __main__ _abc _codecs _collections_abc _ctypes _frozen_importlib _frozen_importlib_external _imp _io
    _json _posixsubprocess _signal _socket _stat _struct _thread _warnings _weakref abc builtins codecs encodings
    encodings.aliases encodings.utf_8 encodings.utf_8_sig errno fcntl gc genericpath io marshal os os.path posix
    posixpath select stat sys termios time zipimport zlib binascii
    """.split()
)

# The rooms (docs/architecture.md) that a verb needs, and how many modules of ours it may load. The numbers are what
# it loads today and a little more: whoever needs a larger one decides that every container shall pay for it. What is
# loaded ahead (NEEDS in pyruntime/__main__.py) counts, whether a certain container needs it or not.
VERBS = {
    "run": ({"cli", "spec", "plan", "cgroups", "container", "kernel"}, 81),
    "create": ({"cli", "spec", "plan", "cgroups", "container", "kernel"}, 81),
    "start": ({"cli", "spec", "container", "kernel", "cgroups"}, 27),
    "state": ({"cli", "spec", "container", "kernel", "cgroups"}, 27),
    "kill": ({"cli", "spec", "container", "kernel", "cgroups"}, 27),
    "exec": ({"cli", "spec", "plan", "cgroups", "container", "kernel"}, 66),
    "delete": ({"cli", "spec", "container", "kernel", "cgroups", "plan"}, 40),
}

# Carries a verb out as the launcher does, then writes what is loaded to the file named by its first word. The seal
# is left out: it would replace this very program.
DRIVER = f"""
import sys
record = sys.argv.pop(1)
main = {{"__name__": "driver", "__file__": {str(REPOSITORY / "pyruntime" / "__main__.py")!r}}}
with open(main["__file__"]) as file:
    exec(compile(file.read(), main["__file__"], "exec"), main)
main["must_seal"] = lambda words: False
status = main["start"]()
with open(record, "w") as file:
    file.write(" ".join(sys.modules))
main["flush"]()
main["posix"]._exit(status)
"""


def loaded(runtime: Runtime, record: Path, verb: str, *words: str) -> set[str]:
    driver = record.with_name("driver.py")
    driver.write_text(DRIVER)
    command = ["/usr/bin/python3", "-I", "-S", "-E", "-B", "-X", "utf8", str(driver), str(record), "pyruntime"]
    Runtime(command, runtime.root)(verb, *words, env={}).ok()
    return set(record.read_text().split())


@pytest.fixture
def modules(program: str, tmp_path: Path, container: Callable[..., Container]) -> dict[str, set[str]]:
    """What each verb of a container's life has loaded."""
    if program != str(LAUNCHER):
        pytest.skip("about the modules of pyruntime")
    one, other = container(["sleep", "1000"]), container(["true"])
    record = tmp_path / "modules"
    found = {"create": loaded(one.runtime, record, "create", "--bundle", str(one.bundle.path), one.id)}
    for verb, words in {"start": [], "state": [], "exec": ["true"], "kill": ["KILL"]}.items():
        found[verb] = loaded(one.runtime, record, verb, one.id, *words)
    one.wait("stopped")
    found["delete"] = loaded(one.runtime, record, "delete", one.id)
    found["run"] = loaded(one.runtime, record, "run", "--bundle", str(other.bundle.path), other.id)
    return found


def test_hot_verbs_load_what_is_on_their_list(modules: dict[str, set[str]]) -> None:
    assert set(modules) == set(VERBS)
    wrong = []
    for verb, names in modules.items():
        rooms, most = VERBS[verb]
        for name in sorted(names - CHEAP):
            parts = name.split(".")
            if parts[0] != "pyruntime":
                wrong.append(f"{verb} loads {name}")
            elif len(parts) > 1 and parts[1] not in rooms | {"errors"}:
                wrong.append(f"{verb} loads {name}, of a room that it does not need")
        ours = [name for name in names if name.startswith("pyruntime")]
        if len(ours) > most:
            wrong.append(f"{verb} loads {len(ours)} modules of ours, more than {most}")
    assert not wrong, "\n".join(wrong)
