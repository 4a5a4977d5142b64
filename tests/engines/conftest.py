"""Fixtures of the tests with real engines. Each engine lives in a directory of its own and is stopped at the end.

With `--runtime pyruntime --runtime runc --runtime crun` each test runs once per runtime, under the same daemon.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines.engine import call, hide_controllers_of_version_2, make_archive, need, release, unmounted_hierarchies
from engines.kubelet import PLUGINS, Kubelet, handlers
from engines.podman import Podman
from support.runtime import AUDITED, find


@pytest.fixture(scope="session")
def engine_directory(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A short path, since the engines put Unix sockets below it (108 bytes), and not on an overlay: they mount some."""
    overlay = call("stat", "--file-system", "--format", "%T", "/var/tmp").ok().stdout == "overlayfs\n"
    path = Path(tempfile.mkdtemp(prefix="engine-", dir="/tmp" if overlay else "/var/tmp"))
    path.chmod(0o755)
    try:
        if any(Path(name).name == "crun" for name in request.config.getoption("--runtime")):
            hide_controllers_of_version_2(path)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def archive(engine_directory: Path) -> Path:
    directory = engine_directory / "image"
    directory.mkdir()
    return make_archive(directory)


@pytest.fixture(scope="session")
def programs(request: pytest.FixtureRequest) -> dict[str, str]:
    """All runtimes of this session by name, for daemons that have to be told before."""
    chosen = [find(name) for name in request.config.getoption("--runtime")] or [str(AUDITED)]
    return {Path(program).name: program for program in chosen}


@pytest.fixture
def all_hierarchies_mounted(tmp_path: Path) -> None:
    """For tests of statistics and of what follows from running out of memory.

    containerd's shim looks up the mount point of every hierarchy in /proc/PID/cgroup, and goes without statistics and
    OOM events if there is none for one of them: under every runtime, and not to the fault of any.
    """
    deadline = time.monotonic() + 3
    while (missing := unmounted_hierarchies()) and time.monotonic() < deadline:
        for one in missing:
            release(one, tmp_path / "hierarchy")
        time.sleep(0.1)
    if missing:
        pytest.skip(f"containerd has no statistics: {', '.join(missing)} of cgroup v1 in use, but not mounted here")


@pytest.fixture(scope="session")
def shared_kubelet(engine_directory: Path, archive: Path, programs: dict[str, str]) -> Iterator[Kubelet]:
    if need("containerd", "ctr", "ip", "nsenter") or PLUGINS is None:
        pytest.skip("containerd, iproute2 or containernetworking-plugins is not installed")
    pytest.importorskip("grpc", reason="grpcio is not installed")
    kubelet = Kubelet(engine_directory / "cri", archive, handlers(programs))
    left = []
    try:
        yield kubelet
    finally:
        left = kubelet.close()
    assert not left, f"the CRI plugin left behind: {left}"


@pytest.fixture
def kubelet(shared_kubelet: Kubelet, program: str) -> Iterator[Kubelet]:
    """A kubelet whose pods run under the runtime of this test."""
    shared_kubelet.handler = Path(program).name
    yield shared_kubelet
    shared_kubelet.clean()


@pytest.fixture(scope="session")
def shared_podman(engine_directory: Path, archive: Path) -> Iterator[Podman]:
    podman = Podman(engine_directory / "podman", archive)
    left = []
    try:
        yield podman
    finally:
        left = podman.close()
    assert not left, f"podman left behind: {left}"


@pytest.fixture
def podman(shared_podman: Podman, program: str) -> Iterator[Podman]:
    podman = shared_podman.through(program)
    yield podman
    podman.clean()
