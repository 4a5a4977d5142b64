"""A. The executable, descriptors, and who can look into our processes.

CVE-2019-5736 by way of `exec` (by way of `create`: integration/test_interpreter_attack.py; the sealing itself:
integration/test_seal.py), CVE-2016-9962, CVE-2024-21626, CVE-2020-15257, CVE-2021-3602.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from support.bundles import Config
from support.canary import Canary
from support.container import Container, wait_for
from support.installation import DEFAULT, EVIL, Installation, evil_change, evil_root
from support.runtime import AUDITED, LAUNCHER, Result, Runtime
from support.weakened import weaken, without

Make = Callable[..., Container]
Compiled = Callable[..., Path]


@pytest.mark.parametrize(
    ("sealed", "entry"),
    [("sealed", "script"), ("launcher", "program"), ("unsealed", "script"), ("unsealed", "program")],
)
def test_exec_of_the_interpreter(tmp_path: Path, container: Make, program: str, sealed: str, entry: str) -> None:
    """`exec` of `/proc/self/exe`, or of a script that names it: the process that joins is ours, so is its executable.

    Without the seal (kernel/seal.py, launcher/launcher.c: "unsealed") the host's interpreter is overwritten.
    """
    if program not in (str(LAUNCHER), str(AUDITED)):
        pytest.skip("attacks a copy of pyruntime")
    installation = Installation(tmp_path / "installation", sealed)
    shared, root = tmp_path / "shared", tmp_path / "root"
    evil_root(root, shared)
    change = partial(evil_change, shared=shared, capabilities="admin")
    one = container(["sleep", "1000"], change, root=root, runtime=installation.runtime)
    one.run("--detach").ok()
    one.exec("-d", *(["/proc/self/exe", "-c", EVIL] if entry == "program" else ["/evil"])).ok()
    wait_for((shared / "done").exists, "the end of the attack")
    assert (shared / "reached").exists(), "the attack did not come to its point: this test shows nothing"
    assert (shared / "written").exists() == installation.overwritten()
    assert installation.overwritten() is not installation.sealed


NOBODY = 65534


@pytest.mark.parametrize("sealed", ["sealed", "unsealed"])
def test_interpreter_of_an_ordinary_user(container: Make, program: str, rootfs: Path, sealed: str) -> None:
    """A rootless runtime in somebody's home directory: root of the container is the owner of that interpreter.

    No overlay can be made without privileges, and the launcher leaves it to Python, which runs from a sealed memfd.
    Without the seal (kernel/seal.py) the user's interpreter is overwritten.
    """
    if program not in (str(LAUNCHER), str(AUDITED)):
        pytest.skip("attacks a copy of pyruntime")
    home = Path(tempfile.mkdtemp(prefix="home-", dir="/var/tmp"))
    try:
        installation = Installation(home / "installation", sealed)
        shared, bundle = home / "shared", home / "bundle"
        bundle.mkdir()
        evil_root(bundle / "rootfs", shared)
        user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all"]
        subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", home], check=True)
        runtime = Runtime([*user, *installation.runtime.program], home / "state")
        runtime("spec", "--rootless", "--bundle", bundle).ok()
        config = json.loads((bundle / "config.json").read_text())
        evil_change(config, shared, "admin")
        config["mounts"][-2]["options"] = ["rbind", "ro"]  # an ordinary user may not leave out what lies below
        config["process"].update(terminal=False, args=["/proc/self/exe", "-c", EVIL])
        (bundle / "config.json").write_text(json.dumps(config))
        runtime("run", "--detach", "--bundle", bundle, "attacker", cwd=bundle).ok()
        try:
            wait_for((shared / "done").exists, "the end of the attack")
        finally:
            runtime("delete", "--force", "attacker")
        assert (shared / "reached").exists(), "the attack did not come to its point: this test shows nothing"
        assert installation.overwritten() is not installation.sealed
    finally:
        shutil.rmtree(home)


def test_elf_file_interpreted_by_the_interpreter(
    tmp_path: Path, container: Make, program: str, compiled: Compiled
) -> None:
    """PT_INTERP `/proc/self/exe`: the kernel maps our executable as the loader of the image's program.

    No version of this attack is known to get further than a crash; the interpreter must stay what it is.
    """
    if program not in (str(LAUNCHER), str(AUDITED)):
        pytest.skip("attacks a copy of pyruntime")
    installation = Installation(tmp_path / "installation", "sealed")
    one = container(["/evil"], runtime=installation.runtime)
    evil = compiled("nothing", "-Wl,--dynamic-linker=/proc/self/exe")
    (one.bundle.rootfs / "evil").write_bytes(evil.read_bytes())
    (one.bundle.rootfs / "evil").chmod(0o755)
    one.run()
    assert not installation.overwritten()


# A process of ours between the loss of its capabilities and the program, for long enough to be looked at.
SLOW = """
from time import sleep
_execute = Execute.apply
Execute.apply = lambda self, place: (sleep(0.15), _execute(self, place))
"""
DUMPABLE = """
_prctl = prctl
prctl = lambda option, *values: 0 if option == PR_SET_DUMPABLE else _prctl(option, *values)
"""


@pytest.mark.parametrize("dumpable", [False, True], ids=["protected", "without"])
@pytest.mark.parametrize("verb", ["exec", "run"])
def test_peers_look_at_us(
    container: Make, tmp_path: Path, program: str, compiled: Compiled, verb: str, dumpable: bool
) -> None:
    """CVE-2016-9962: root of a container opens the executable, the root, the memory of a process of ours that has
    joined its pid namespace and has no more capabilities than itself. By `exec`, and as the init of a pod's second
    container. Both are held in that state here.

    Without PR_SET_DUMPABLE 0 (container/execute.py, container/launch.py) all of it can be opened.
    """
    if program not in (str(LAUNCHER), str(AUDITED)):
        pytest.skip("needs a slow copy of pyruntime")
    changes = [("plan/lifecycle.py", SLOW)] + ([("kernel/processes.py", DUMPABLE)] if dumpable else [])
    runtime = Runtime(weaken(tmp_path / "slow", changes), tmp_path / "state")

    def change(config: Config) -> None:
        for name in ("bounding", "effective", "permitted"):
            config["process"]["capabilities"][name] = DEFAULT

    one = container(["/peer", "/report"], change, runtime=runtime)
    (one.bundle.rootfs / "peer").write_bytes(compiled("peer").read_bytes())
    (one.bundle.rootfs / "peer").chmod(0o755)
    report = one.bundle.rootfs / "report"
    one.run("--detach").ok()
    if verb == "exec":
        one.exec("true").ok()
        one.exec("true").ok()
    else:

        def join(config: Config) -> None:
            config["linux"]["namespaces"][0]["path"] = f"/proc/{one.pid}/ns/pid"

        container(["true"], change, join, runtime=runtime).run().ok()
    seen = report.read_text().split("\n")
    assert "seen" in seen, "the peer did not see the process: this test shows nothing"
    opened = {line for line in seen if line.startswith("opened")}
    assert opened == (
        {f"opened {name}" for name in ("exe", "root", "cwd", "mem", "environ", "fd/0")} if dumpable else set()
    )


NO_CLOSING = """
close_unknown = lambda passed: None
"""
NO_CWD_CHECK = """
def _enter(self):
    posix.chdir(self.cwd)
