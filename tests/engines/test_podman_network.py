"""Podman's own networks: published ports and pods, all inside a network namespace that the test makes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from engines.engine import IMAGE, call, lines, need
from engines.podman import Podman, remove_false_cgroups
from support.container import wait_for

pytestmark = pytest.mark.skipif(
    bool(need("podman", "conmon", "ip", "nsenter", "iptables")), reason="podman, iproute2 or iptables is not installed"
)

# What answers: busybox' httpd, with the file system of the image as its pages.
FETCH = r"printf 'GET /group HTTP/1.0\r\n\r\n' | nc -w 5 $1 80"  # a static wget cannot look names up
SERVE = ("httpd", "-f", "-p", "80", "-h", "/etc")


class Network:
    """A network namespace, and podman inside of it."""

    def __init__(self, podman: Podman) -> None:
        self.name = f"podman-test-{os.getpid()}"
        self.podman = podman
        call("ip", "netns", "add", self.name).ok()
        self.inside = ("nsenter", f"--net=/run/netns/{self.name}")
        call(*self.inside, "ip", "link", "set", "lo", "up").ok()

    def __call__(self, *arguments: str, **options: object) -> str:
        """podman, with the network that it has by default."""
        argv = self.podman.argv(*arguments)
        return call(*self.inside, *argv, env=self.podman.env, **options).ok().stdout  # type: ignore[arg-type]

    def get(self, url: str) -> str:
        script = "import sys, urllib.request as r; sys.stdout.write(r.urlopen(sys.argv[1], timeout=2).read().decode())"
        return call(*self.inside, sys.executable, "-c", script, url).stdout

    def close(self) -> None:
        try:
            # Podman 4.3 gives up when conmon still is in the cgroup of the pod, and succeeds a moment later.
            remove_false_cgroups()
            remove = [self.podman.argv(*words, "rm", "--all", "--force", "--time", "0") for words in (("pod",), ())]
            wait_for(
                lambda: all(call(*self.inside, *argv, env=self.podman.env).status == 0 for argv in remove),
                "the end",
                20,
            )
        finally:
            call("ip", "netns", "delete", self.name).ok()


@pytest.fixture
def network(podman: Podman) -> Iterator[Network]:
    network = Network(podman)
    try:
        yield network
    finally:
        network.close()


def test_publishes_a_port(network: Network) -> None:
    network("run", "--detach", "--network", "podman", "--name", "one", "--publish", "127.0.0.1:8080:80", IMAGE, *SERVE)
    wait_for(lambda: "root:x:0:0" in network.get("http://127.0.0.1:8080/passwd"), "the page")
    assert network("port", "one") == "80/tcp -> 127.0.0.1:8080\n"
    network("restart", "--time", "0", "one")
    wait_for(lambda: "root:x:0:0" in network.get("http://127.0.0.1:8080/passwd"), "the page again")
    network("stop", "--time", "0", "one")
    assert network.get("http://127.0.0.1:8080/passwd") == ""


def test_containers_reach_each_other(network: Network) -> None:
    network("run", "--detach", "--network", "podman", "--name", "one", IMAGE, *SERVE)
    address = network("inspect", "--format", "{{.NetworkSettings.Networks.podman.IPAddress}}", "one").strip()
    page = network("run", "--rm", "--network", "podman", IMAGE, "sh", "-c", FETCH, "sh", address)
    assert "root:x:0:" in page


def test_a_pod_has_one_network_with_its_ports(network: Network) -> None:
    network("pod", "create", "--name", "pod", "--network", "podman", "--publish", "127.0.0.1:8081:80",
            "--hostname", "shared")  # fmt: skip
    network("run", "--detach", "--pod", "pod", "--name", "server", IMAGE, *SERVE)
    wait_for(lambda: "root:x:0:0" in network.get("http://127.0.0.1:8081/passwd"), "the page")
    told = network("run", "--rm", "--pod", "pod", IMAGE, "sh", "-c", FETCH + "; hostname", "sh", "127.0.0.1")
    assert "root:x:0:" in told and told.endswith("shared\n")


def test_plays_a_kubernetes_pod(network: Network) -> None:
    document = lines(
        "apiVersion: v1",
        "kind: Pod",
        "metadata:",
        "  name: web",
        "spec:",
        "  hostname: webhost",
        "  containers:",
        "  - name: server",
        f"    image: {IMAGE}",
        '    command: ["httpd", "-f", "-p", "80", "-h", "/data"]',
        "    ports: [{containerPort: 80, hostPort: 8082, hostIP: 127.0.0.1}]",
        "    resources: {limits: {memory: 64Mi}}",
        "    securityContext: {runAsUser: 0, readOnlyRootFilesystem: true, capabilities: {drop: [CHOWN]}}",
        "    volumeMounts: [{name: data, mountPath: /data}]",
        "  volumes:",
        "  - name: data",
        "    emptyDir: {}",
    )
    network("kube", "play", "--network", "podman", "-", stdin=document.encode())
    network("exec", "web-server", "sh", "-c", "hostname >/data/name; ! touch /not-writable")
    wait_for(lambda: network.get("http://127.0.0.1:8082/name") == "webhost\n", "the page")
    down = network.podman.argv("kube", "down", "-")
    call(*network.inside, *down, env=network.podman.env, stdin=document.encode())  # see close() about its status
    wait_for(lambda: network("ps", "--all", "--quiet") == "", "the pod to end")
    assert network("ps", "--all", "--quiet") == ""
