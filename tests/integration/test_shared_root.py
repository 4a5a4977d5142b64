"""Where the host's root is a shared mount, as systemd has it: nothing of a container may reach the host by it, and a
mount that is meant to be shared still is. This machine's root may be private, so each test makes its own host: a mount
namespace in which everything is shared."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.bundles import Config
from support.container import Container

Make = Callable[..., Container]

# Mounts of others may go meanwhile (an engine that removes its directories on the real host); the system's may not.
SCRIPT = """
import subprocess, sys
subprocess.run(["mount", "--make-rshared", "/"], check=True)
read = lambda: set(open("/proc/self/mountinfo").read().split(chr(10)))
before = read()
status = subprocess.run(sys.argv[1:]).returncode
after = read()
points = [line.split()[4] for line in before - after]
lost = [point for point in points if point == "/" or point.startswith(("/proc", "/sys", "/dev"))]
print("host", "changed" if after - before or lost else "same")
sys.exit(status)
"""


def on_shared_host(one: Container, *words: str) -> subprocess.CompletedProcess[str]:
    command = one.runtime.argv("run", "--bundle", one.bundle.path, one.id)
    return subprocess.run(
        ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", SCRIPT, *command, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("word", ["", "shared", "rshared", "slave", "rslave", "private", "rprivate", "unbindable"])
def test_no_mount_of_the_container_reaches_the_host(container: Make, tmp_path: Path, word: str) -> None:
    def change(config: Config) -> None:
        if word:
            config["linux"]["rootfsPropagation"] = word
        config["mounts"].append(
            {"destination": "/volume", "type": "bind", "source": str(tmp_path), "options": ["rbind", "rprivate"]}
        )

    one = container(["sh", "-c", "awk '$5 == \"/\"' /proc/self/mountinfo"], change)
    result = on_shared_host(one)
    assert result.returncode == 0, result.stderr
    line, host = result.stdout.strip().split("\n")
    assert host == "host same"
    fields = line.split(" - ")[0].split()[6:]
    expected = {"shared": "shared:", "rshared": "shared:", "slave": "master:", "rslave": "master:", "": "master:"}
    assert "".join(fields).startswith(expected.get(word, "unbindable" if word == "unbindable" else "")), line
    if "private" in word:
        assert not fields, line


def test_shared_volume_is_a_peer_of_the_hosts(container: Make, tmp_path: Path) -> None:
    """With rootfsPropagation rshared: what is mounted inside appears on the host (Kubernetes' Bidirectional)."""

    def change(config: Config) -> None:
        config["linux"]["rootfsPropagation"] = "rshared"
        config["process"]["capabilities"] = {kind: ["CAP_SYS_ADMIN"] for kind in ("bounding", "effective", "permitted")}
        config["mounts"].append(
            {"destination": "/volume", "type": "bind", "source": str(tmp_path), "options": ["rbind", "rshared"]}
        )

    (tmp_path / "inner").mkdir()
    one = container(["mount", "-t", "tmpfs", "none", "/volume/inner"], change)
    result = on_shared_host(one)
    assert result.returncode == 0, result.stderr
    assert "host changed" in result.stdout
