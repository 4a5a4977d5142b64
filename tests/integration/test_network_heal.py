"""pyruntime-bridge after crashes, in wrong surroundings and with wrong orders: what is left is mended or explained."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.container import wait_for
from support.network import HOST4, OUTSIDE4, ROOT, Host

OPTIONS = ("--subnet", "10.87.0.0/16", "--subnet", "fd00:87::/64", "--publish", "8080:80", "--rate-out", "100mbit")

# The hook, killed like by `kill -9` just before its n-th change of files, links or rules.
DYING = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
left = int(sys.argv.pop(1))
def dying(change):
    def changed(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return change(*arguments, **options)
    return changed
from pyruntime.kernel import netlink
from pyruntime.network import cli, firewall, state
netlink.RouteSocket.send = dying(netlink.RouteSocket.send)
firewall._run = dying(firewall._run)
state._put = dying(state._put)
state._unlink = dying(state._unlink)
os.rmdir = dying(os.rmdir)
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    try:
        yield host
    finally:
        host.close()


def die(host: Host, moment: int, id: str, pid: int, *options: str) -> bool:
    """Call the hook and kill it at its `moment`-th change. False if it came to its end before."""
    state = {"ociVersion": "1.0.2", "id": id, "status": "created" if pid else "stopped", "pid": pid, "bundle": "/"}
    command = [sys.executable, "-c", DYING, str(moment), "--state-dir", str(host.state), *options]
    result = host.run(*command, input=json.dumps(state), env={})
    assert result.returncode in {0, -signal.SIGKILL}, result.stderr
    return result.returncode != 0


def test_killed_at_any_moment_of_setting_up_the_next_call_heals(host: Host) -> None:
    moment = 1
    while True:
        stand = host.serve("one", 80)
        died = die(host, moment, "one", stand.process.pid, *OPTIONS)
        if moment % 2:  # the runtime tries again
            result = host.hook("one", stand.process.pid, *OPTIONS)
            assert (result.returncode, result.stderr) == (0, "")
            assert host.ask("127.0.0.1", 8080) == "one 80 10.87.0.1"
            host.remove(stand)
        else:  # the container goes, without poststop; the next one finds the port and the names free
            stand.end()
            _wait_for_the_end_of_veths(host)
            other = host.container("other", *OPTIONS)
            assert host.ask("127.0.0.1", 8080) == "other 80 10.87.0.1"
            host.remove(other)
        host.assert_clean()
        if not died:
            break
        moment += 1
    assert moment > 15  # otherwise the hook was hardly killed at all


def test_killed_at_any_moment_of_tearing_down_the_next_call_heals(host: Host) -> None:
    moment = 1
    while True:
        one = host.container("one", *OPTIONS)
        one.end()
        died = die(host, moment, "one", 0)
        if moment % 2:
            assert host.hook("one", 0).returncode == 0
        else:
            host.remove(host.container("other", *OPTIONS))
        host.assert_clean()
        if not died:
            break
        moment += 1
    assert moment > 5


def _wait_for_the_end_of_veths(host: Host) -> None:
    """The kernel removes a network namespace, and the veth with it, some time after its last process."""
    wait_for(lambda: not any(name.startswith("pb") for name in host.links()), "the veth to go")


def test_called_twice_it_gives_the_same_address(host: Host) -> None:
    host.container("other", "--subnet", "10.87.0.0/16", "--subnet", "fd00:87::/64")
    one = host.container("one", *OPTIONS)
    before = host.addresses(one)
    assert host.hook("one", one.process.pid, *OPTIONS).returncode == 0
    assert host.addresses(one) == before
    assert host.ask(HOST4, 8080, netns=host.outside) == f"one 80 {OUTSIDE4}"


def test_tearing_down_twice_or_what_never_was_is_no_error(host: Host) -> None:
    one = host.container("one", *OPTIONS)
    host.remove(one)
    for id in ("one", "nobody"):
        result = host.hook(id, 0)
        assert (result.returncode, result.stderr, result.stdout) == (0, "", "")


def test_a_container_gone_without_poststop_gives_its_address_and_port_back(host: Host) -> None:
    one = host.container("one", "--subnet", "10.87.0.0/30", "--publish", "8080:80")  # room for one container only
    full = host.serve("full", 80)
    refused = host.hook("full", full.process.pid, "--subnet", "10.87.0.0/30")
    assert "all 1 addresses of 10.87.0.0/30 are taken" in refused.stderr
    one.end()
    _wait_for_the_end_of_veths(host)
    two = host.container("two", "--subnet", "10.87.0.0/30", "--publish", "8080:80")
    assert host.addresses(two) == {4: "10.87.0.2"}
    assert host.ask(HOST4, 8080, netns=host.outside) == f"two 80 {OUTSIDE4}"


def test_flushed_rules_come_back_with_the_next_container(host: Host) -> None:
    host.container("one", *OPTIONS)
    host.run("nft", "flush", "ruleset", check=True)
    assert host.ask(HOST4, 8080, netns=host.outside, timeout=0.3) is None
    host.container("two", "--subnet", "10.87.0.0/16", "--subnet", "fd00:87::/64")
    assert host.ask(HOST4, 8080, netns=host.outside) == f"one 80 {OUTSIDE4}"


def test_a_removed_bridge_comes_back_with_the_next_container(host: Host) -> None:
    host.container("one", *OPTIONS)
    host.ip("link", "del", "pyruntime0")
    two = host.container("two", "--subnet", "10.87.0.0/16", "--subnet", "fd00:87::/64")
    assert host.ask("10.87.0.2", 80, netns=two.netns) == "one 80 10.87.0.3"
    assert host.ask("127.0.0.1", 8080) == "one 80 10.87.0.1"


def test_a_damaged_record_is_no_obstacle(host: Host) -> None:
    one = host.container("one", *OPTIONS)
    for path in host.state.rglob("containers/*"):
        path.write_text('{"id": "on')
    two = host.container("two", "--subnet", "10.87.0.0/16", "--subnet", "fd00:87::/64")
    host.remove(one)
    host.remove(two)
    host.assert_clean()


def test_a_bridge_that_was_there_stays_as_it_was(host: Host) -> None:
    host.ip("link", "add", "mine", "type", "bridge")
    host.ip("addr", "add", "10.87.0.1/16", "dev", "mine")
    before = json.loads(host.ip("-j", "addr", "show", "mine"))[0]["addr_info"]
    one = host.container("one", "--bridge", "mine", *OPTIONS)
    assert host.ask("127.0.0.1", 8080) == "one 80 10.87.0.1"
    host.remove(one)
    assert (host.links(), host.tables(), host.files()) == ({"mine"}, "", [])
    after = json.loads(host.ip("-j", "addr", "show", "mine"))[0]["addr_info"]
    assert [a["local"] for a in after if a["scope"] == "global"] == [a["local"] for a in before]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--bridge", "uplink", "--subnet", "10.1.0.0/24"],
            "--bridge: uplink is an interface of kind veth, not a bridge",
        ),
        (
            ["--bridge", "br2", "--subnet", "192.0.2.128/25"],
            "--subnet: 192.0.2.128/25 overlaps with 192.0.2.1/24 of the host",
        ),
        (["--subnet", "10.88.0.0/16"], "the bridge pyruntime0 is in use with subnets: 10.87.0.0/16, not 10.88.0.0/16"),
        (["--bridge", "br2", "--subnet", "10.87.4.0/24"], "overlaps with 10.87.0.0/16 of the bridge pyruntime0"),
        (["--publish", "8080:80"], "--publish: port 8080/tcp of the host is already published by container first"),
        (["--publish", "8000-8100:80-180"], "--publish: port 8080/tcp of the host is already published by"),
        (["--publish", "9000:80"], "--publish: a program of the host already listens on port 9000/tcp"),
        (["--publish", "81:80", "--publish", "80-82:80-82"], "--publish: port 80/tcp is published twice"),
        (["--ip", "10.99.0.2"], "--ip: 10.99.0.2 is not in the subnet of the bridge pyruntime0 (10.87.0.0/16)"),
        (["--ip", "10.87.0.1"], "--ip: 10.87.0.1 is the address of the network or the bridge itself"),
        (["--ifname", "lo"], "the container's network namespace already has an interface lo"),
        (["--colour"], "unknown argument '--colour': see pyruntime-bridge --help"),
        (["--mtu"], "--mtu: BYTES is missing"),
    ],
)
def test_what_cannot_be_done_is_explained_and_leaves_nothing(host: Host, options: list[str], message: str) -> None:
    host.container("first", "--publish", "8080:80")
    host.serve("local", 9000, netns=host.netns)
    before = host.links(), sorted(host.files()), host.run("nft", "list", "ruleset").stdout
    stand = host.serve("stand", 80)
    result = host.hook("stand", stand.process.pid, *options)
    assert result.returncode != 0
    assert result.stderr.startswith("pyruntime-bridge: ") and message in result.stderr
    assert result.stderr.count("\n") == 1
    after = host.links(), sorted(f for f in host.files() if "/last" not in f), host.run("nft", "list", "ruleset").stdout
    assert after == (before[0], [f for f in before[1] if "/last" not in f], before[2])
    assert set(json.loads(host.run("ip", "-j", "link", netns=stand.netns).stdout)[0]["ifname"].split()) == {"lo"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the state on standard input is not JSON"),
        ("[]", "has no container id"),
        ('{"id": "x", "pid": "1"}', "the pid in the state on standard input is not a number"),
        ('{"id": "x", "pid": 4194304, "status": "created"}', "process 4194304 of container x is gone"),
        ('{"id": "x", "pid": 1, "annotations": {"a": 1}}', "annotations in the state on standard input"),
    ],
)
def test_a_state_that_makes_no_sense(host: Host, text: str, message: str) -> None:
    result = host.run(*host.argv(), input=text, env={})
    assert result.returncode == 1
    assert message in result.stderr and result.stderr.count("\n") == 1


def test_annotations_win_over_arguments_unless_shut_out(host: Host) -> None:
    annotations = {"org.pyruntime.network.publish": "8081:80/tcp, 8082:80", "org.pyruntime.network.ip": "10.87.3.3"}
    one = host.serve("one", 80)
    assert host.hook("one", one.process.pid, "--publish", "8080:80", annotations=annotations).returncode == 0
    assert host.addresses(one) == {4: "10.87.3.3"}
    assert host.ask(HOST4, 8081, netns=host.outside) == f"one 80 {OUTSIDE4}"
    assert host.ask(HOST4, 8082, netns=host.outside) == f"one 80 {OUTSIDE4}"
    assert host.ask(HOST4, 8080, netns=host.outside, timeout=0.3) is None
    two = host.serve("two", 80)
    options = ("--no-annotations", "--publish", "8080:80")
    assert host.hook("two", two.process.pid, *options, annotations=annotations).returncode == 0
    assert host.ask(HOST4, 8080, netns=host.outside) == f"two 80 {OUTSIDE4}"
    for name, value, message in (
        ("publish", "nonsense", "annotation org.pyruntime.network.publish: 'nonsense': say which port"),
        ("state-dir", "/tmp", "annotation org.pyruntime.network.state-dir: there is no such option for a container"),
        ("isolate", "maybe", "annotation org.pyruntime.network.isolate: 'maybe': say true or false"),
    ):
        three = host.serve("three", 80)
        result = host.hook("three", three.process.pid, annotations={f"org.pyruntime.network.{name}": value})
        assert result.returncode == 1 and message in result.stderr


def test_mode_none_the_host_s_network_and_another_container_s(host: Host) -> None:
    none = host.serve("none", 80)
    assert host.hook("none", none.process.pid, "--mode", "none").returncode == 0
    shared = host.serve("shared", 8000, netns=host.netns)
    result = host.hook("shared", shared.process.pid)
    assert (result.returncode, result.stderr) == (
        0, "pyruntime-bridge: shared shares the network of the host: nothing to set up\n"
    )  # fmt: skip
    assert host.links() == set()
    first = host.container("first", "--publish", "8080:80")
    joined = host.serve("joined", 81, netns=first.netns)
    result = host.hook("joined", joined.process.pid, "--publish", "8080:80")
    assert (result.returncode, result.stderr) == (0, "")
    assert host.hook("joined", 0).returncode == 0  # the one that leaves takes nothing with it
    assert host.ask(HOST4, 8080, netns=host.outside) == f"first 80 {OUTSIDE4}"
    host.remove(first)
    host.assert_clean()


def test_list_shows_who_has_what(host: Host) -> None:
    host.container("web", *OPTIONS, "--publish", "[::1]:53:53/udp")
    lines = host.run(*host.argv("--list")).stdout.splitlines()
    assert lines[0].split() == ["CONTAINER", "BRIDGE", "INTERFACE", "ADDRESSES", "PUBLISHED"]
    assert lines[1].split() == [
        "web",
        "pyruntime0",
        "eth0",
        "10.87.0.2",
        "fd00:87::2",
        "8080:80/tcp",
        "[::1]:53:53/udp",
    ]
    assert lines[2:] == []


def test_help_names_every_option() -> None:
    from pyruntime.network.options import OPTIONS as KNOWN

    result = subprocess.run(
        [sys.executable, "-m", "pyruntime.network.cli", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert all(f"--{name} " in result.stdout for name in KNOWN)
    assert max(map(len, result.stdout.splitlines())) <= 120
    assert os.geteuid() == 0
