"""`lo` of a new network namespace goes up, and nothing is left open.

A user namespace of the test's own gives the right to do it, so no root is needed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pyruntime.kernel import loopback
before = os.listdir("/proc/self/fd")
for _ in range(2):
    loopback.up()
assert os.listdir("/proc/self/fd") == before, "a descriptor is left"
import _socket
server = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
server.bind(("127.0.0.1", 0))
server.listen(1)
client = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
client.connect(server.getsockname())
client.send(b"over lo")
print(_socket.socket(fileno=server._accept()[0]).recv(100).decode())
"""

ROOT = Path(__file__).resolve().parents[2]


def unshared(*flags: str) -> subprocess.CompletedProcess[str]:
    command = ["unshare", *flags, sys.executable, "-I", "-S", "-c", PROGRAM, str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "unshare failed" in result.stderr:
        pytest.skip("no user namespaces for this user: " + result.stderr.strip())
    return result


def test_loopback_carries_packets_after_up() -> None:
    result = unshared("-Urn")
    assert (result.stdout, result.stderr) == ("over lo\n", "")


def test_without_the_right_it_says_so() -> None:
    """A second user namespace has every capability, but not over the network namespace of the first."""
    result = unshared("-Urn", "unshare", "-U")
    assert "PermissionError: [Errno 1]" in result.stderr
