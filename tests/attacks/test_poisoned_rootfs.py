"""The image lays traps where Python and libc look for code by name, and so does the working directory.

Every verb runs with them, in success and in every failure, and fails once at every step of its plan: no trap is
executed, none is even opened, no error shows a traceback or a secret. That the traps work is shown by runtimes that
fall into them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.bundles import Bundle, Change, Config, copy_tree, default_config
from support.container import Container
from support.runtime import AUDITED, LAUNCHER, Result, Runtime
from support.traps import HITS, Traps, poison_bundle, poison_root
from support.watch import Watch
from support.weakened import weaken

SECRET = "hunter2"
# Opened by the kernel or by the runtime for what they are, and the directories on the way. Nothing else is.
PROGRAM = {"bin/busybox"}
BUNDLE = {"config.json"}


class Trapped:
    """A bundle full of traps around a root file system full of traps, both watched."""

    def __init__(self, program: str, directory: Path, roots: tuple[Traps, Traps], state: Path) -> None:
        self.inside, self.outside = roots
        self.runtime = Runtime(program, state)
        self.bundle = Bundle(self.outside.top, default_config())
        self.log = directory / "log"
        self.made: list[Container] = []
        self.watch()

    def watch(self) -> None:
        self.watches = [Watch(traps.top, but=HITS) for traps in (self.inside, self.outside)]

    def configure(self, args: list[str], *changes: Change) -> None:
        config = default_config(args)
        config["root"]["path"] = str(self.inside.top)
        config["process"]["env"] += [f"SECRET={SECRET}", "HOME=/"]
        for change in changes:
            change(config)
        self.bundle.config = config
        self.bundle.write()
        self.judge()
        self.log.unlink(missing_ok=True)

    def container(self) -> Container:
        self.made.append(Container(self.runtime, self.bundle))
        return self.made[-1]

    def call(self, *words: str, **options: Any) -> Result:
        """Run a verb with the bundle as current directory and with all that it can be made to say."""
        flags = ("--debug", "--log", str(self.log), "--log-format", "json")
        result = self.runtime(*flags, *words, cwd=self.bundle.path, **options)
        said = result.output + (self.log.read_text() if self.log.exists() else "")
        assert "Traceback" not in said and 'File "' not in said and SECRET not in said, f"{result}{said}"
        return result

    def judge(self) -> set[str]:
        """What was opened in the root file system and in the bundle since the last time."""
        inside, outside = (watch.opened() for watch in self.watches)
        return inside | {f"bundle: {path}" for path in outside - BUNDLE - {"."}}

    def clean(self, allowed: set[str] = PROGRAM) -> None:
        """Nothing was executed, nothing opened that should not be."""
        assert not self.inside.hits() + self.outside.hits()
        assert not self.judge() - allowed

    def close(self) -> None:
        for watch in self.watches:
            watch.close()
        there = [one for one in self.made if (self.runtime.root / one.id).exists()]
        left = [thing for one in there for thing in one.remove()]
        assert not left, f"left behind: {left}"


@pytest.fixture(scope="session")
def roots(rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Traps, Traps]:
    directory = tmp_path_factory.mktemp("traps")
    copy_tree(rootfs, directory / "rootfs")
    (directory / "bundle").mkdir()
    return poison_root(directory / "rootfs"), poison_bundle(directory / "bundle")


@pytest.fixture
def trapped(program: str, tmp_path: Path, roots: tuple[Traps, Traps]) -> Iterator[Trapped]:
    made = Trapped(program, tmp_path, roots, tmp_path / "state")
    yield made
    made.close()
    for traps in roots:
        for name in traps.hits():
            (traps.top / HITS / name).unlink()


VERBS: list[list[str]] = [
    ["state", "ID"],
    ["start", "ID"],
    ["state", "ID"],
    ["exec", "ID", "true"],
    ["exec", "--user", "1000:1000", "--cwd", "/tmp", "--env", f"A={SECRET}", "--cap", "CAP_SYS_ADMIN", "ID", "true"],
    ["exec", "--detach", "--pid-file", "PID", "ID", "true"],
    ["exec", "ID", "missing"],
    ["exec", "--cwd", "/etc/hosts", "ID", "true"],
    ["exec", "--process", "missing.json", "ID"],
    ["exec", "--preserve-fds", "7", "ID", "true"],
    ["exec", "--tty", "--console-socket", "missing.sock", "--detach", "ID", "true"],
    ["ps", "ID"],
    ["ps", "--format", "json", "ID", "-ef"],
    ["events", "--stats", "ID"],
    ["pause", "ID"],
    ["exec", "ID", "true"],
    ["checkpoint", "--image-path", "IMAGE", "ID"],
    ["resume", "ID"],
    ["update", "--pids-limit", "100", "ID"],
    ["update", "--resources", "missing.json", "ID"],
    ["list"],
    ["list", "--format", "json"],
    ["start", "ID"],
    ["delete", "ID"],
    ["kill", "ID", "NOSUCH"],
    ["kill", "ID", "KILL"],
    ["delete", "--force", "ID"],
    ["delete", "ID"],
    ["restore", "--image-path", "IMAGE", "ID"],
    ["spec"],
    ["features"],
    ["validate"],
    ["plan"],
    ["plan", "--format", "json"],
    ["seal", "--nonsense"],
    ["nonsense"],
    ["--version"],
    ["--help"],
    ["run", "--help"],
]


def test_every_verb(trapped: Trapped, tmp_path: Path) -> None:
    trapped.configure(["sleep", "1000"])
    one = trapped.container()
    places = {"ID": one.id, "PID": str(tmp_path / "pid"), "IMAGE": str(tmp_path / "image")}
    trapped.call("create", one.id).ok()
    trapped.clean()
    for verb in VERBS:
        trapped.call(*(places.get(word, word) for word in verb))
        trapped.clean()


def test_without_home_passwd_alone_is_read(trapped: Trapped) -> None:
    """And by us, not by NSS, which nsswitch.conf sends to a library of the image."""
    (trapped.inside.top / "etc" / "passwd").write_text("0:x:1000:0::/wrong:\nroot:x:0:0::/from-passwd:/bin/sh\n")
    trapped.configure(["sh", "-c", "echo $HOME"], lambda config: config["process"]["env"].remove("HOME=/"))
    result = trapped.call("run", trapped.container().id)
    assert result.stdout == "/from-passwd\n"
    trapped.clean(PROGRAM | {"etc/passwd"})


def broken(path: str, value: Any) -> Change:
    """A change: the value at `path`, which is appended to what is a list."""

    def change(config: Config) -> None:
        *folders, name = path.split(".")
        for folder in folders:
            config = config.setdefault(folder, {})
        if isinstance(config.get(name), list):
            config[name].append(value)
        else:
            config[name] = value

    return change


def mount(destination: str, **more: Any) -> Change:
    return broken("mounts", {"destination": destination, **more})


def hook(kind: str, path: str = "/bin/false") -> Change:
    return broken("hooks", {kind: [{"path": path, "env": [f"SECRET={SECRET}"]}]})


def drop(kind: str) -> Change:
    def change(config: Config) -> None:
        config["mounts"] = [one for one in config["mounts"] if not one["destination"].startswith(kind)]

    return change


def userns(config: Config) -> None:
    config["linux"]["namespaces"].append({"type": "user"})
    for kind in ("uidMappings", "gidMappings"):
        config["linux"][kind] = [{"containerID": 0, "hostID": 100000, "size": 1000}]


FAILURES: dict[str, tuple[list[str], list[Change]]] = {
    "no program": (["missing"], []),
    "no file": (["/bin/missing"], []),
    "a directory": (["/bin"], []),
    "not executable": (["/etc/hosts"], []),
    "not a program": (["/garbage"], []),
    "no interpreter": (["/script"], []),
    "a library without its loader": (["/lib/libc.so.6"], []),
    "cwd is a file": (["true"], [broken("process.cwd", "/etc/hosts")]),
    "cwd outside": (["true"], [broken("process.cwd", "/proc/self/fd/7")]),
    "user not mapped": (["true"], [userns, broken("process.user.uid", 5000)]),
    "group not mapped": (["true"], [userns, broken("process.user.additionalGids", [5000])]),
    "rlimit": (["true"], [broken("process.rlimits", {"type": "RLIMIT_NOFILE", "hard": 1 << 40, "soft": 1 << 40})]),
    "apparmor": (["true"], [broken("process.apparmorProfile", "evil")]),
    "selinux": (["true"], [broken("process.selinuxLabel", "evil")]),
    "scheduler": (["true"], [broken("process.scheduler", {"policy": "SCHED_DEADLINE", "runtime": 5, "deadline": 4})]),
    "capability": (["true"], [broken("process.capabilities.bounding", "CAP_EVIL")]),
    "terminal without devpts": (["true"], [drop("/dev/pts"), broken("process.terminal", True)]),
    "no source": (["true"], [mount("/mnt", type="bind", source="/nowhere", options=["bind"])]),
    "no filesystem": (["true"], [mount("/mnt", type="evilfs", source="none")]),
    "a bad option": (["true"], [mount("/mnt", type="tmpfs", source="none", options=["size=evil"])]),
    "over proc": (["true"], [mount("/proc/self", type="tmpfs", source="none")]),
    "through a file": (["true"], [mount("/etc/hosts/x", type="tmpfs", source="none")]),
    "bad sysctl": (["true"], [broken("linux.sysctl", {"kernel.shmmax": "evil"})]),
    "no sysctl": (["true"], [broken("linux.sysctl", {"net.evil": "1"})]),
    "no proc": (["true"], [drop("/proc")]),
    "dev is the image's": (["true"], [drop("/dev")]),
    "seccomp action": (["true"], [broken("linux.seccomp", {"defaultAction": "SCMP_ACT_EVIL"})]),
    "seccomp kills": (["true"], [broken("linux.seccomp", {"defaultAction": "SCMP_ACT_ERRNO"})]),
    "seccomp agent": (
        ["true"],
        [
            broken(
                "linux.seccomp",
                {
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "listenerPath": "/nowhere",
                    "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
                },
            )
        ],
    ),
    "namespace": (["true"], [broken("linux.namespaces", {"type": "time", "path": "/nowhere"})]),
    "namespace of another kind": (
        ["true"],
        [broken("linux.namespaces", {"type": "time", "path": "/proc/self/ns/ipc"})],
    ),
    "cgroup limit": (["true"], [broken("linux.resources.cpu", {"cpus": "9999"})]),
    "device": (["true"], [broken("linux.devices", [{"path": "/etc/hosts", "type": "c", "major": 1, "minor": 3}])]),
    "masked": (["true"], [broken("linux.maskedPaths", "/etc/hosts/below")]),
    "host name": (["true"], [broken("hostname", "x" * 100)]),
    "prestart": (["true"], [hook("prestart")]),
    "createRuntime": (["true"], [hook("createRuntime")]),
    "createContainer": (["true"], [hook("createContainer")]),
    "startContainer": (["true"], [hook("startContainer")]),
    "no startContainer": (["true"], [hook("startContainer", "/missing")]),
    "poststart": (["true"], [hook("poststart")]),
    "poststop": (["true"], [hook("poststop", "/missing")]),
    "out of memory": (["true"], [broken("linux.resources.memory", {"limit": 4096})]),
    "root": (["true"], [broken("root.path", "/nowhere")]),
    "wrong type": (["true"], [broken("process.user.uid", "zero")]),
    "env is no list": (["true"], [lambda config: config["process"].update(env=f"SECRET={SECRET}")]),
    "env is of lists": (["true"], [broken("process.env", [SECRET])]),
    "env without a name": (["true"], [broken("process.env", f"={SECRET}")]),
    "env with NUL": (["true"], [broken("process.env", f"{SECRET}=\0{SECRET}")]),
    "annotation is a number": (["true"], [broken("annotations", {"x": 2})]),
    "annotations are text": (["true"], [broken("annotations", SECRET)]),
    "no process": (["true"], [broken("process", None)]),
}


@pytest.fixture(scope="session")
def oddities(roots: tuple[Traps, Traps]) -> None:
    roots[0].file("garbage", "\0\0garbage")
    roots[0].file("script", "#!/nowhere/evil\n")


@pytest.mark.usefixtures("oddities")
@pytest.mark.parametrize("name", FAILURES)
def test_every_failure(trapped: Trapped, name: str) -> None:
    """At create, or at start, or none at all: what a trapped runtime does then is what matters."""
    args, changes = FAILURES[name]
    trapped.configure([*args, SECRET], *changes)
    one = trapped.container()
    if not trapped.call("create", *_console(trapped.bundle.config), one.id).status:
        trapped.call("start", one.id)
        trapped.call("delete", "--force", one.id)
    trapped.call("run", trapped.container().id)
    # What is to be executed is looked at, and the kernel reads it; hooks are programs as well.
    read = {args[0].lstrip("/"), "bin/false"} if args[0].startswith("/") else {"bin/false"}
    if name == "dev is the image's":
        read.add("dev/null")  # made there by the runtime, as asked
    assert not trapped.inside.hits() or name == "a library without its loader"
    assert not trapped.judge() - PROGRAM - read


def _console(config: Config) -> list[str]:
    return ["--console-socket", "missing.sock"] if (config["process"] or {}).get("terminal") else []


# Appended to container/init.py: fails at the step that the file `fail` beside the package says, in its way.
FAIL_AT = """
_run = run

