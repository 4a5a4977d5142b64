"""What a checkpoint keeps of a container and a restore brings back, thing by thing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.bundles import Change, Config
from support.changes import bind, mount, namespace, process, resources, user_namespace
from support.container import Container, wait_for
from support.criu import SECONDS, counter, goes_on, is_locked, namespace_of, needs_criu, restore, save, started
from support.terminal import ConsoleSocket, Screen, get_size, read_until, set_size

pytestmark = needs_criu
Make = Callable[..., Container]

ECHO = ["sh", "-c", "echo ready; while read line; do echo got-$line; [ $line = end ] && exit 7; done"]


# Terminals and streams


def test_a_terminal_is_handed_over_again(container: Make, tmp_path: Path) -> None:
    one = container(ECHO, process(terminal=True))
    with ConsoleSocket(tmp_path / "one.sock") as engine:
        one.run("--detach", "--console-socket", str(engine.path)).ok()
        terminal = engine.receive()
        read_until(terminal, "ready", SECONDS)
        set_size(terminal, 33, 111)
        save(one, tmp_path / "images").ok()
    with ConsoleSocket(tmp_path / "two.sock") as engine:
        restore(one, tmp_path / "images", "--console-socket", engine.path).ok()
        terminal = engine.receive()
        assert get_size(terminal) == (33, 111)
        os.write(terminal, b"hello\r")
        assert b"ready" not in read_until(terminal, "got-hello", SECONDS)
        assert one.exec("readlink", "/proc/1/fd/0").ok().stdout == "/dev/pts/0\n"


def test_a_terminal_in_the_foreground(container: Make, tmp_path: Path) -> None:
    one = container(ECHO, process(terminal=True))
    with ConsoleSocket(tmp_path / "one.sock") as engine:
        one.run("--detach", "--console-socket", str(engine.path)).ok()
        read_until(engine.receive(), "ready", SECONDS)
        save(one, tmp_path / "images").ok()
    screen = Screen()
    try:
        argv = one.runtime.argv("restore", "--bundle", one.bundle.path, "--image-path", tmp_path / "images", one.id)
        runtime = screen.spawn(argv)
        wait_for(lambda: screen.is_raw, "the raw mode", SECONDS)
        screen.type("there\r")
        screen.until("got-there", SECONDS)
        screen.type("end\r")
        assert runtime.wait(SECONDS) == 7
    finally:
        screen.close()
    assert one.runtime("state", one.id).status == 1


def test_pipes_and_the_exit_status(container: Make, tmp_path: Path) -> None:
    one = container(ECHO)
    with Pipes() as before:
        before.call(one.runtime.argv("run", "--detach", "--bundle", one.bundle.path, one.id))
        read_until(before.output, "ready", SECONDS)
        save(one, tmp_path / "images").ok()
    with Pipes() as after:
        paths = ("--bundle", one.bundle.path, "--image-path", tmp_path / "images")
        after.start(one.runtime.argv("restore", *paths, one.id))
        os.write(after.input, b"one\n")
        read_until(after.output, "got-one", SECONDS)
        os.write(after.input, b"end\n")
        assert after.runtime.wait(SECONDS) == 7


class Pipes:
    """Standard streams as an engine's monitor gives them: `input` to write to, `output` to read from."""

    def __enter__(self) -> Pipes:
        read, self.input = os.pipe()
        self.output, write = os.pipe()
        self._theirs = (read, write)
        self._children: list[subprocess.Popen[bytes]] = []
        return self

    def start(self, argv: list[str]) -> None:
        read, write = self._theirs
        self.runtime = subprocess.Popen(argv, stdin=read, stdout=write, stderr=write)
        self._children.append(self.runtime)

    def call(self, argv: list[str]) -> None:
        self.start(argv)
        assert self.runtime.wait(SECONDS) == 0, os.read(self.output, 65536)

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            if child.poll() is None:
                child.kill()
                child.wait()
        for descriptor in (self.input, self.output, *self._theirs):
            os.close(descriptor)


