"""H. Checkpoint and restore: names of the image that CRIU would read as something else.

CVE-2026-119101, CVE-2026-115520, CVE-2026-119614. That a restored process is confined as before, and what an archive
may not say: integration/test_checkpoint.py and its neighbours, where CRIU works.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.bundles import Config
from support.canary import Canary
from support.container import Container
from support.weakened import without

Make = Callable[..., Container]

pytestmark = pytest.mark.skipif(not shutil.which("criu"), reason="needs the program criu, working or not")


@pytest.mark.parametrize("name", ["a]:/etc", "a]", "new\nline"])
@without(
    "container/criu_mounts.py",
    """
    _place = lambda root, destination: "/plain"
    """,
)
def test_destination_that_ends_the_key(
    container: Make, canary: Canary, tmp_path: Path, name: str, protected: bool
) -> None:
    """An image's link makes a bind mount lie at a path in which CRIU finds the end of the key and another source.

    Without looking at where it really lies (container/criu_mounts.py: _place) the checkpoint goes to CRIU.
    """

    def change(config: Config) -> None:
        config["mounts"].append(
            {"destination": "/link", "type": "bind", "source": str(canary.path), "options": ["bind"]}
        )

    one = container(["sleep", "1000"], change)
    (one.bundle.rootfs / "link").symlink_to(name)
    one.run("--detach").ok()
    words = ("--image-path", tmp_path / "images", "--work-path", tmp_path / "work", "--leave-running")
    result = one.runtime("checkpoint", *words, one.id)
    assert ("cannot be saved" in result.stderr) is protected
    if protected:
        assert result.status == 1 and len(result.stderr.splitlines()) == 1
        assert not (tmp_path / "work" / "dump.log").exists() and one.status == "running"
    assert canary.touched() == set()
