"""checkpoint and restore. CRIU of Debian 12 cannot save processes on every kernel: these run where `criu check` passes,
which the guest of tests/vm does."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.bundles import Config
from support.container import Container, wait_for

Make = Callable[..., Container]
COUNT = ["sh", "-c", "i=0; while true; do i=$((i+1)); echo $i > /count; sleep 0.1; done"]


def usable() -> bool:
    if not shutil.which("criu"):
        return False
    return subprocess.run(["criu", "check"], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not usable(), reason="criu check does not pass on this kernel")


def count(one: Container) -> int:
    try:
        return int((one.bundle.rootfs / "count").read_text() or 0)
    except FileNotFoundError:
        return 0


def started(container: Make, tmp_path: Path) -> Container:
    """A container that counts, with a bind mount."""
    (tmp_path / "extra").write_text("from the host")

    def change(config: Config) -> None:
        entry = {"destination": "/extra", "type": "bind", "source": str(tmp_path / "extra"), "options": ["bind"]}
        config["mounts"].append(entry)

    one = container(COUNT, change)
    one.run("--detach").ok()
    wait_for(lambda: count(one) > 3, "the program to count")
    return one


def test_goes_on_where_it_was(container: Make, tmp_path: Path) -> None:
    one = started(container, tmp_path)
    images = str(tmp_path / "images")
    one.runtime("checkpoint", "--image-path", images, "--work-path", str(tmp_path / "work"), one.id).ok()
    assert one.runtime("state", one.id).status == 1  # it is gone
    assert (tmp_path / "images" / "descriptors.json").exists() and (tmp_path / "work" / "dump.log").exists()
    before = count(one)
    pid_file = tmp_path / "pid"
    one.runtime(
        "restore", "--detach", "--bundle", one.bundle.path, "--image-path", images, "--pid-file", pid_file, one.id
    ).ok()
    wait_for(lambda: count(one) > before, "it to go on")
    assert one.status == "running" and pid_file.read_text() == str(one.pid)
    assert one.exec("cat", "/extra").stdout == "from the host"
    assert len(one.runtime("ps", "--format", "json", one.id).json()) >= 1


def test_leave_running_pre_dump_and_parent(container: Make, tmp_path: Path) -> None:
    one = started(container, tmp_path)
    one.runtime("checkpoint", "--leave-running", "--image-path", str(tmp_path / "one"), one.id).ok()
    assert one.status == "running"
    one.runtime("checkpoint", "--pre-dump", "--image-path", str(tmp_path / "two"), one.id).ok()
    assert one.status == "running"
    last = str(tmp_path / "three")
    one.runtime("checkpoint", "--parent-path", "../two", "--image-path", last, one.id).ok()
    assert (tmp_path / "three" / "parent").is_symlink()
    before = count(one)
    one.runtime("restore", "--detach", "--bundle", one.bundle.path, "--image-path", last, one.id).ok()
    wait_for(lambda: count(one) > before, "it to go on")


def test_only_a_running_container_can_be_saved(container: Make, tmp_path: Path) -> None:
    one = container(COUNT)
    one.create().ok()
    result = one.runtime("checkpoint", "--image-path", str(tmp_path / "images"), one.id)
    assert result.status == 1 and "Container cannot be checkpointed in created state" in result.stderr


def test_failed_restore_leaves_nothing(container: Make, tmp_path: Path) -> None:
    one = container(COUNT)
    images = tmp_path / "images"
    images.mkdir()
    (images / "descriptors.json").write_text('["/dev/null", "/dev/null", "/dev/null"]')
    result = one.runtime("restore", "--detach", "--bundle", one.bundle.path, "--image-path", str(images), one.id)
    assert result.status == 1 and "criu failed" in result.stderr
    assert not one.leaks()