def test_the_terminal_of_the_caller_cannot_be_saved(container: Make, tmp_path: Path) -> None:
    """CRIU finds no mount in the container that it would be on. The container goes on."""
    one = container(ECHO)
    screen = Screen()
    try:
        screen.spawn(one.runtime.argv("run", "--bundle", one.bundle.path, one.id))
        screen.until("ready", SECONDS)
        for flags in ((), ("--shell-job",)):
            refused = save(one, tmp_path / "images", *flags)
            assert refused.status == 1 and "criu failed" in refused.stderr and "/dev/pts/" in refused.stderr, refused
            assert one.status == "running"
        screen.type("still\r")
        screen.until("got-still", SECONDS)
    finally:
        screen.close()


# Files, locks, connections


def test_file_locks(container: Make, tmp_path: Path) -> None:
    # The host's flock: busybox has none.
    loader = "/host/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 --library-path /host/lib/x86_64-linux-gnu"
    one = started(container(counter(f"exec 9>/lock; {loader} /host/bin/flock 9"), bind("/usr", "/host", "ro")))
    lock = one.bundle.rootfs / "lock"
    assert is_locked(lock)
    refused = save(one, tmp_path / "refused")
    assert refused.status == 1 and "--file-locks" in refused.stderr, refused
    assert one.status == "running" and is_locked(lock)
    goes_on(one)
    save(one, tmp_path / "images", "--file-locks").ok()
    assert not is_locked(lock)
    restore(one, tmp_path / "images", "--file-locks").ok()
    goes_on(one)
    assert is_locked(lock)


TALK = """ip link set lo up
nc -l -p 7000 -e cat &
sleep 1
(i=0; while true; do i=$((i+1)); echo $i; sleep 0.1; done) | nc 127.0.0.1 7000 |
    while read n; do echo $n >/heard; done &"""


@pytest.fixture
def talking(container: Make) -> Container:
    """Two ends of a TCP connection within the container; /heard is the last number that came back."""
    capabilities = {name: ["CAP_NET_ADMIN", "CAP_KILL"] for name in ("bounding", "effective", "permitted")}
    one = started(container(counter(TALK), process(capabilities=capabilities)))
    goes_on(one, "heard")
    return one


def test_tcp_connections(talking: Container, tmp_path: Path) -> None:
    one = talking
    refused = save(one, tmp_path / "refused")
    assert refused.status == 1 and "--tcp-established" in refused.stderr, refused
    goes_on(one, "heard")
    save(one, tmp_path / "images", "--tcp-established").ok()
    restore(one, tmp_path / "images", "--tcp-established").ok()
    goes_on(one, "heard")


def test_tcp_connections_can_be_closed(talking: Container, tmp_path: Path) -> None:
    one = talking
    save(one, tmp_path / "images", "--tcp-established").ok()
    heard = (one.bundle.rootfs / "heard").read_text()
    restore(one, tmp_path / "images", "--tcp-close").ok()
    goes_on(one)
    assert (one.bundle.rootfs / "heard").read_text() == heard
    assert "ESTABLISHED" not in one.exec("netstat", "-tn").ok().stdout


