"""What keeps a process in a container from looking for code: the audit hook of the runtime, and that of the tests.

Both are tried on copies of pyruntime whose init does, after the switch of the root, what it must never do.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.container import Container
from support.runtime import AUDITED, LAUNCHER, REPOSITORY, Runtime

MARK = "        self.command.enter_directory()\n"  # the first thing that FindProgram does, in the container's root

# A statement, whether the runtime itself ends the process, and how the hook of the tests calls it.
CRIMES = {
    "import": ("import colorsys", True, "import colorsys"),
    "a codec": ("'x'.encode('idna')", True, "import encodings.idna"),
    "a file named in text": ("posix.close(posix.open('/bin/busybox', 0))", False, "open /bin/busybox"),
    "compile": ("compile('1', 'x', 'eval')", True, "compile"),
    "a library": ("__import__('_ctypes').dlopen('libc.so.6')", True, "ctypes.dlopen libc.so.6"),
    "fork": ("posix.fork()", True, "os.fork"),
    "a shell": ("posix.system('true')", True, "os.system"),
    "a name": ("__import__('_socket').getaddrinfo(b'localhost', 1)", True, "socket.getaddrinfo"),
    "the program by another way": ("posix.execv('/bin/true', ['true'])", True, "os.exec"),
}


def broken(directory: Path, launcher: Path, crime: str) -> Path:
    """A copy of the checkout with a FindProgram that commits the crime. Returns the copy of `launcher`."""
    ignored = shutil.ignore_patterns("__pycache__", "hot.*")
    for name in ("pyruntime", "bin", "tests/support/audited"):
        shutil.copytree(REPOSITORY / name, directory / name, ignore=ignored)
    path = directory / "pyruntime" / "plan" / "lifecycle.py"
    text = path.read_text()
    assert text.count(MARK) == 1
    path.write_text(text.replace(MARK, f"        {crime}\n{MARK}"))
    return directory / launcher.relative_to(REPOSITORY)


@pytest.fixture(autouse=True)
def only_pyruntime(program: str) -> None:
    if program != str(LAUNCHER):
        pytest.skip("tests a copy of pyruntime")


@pytest.mark.parametrize("name", CRIMES)
def test_the_hook_of_the_tests(name: str, tmp_path: Path, container: Callable[..., Container]) -> None:
    crime, _, words = CRIMES[name]
    one = container(runtime=Runtime(broken(tmp_path / "copy", AUDITED, crime), tmp_path / "state"))
    with pytest.raises(AssertionError, match=f"AUDIT: {words}"):
        one.run()


@pytest.mark.parametrize("name", [name for name, (_, ours, _) in CRIMES.items() if ours])
def test_the_hook_of_the_runtime(name: str, tmp_path: Path, container: Callable[..., Container]) -> None:
    """The program of the container is never reached, and the caller is told."""
    crime, _, _ = CRIMES[name]
    one = container(
        ["sh", "-c", "echo reached"], runtime=Runtime(broken(tmp_path, LAUNCHER, crime), tmp_path / "state")
    )
    result = one.run()
    assert result.status == 1 and "reached" not in result.output
    assert result.stderr.count("\n") == 1 and "Traceback" not in result.stderr
