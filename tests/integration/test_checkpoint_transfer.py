"""Checkpoints in parts and over the network: pre-dumps, page servers, lazy pages; other cgroups, other names."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.changes import linux
from support.container import Container, new_id, wait_for
from support.criu import SECONDS, count, counter, goes_on, needs_criu, restore, save, started
from support.runtime import Runtime

pytestmark = needs_criu
Make = Callable[..., Container]
Criu = Callable[..., "subprocess.Popen[bytes]"]

LARGE = "x=$(head -c 4000000 /dev/zero | tr '\\0' a)"  # what does not change between two dumps


@pytest.fixture
def criu() -> Iterator[Criu]:
    """criu(arguments): one of CRIU's own daemons, which ends with the test."""
    made: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str | Path) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(["criu", *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        made.append(process)
        return process

    yield start
    for process in made:
        if process.poll() is None:
            process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A" for line in lines)


def pages(images: Path) -> int:
    """Bytes on the disk of the memory pages in a directory of images."""
    return sum(path.stat().st_blocks * 512 for path in images.glob("pages-*.img"))


def test_a_dump_after_a_pre_dump_holds_what_changed(container: Make, tmp_path: Path) -> None:
    one = started(container(counter(LARGE)))
    save(one, tmp_path / "pre", "--pre-dump").ok()
    goes_on(one)
    first = pages(tmp_path / "pre")
    assert first > 4_000_000
    save(one, tmp_path / "images", "--parent-path", "../pre", "--auto-dedup").ok()
    assert 0 < pages(tmp_path / "images") < 3_000_000
    assert pages(tmp_path / "pre") < first  # --auto-dedup took out what is in the second
    restore(one, tmp_path / "images").ok()
    goes_on(one)


def test_a_parent_that_is_not_there(container: Make, tmp_path: Path) -> None:
    one = started(container(counter()))
    refused = save(one, tmp_path / "images", "--parent-path", "../nothing")
    assert refused.status == 1 and "parent-path" in refused.stderr, refused
    goes_on(one)


def test_a_page_server_takes_the_memory(container: Make, tmp_path: Path, criu: Criu) -> None:
    one = started(container(counter(LARGE)))
    images, remote, port = tmp_path / "images", tmp_path / "remote", free_port()
    remote.mkdir()
    server = criu("page-server", "--images-dir", remote, "--port", str(port))
    wait_for(lambda: listens(port), "the page server", SECONDS)
    save(one, images, "--page-server", f"127.0.0.1:{port}").ok()
    assert server.wait(SECONDS) == 0
    assert pages(images) == 0 and pages(remote) > 4_000_000
    for path in remote.glob("page*.img"):
        path.rename(images / path.name)
    restore(one, images).ok()
    goes_on(one)


def test_pages_come_when_they_are_used(container: Make, runtime: Runtime, tmp_path: Path, criu: Criu) -> None:
    """A migration: the old container serves the memory of the new one, which already runs."""
    one = started(container(counter(LARGE)))
    other = container(of=one.bundle, runtime=Runtime(runtime.program, tmp_path / "other"), id=new_id())
    images, port = tmp_path / "images", free_port()
    ready, told = os.pipe()
    arguments = ("--image-path", images, "--work-path", tmp_path / "work", "--lazy-pages",
                 "--page-server", f"127.0.0.1:{port}", "--status-fd", str(told))  # fmt: skip
    dump = one.runtime.popen("checkpoint", *arguments, one.id, pass_fds=[told], stdout=subprocess.DEVNULL)
    try:
        os.close(told)
        assert os.read(ready, 1) == b"\0"  # --status-fd: the server listens
        assert pages(images) < 1_000_000
        reached = count(one)
        (tmp_path / "images.log").mkdir()
        server = ("--page-server", "--address", "127.0.0.1", "--port", str(port))
        lazy = criu("lazy-pages", *server, "--images-dir", images, "--work-dir", tmp_path / "images.log")
        wait_for((tmp_path / "images.log" / "lazy-pages.socket").exists, "the socket of the daemon", SECONDS)
        restore(other, images, "--lazy-pages").ok()
        wait_for(lambda: count(other) > reached, "the program to go on", SECONDS)
        assert lazy.wait(SECONDS) == 0
        assert dump.wait(SECONDS) == 0, dump.stderr.read() if dump.stderr else ""
    finally:
        os.close(ready)
        if dump.poll() is None:
            dump.kill()
            dump.wait()
    assert one.runtime("state", one.id).status == 1
    assert other.status == "running"


def test_the_same_images_twice(container: Make, tmp_path: Path) -> None:
    one = started(container(counter()))
    images = tmp_path / "images"
    save(one, images).ok()
    reached = count(one)
    for _ in range(2):
        restore(one, images).ok()
        wait_for(lambda: count(one) > reached, "the program to go on", SECONDS)
        one.runtime("delete", "--force", one.id).ok()
        (one.bundle.rootfs / "count").write_text(f"{reached}\n")


def test_under_another_name_in_another_cgroup(container: Make, tmp_path: Path) -> None:
    one = started(container(counter(), linux(cgroupsPath=f"/criu-one-{new_id()}")))
    save(one, tmp_path / "images", "--manage-cgroups-mode", "ignore").ok()
    other = container(of=one.bundle, id=new_id())
    other.bundle.config["linux"]["cgroupsPath"] = f"/criu-other-{other.id}"
    other.bundle.write()
    restore(other, tmp_path / "images", "--manage-cgroups-mode", "ignore").ok()
    assert other.cgroup("pids").name == f"criu-other-{other.id}"
    goes_on(other)
    other.runtime("delete", "--force", other.id).ok()


@pytest.mark.skipif(not Path("/run/systemd/system").is_dir(), reason="systemd is not running here")
def test_in_a_scope_of_systemd(container: Make, runtime: Runtime, tmp_path: Path) -> None:
    name = f"criu{os.getpid()}"
    systemd = Runtime(runtime.program, tmp_path / "state", ["--systemd-cgroup"])
    changes = (linux(cgroupsPath=f"system.slice:test:{name}", resources={"pids": {"limit": 42}}),)
    one = started(container(counter(), *changes, runtime=systemd))
    show = ["systemctl", "show", "--property=ActiveState,TasksMax", f"test-{name}.scope"]
    save(one, tmp_path / "images").ok()
    assert "ActiveState=inactive" in subprocess.run(show, check=True, capture_output=True, text=True).stdout
    restore(one, tmp_path / "images").ok()
    assert one.cgroup("pids").name == f"test-{name}.scope"
    shown = subprocess.run(show, check=True, capture_output=True, text=True).stdout
    assert "ActiveState=active" in shown and "TasksMax=42" in shown
    goes_on(one)
