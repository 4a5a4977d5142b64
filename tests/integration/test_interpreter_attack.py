"""CVE-2019-5736 with real containers: a container that runs or opens the runtime's own executable, to overwrite it.

The runtime is started by a copy of the interpreter, in a directory laid out like an installation; its digest is
compared afterwards. With the seal taken out, the same attacks succeed. Attacks by way of `exec`:
attacks/test_executable.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from support.container import Container, wait_for
from support.installation import CAPABILITIES, EVIL, Installation, evil_change, evil_root
from support.runtime import LAUNCHER


@pytest.fixture(params=["sealed", "launcher", "unsealed"])
def installation(request: pytest.FixtureRequest, program: str, tmp_path: Path) -> Installation:
    if program != str(LAUNCHER):
        pytest.skip("attacks a copy of pyruntime")
    return Installation(tmp_path / "installation", request.param)


@pytest.mark.parametrize("capabilities", CAPABILITIES)
@pytest.mark.parametrize("entry", ["program", "script"])
def test_program_is_the_interpreter(
    installation: Installation,
    tmp_path: Path,
    container: Callable[..., Container],
    entry: str,
    capabilities: str,
) -> None:
    """The container's program is `/proc/self/exe` itself, or a script that names it as its interpreter."""
    shared, root = tmp_path / "shared", tmp_path / "root"
    evil_root(root, shared)
    args = ["/proc/self/exe", "-c", EVIL] if entry == "program" else ["/evil"]
    change = partial(evil_change, shared=shared, capabilities=capabilities)
    attacker = container(args, change, root=root, runtime=installation.runtime)
    attacker.create().ok()
    attacker.start().ok()
    # Not by asking the runtime: as long as it runs, its interpreter is in use and nobody can write to it.
    wait_for((shared / "done").exists, "the end of the attack")
    attacker.wait("stopped")
    assert (shared / "reached").exists(), "the attack did not come to its point: this test shows nothing"
    assert (shared / "written").exists() == installation.overwritten()
    assert installation.overwritten() is not installation.sealed
