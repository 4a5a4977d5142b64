"""C. procfs and sysfs: accesses of ours that somebody wants to redirect.

CVE-2025-52881, CVE-2025-62596, CVE-2019-16884 (labels, sysctls, scores), runc's no-pivot exposure. What may be mounted
over /proc: test_paths.py and integration/test_mounts.py; sysctls of the host: integration/test_namespaces.py; the lists
of masked paths: unit/test_spec_documents.py; /proc itself as a link: test_races.py, integration/test_mounts.py.

The kernel here has no active security module, so a label cannot be lost in these tests; what can be shown is where a
write goes. AppArmor for real: integration/test_process_attributes.py, in the guest of tests/vm.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.bundles import Config
from support.container import Container, wait_for
from support.runtime import REPOSITORY
from support.weakened import weaken, without

Make = Callable[..., Container]


@pytest.fixture
def hostile_proc() -> Iterator[int]:
    """A process in a mount namespace in whose /proc one sysctl lies over another."""
    script = "mount --bind /proc/sys/kernel/hostname /proc/sys/kernel/domainname; echo ready; exec sleep 1000"
    holder = subprocess.Popen(["unshare", "--mount", "sh", "-ec", script], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"ready\n"
    yield holder.pid
    holder.kill()
    holder.wait()
    holder.stdout.close()


@without(
    "plan/lifecycle.py",
    """
    def _open(self, place):
        place.proc = posix.open(b"/proc", O_PATH | O_DIRECTORY | posix.O_CLOEXEC)
    OpenProcfs.apply = _open
    """,
    "plan/system.py",
    "RESOLVE_NO_XDEV = 0",
)
def test_sysctls_in_a_prepared_proc(container: Make, hostile_proc: int, protected: bool) -> None:
    """CVE-2025-52881: the mount namespace that the container joins has another sysctl mounted over the one we write.

    Without a procfs of our own (plan/lifecycle.py: OpenProcfs) the host name of the container is written instead of
    its domain name; the real attack meant core_pattern and sysrq-trigger.
    """

    def change(config: Config) -> None:
        for one in config["linux"]["namespaces"]:
            if one["type"] == "mount":
                one["path"] = f"/proc/{hostile_proc}/ns/mnt"
        config["linux"].update(sysctl={"kernel.domainname": "evil"}, maskedPaths=[], readonlyPaths=[])
        config["mounts"] = [one for one in config["mounts"] if one["type"] != "cgroup"]

    one = container(["sh", "-c", "hostname; cat /proc/sys/kernel/domainname"], change)
    result = one.run().ok()
    assert result.stdout.split() == (["pyruntime", "evil"] if protected else ["evil", "(none)"])


WRITE = """
import posix, sys
sys.path.insert(0, sys.argv[1])
from pyruntime.kernel.lsm import set_attribute
from pyruntime.plan.step import Place
from pyruntime.plan.system import SetSysctl
place = Place()
place.proc = posix.open("/proc", posix.O_PATH | posix.O_DIRECTORY)
try:
    if sys.argv[2] == "sysctl":
        SetSysctl("kernel.domainname", "evil").apply(place)
    else:
        set_attribute(place.proc, b"thread-self/attr/exec", b"evil")
except OSError as error:
    print(error.errno)
print(posix.uname().nodename)
"""


@pytest.mark.parametrize("weak", [False, True], ids=["protected", "without"])
@pytest.mark.parametrize("what", ["sysctl", "label"])
def test_writes_to_a_proc_that_is_not_ours(tmp_path: Path, what: str, weak: bool) -> None:
    """The same where a procfs of our own cannot be had (a user namespace): the caller's /proc has mounts in it.

    fstatfs says "procfs" of them all. Without RESOLVE_NO_XDEV (plan/system.py: SetSysctl, kernel/lsm.py: set_attribute)
    the write arrives at the other file.
    """
    where = REPOSITORY
    if weak:
        where = tmp_path / "weakened"
        weaken(where, [("plan/system.py", "RESOLVE_NO_XDEV = 0"), ("kernel/lsm.py", "RESOLVE_NO_XDEV = 0")])
    over = "sys/kernel/domainname" if what == "sysctl" else "$$/task/$$/attr/exec"
    script = f'mount --bind /proc/sys/kernel/hostname /proc/{over}; exec /usr/bin/python3 -IS -c "$1" "$2" "$3"'
    result = subprocess.run(
        ["unshare", "--mount", "--uts", "sh", "-ec", script, "sh", WRITE, where, what],
        capture_output=True,
        text=True,
        check=False,
    )
    words = result.stdout.split()
    assert words == ["evil"] if weak else words[0] == "18" and words[1] != "evil", result  # 18: EXDEV


FALL_BACK = """
import posix, sys
sys.path.insert(0, sys.argv[1])
from pyruntime.plan import lifecycle
from pyruntime.plan.step import Place
def refused(*arguments):
    raise PermissionError(1, "as in a user namespace")
