"""pyruntime-bridge as a hook of real runtimes: pyruntime, runc, crun, and podman with --hooks-dir."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.bundles import Bundle, copy_tree, default_config
from support.container import new_id, wait_for
from support.network import HOST4, Host
from support.runtime import LAUNCHER

# crun refuses a host with controllers on both cgroup hierarchies, so it gets to see one of them only.
ONE_HIERARCHY = ["unshare", "--mount", "sh", "-c", 'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"', "sh"]

NETWORK = ("--subnet", "10.87.0.0/16", "--subnet", "fd00:87::/64")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    try:
        yield host
    finally:
        host.close()


class Engine:
    """Runs containers with a runtime in the host's network namespace, and removes them at the end."""

    def __init__(self, host: Host, program: list[str], directory: Path, rootfs: Path) -> None:
        self.host = host
        self.program = [*program, "--root", str(directory / "state")]
        self.directory = directory
        self.rootfs = rootfs
        self.ids: list[str] = []
        self.change: Callable[[dict[str, Any]], object] = lambda config: None

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        with (self.directory / "out").open("w+") as out:  # a detached container keeps its streams open
            command = ["nsenter", f"--net={self.host.netns}", "--", *self.program, *words]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=60, check=False)
            out.seek(0)
            return subprocess.CompletedProcess(command, done.returncode, out.read(), "")

    def run(self, script: str, *options: str, **annotations: str) -> tuple[str, subprocess.CompletedProcess[str]]:
        """`run --detach` of a shell script with the hook; the id and how it went."""
        id = new_id("n")
        path = self.directory / id
        path.mkdir()
        copy_tree(self.rootfs, path / "rootfs")
        config = default_config(["sh", "-c", script])
        config["process"]["capabilities"] = {
            kind: ["CAP_NET_BIND_SERVICE", "CAP_NET_RAW"] for kind in ("bounding", "effective", "permitted")
        }
        config["annotations"] = {f"org.pyruntime.network.{key}": value for key, value in annotations.items()}
        argv = self.host.argv(*options)
        hook: dict[str, Any] = {"path": argv[0], "args": argv, "env": []}
        config["hooks"] = {"createRuntime": [hook], "poststop": [hook]}
        self.change(config)
        Bundle(path, config)
        self.ids.append(id)
        return id, self.call("run", "--detach", "--bundle", str(path), id)

    def delete(self, id: str) -> None:
        self.call("delete", "--force", id)

    def close(self) -> None:
        for id in self.ids:
            self.delete(id)


@pytest.fixture(params=["pyruntime", "runc", "crun"])
def engine(request: pytest.FixtureRequest, host: Host, rootfs: Path) -> Iterator[Engine]:
    program = shutil.which(str(LAUNCHER) if request.param == "pyruntime" else request.param)
    if program is None:
        pytest.skip(f"{request.param} is not installed")
    # Not tmp_path: the root of a user namespace, who is nobody here, must be able to get there.
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o711)
        words = [*(ONE_HIERARCHY if request.param == "crun" else []), program]
        engine = Engine(host, words, Path(directory), rootfs)
        try:
            yield engine
        finally:
            engine.close()


def ask(host: Host, address: str, port: int, netns: str | None = None) -> str:
    """The answer once the container's server is up."""
    answers: list[str | None] = []

    def answered() -> bool:
        answers.append(host.ask(address, port, netns=netns, timeout=1))
        return answers[-1] is not None

    wait_for(answered, f"an answer from {address} port {port}")
    return answers[-1] or ""


def test_a_container_gets_its_network_and_loses_it(host: Host, engine: Engine) -> None:
    first, result = engine.run("exec nc -ll -p 80 -e echo first", *NETWORK, publish="8080:80")
    assert result.returncode == 0, result.stdout
    second, result = engine.run("exec nc -ll -p 80 -e echo second", *NETWORK)
    assert result.returncode == 0, result.stdout
    assert ask(host, HOST4, 8080, host.outside) == "first"
    assert ask(host, "127.0.0.1", 8080) == "first"
    assert ask(host, "10.87.0.3", 80) == "second"
    assert ask(host, "fd00:87::3", 80) == "second"
    engine.delete(first)
    assert host.ask(HOST4, 8080, netns=host.outside, timeout=0.3) is None
    engine.delete(second)
    host.assert_clean()


def test_a_hook_that_fails_stops_the_container(host: Host, engine: Engine) -> None:
    _, result = engine.run("sleep 60", "--publish", "8080")
    assert result.returncode != 0
    assert "--publish: '8080': say which port of the host and which of the container" in result.stdout or (
        engine.program[0] == "unshare"  # crun throws the output of hooks away
    )
    host.assert_clean()


def test_names_are_resolved_as_asked(host: Host, engine: Engine) -> None:
    script = (
        "cat /etc/resolv.conf /etc/hosts > /seen; grep -c resolv /proc/self/mounts >> /seen; mv /seen /all; sleep 60"
    )
    options = ("--dns", "9.9.9.9", "--dns-search", "example.org", "--hosts", "--add-host", "db:10.0.0.7")
    id, result = engine.run(script, *options, dns="192.0.2.53,2001:db8::53")
    assert result.returncode == 0, result.stdout
    seen = engine.directory / id / "rootfs" / "all"
    wait_for(seen.exists, "the container to have looked")
    assert seen.read_text().splitlines() == [
        "search example.org",
        "nameserver 192.0.2.53",
        "nameserver 2001:db8::53",
        "127.0.0.1 localhost",
        "::1 localhost ip6-localhost ip6-loopback",
        "10.87.0.2 pyruntime",
        "10.0.0.7 db",
        "1",
    ]
    # The files of the rootfs itself are not written to, and no mount is left on the host.
    assert (engine.directory / id / "rootfs" / "etc" / "hosts").read_text() == ""
    assert id not in Path("/proc/self/mounts").read_text()
    engine.delete(id)
    host.assert_clean()