def test_memory_file_systems_and_names(container: Make, tmp_path: Path) -> None:
    prepare = "echo kept >/dev/shm/file; mkdir /scratch/dir; hostname saved; cd /tmp; umask 027; export KEPT=yes"
    changes = (
        mount("/scratch", "tmpfs", ["mode=700", "size=1m"], "tmpfs"),
        process(capabilities={name: ["CAP_SYS_ADMIN"] for name in ("bounding", "effective", "permitted")}),
    )
    one = started(container(counter(prepare), *changes))
    status = "grep -E '^(Cap|Umask|Uid|Gid|Groups)' /proc/1/status; readlink /proc/1/cwd"
    script = f"{status}; cut -d' ' -f2- /proc/1/limits; cat /dev/shm/file; ls /scratch; hostname"
    before = one.exec("sh", "-c", script).ok().stdout
    assert "kept\ndir\nsaved\n" in before
    save(one, tmp_path / "images").ok()
    restored = restore(one, tmp_path / "images").ok()
    assert one.exec("sh", "-c", script).ok().stdout.splitlines() == before.splitlines()
    if "NoNewPrivs:\t0" in one.proc("status").read_text():
        assert "process.noNewPrivileges" in restored.stderr, "an old CRIU forgets it, and nobody said so"
    goes_on(one)


def test_masked_and_read_only_paths(container: Make, tmp_path: Path) -> None:
    one = started(container(counter()))
    look = "cut -d' ' -f5,6 /proc/self/mountinfo; wc -c </proc/kcore; echo 1 2>&1 >/proc/sys/vm/swappiness"
    before = one.exec("sh", "-c", look).stdout
    assert "Read-only file system" in before
    save(one, tmp_path / "images").ok()
    restore(one, tmp_path / "images").ok()
    assert sorted(one.exec("sh", "-c", look).stdout.splitlines()) == sorted(before.splitlines())


# Mounts from the host


