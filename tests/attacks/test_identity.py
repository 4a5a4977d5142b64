"""E. Users, groups and capabilities that an image wants to be more than they are.

CVE-2016-3697, CVE-2024-40635, CVE-2026-46680, CVE-2026-30892 (numbers), CVE-2022-29162, CVE-2022-27650, CVE-2025-27612
(inheritable sets), CVE-2026-47262 (endless passwd files), CVE-2021-41091 (who may walk into our directories). The five
capability sets, absent, empty and full, groups, no_new_privs and set-user-ID programs:
integration/test_process_attributes.py; bad user documents: unit/test_spec_rules.py.
"""

from __future__ import annotations

import os
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.bundles import Config
from support.container import Container
from support.weakened import without

Make = Callable[..., Container]

# What Python's int() takes for a number, what overflows, and names that the image's passwd gives the uid 0.
NO_NUMBERS = ["1_0", "+1", " 1", "1 ", "-0", "\uff11\uff10", "\u0661", "1\n", "0x10", "1e3", "4294967295", "4294967296",
              "18446744073709551616", "99999999999", "1:", ":1", "1:1:1", "root", "toor", "1:root"]  # fmt: skip


@pytest.fixture
def impostor(container: Make) -> Container:
    """A running container whose passwd and group say of everything that it is root."""
    one = container(["sleep", "1000"])
    lines = "".join(f"{name.split(':')[0].strip()}:x:0:0::/:/bin/sh\n" for name in NO_NUMBERS)
    (one.bundle.rootfs / "etc" / "passwd").write_text(lines)
    (one.bundle.rootfs / "etc" / "group").write_text(lines)
    one.run("--detach").ok()
    return one


def test_users_that_are_no_numbers(impostor: Container) -> None:
    """`exec --user`: a number in the range of ids, or an error. No name is looked up, nothing is rounded or cut."""
    for text in NO_NUMBERS:
        result = impostor.runtime("exec", f"--user={text}", impostor.id, "id", "-u")
        assert result.status == 255 and "--user" in result.stderr, result


@without(
    "cli/exec.py",
    "check_user = lambda text: text",
    "container/exec_document.py",
    "int = lambda text: __builtins__['int'](text) & 0xFFFFFFFF",
)
def test_numbers_that_mean_root_when_they_are_cut(impostor: Container, protected: bool) -> None:
    """CVE-2024-40635: 4294967296 is uid 0 in 32 bits.

    Without the range (cli/exec.py: check_user) that is who runs.
    """
    result = impostor.runtime("exec", "--user", "4294967296", impostor.id, "id", "-u")
    assert (result.stdout == "0\n") is not protected


@pytest.mark.parametrize("user", ["1", "01", "1000:7", "4294967294"])
def test_users_that_are_numbers(impostor: Container, user: str) -> None:
    result = impostor.runtime("exec", "--user", user, impostor.id, "sh", "-c", "grep -E '^[UG]id' /proc/self/status")
    uid, _, gid = user.partition(":")
    lines = result.ok().stdout.splitlines()
    assert lines[0].split()[1:] == [str(int(uid))] * 4 and lines[1].split()[1:] == [str(int(gid or 0))] * 4


BAD_IDS: list[Any] = [-1, 4294967296, 1.0, True, "0", None, [0], 2**64]


@pytest.mark.parametrize("name", ["uid", "gid", "additionalGids"])
def test_ids_in_the_configuration(container: Make, name: str) -> None:
    for value in BAD_IDS:
        if value is None and name != "additionalGids":
            continue  # absent
        one = container(["true"])
        one.bundle.config["process"]["user"][name] = [value] if name == "additionalGids" else value
        one.bundle.write()
        result = one.run()
        assert result.status == 1 and name in result.stderr, (value, result)


NET_RAW = 13
INHERITABLE = """
def _with_capabilities(sets, extra):
    kinds = ("bounding", "effective", "permitted", "inheritable")
    return {name: [*(sets.get(name) or []), *extra] for name in kinds}
"""


@without("container/exec_document.py", INHERITABLE)
def test_files_with_inheritable_capabilities(container: Make, protected: bool) -> None:
    """CVE-2022-29162: `exec --cap` puts a capability into the inheritable set, and a program marked `=i` keeps it for
    an ordinary user.

    Without leaving that set alone (container/exec_document.py: _with_capabilities) the program has it.
    """
    one = container(["sleep", "1000"], lambda config: config["process"].update(noNewPrivileges=False))
    program = one.bundle.rootfs / "marked" / "cat"
    program.parent.mkdir()
    program.write_bytes((one.bundle.rootfs / "bin" / "busybox").read_bytes())
    program.chmod(0o755)
    # struct vfs_cap_data: revision 2; permitted and inheritable for the capabilities 0 to 31 and 32 to 63
    os.setxattr(program, "security.capability", struct.pack("<5I", 0x02000000, 0, 1 << NET_RAW, 0, 0))
    one.run("--detach").ok()
    root = one.runtime("exec", "--cap", "CAP_NET_RAW", one.id, "cat", "/proc/self/status").ok()
    assert (status(root.stdout, "CapInh") == 0) is protected
    words = ("exec", "--cap", "CAP_NET_RAW", "--user", "1000", one.id, "/marked/cat", "/proc/self/status")
    user = one.runtime(*words).ok()
    assert (status(user.stdout, "CapPrm") & 1 << NET_RAW == 0) is protected


