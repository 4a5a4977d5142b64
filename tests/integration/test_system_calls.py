"""How many system calls each hot verb makes, on a fixed bundle: a test of speed that needs no clock.

The table system-calls.tsv holds the counts, less those of a bare interpreter. A change of more than a few is to be seen
in review, so it fails here, in both directions; `UPDATE_SYSTEM_CALLS=1 pytest tests/integration/test_system_calls.py`
writes what is counted now.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.bundles import Config
from support.container import Container
from support.runtime import LAUNCHER, REPOSITORY, Runtime, compile_launcher

TABLE = Path(__file__).with_name("system-calls.tsv")
HEAD = "cgroups\tbundle\tverb\truntime\tcontainer process\n"

INTERPRETER = ["/usr/bin/python3", "-I", "-S", "-E", "-B", "-X", "utf8", "-c", "pass"]

Row = tuple[str, str, str]
Counts = tuple[int, int]

pytestmark = pytest.mark.skipif(
    not shutil.which("strace") or not shutil.which("gcc"), reason="needs strace, and a compiler for the launcher"
)


def margin(expected: int) -> int:
    """What a minor release of Python, or a kernel with another file in /proc, may change."""
    return max(3, expected // 25)


def table() -> dict[Row, Counts]:
    rows = [line.split("\t") for line in TABLE.read_text().splitlines()[1:]] if TABLE.exists() else []
    return {(row[0], row[1], row[2]): (int(row[3]), int(row[4])) for row in rows}


def layout() -> str:
    """The host's cgroup hierarchies, for how many there are decides how many calls they take."""
    found: dict[str, set[str]] = {"cgroup": set(), "cgroup2": set()}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        found.get(after.split()[0], set()).add(before.split()[2])  # one may be mounted in many places
    first, second = len(found["cgroup"]), len(found["cgroup2"])
    return f"{first} v1 + {second} v2" if first else "v2"


def counted(directory: Path, argv: list[str]) -> Counts:
    """The system calls of a program, and those of all processes that it starts."""
    record = directory / "strace"
    # The streams are null: what a container keeps open must not hold up the test.
    command = ["strace", "-f", "-qq", "-s", "0", "-e", "signal=none", "-o", str(record), *argv]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                          env={}) as process:  # fmt: skip
        assert process.wait(60) == 0, f"{argv}: exit status {process.returncode}"
    calls: dict[str, int] = {}
    for line in record.read_text().splitlines():
        pid, _, rest = line.partition(" ")
        if not rest.lstrip().startswith(("<...", "+++", "---")):
            calls[pid] = calls.get(pid, 0) + 1
    first, *others = calls.values()
    return first, sum(others)


def life(directory: Path, runtime: Runtime, made: Callable[[list[str]], Container]) -> dict[str, Counts]:
    """The counts of each verb in the life of a container. `create` leaves strace with a process to follow, which does
    not end before the container: it is counted in `run` instead, where nothing is missing."""
    floor, _ = counted(directory, INTERPRETER)

    def beyond(*words: str | Path) -> Counts:
        mine, others = counted(directory, runtime.argv(*words))
        return mine - floor, others

    made(["true"]).run().ok()  # a filter is compiled once per state directory
    one = made(["true"])
    found = {"run": beyond("run", "--bundle", one.bundle.path, one.id)}
    one = made(["sleep", "1000"])
    one.create().ok()
    found["start"] = beyond("start", one.id)
    found["state"] = beyond("state", one.id)
    found["exec"] = beyond("exec", one.id, "true")
    found["kill"] = beyond("kill", one.id, "KILL")
    one.wait("stopped")
    found["delete"] = beyond("delete", one.id)
    return found


def like_an_engine(config: Config) -> None:
    """What engines add to the configuration of `runc spec`: a filter, limits, files bound in, a cgroup namespace."""
    linux = config["linux"]
    linux["namespaces"].append({"type": "cgroup"})
    linux["resources"].update(memory={"limit": 1 << 26}, pids={"limit": 100}, cpu={"shares": 512})
    rules = [{"names": ["add_key", "keyctl", "ptrace"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]
    linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}
    for number, name in enumerate(("hosts", "resolv.conf", "hostname")):
        mount = {"destination": f"/etc/{name}", "type": "bind", "source": "/etc/passwd"}
        config["mounts"].append({**mount, "options": ["rbind", "rprivate", "ro"][: 2 + number % 2]})


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installation's launcher; it seals the interpreter itself, whatever `pyruntime seal` has done here."""
    directory = tmp_path_factory.mktemp("launcher")
    (directory / "bin").mkdir()
    (directory / "pyruntime").symlink_to(REPOSITORY / "pyruntime")
    return compile_launcher(directory / "bin" / "pyruntime", "/nowhere")


@pytest.mark.parametrize("cgroups", ["with", "without"])
@pytest.mark.parametrize("kind", ["plain", "engine"])
def test_hot_verbs_make_as_many_system_calls_as_the_table_says(
    program: str, launcher: Path, container: Callable[..., Container], tmp_path: Path, kind: str, cgroups: str
) -> None:
    if program != str(LAUNCHER):
        pytest.skip("about the system calls of pyruntime")
    flags = [] if cgroups == "with" else ["--cgroup-manager", "disabled"]
    where = layout() + (", unused" if flags else "")  # a container sees them all the same
    root = tmp_path / "state"
    changes = [like_an_engine] if kind == "engine" else []

    def made(args: list[str]) -> Container:
        one: Container = container(args, *changes)
        one.runtime = Runtime(launcher, root, flags)
        return one

    runs = [life(tmp_path, Runtime(launcher, root, flags), made) for _ in range(2)]
    found = {verb: (min(run[verb][0] for run in runs), min(run[verb][1] for run in runs)) for verb in runs[0]}
    known = table()
    if os.environ.get("UPDATE_SYSTEM_CALLS"):
        known.update({(where, kind, verb): counts for verb, counts in found.items()})
        lines = ["\t".join((*row, *map(str, counts))) + "\n" for row, counts in sorted(known.items())]
        TABLE.write_text(HEAD + "".join(lines))
        return
    if (where, kind, "run") not in known:
        pytest.skip(f"the table knows no host with cgroups {where}")
    wrong = []
    for verb, counts in found.items():
        for name, expected, count in zip(("runtime", "container process"), known[where, kind, verb], counts):  # noqa: B905
            if abs(count - expected) > margin(expected):
                wrong.append(f"{verb}: {count} system calls of the {name}, the table says {expected}")
    assert not wrong, "\n".join(wrong)