Command.enter_directory = _enter
"""
LEAKED = 7  # a descriptor of the host that a careless engine has open, without close-on-exec


def leaky(runtime: Runtime, canary: Canary) -> Runtime:
    """The runtime, started with descriptors 3 to LEAKED open on a directory of the host."""
    script = "exec " + " ".join(f"{number}<{canary.path}" for number in range(3, LEAKED + 1)) + '; exec "$@"'
    return Runtime(["sh", "-c", script, "sh", *runtime.program], runtime.root)


def enter(container: Make, runtime: Runtime, canary: Canary, verb: str, *flags: str) -> Result:
    """Run `cat file` with the leaked directory as working directory."""
    engine, where = leaky(runtime, canary), f"/proc/self/fd/{LEAKED}"
    if verb == "create":
        one = container(["cat", "file"], lambda config: config["process"].update(cwd=where), runtime=engine)
        return one.run(*flags)
    one = container(["sleep", "60"])
    one.run("--detach").ok()
    return engine("exec", "--cwd", where, *flags, one.id, "cat", "file")


@pytest.mark.parametrize("verb", ["create", "exec"])
@without(
    "container/caller.py", NO_CLOSING, "container/setup.py", NO_CLOSING, "container/execute.py", NO_CLOSING,
    "plan/command.py", NO_CWD_CHECK,
)  # fmt: skip
def test_working_directory_of_a_leaked_descriptor(
    container: Make, runtime: Runtime, canary: Canary, verb: str, protected: bool
) -> None:
    """CVE-2024-21626: the working directory is a descriptor of the host that was still open.

    Without close_unknown (container/caller.py) and the check of getcwd (plan/command.py: enter_directory) the program
    runs in a directory of the host.
    """
    result = enter(container, runtime, canary, verb)
    assert ("secret" in result.stdout) is not protected
    assert (result.status == 0) is not protected


@pytest.mark.parametrize("verb", ["create", "exec"])
@without("plan/command.py", NO_CWD_CHECK)
def test_working_directory_of_a_descriptor_that_is_passed_on(
    container: Make, runtime: Runtime, canary: Canary, verb: str, protected: bool
) -> None:
    """The same with --preserve-fds, where the descriptor is meant to be open: the working directory is still refused.

    Without the check of getcwd (plan/command.py: enter_directory) it is entered.
    """
    result = enter(container, runtime, canary, verb, "--preserve-fds", str(LEAKED - 2))
    assert ("secret" in result.stdout) is not protected
    if protected:
        assert "outside of container mount namespace root" in result.stderr


@pytest.mark.parametrize("verb", ["create", "exec"])
@without(
    "container/caller.py", NO_CLOSING, "container/setup.py", NO_CLOSING, "container/execute.py", NO_CLOSING,
    "plan/lifecycle.py", "CloseDescriptors.apply = lambda self, place: None",
)  # fmt: skip
def test_program_of_a_leaked_descriptor(
    container: Make, runtime: Runtime, canary: Canary, verb: str, protected: bool
) -> None:
    """CVE-2024-21626, variant: the program itself is reached through the descriptor.

    Without close_unknown (container/caller.py) and CloseDescriptors (plan/lifecycle.py) a file of the host is run.
    """
    program = canary.path / "program"
    program.write_text("#!/bin/sh\necho ran $(ls /proc/self/fd | wc -l)\n")
    program.chmod(0o755)
    where = f"/proc/self/fd/{LEAKED}/program"
    engine = leaky(runtime, canary)
    if verb == "create":
        result = container([where], runtime=engine).run()
    else:
        one = container(["sleep", "60"])
        one.run("--detach").ok()
        result = engine("exec", one.id, where)
    assert ("ran" in result.stdout) is not protected


@without(
    "container/child.py",
    """
    _pair = Child.pair
    _kept = []
    def _abstract(self):
        _kept.append(_socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM))
        _kept[-1].bind(b"\\0pyruntime")
        _kept[-1].listen()
        return _pair(self)
    Child.pair = _abstract
    """,
)
def test_no_abstract_sockets(container: Make, runtime: Runtime, tmp_path: Path, protected: bool) -> None:
    """CVE-2020-15257: a container in the host's network namespace sees every abstract socket and may connect to it.

    Without the anonymous pair (container/child.py: pair), here a bound one, there is such a name. Looked at from the
    container, while `run` waits for it, in a network namespace with nobody else in it.
    """
    alone = Runtime(["unshare", "--net", *runtime.program], runtime.root)
    one = container(
        ["cat", "/proc/net/unix"],
        lambda config: config["linux"]["namespaces"].remove({"type": "network"}),
        runtime=alone,
    )
    assert ("@" in one.run().ok().stdout) is not protected


@without("kernel/seal.py", "ENVIRONMENT = tuple(posix.environ)")
def test_environment_of_the_caller(container: Make, runtime: Runtime, protected: bool) -> None:
    """CVE-2021-3602: a container in the host's pid namespace reads the environment of the runtime.

    Without the constant environment of the sealed process (kernel/seal.py: ENVIRONMENT) it finds the caller's secrets,
    given CAP_SYS_PTRACE; without that, /proc/PID/environ is closed to it as well.
    """
    script = "for one in /proc/[0-9]*; do grep -z CANARY= $one/environ 2>/dev/null; done; true"

    def change(config: Config) -> None:
        config["linux"]["namespaces"].remove({"type": "pid"})
        for name in ("bounding", "effective", "permitted"):
            config["process"]["capabilities"][name] = [*DEFAULT, "CAP_SYS_PTRACE"]

    result = container(["sh", "-c", script], change).run(env={"PATH": "/bin", "CANARY": "found-" + "it"}).ok()
    assert ("found-it" in result.stdout) is not protected
