"""checkpoint and restore. CRIU of Debian 12 cannot save processes on every kernel: these run where `criu check` passes,
which the guest of tests/vm does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import criu
from support.changes import bind
from support.container import Container, wait_for
from support.criu import SECONDS, count, counter, needs_criu

pytestmark = needs_criu
Make = Callable[..., Container]
COUNT = counter()


@pytest.fixture
def started(container: Make, tmp_path: Path) -> Container:
    """A container that counts, with a bind mount."""
    (tmp_path / "extra").write_text("from the host")
    return criu.started(container(COUNT, bind(tmp_path / "extra", "/extra")))


def test_goes_on_where_it_was(started: Container, tmp_path: Path) -> None:
    one = started
    images = str(tmp_path / "images")
    one.runtime("checkpoint", "--image-path", images, "--work-path", str(tmp_path / "work"), one.id).ok()
    assert one.runtime("state", one.id).status == 1  # it is gone
    assert (tmp_path / "images" / "descriptors.json").exists() and (tmp_path / "work" / "dump.log").exists()
    before = count(one)
    pid_file = tmp_path / "pid"
    one.runtime(
        "restore", "--detach", "--bundle", one.bundle.path, "--image-path", images, "--pid-file", pid_file, one.id
    ).ok()
    wait_for(lambda: count(one) > before, "it to go on", SECONDS)
    assert one.status == "running" and pid_file.read_text() == str(one.pid)
    assert one.exec("cat", "/extra").stdout == "from the host"
    assert len(one.runtime("ps", "--format", "json", one.id).json()) >= 1


def test_leave_running_pre_dump_and_parent(started: Container, tmp_path: Path) -> None:
    one = started
    one.runtime("checkpoint", "--leave-running", "--image-path", str(tmp_path / "one"), one.id).ok()
    assert one.status == "running"
    one.runtime("checkpoint", "--pre-dump", "--image-path", str(tmp_path / "two"), one.id).ok()
    assert one.status == "running"
    last = str(tmp_path / "three")
    one.runtime("checkpoint", "--parent-path", "../two", "--image-path", last, one.id).ok()
    assert (tmp_path / "three" / "parent").is_symlink()
    before = count(one)
    one.runtime("restore", "--detach", "--bundle", one.bundle.path, "--image-path", last, one.id).ok()
    wait_for(lambda: count(one) > before, "it to go on", SECONDS)


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
