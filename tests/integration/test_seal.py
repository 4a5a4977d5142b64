"""The interpreter is out of the container's reach (CVE-2019-5736): kernel/seal.py against one that tries to write it.

The attacker here does what a hostile container does with `/proc/PID/exe`: it takes a descriptor of our executable,
waits until nobody executes it any more (until then the kernel says ETXTBSY), opens it for writing and writes. The
interpreter is always a copy made for the test.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.runtime import REPOSITORY

SYSTEM_PYTHON = Path(os.path.realpath("/usr/bin/python3"))

DRIVER = f"""
import sys, posix
sys.path.append({str(REPOSITORY)!r})
from pyruntime.kernel import seal
method = sys.argv[1]
if method != "none":
    if method != "any":
        seal.METHODS = (method,)
    try:
        seal.protect(__file__, sys.argv[1:])
    except seal.RuntimeFailure as failure:
        print("refused:", failure, flush=True)
        posix._exit(1)
names = " ".join(sorted(name.decode() for name in posix.environ))
print(sys._xoptions.get("sealed", "unsealed"), posix.readlink("/proc/self/exe"), names, flush=True)
posix.read(0, 1)
posix._exit(0)
"""


class Victim:
    """A process of ours, started by a copy of the interpreter, that seals itself by `method` and then waits."""

    def __init__(self, directory: Path, method: str, prefix: tuple[str, ...] = (), env: dict[str, str] | None = None):
        self.python = directory / "python3"
        shutil.copy(SYSTEM_PYTHON, self.python)
        (directory / "pyvenv.cfg").write_text(f"home = {SYSTEM_PYTHON.parent}\n")
        driver = directory / "driver.py"
        driver.write_text(DRIVER)
        self.before = self.digest()
        self.process = subprocess.Popen(
            [*prefix, self.python, "-I", "-S", "-E", "-B", "-X", "utf8", driver, method],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={} if env is None else env,
        )
        assert self.process.stdout is not None
        self.says = self.process.stdout.readline().decode().strip()

    def digest(self) -> str:
        return hashlib.sha256(self.python.read_bytes()).hexdigest()

    def pid(self) -> int:
        """The victim itself, also below strace."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0]) if children else self.process.pid

    def end(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(10)

    def attack(self) -> bool:
        """Overwrite the end of the executable, as a container would. Whether the copy on disk is another one now."""
        exe = os.open(f"/proc/{self.pid()}/exe", os.O_PATH)
        try:
            self.end()
            try:
                writable = os.open(f"/proc/self/fd/{exe}", os.O_WRONLY)
            except OSError:
                return self.digest() != self.before
            try:
                os.pwrite(writable, b"EVIL!", os.fstat(writable).st_size)
            except OSError:
                pass
            finally:
                os.close(writable)
        finally:
            os.close(exe)
        return self.digest() != self.before


def test_an_unprotected_interpreter_is_overwritten(tmp_path: Path) -> None:
    """The attack works: the other tests would show nothing if it did not."""
    victim = Victim(tmp_path, "none")
    assert victim.says.startswith("unsealed")
    assert victim.attack()


@pytest.mark.parametrize("method", ["overlay", "memfd", "file"])
def test_each_method_keeps_the_interpreter(tmp_path: Path, method: str) -> None:
    victim = Victim(tmp_path, method)
    assert victim.says.startswith(method)
    assert not victim.attack()


def test_a_held_mount_cannot_be_made_writable(tmp_path: Path) -> None:
    """A read-only bind mount whose descriptor somebody holds is made writable by mount_setattr. The overlay is not."""
    victim = Victim(tmp_path, "overlay")
    exe = os.open(f"/proc/{victim.pid()}/exe", os.O_PATH)
    victim.end()
    try:
        remounted = subprocess.run(
            [sys.executable, "-c", _CLEAR_READ_ONLY, str(exe)], pass_fds=(exe,), cwd=REPOSITORY, check=False
        )
        assert remounted.returncode == 0
    finally:
        os.close(exe)
    assert victim.digest() == victim.before


# Exits 0 if the file could not be opened for writing even after an attempt to clear the mount's flag.
_CLEAR_READ_ONLY = """
import os, struct, sys
from pyruntime.kernel import libc
exe = int(sys.argv[1])
try:
    libc.syscall(libc.NR["mount_setattr"], exe, b"", 0x1000, struct.pack("QQQQ", 0, 1, 0, 0), 32)
except OSError:
    pass
try:
    os.open(f"/proc/self/fd/{exe}", os.O_WRONLY)
except OSError:
    sys.exit(0)
sys.exit(1)
"""


def strace(*injections: str) -> tuple[str, ...]:
    words = ["strace", "-f", "-qq", "-o", "/dev/null"]
    for injection in injections:
        words += ["-e", f"inject={injection}"]
    return tuple(words)


FALLBACKS = {
    "no fsopen": (("fsopen:error=ENOSYS",), "memfd"),
    "no overlay file system": (("fsopen:error=ENODEV",), "memfd"),
    "not privileged": (("fsopen:error=EPERM",), "memfd"),
    "no layers by descriptor": (("fsconfig:error=EINVAL:when=2",), "overlay"),
    "overlay is not executable": (("execveat:error=EACCES:when=1",), "memfd"),
    "no MFD_EXEC": (("fsopen:error=ENOSYS", "memfd_create:error=EINVAL:when=1"), "memfd"),
    "no memfd": (("fsopen:error=ENOSYS", "memfd_create:error=ENOSYS"), "file"),
    "memfds are not executable": (("fsopen:error=ENOSYS", "memfd_create:error=EACCES"), "file"),
    "no statmount": (("statx:error=ENOSYS",), "overlay"),
}


@pytest.mark.parametrize("case", FALLBACKS)
def test_fallbacks(tmp_path: Path, case: str) -> None:
    """Each method gives way to the next one, and what comes out protects."""
    injections, method = FALLBACKS[case]
    victim = Victim(tmp_path, "any", strace(*injections))
    assert victim.says.startswith(method)
    assert not victim.attack()


def test_refuses_when_nothing_works(tmp_path: Path) -> None:
    victim = Victim(tmp_path, "any", strace("fsopen:error=ENOSYS", "sendfile:error=EIO"))
    victim.end()
    assert victim.says.startswith("refused: the interpreter cannot be protected")


def test_nothing_of_the_caller_is_carried_over(tmp_path: Path) -> None:
    """P3: the replacement gets the variables that verbs use and no other."""
    environment = {"PATH": "/x", "NOTIFY_SOCKET": "/n", "SECRET": "s", "PYTHONINSPECT": "1", "LD_DEBUG": "none"}
    victim = Victim(tmp_path, "any", env=environment)
    names = victim.says.split()[2:]
    victim.end()
    assert set(names) - {"LC_CTYPE"} == {"PATH", "NOTIFY_SOCKET"}


JUDGE = f"""
import sys, os
sys.path.append({str(REPOSITORY)!r})
from pyruntime.kernel import libc, seal
if sys.argv[2] == "table":
    def missing(*arguments):
        raise OSError(38, "no such system call")
    libc.syscall = missing
print(seal.is_sealed(os.open(sys.argv[1], os.O_RDONLY)))
"""

# How the file is mounted: what `is_sealed` must say of it.
PLACES = {
    "writable": ("true", False),
    "a read-only bind mount of a writable file system": (
        "mount --bind /mnt /mnt; mount -o remount,bind,ro /mnt",
        False,
    ),
    "a read-only file system": ("mount -o remount,ro /mnt", True),
}


@pytest.mark.parametrize("by", ["statmount", "table"])
@pytest.mark.parametrize("place", PLACES)
def test_only_a_read_only_super_block_protects(tmp_path: Path, place: str, by: str) -> None:
    command, sealed = PLACES[place]
    judge = tmp_path / "judge.py"
    judge.write_text(JUDGE)
    script = f"mount -t tmpfs tmpfs /mnt; touch /mnt/file; {command}; {SYSTEM_PYTHON} -I -S {judge} /mnt/file {by}"
    result = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout == f"{sealed}\n", result