def test_a_link_in_the_rootfs_does_not_lead_out(host: Host, engine: Engine, tmp_path: Path) -> None:
    """resolv.conf as a symbolic link to a path of the host: it is followed as the container would follow it."""
    target = tmp_path / "outside"
    target.write_text("untouched")
    (engine.rootfs / "etc").mkdir(exist_ok=True)
    rootfs = copy_tree(engine.rootfs, tmp_path / "evil")
    (rootfs / "etc" / "resolv.conf").symlink_to(target)
    engine.rootfs = rootfs
    id, result = engine.run("cat /etc/resolv.conf > /seen; mv /seen /all; sleep 60", "--dns", "9.9.9.9")
    assert result.returncode == 0, result.stdout
    seen = engine.directory / id / "rootfs" / "all"
    wait_for(seen.exists, "the container to have looked")
    assert seen.read_text() == "nameserver 9.9.9.9\n"
    assert target.read_text() == "untouched"
    assert str(target) not in Path("/proc/self/mounts").read_text()


def test_podman_calls_it_from_its_hooks_directory(host: Host, tmp_path: Path, rootfs: Path) -> None:
    podman = shutil.which("podman")
    if podman is None:
        pytest.skip("podman is not installed")
    hooks = tmp_path / "hooks.d"
    hooks.mkdir()
    argv = host.argv()
    hook = {
        "version": "1.0.0",
        "hook": {"path": argv[0], "args": argv},
        "when": {"annotations": {"^org[.]pyruntime[.]network[.]": ".*"}},
        "stages": ["createRuntime", "poststop"],
    }
    (hooks / "bridge.json").write_text(json.dumps(hook))
    runroot = tempfile.mkdtemp(prefix="p")  # podman wants a short path
    storage = ["--root", str(tmp_path / "storage"), "--runroot", runroot, "--cgroup-manager=cgroupfs"]
    base = ["nsenter", f"--net={host.netns}", "--", podman, *storage, "--runtime", "runc", "--events-backend=none"]
    base += ["--storage-driver=vfs", "--hooks-dir", str(hooks)]
    name = new_id("p")
    options = ["--network", "none", "--log-driver=none", "--annotation", "org.pyruntime.network.publish=8080:80"]
    options += ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]  # more takes CAP_SYS_RESOURCE
    copy = copy_tree(rootfs, tmp_path / "rootfs")
    try:
        command = [*base, "run", "-d", "--name", name, *options, "--rootfs", str(copy)]
        result = subprocess.run(
            [*command, "nc", "-ll", "-p", "80", "-e", "echo", "podman"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        assert ask(host, HOST4, 8080, host.outside) == "podman"
    finally:
        subprocess.run([*base, "rm", "-f", "-t", "0", name], capture_output=True, timeout=60, check=False)
        shutil.rmtree(runroot)
    host.assert_clean()


def test_a_container_with_a_user_namespace(host: Host, engine: Engine) -> None:
    """Its network and mount namespaces belong to a user who is nobody on the host."""
    script = "cat /etc/resolv.conf > /tmp/seen; exec nc -ll -p 80 -e cat /tmp/seen"
    engine.change = _map_users
    _, result = engine.run(script, *NETWORK, "--dns", "9.9.9.9", publish="8080:80")
    assert result.returncode == 0, result.stdout
    assert ask(host, HOST4, 8080, host.outside) == "nameserver 9.9.9.9"


def _map_users(config: dict[str, Any]) -> None:
    config["linux"]["namespaces"].append({"type": "user"})
    for kind in ("uidMappings", "gidMappings"):
        config["linux"][kind] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    # A user namespace may mount neither of these on a host that hides parts of them.
    config["mounts"] = [mount for mount in config["mounts"] if mount["type"] not in {"cgroup", "mqueue"}]


@pytest.mark.parametrize("engine", ["pyruntime"], indirect=True)  # others may be older than runtime spec 1.3
def test_an_interface_of_the_host_moves_in(host: Host, engine: Engine) -> None:
    """`linux.netDevices` end to end."""
    host.ip("link", "add", "lan", "type", "veth", "peer", "name", "lan-peer")
    host.ip("addr", "add", "10.5.0.1/24", "dev", "lan-peer")
    host.ip("link", "set", "lan-peer", "up")
    host.ip("addr", "add", "10.5.0.7/24", "dev", "lan")
    host.ip("link", "set", "lan", "mtu", "1442")
    engine.change = lambda config: config["linux"].update(netDevices={"lan": {"name": "net%d"}})
    id, result = engine.run("exec nc -ll -p 80 -e cat /sys/class/net/net0/mtu", mode="none")
    assert result.returncode == 0, result.stdout
    assert ask(host, "10.5.0.7", 80) == "1442"
    assert host.links() == {"lan-peer"}
    engine.delete(id)
    wait_for(lambda: host.links() == set(), "the pair to go with the namespace")
    # What cannot move is an error, and nothing has moved.
    engine.change = lambda config: config["linux"].update(netDevices={"uplink": {}, "nowhere": {}})
    _, result = engine.run("true", mode="none")
    assert result.returncode != 0
    assert "linux.netDevices.nowhere: no such interface" in result.stdout
    assert host.run("ip", "link", "show", "uplink").returncode == 0