class _Failing(Step):
    __slots__ = ("how", "step")

    def __init__(self, step, how):
        self.step = step
        self.how = how

    def __del__(self):
        raise ValueError("hunter2")

    def apply(self, place):
        if self.how == b"error":
            raise OSError(5, "hunter2")
        if self.how == b"bug":
            raise ZeroDivisionError("hunter2")
        if self.how == b"exit":
            sys.exit("hunter2")
        if self.how == b"depth":
            self.apply(place)
        _Failing(None, b"")  # a finaliser that fails
        self.step.apply(place)

def run(steps, place, program):
    descriptor = posix.open(__file__.rpartition("/")[0] + "/fail", 0)
    number, how = posix.read(descriptor, 100).split()
    posix.close(descriptor)
    number = int(number)
    if number < len(steps):
        steps = list(steps)
        steps[number] = _Failing(steps[number], how)
    _run(steps, place, program)
"""


@pytest.mark.parametrize("how", ["error", "bug", "exit", "depth", "finaliser"])
@pytest.mark.parametrize("verb", ["run", "exec"])
def test_a_failure_at_every_step(trapped: Trapped, tmp_path: Path, program: str, verb: str, how: str) -> None:
    if program not in (str(LAUNCHER), str(AUDITED)):
        pytest.skip("changes a copy of pyruntime")
    launcher = weaken(tmp_path / "failing", [("container/init.py", FAIL_AT)])
    fail = tmp_path / "failing" / "pyruntime" / "container" / "fail"
    fail.write_text("999 none")
    failing = Runtime(launcher, trapped.runtime.root)
    trapped.configure(["sleep", "1000"] if verb == "exec" else ["true"])
    one = trapped.container()
    if verb == "exec":
        trapped.call("run", "--detach", one.id).ok()
    original, trapped.runtime = trapped.runtime, failing
    try:
        step = {"bug": 1, "error": 3}.get(how, 7)
        for number in itertools.count(0, step):
            fail.write_text(f"{number} {how}")
            result = trapped.call(*(("exec", one.id, "true") if verb == "exec" else ("run", one.id)))
            trapped.clean()
            if result.status == 0:
                break
            assert result.stderr.count("\n") <= 2, result
    finally:
        trapped.runtime = original
    assert number > 10 or verb == "exec"


# What careless code would do after the switch of the root, with nothing to stop it.
CARELESS = {
    "a module": "import colorsys",
    "a codec": "'x'.encode('cp1140')",
    "a traceback": "import sys; sys.excepthook = sys.__excepthook__; sys.excepthook(*_thrown())",
    "NSS": "import pwd; pwd.getpwnam('nobody')",
    "a library": "import _ctypes; _ctypes.dlopen('libcap.so.2', 2)",
    "a program": "posix.system('/usr/bin/gcc')",
}
UNGUARDED = """
def close_imports():
    pass
