"""The interpreter on a read-only mount, made once per boot: containers then start without the cost of a replacement.

`kernel/seal.py` protects the interpreter by starting it a second time, from a detached overlay. When the launcher
finds the overlay mounted at MOUNT it starts the interpreter from there in the first place, and there is nothing left
to do. Below it lies no copy but the directory of the interpreter itself; the super block of the overlay is read-only
for good, also for somebody who may mount and remount.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys

from pyruntime.errors import RuntimeFailure
from pyruntime.kernel import mounts, seal

# bin/pyruntime looks for this path.
DIRECTORY = "/run/pyruntime-interpreter"
MOUNT = DIRECTORY + "/bin"


def publish() -> str:
    """Mount the overlay of the interpreter that runs this, and return what it is now. Repeating it changes nothing.

    Raises RuntimeFailure when the caller may not mount, or when the interpreter does not work from there.
    """
    directory, name = os.path.split(os.path.realpath("/proc/self/exe"))
    mounted = published()
    if mounted is not None:
        if not _outdated(mounted):
            return f"already mounted: {MOUNT} is {mounted}, read-only"
        withdraw()
        directory = mounted if directory == MOUNT else directory
    try:
        for path in (DIRECTORY, MOUNT):
            if not os.path.isdir(path):
                os.mkdir(path, 0o755)
        _must_be_roots(DIRECTORY)
        # Where the standard library is: an interpreter looks for it around itself, or where this file says.
        with open(DIRECTORY + "/pyvenv.cfg", "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(f"home = {directory}\n")
        overlay = seal.overlay_mount(directory)
        try:
            mounts.attach_at(overlay, os.fsencode(MOUNT))
        finally:
            os.close(overlay)
    except OSError as error:
        raise RuntimeFailure(
            f"cannot mount a read-only overlay of {directory} at {MOUNT}: {error.strerror} (it needs root, and a "
            "kernel with overlayfs); without it each container start seals the interpreter for itself"
        ) from None
    try:
        _try(f"{MOUNT}/{name}")
    except RuntimeFailure:
        withdraw()
        raise
    return f"mounted: {MOUNT} is {directory}, read-only"


def withdraw() -> str:
    """Undo `publish()`. Processes that run from the mount keep it until they end."""
    if published() is None:
        return f"not mounted: {MOUNT}"
    try:
        os.unlink(DIRECTORY + "/pyvenv.cfg")
        mounts.umount(os.fsencode(MOUNT))
        os.rmdir(MOUNT)
        os.rmdir(DIRECTORY)
    except OSError as error:
        raise RuntimeFailure(f"{MOUNT}: cannot unmount: {error.strerror}") from None
    return f"unmounted: {MOUNT}"


def published() -> str | None:
    """The directory that is mounted at MOUNT, None when nothing is."""
    if not os.path.ismount(MOUNT):
        return None
    try:
        with open(DIRECTORY + "/pyvenv.cfg", encoding="utf-8", errors="surrogateescape") as file:
            return file.read().partition("=")[2].strip()
    except OSError:
        return ""


def _outdated(directory: str) -> bool:
    """Whether an upgrade has replaced an interpreter: the overlay goes on showing the old one."""
    for name in os.listdir(directory):
        if name.startswith("python3"):
            try:
                there, here = os.stat(f"{MOUNT}/{name}"), os.stat(f"{directory}/{name}")
            except OSError:
                return True
            if (there.st_size, there.st_mtime_ns) != (here.st_size, here.st_mtime_ns):
                return True
    return False


def _must_be_roots(path: str) -> None:
    # The launcher trusts whatever is there: only root may have put it there.
    status = os.lstat(path)
    if status.st_uid or not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o022:
        raise RuntimeFailure(f"{path}: must be a directory that only root can write to: remove it and try again")


_PROBE = """
import sys, posix, _ctypes, _json
sys.path.append(sys.argv[1])
from pyruntime.kernel import seal
exe = posix.open("/proc/self/exe", posix.O_RDONLY)
print(sys.version, sys.path[:3], seal.is_sealed(exe))
"""


def _try(interpreter: str) -> None:
    """Make sure that the interpreter at its new place is the one that runs this, with its library, and protected."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    result = subprocess.run(
        [interpreter, "-I", "-S", "-E", "-B", "-X", "utf8", "-c", _PROBE, package],
        capture_output=True,
        check=False,
        env={},
        text=True,
    )
    # The first three places of sys.path are the standard library: the archive, the modules, the extension modules.
    if result.returncode or result.stdout != f"{sys.version} {sys.path[:3]} True\n":
        last = (result.stderr or result.stdout).strip().rpartition("\n")[2]
        raise RuntimeFailure(f"{interpreter} does not work from there: {last}")
