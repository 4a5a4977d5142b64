"""The parsers, each as a function of bytes, and what is asked of all of them.

A target returns when the input was taken or refused as it should be, that is with RuntimeFailure; every other exception
is a bug, and so is a message of more than one line, more than a second of processor time, much memory, or a system
call that changes something before the input has been accepted.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyruntime.cgroups import dbus_wire, host
from pyruntime.cgroups import systemd_unit as unit
from pyruntime.cli.logline import format_text, printable
from pyruntime.container import store, usermap
from pyruntime.container.child import Child
from pyruntime.errors import RuntimeFailure
from pyruntime.image import tar, users
from pyruntime.image.limits import Limits
from pyruntime.kernel.facts import Facts
from pyruntime.network import options as network
from pyruntime.plan import build, command, lifecycle
from pyruntime.plan.options import Options
from pyruntime.spec import load, table

Target = Callable[[bytes], None]

SECONDS = 1.0
MEGABYTES = 512
# Audit events of what changes the world. Nothing here has a reason to do any of it.
CHANGES = frozenset(
    "os.mkdir os.remove os.rename os.rmdir os.symlink os.link os.chmod os.chown os.truncate os.exec os.fork os.system"
    " os.posix_spawn os.kill subprocess.Popen socket.connect socket.bind shutil.rmtree".split()
)
WRITING = 0o1 | 0o2 | 0o100  # O_WRONLY, O_RDWR, O_CREAT

_touched: list[str] = []
_watching = False


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and (event in CHANGES or (event == "open" and (arguments[2] or 0) & WRITING)):
        _touched.append(f"{event}{arguments!r}")


sys.addaudithook(_watch)


def run(target: Target, data: bytes) -> None:
    """Feed `data` to `target` and judge what happens. Raises AssertionError, or whatever the parser should not."""
    global _watching  # noqa: PLW0603
    before = time.process_time()
    _watching = True
    try:
        target(data)
    except RuntimeFailure as failure:
        judge(str(failure))
    finally:
        _watching = False
    spent = time.process_time() - before
    assert not _touched, f"{target.__name__} touched {_touched}"
    assert spent < SECONDS, f"{target.__name__} took {spent:.1f} s for {len(data)} bytes"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    assert peak < MEGABYTES, f"{target.__name__}: {peak} MB of memory"


def judge(message: str) -> None:
    """An error is a line that says something, also in the log."""
    assert message.strip(), "an empty message"
    for line in (printable(message), format_text("error", message, "2026-01-01T00:00:00Z", {}).rstrip("\n")):
        assert "\n" not in line and "\r" not in line and "\x1b" not in line and "Traceback" not in line
        line.encode("utf-8", "surrogateescape")
    assert len(message) < 20_000, f"an error of {len(message)} characters"


def words(data: bytes) -> list[str]:
    """The lines of the data as the command line or a configuration would give them."""
    return data.decode("utf-8", "replace").split("\n")


def config(data: bytes) -> None:
    """config.json: load and check it; what is accepted can be planned and described."""
    value: Any = load._parse(data, "config.json", table.CONFIG)
    load.check(value)
    settings = build.Settings("/bundle", "id", Facts())
    settings.userns_for = lambda _uids, _gids: object()
    plan = build.build(value, settings)
    for step in [*plan.host, *plan.init]:
        assert step.describe()
        judge(step.failure())
    systemd(value.get("annotations") or {})


def systemd(annotations: dict[str, str]) -> None:
    unit.annotated(annotations)


def mount_options(data: bytes) -> None:
    """mounts[].options, separated by commas."""
    Options(data.decode("utf-8", "replace").split(",")).filesystem()


def id_map(data: bytes) -> None:
    """linux.uidMappings: what is accepted becomes lines of three numbers of 32 bits, in ranges that do not overlap."""
    numbers = [int.from_bytes(data[at : at + 5], "big", signed=True) for at in range(0, min(len(data), 1500), 5)]
    mappings: Any = [
        {"containerID": inner, "hostID": outer, "size": size}
        for inner, outer, size in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=False)
    ]
    document: Any = {
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "linux": {
            "namespaces": [{"type": "user"}, {"type": "mount"}],
            "uidMappings": mappings,
            "gidMappings": [{"containerID": 0, "hostID": 0, "size": 1}],
        },
    }
    load.check(document)
    ranges = []
    for line in usermap.lines(mappings).split(b"\n")[:-1]:
        inner, outer, size = map(int, line.split(b" "))
        assert 0 <= inner < inner + size <= 1 << 32 and 0 <= outer < outer + size <= 1 << 32 and size > 0
        ranges.append((inner, inner + size))
    ranges.sort()
    for one, other in itertools.pairwise(ranges):
        assert one[1] <= other[0], "ranges that overlap"


def mountinfo(data: bytes) -> None:
    """/proc/self/mountinfo and, after an empty line, /proc/self/cgroup."""
    table_text, _, own = data.partition(b"\n\n")
    found = host.parse(table_text, own)
    assert len(found.mounts) <= table_text.count(b"\n") * 64 + table_text.count(b",") + 64
    for controller in found.mounts:
        found.mount(controller)
        assert "/../" not in found.own_directory(controller) or b".." in data
    _ = found.layout


# Fields of a profile by one byte each, so that most inputs are profiles.
ACTIONS = ("ALLOW", "ERRNO", "KILL", "KILL_PROCESS", "KILL_THREAD", "LOG", "NOTIFY", "TRACE", "TRAP", "NONSENSE")
ARCHITECTURES = ("X86_64", "X86", "X32", "AARCH64", "ARM", "S390X", "RISCV64", "PPC64LE", "MIPS64", "NONSENSE")
OPERATORS = ("EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ", "NONSENSE")
CALLS = ("read", "write", "openat", "clone", "ioctl", "personality", "socket", "mount", "no_such_call", "")


def seccomp(data: bytes) -> None:
    """linux.seccomp: check it, compile it."""
    stream = iter(data)

    def pick(choices: tuple[str, ...]) -> str:
        return choices[next(stream, 0) % len(choices)]

    def number() -> int:
        size = next(stream, 0) % 9
        return int.from_bytes(bytes(next(stream, 0) for _ in range(size)), "big")

    section: dict[str, Any] = {
        "defaultAction": "SCMP_ACT_" + pick(ACTIONS),
        "architectures": ["SCMP_ARCH_" + pick(ARCHITECTURES) for _ in range(next(stream, 0) % 4)],
        "syscalls": [],
    }
    if next(stream, 0) % 4 == 0:
        section["defaultErrnoRet"] = number()
    for _ in range(next(stream, 0) % 24):
        entry: dict[str, Any] = {"names": [pick(CALLS) for _ in range(next(stream, 0) % 4)], "action": ""}
        entry["action"] = "SCMP_ACT_" + pick(ACTIONS)
        entry["args"] = [
            {"index": next(stream, 0) % 7, "value": number(), "valueTwo": number(), "op": "SCMP_CMP_" + pick(OPERATORS)}
            for _ in range(next(stream, 0) % 4)
        ]
        if next(stream, 0) % 4 == 0:
            entry["errnoRet"] = number()
        section["syscalls"].append(entry)
    document: Any = {"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "linux": {"seccomp": section}}
    load.check(document)
    from pyruntime.plan.seccomp import compile_filter

    compiled = compile_filter(section)
    if compiled is not None:
        assert compiled.program and len(compiled.program) % 8 == 0
        for warning in compiled.warnings:
            judge(warning)


def passwd(data: bytes) -> None:
    """An image's user, its /etc/passwd and /etc/group, one after the other with empty lines between; HOME as well."""
    spec, _, rest = data.partition(b"\n\n")
    accounts, _, groups = rest.partition(b"\n\n")
    files = {users.PASSWD: accounts, users.GROUP: groups}
    try:
        user = users.resolve(spec.decode("utf-8", "replace"), lambda name: files[name])
    except RuntimeFailure:
        pass
    else:
        for number in (user.uid, user.gid, *user.additional):
            assert 0 <= number < 0xFFFFFFFF
    original = command._read
    command._read = lambda path, size: accounts[:size]
    try:
        home = command._home_of(1000)
    finally:
        command._read = original
    assert home and b"\0" not in home and b"\n" not in home and b":" not in home


