"""Attacks on real containers, one file per section of the catalogue in docs/security.md.

Most run twice (`@without`, support/weakened.py): as the runtime is, where the attack must fail, and with the
protection taken out, where it must succeed.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.canary import Canary
from support.mountinfo import HostMounts
from support.runtime import AUDITED, LAUNCHER, Runtime
from support.weakened import weaken

PROGRAMS = Path(__file__).parent / "programs"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "without(changes): the attack is also made on a copy with these changes")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.definition.get_closest_marker("without"):
        metafunc.parametrize("protected", [True, False], ids=["protected", "without"], indirect=True)


@pytest.fixture
def protected(request: pytest.FixtureRequest) -> bool:
    """Whether the runtime is as it should be. False: the attack must succeed."""
    return bool(getattr(request, "param", True))


@pytest.fixture
def runtime(request: pytest.FixtureRequest, program: str, protected: bool, tmp_path: Path) -> Runtime:
    if protected:
        return Runtime(program, tmp_path / "state")
    if program not in (str(LAUNCHER), str(AUDITED)):
        pytest.skip("takes a protection out of pyruntime")
    mark = request.node.get_closest_marker("without")
    return Runtime(weaken(tmp_path / "weakened", mark.args[0]), tmp_path / "state")


@pytest.fixture
def canary() -> Iterator[Canary]:
    made = Canary()
    yield made
    made.remove()


@pytest.fixture
def host_mounts() -> Iterator[HostMounts]:
    made = HostMounts()
    yield made
    made.close()


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """make(name, *flags): a program of tests/attacks/programs, static unless `flags` say otherwise."""
    directory = tmp_path_factory.mktemp("programs")

    def make(name: str, *flags: str) -> Path:
        target = directory / name
        if not target.exists():
            command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", *(flags or ("-static",))]
            subprocess.run([*command, "-o", target, PROGRAMS / f"{name}.c"], check=True)
        return target

    return make


@pytest.fixture
def swapping(compiled: Callable[..., Path]) -> Iterator[Callable[[Path, Path], subprocess.Popen[bytes]]]:
    """start(a, b): a process that exchanges two names until it is told to end, and then says how often it did."""
    running: list[subprocess.Popen[bytes]] = []

    def start(one: Path, other: Path) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [compiled("swap"), one, other], stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=lambda: os.nice(5)
        )
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def races(default: int) -> int:
    """How many tries a race gets: `default`, times what PYRUNTIME_RACES says."""
    return default * int(os.environ.get("PYRUNTIME_RACES", "1"))