def test_bind_mounts(container: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    (tmp_path / "tree" / "inner").mkdir(parents=True)
    changes = (
        bind(tmp_path / "file", "/etc/file", "ro"),
        bind(tmp_path / "tree", "/made/by/us", "rw"),
        bind(tmp_path / "file", "/made/by/us/inner/file"),
        bind(tmp_path / "tree", "/link/tree", "rbind"),
    )
    one = container(counter(), *changes)
    (one.bundle.rootfs / "real").mkdir()
    (one.bundle.rootfs / "link").symlink_to("real")
    started(one)
    save(one, tmp_path / "images").ok()
    (tmp_path / "file").write_text("changed")
    restore(one, tmp_path / "images").ok()
    look = "cat /etc/file /made/by/us/inner/file /real/tree/inner/file; echo 2>&1 >/etc/file; touch /made/by/us/new"
    told = one.exec("sh", "-c", look).ok().stdout
    assert told.startswith("changedchanged") and "Read-only" in told
    assert (tmp_path / "tree" / "new").exists()
    goes_on(one)


def test_a_mount_point_that_is_gone_is_made_again(container: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    one = started(container(counter(), bind(tmp_path / "file", "/made/file")))
    save(one, tmp_path / "images").ok()
    (one.bundle.rootfs / "made" / "file").unlink()
    (one.bundle.rootfs / "made").rmdir()
    restore(one, tmp_path / "images").ok()
    assert one.exec("cat", "/made/file").ok().stdout == "a file"


# Namespaces


@pytest.fixture
def netns() -> Iterator[Path]:
    name = f"criu{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    yield Path("/run/netns", name)
    subprocess.run(["ip", "netns", "delete", name], check=True)


def test_a_network_namespace_by_path(container: Make, tmp_path: Path, netns: Path) -> None:
    one = started(container(counter(), namespace("network", netns)))
    inode = f"net:[{netns.stat().st_ino}]"
    assert namespace_of(one.pid, "net") == inode
    save(one, tmp_path / "images").ok()
    restore(one, tmp_path / "images").ok()
    assert namespace_of(one.pid, "net") == inode
    goes_on(one)


def test_a_pid_namespace_by_path(container: Make, tmp_path: Path) -> None:
    reaper = "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN); signal.pause()"  # a zombie keeps its pid
    command = ["unshare", "--pid", "--fork", "--kill-child", "/usr/bin/python3", "-I", "-S", "-c", reaper]
    holder = subprocess.Popen(command)
    try:
        children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children")
        wait_for(lambda: children.read_text().strip(), "the first process of the namespace")
        path = Path(f"/proc/{children.read_text().strip()}/ns/pid")
        one = started(container(counter(), namespace("pid", path)))
        save(one, tmp_path / "images").ok()
        restore(one, tmp_path / "images").ok()
        assert namespace_of(one.pid, "pid") == os.readlink(path)
        goes_on(one)
        one.runtime("delete", "--force", one.id).ok()
    finally:
        holder.kill()
        holder.wait()


NETWORK_HOOK = """echo ran >>{log}
pid=$(sed 's/.*"pid": *\\([0-9]*\\).*/\\1/' | head -1)
exec nsenter --net=/proc/$pid/ns/net ip link add made-by-hook type dummy"""


def test_an_empty_network_namespace(container: Make, tmp_path: Path) -> None:
    """What filled the network namespace does it again: the hooks run as they do when a container is created."""
    log = tmp_path / "hooks"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", NETWORK_HOOK.format(log=log)], "env": ["PATH=/usr/bin:/bin:/sbin"]}

    def change(config: Config) -> None:
        config["hooks"] = {"createRuntime": [hook]}

    one = started(container(counter(), change))
    assert "made-by-hook" in one.exec("ip", "link").ok().stdout
    save(one, tmp_path / "images", "--empty-ns", "network").ok()
    restore(one, tmp_path / "images", "--empty-ns", "network").ok()
    assert log.read_text() == "ran\nran\n"
    assert "made-by-hook" in one.exec("ip", "link").ok().stdout
    goes_on(one)


OTHER = {"user": user_namespace(), "cgroup": namespace("cgroup"), "time": namespace("time")}


@pytest.mark.parametrize("change", OTHER.values(), ids=OTHER)
def test_other_namespaces(container: Make, tmp_path: Path, change: Change) -> None:
    one = container(counter(), change)
    if change.__qualname__.startswith("user_namespace"):
        for path in (one.bundle.rootfs, *one.bundle.rootfs.rglob("*")):
            os.chown(path, 100000, 100000, follow_symlinks=False)
    started(one)
    look = "cat /proc/1/uid_map /proc/1/gid_map /proc/1/cgroup; id"
    before = one.exec("sh", "-c", look).ok().stdout
    save(one, tmp_path / "images").ok()
    restore(one, tmp_path / "images").ok()
    goes_on(one)
    assert one.exec("sh", "-c", look).ok().stdout == before


# Cgroups


def test_limits_are_those_of_the_bundle(container: Make, tmp_path: Path) -> None:
    one = started(container(counter(), resources(pids={"limit": 42}, memory={"limit": 256 << 20})))
    save(one, tmp_path / "images").ok()
    one.bundle.config["linux"]["resources"]["pids"] = {"limit": 43}
    one.bundle.write()
    restore(one, tmp_path / "images").ok()
    assert (one.cgroup("pids") / "pids.max").read_text() == "43\n"
    names = ("memory.max", "memory.limit_in_bytes")
    (limit,) = (one.cgroup("memory") / name for name in names if (one.cgroup("memory") / name).exists())
    assert int(limit.read_text()) == 256 << 20
    made = one.exec("--cap=CAP_MKNOD", "sh", "-c", "mknod /dev/kmsg c 1 11 && cat /dev/kmsg")
    assert made.status and "Operation not permitted" in made.stderr, made  # the rules for devices hold
    goes_on(one)


def test_a_paused_container(container: Make, tmp_path: Path) -> None:
    """As containerd does it. What comes back runs."""
    one = started(container(counter()))
    one.runtime("pause", one.id).ok()
    save(one, tmp_path / "left", "--leave-running").ok()
    assert one.status == "paused"
    one.runtime("resume", one.id).ok()
    goes_on(one)
    one.runtime("pause", one.id).ok()
    save(one, tmp_path / "images").ok()
    restore(one, tmp_path / "images").ok()
    assert one.status == "running"
    goes_on(one)
