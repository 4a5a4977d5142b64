"""What the tests of checkpoint and restore share: whether CRIU works here, programs whose progress shows, the verbs."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.container import Container, wait_for
from support.runtime import Result

# Everything is emulated in the virtual machine, and CRIU makes many system calls.
SECONDS = 60.0


@functools.cache
def usable() -> bool:
    if not shutil.which("criu"):
        return False
    return subprocess.run(["criu", "check"], capture_output=True, check=False).returncode == 0


needs_criu = pytest.mark.skipif(not usable(), reason="criu check does not pass on this kernel")


def counter(before: str = "") -> list[str]:
    """A command that does `before` and then counts in /count."""
    return ["sh", "-c", f"{before}\ni=0; while true; do i=$((i+1)); echo $i > /count; sleep 0.1; done"]


def count(one: Container, name: str = "count") -> int:
    """How far the program of `counter()` has come. It may just be writing the file anew: then 0."""
    try:
        return int((one.bundle.rootfs / name).read_text() or 0)
    except (FileNotFoundError, ValueError):
        return 0


def goes_on(one: Container, name: str = "count") -> None:
    """Wait until the program has counted on, from where it is now and not from the start."""
    before = count(one, name)
    wait_for(lambda: count(one, name) > before, f"{name} to go on from {before}", SECONDS)


def started(one: Container, *flags: str) -> Container:
    """Start it in the background; CRIU could not save the streams that tests give usually, files of the host."""
    nothing = subprocess.DEVNULL
    paths = ("--detach", "--bundle", one.bundle.path)
    process = one.runtime.popen("run", *paths, *flags, one.id, stdout=nothing, stderr=nothing)
    assert process.wait(SECONDS) == 0
    wait_for(lambda: count(one) > 3, "the program to count", SECONDS)
    return one


def save(one: Container, images: Path, *flags: str, pass_fds: tuple[int, ...] = ()) -> Result:
    """`checkpoint`. The working directory is the images' parent: it holds the logs."""
    paths = ("--image-path", images, "--work-path", images.parent / f"{images.name}.log")
    return one.runtime("checkpoint", *paths, *flags, one.id, pass_fds=pass_fds)


def restore(one: Container, images: Path, *flags: str | Path) -> Result:
    """`restore --detach`."""
    paths = ("--bundle", one.bundle.path, "--image-path", images, "--work-path", images.parent / f"{images.name}.log")
    return one.runtime("restore", "--detach", *paths, *flags, one.id)


def is_locked(file: Path) -> bool:
    """Whether somebody else holds a lock of flock(2) on the file."""
    return subprocess.run(["flock", "--nonblock", file, "true"], check=False).returncode != 0


def namespace_of(pid: int, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")