"""
THROWN = """
def _thrown():
    import sys
    try:
        raise ValueError
    except ValueError:
        return sys.exc_info()
"""


@pytest.mark.parametrize("name", CARELESS)
def test_the_traps_work(trapped: Trapped, tmp_path: Path, program: str, name: str) -> None:
    """A runtime that does not close the import system and does one careless thing steps into them."""
    if program not in (str(LAUNCHER), str(AUDITED)):
        pytest.skip("changes a copy of pyruntime")
    step = f"{THROWN}\ndef _careless(self, place, _apply=FindProgram.apply):\n    {CARELESS[name]}\n"
    step += "    _apply(self, place)\n"
    changes = [("container/init.py", UNGUARDED), ("plan/lifecycle.py", step + "\nFindProgram.apply = _careless")]
    careless = Runtime(weaken(tmp_path / "careless", changes), trapped.runtime.root)
    # Whoever shows a line of the program opens its source, which is where this copy is.
    trapped.inside.module(f"{tmp_path}/careless/pyruntime/plan/lifecycle.py".lstrip("/"))
    trapped.inside.file(f"{tmp_path}/careless/bin/evil".lstrip("/"), "on the way")
    trapped.watch()
    trapped.configure(["true"])
    one = trapped.container()
    careless("run", "--bundle", trapped.bundle.path, one.id)
    opened = trapped.judge() - PROGRAM
    assert opened, "nothing was opened"
    if name not in ("a library", "NSS"):
        assert trapped.inside.hits(), f"opened and not executed: {opened}"
    if name == "NSS":
        assert "etc/nsswitch.conf" in opened