def layer(data: bytes) -> None:
    """The headers of a tar archive, as they are and with right checksums. The data of entries is skipped."""
    padded = data.ljust(-(-len(data) // tar.BLOCK) * tar.BLOCK, b"\0")
    blocks = [padded[at : at + tar.BLOCK] for at in range(0, len(padded), tar.BLOCK)]
    for archive in (data, b"".join(_checksummed(block) for block in blocks)):
        try:
            _walk(archive)
        except RuntimeFailure as failure:
            judge(str(failure))


def _checksummed(block: bytes) -> bytes:
    if not any(block):
        return block
    blank = block[:148] + b" " * 8 + block[156:]
    return blank[:148] + b"%06o\0 " % sum(blank) + blank[156:]


def _walk(data: bytes) -> None:
    chunks = iter((data, b""))
    archive = tar.Archive(tar.Reader(lambda: next(chunks, b"")), Limits(1 << 24, 1000))
    while (entry := archive.next()) is not None:
        assert entry.size >= 0 and b"\0" not in entry.name
        archive.reader.skip(entry.size + tar.padding(entry.size))


def cgroup_path(data: bytes) -> None:
    """linux.cgroupsPath, for the cgroupfs driver and for systemd: never outside of where cgroups belong."""
    path = data.decode("utf-8", "surrogateescape")
    own = host.Host({"cpu": ("/sys/fs/cgroup/cpu", "/")}, False, {"cpu": "/own"})
    try:
        inside = host.inner("id", path)
    except RuntimeFailure as failure:
        judge(str(failure))
    else:
        placed = host.place(own, "cpu", inside)
        assert placed.startswith("/sys/fs/cgroup/cpu/") and "/../" not in placed + "/" and "\0" not in placed
    name, slice_name = unit.names("id", path, False)
    assert "/" not in name and "/../" not in unit.expand(slice_name) + "/"


def annotation(data: bytes) -> None:
    """Annotations that we act upon: `name=value` lines, as systemd properties and as network options."""
    given = dict(line.partition("=")[::2] for line in words(data))
    for prefix, take in ((unit.ANNOTATION, systemd), (network.ANNOTATION, _network)):
        try:
            take({prefix + name: value for name, value in given.items()})
        except RuntimeFailure as failure:
            judge(str(failure))


def _network(given: dict[str, str]) -> None:
    settings = network.Settings()
    network.annotate(settings, given)
    settings.check()


def message(data: bytes) -> None:
    """What a container's init says, what systemd says, and a state.json that somebody has damaged."""
    child = Child()
    child.steps = [lifecycle.NewSession(), lifecycle.ReopenNull()]
    child.command = command.Command({"args": ["true"], "cwd": "/"})
    judge(str(child.failure(data)))
    judge(str(child.failure(lifecycle.FAILED + data)))
    signature, _, body = data.partition(b"\0")
    try:
        dbus_wire.Reader(body).read(signature.decode("ascii", "replace"))
    except ValueError:
        pass
    state(data)


def state(data: bytes) -> None:
    """state.json, read from a file as it is in life."""
    global _watching  # noqa: PLW0603
    _watching = False
    root = _root()
    Path(root, "id", store.STATE).write_bytes(data)
    _watching = True
    try:
        record = store.open_container(root, "id")
    except RuntimeFailure as failure:
        judge(str(failure))
    else:
        assert record.data["id"] == "id" and type(record.data["pid"]) is int


@functools.cache
def _root() -> str:
    directory = tempfile.TemporaryDirectory(prefix="pyruntime-fuzz-")
    atexit.register(directory.cleanup)
    Path(directory.name, "id").mkdir()
    return directory.name


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        config,
        mount_options,
        id_map,
        mountinfo,
        seccomp,
        passwd,
        layer,
        cgroup_path,
        annotation,
        message,
    )
}