lifecycle.m.new_filesystem = refused
if len(sys.argv) > 2:
    lifecycle.PROC_ROOT_INODE = posix.stat("/proc").st_ino
try:
    lifecycle.OpenProcfs(False).apply(Place())
except PermissionError:
    print("refused")
else:
    print("taken")
"""

PLACES = {"procfs": "true", "a part of it": "mount --bind /proc/1 /proc", "a tmpfs": "mount -t tmpfs none /proc"}


@pytest.mark.parametrize("place", PLACES)
def test_falling_back_on_what_is_at_proc(place: str) -> None:
    """Where no procfs can be made, `exec` uses the container's /proc: only the root of a procfs, no part and no image.

    Without the inode (plan/lifecycle.py: OpenProcfs) a part of it is taken, in which names mean something else.
    """
    results = []
    for more in ("", " weak"):
        script = f'{PLACES[place]}; exec /usr/bin/python3 -IS -c "$1" "$2"{more}'
        command = ["unshare", "--mount", "sh", "-ec", script, "sh", FALL_BACK, str(REPOSITORY)]
        results.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    assert results == {
        "procfs": ["taken", "taken"], "a part of it": ["refused", "taken"], "a tmpfs": ["refused", "refused"]
    }[place]  # fmt: skip


@without(
    "container/execute.py",
    """
    _enter = EnterContainer.apply
    def _and_score(self, place):
        _enter(self, place)
        for name, text in ((b"oom_score_adj", b"900"), (b"attr/exec", b"label")):
            file = posix.open(b"/proc/self/" + name, posix.O_WRONLY)
            posix.write(file, text)
            posix.close(file)
    EnterContainer.apply = _and_score
    """,
)
def test_exec_into_a_false_proc(container: Make, tmp_path: Path, protected: bool) -> None:
    """A container has put files of its own where /proc is, and waits for `exec` to write scores and labels there.

    Without writing the score from outside (container/execute.py: run), here from inside, it arrives in those files.
    """

    def change(config: Config) -> None:
        for name in ("bounding", "effective", "permitted"):
            config["process"]["capabilities"][name] = ["CAP_SYS_ADMIN", "CAP_SYS_RESOURCE", "CAP_DAC_OVERRIDE"]
        config["process"]["oomScoreAdj"] = 500

    script = (
        "mount -t tmpfs none /proc && mkdir -p /proc/self/attr /proc/self/fd /proc/thread-self && cd /proc/self &&"
        " touch oom_score_adj attr/exec fd/0 fd/1 fd/2 fd/3 ready && exec sleep 1000"
    )
    one = container(["sh", "-c", script], change)
    one.run("--detach").ok()
    false = one.proc("root") / "proc" / "self"
    wait_for((false / "ready").exists, "the container to be hostile")
    pid_file = tmp_path / "pid"
    one.runtime("exec", "--detach", "--pid-file", pid_file, one.id, "sleep", "1000").ok()
    real = Path("/proc", pid_file.read_text(), "oom_score_adj").read_text()
    found = [real.strip(), (false / "oom_score_adj").read_text(), (false / "attr" / "exec").read_text()]
    assert found == (["500", "", ""] if protected else ["500", "900", "label"])


@without("plan/rootfs.py", "_hosts_proc_and_sys = lambda rootfs: (b'', [])")
def test_masks_hold_without_pivot_root(container: Make, protected: bool) -> None:
    """runc #1962: with --no-pivot the host's /proc stays mounted, which lets a nested namespace mount an unmasked one.

    Without unmounting it (plan/rootfs.py: ChrootOverRoot) the masked file can be read.
    """
    script = "unshare -U -r -m -p -f sh -c 'mount -t proc proc /tmp && grep -q Linux /tmp/version && echo unmasked'"

    def change(config: Config) -> None:
        config["linux"].update(maskedPaths=["/proc/version"])
        for name in ("bounding", "effective", "permitted"):
            config["process"]["capabilities"][name] = ["CAP_SETUID", "CAP_SETGID", "CAP_SETFCAP"]  # to map uid 0

    one = container(["sh", "-c", script], change)
    result = one.run("--no-pivot")
    assert ("unmasked" in result.stdout) is not protected
