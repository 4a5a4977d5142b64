"""A host for network tests that is not the real one: network namespaces, a neighbour outside, containers, a clock.

Everything of the hook happens in the network namespace of `Host`: its bridge, its nftables table, its sysctls. The
namespace `outside` is connected with it by a cable (a veth pair). No packet leaves these namespaces.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

HOST4, HOST6 = "192.0.2.1", "2001:db8::1"
OUTSIDE4, OUTSIDE6 = "192.0.2.2", "2001:db8::2"

PROGRAM = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pyruntime.network.cli import main
sys.exit(main(sys.argv[1:]))
"""

# Answers every TCP connection and every UDP packet with its name and the address it sees the client come from.
SERVER = """
import selectors, socket, sys
name, ports = sys.argv[1], [int(word) for word in sys.argv[2:]]
waiting = selectors.DefaultSelector()
for port in ports:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            sock = socket.socket(family, kind)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address, port))
            if kind == socket.SOCK_STREAM:
                sock.listen(64)
            waiting.register(sock, selectors.EVENT_READ, (kind, port))
print("ready", flush=True)
while True:
    for key, _ in waiting.select():
        kind, port = key.data
        if kind == socket.SOCK_STREAM:
            connection, client = key.fileobj.accept()
            with connection:
                connection.sendall(f"{name} {port} {client[0]}".encode())
        else:
            client = key.fileobj.recvfrom(100)[1]
            key.fileobj.sendto(f"{name} {port} {client[0]}".encode(), client)
"""

CLIENT = """
import socket, sys
kind, address, port, timeout, source = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])
sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET,
                     socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
sock.settimeout(timeout)
if source:
    sock.bind(("", source))
try:
    sock.connect((address, port))
    if kind == "udp":
        sock.send(b"?")
    print(sock.recv(100).decode())
except OSError:
    pass
"""


class Stand:
    """What stands in for a container where a test needs no runtime: a server in a network namespace of its own."""

    def __init__(self, id: str, process: subprocess.Popen[str]) -> None:
        self.id = id
        self.process = process

    @property
    def netns(self) -> str:
        return f"/proc/{self.process.pid}/ns/net"

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


class Host:
    """Two network namespaces and what the hook does in the first. `close()` removes all of it."""

    _numbers = itertools.count(1)

    def __init__(self, directory: Path) -> None:
        number = f"{os.getpid()}-{next(self._numbers)}"
        self.state = directory / "bridge-state"
        self.name, self.outside_name = f"nthost{number}", f"ntout{number}"
        self.netns, self.outside = f"/run/netns/{self.name}", f"/run/netns/{self.outside_name}"
        self.stands: list[Stand] = []
        self._made: list[str] = []
        try:
            for name in (self.name, self.outside_name):
                subprocess.run(["ip", "netns", "add", name], check=True)
                self._made.append(name)
            self._cable()
        except BaseException:
            self.close()
            raise

    def _cable(self) -> None:
        self.ip("link", "add", "uplink", "type", "veth", "peer", "name", "uplink", "netns", self.outside_name)
        for name, four, six in ((self.name, HOST4, HOST6), (self.outside_name, OUTSIDE4, OUTSIDE6)):
            for words in (
                ["link", "set", "lo", "up"],
                ["addr", "add", f"{four}/24", "dev", "uplink"],
                ["addr", "add", f"{six}/64", "dev", "uplink", "nodad"],
                ["link", "set", "uplink", "up"],
            ):
                subprocess.run(["ip", "-n", name, *words], check=True)

    def close(self) -> None:
        for stand in self.stands:
            stand.end()
        for name in self._made:
            subprocess.run(["ip", "netns", "del", name], check=False)

    def ip(self, *words: str) -> str:
        return subprocess.run(["ip", "-n", self.name, *words], check=True, capture_output=True, text=True).stdout

    def run(
        self, *argv: str, netns: str | None = None, check: bool = False, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """A command in the host's network namespace, or in another one."""
        command = ["nsenter", f"--net={netns or self.netns}", "--", *argv]
        return subprocess.run(command, check=check, capture_output=True, text=True, **options)

    def serve(self, name: str, *ports: int, netns: str | None = None) -> Stand:
        """Start a server, in a new network namespace unless one is named, and wait until it listens."""
        new = ["unshare", "--net"] if netns is None else ["nsenter", f"--net={netns}"]
        command = [*new, "--", sys.executable, "-I", "-S", "-c", SERVER, name, *map(str, ports)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        stand = Stand(name, process)
        self.stands.append(stand)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        return stand

    def argv(self, *options: str) -> list[str]:
        return [sys.executable, "-c", PROGRAM, "--state-dir", str(self.state), *options]

    def hook(
        self, id: str, pid: int, *options: str, annotations: dict[str, str] | None = None, bundle: str = "/"
    ) -> subprocess.CompletedProcess[str]:
        """Call the hook as a runtime does; pid 0 tears down."""
        status = "created" if pid else "stopped"
        state = {"ociVersion": "1.0.2", "id": id, "status": status, "pid": pid, "bundle": bundle}
        if annotations is not None:
            state["annotations"] = annotations
        return self.run(*self.argv(*options), input=json.dumps(state), env={})

    def container(self, id: str, *options: str, ports: tuple[int, ...] = (80,)) -> Stand:
        """A server with a network from the hook."""
        stand = self.serve(id, *ports)
        result = self.hook(id, stand.process.pid, *options)
        assert (result.returncode, result.stderr, result.stdout) == (0, "", "")
        return stand

    def remove(self, stand: Stand) -> None:
        """The end of a container, as runtimes do it: first the process, then poststop."""
        stand.end()
        result = self.hook(stand.id, 0)
        assert (result.returncode, result.stderr) == (0, "")

    def addresses(self, stand: Stand, interface: str = "eth0") -> dict[int, str]:
        """The global addresses of a container, by IP version."""
        text = self.run("ip", "-j", "addr", "show", interface, netns=stand.netns, check=True).stdout
        return {
            6 if one["family"] == "inet6" else 4: one["local"]
            for one in json.loads(text)[0]["addr_info"]
            if one["scope"] == "global"
        }

    def ask(
        self,
        address: str,
        port: int,
        *,
        netns: str | None = None,
        kind: str = "tcp",
        timeout: float = 2,
        source: int = 0,
    ) -> str | None:
        """What the server at address and port answers to somebody in `netns` (the host), or None."""
        client = [sys.executable, "-I", "-S", "-c", CLIENT, kind, address, str(port), str(timeout), str(source)]
        return self.run(*client, netns=netns).stdout.strip() or None

    def links(self) -> set[str]:
        """All interfaces of the host but its own."""
        return {link["ifname"] for link in json.loads(self.ip("-j", "link"))} - {"lo", "uplink"}

    def tables(self) -> str:
        return self.run("nft", "list", "tables", check=True).stdout

    def files(self) -> list[str]:
        """All files of the hook's state but the lock."""
        return [str(path) for path in self.state.rglob("*") if path.is_file() and path.name != "lock"]

    def assert_clean(self) -> None:
        assert (self.links(), self.tables(), self.files()) == (set(), "", [])