def status(text: str, name: str) -> int:
    return int(next(line for line in text.split("\n") if line.startswith(name)).split()[1], 16)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2 << 30)


def _endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _long_line(path: Path) -> None:
    path.write_bytes(b"root:" * 10_000_000)


ENDLESS = {"a FIFO": _fifo, "two sparse gigabytes": _sparse, "a link to /dev/zero": _endless, "one line": _long_line}


@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.parametrize("verb", ["run", "exec"])
def test_endless_passwd_files(container: Make, kind: str, verb: str) -> None:
    """CVE-2026-47262: HOME is looked up in a file that does not end, or that nobody ever writes to."""
    one = container(["sh", "-c", "echo home $HOME; sleep 5"])
    passwd = one.bundle.rootfs / "etc" / "passwd"
    passwd.unlink()
    ENDLESS[kind](passwd)
    begun = time.monotonic()
    if verb == "run":
        one.bundle.config["process"]["args"][2] = "echo home $HOME"
        one.bundle.write()
        result = one.run(timeout=20, preexec=_little_memory)
    else:
        one.run("--detach", timeout=20).ok()
        result = one.runtime("exec", one.id, "sh", "-c", "echo home $HOME", timeout=20, preexec=_little_memory)
    assert result.ok().stdout == "home /\n"
    assert time.monotonic() - begun < 10


def _little_memory() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20))


@without(
    "plan/command.py",
    """
    def _home_of(uid):
        file = posix.open(b"/etc/passwd", posix.O_RDONLY)
        posix.read(file, 1 << 20)
        return b"/"
    """,
)
def test_a_passwd_file_that_nobody_writes_to(container: Make, protected: bool) -> None:
    """The same, seen to hang: without O_NONBLOCK and the check for a regular file (plan/command.py: _read)."""
    one = container(["true"])
    passwd = one.bundle.rootfs / "etc" / "passwd"
    passwd.unlink()
    os.mkfifo(passwd)
    process = one.runtime.popen("run", "--bundle", one.bundle.path, one.id, start_new_session=True)
    try:
        process.wait(10 if protected else 2)
    except subprocess.TimeoutExpired:
        assert not protected
        process.terminate()
        process.wait()
    else:
        assert protected and process.returncode == 0
    finally:
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@without(
    "container/directories.py",
    """
    _mkdir = posix.mkdir
    class _Posix:
        def __getattr__(self, name):
            return getattr(_real, name)
        @staticmethod
        def mkdir(path, mode=0o777):
            _real.mkdir(path, 0o755)
    _real, posix = posix, _Posix()
    """,
)
def test_nobody_walks_into_the_state(container: Make, tmp_path: Path, protected: bool) -> None:
    """CVE-2021-41091, CVE-2024-25621: other users of the host find set-user-ID files, or start the container.

    Without modes 0700 and 0600 (container/directories.py) they can list the state directory.
    """
    before = os.umask(0)
    try:
        one = container(["sleep", "1000"])
        one.create().ok()
    finally:
        os.umask(before)
    modes = {path: path.lstat().st_mode & 0o077 for path in (one.runtime.root, *one.runtime.root.rglob("*"))}
    assert len(modes) >= 5
    assert (not any(modes.values())) is protected
    tmp_path.chmod(0o755)
    os.chmod(tmp_path.parent, 0o755)
    os.chmod(tmp_path.parent.parent, 0o755)
    script = f"cd {one.runtime.root} && ls"
    listed = subprocess.run(
        ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--inh-caps=-all", "sh", "-c", script],
        capture_output=True,
        check=False,
    )
    assert (listed.returncode != 0) is protected


def test_capabilities_unheard_of(container: Make) -> None:
    """youki's #3434: a name that means nothing is warned about, and never a reason to leave a set as it was."""

    def change(config: Config) -> None:
        config["process"]["capabilities"] = {"bounding": ["CAP_NOTHING"]}

    result = container(["cat", "/proc/self/status"], change).run().ok()
    assert "CAP_NOTHING" in result.stderr
    assert [status(result.stdout, name) for name in ("CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb")] == [0] * 5
