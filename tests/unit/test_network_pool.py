"""Addresses: never twice, never one of the network's own, each rests as long as possible; the records behind it."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyruntime.errors import RuntimeFailure
from pyruntime.network import firewall, names
from pyruntime.network.options import parse
from pyruntime.network.pool import choose
from pyruntime.network.state import State, prefix, veth_name


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with State(str(tmp_path)) as state:
        state.save_network("pyruntime0", {})
        yield state


def give(state: State, name: str, *arguments: str, before: list[str] | None = None) -> list[str]:
    options = parse(arguments)
    options.check()
    addresses = choose(state, options, before or [])
    state.save({"veth": name, "id": name, "bridge": "pyruntime0", "addresses": addresses})
    for address in addresses:
        state.lease("pyruntime0", address, name)
    return addresses


def test_one_after_the_other(state: State) -> None:
    both = ("--subnet", "10.0.0.0/24", "--subnet", "fd00::/64")
    assert [give(state, str(number), *both) for number in range(3)] == [
        ["10.0.0.2", "fd00::2"], ["10.0.0.3", "fd00::3"], ["10.0.0.4", "fd00::4"]
    ]  # fmt: skip
    state.forget("0")
    assert give(state, "again", *both) == ["10.0.0.5", "fd00::5"]  # the freed one rests


def test_all_and_then_an_error_that_says_so(state: State) -> None:
    small = ("--subnet", "10.0.0.0/29")
    given_out = [give(state, str(number), *small)[0] for number in range(5)]
    assert given_out == ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]
    with pytest.raises(RuntimeFailure, match=r"all 5 addresses of 10\.0\.0\.0/29 are taken"):
        give(state, "late", *small)
    state.forget("3")
    assert give(state, "late", *small) == ["10.0.0.5"]


def test_asked_for_and_the_one_it_had_before(state: State) -> None:
    assert give(state, "a", "--ip", "10.87.0.9") == ["10.87.0.9"]
    with pytest.raises(RuntimeFailure, match=r"container a already has 10\.87\.0\.9"):
        give(state, "b", "--ip", "10.87.0.9")
    assert give(state, "b", before=["10.87.0.77"]) == ["10.87.0.77"]
    assert give(state, "c", before=["10.87.0.77"]) == ["10.87.0.2"]  # taken meanwhile
    assert give(state, "d", before=["192.168.0.1"]) == ["10.87.0.3"]  # of another subnet


@given(st.lists(st.one_of(st.just("give"), st.integers(0, 30)), max_size=60))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_comes_and_goes_no_address_is_given_twice(tmp_path: Path, events: list[str | int]) -> None:
    subnet = ipaddress.ip_network("10.0.0.0/28")
    held: dict[str, str] = {}
    with State(str(tmp_path)) as state:
        state.forget_network("pyruntime0")
        state.save_network("pyruntime0", {})
        for number, event in enumerate(events):
            if event == "give":
                if len(held) == subnet.num_addresses - 3:
                    continue
                (address,) = give(state, f"c{number}", "--subnet", str(subnet))
                assert address not in held.values()
                assert ipaddress.ip_address(address) in list(subnet.hosts())[1:]
                held[f"c{number}"] = address
            elif isinstance(event, int) and held:
                name = sorted(held)[event % len(held)]
                state.forget(name)
                del held[name]
        assert state.leases("pyruntime0") == set(held.values())
        for name in held:
            state.forget(name)


def test_a_damaged_record_gives_its_leases_back(state: State) -> None:
    give(state, "a")
    Path(state.path, "containers", "a").write_text('{"id": "a", "addr')
    assert state.record("a") is None
    state.forget("a")
    assert (state.leases("pyruntime0"), state.names()) == (set(), [])


def test_half_written_files_are_not_seen(state: State) -> None:
    Path(state.path, "containers", ".pbx.new").write_text("{")
    Path(state.path, "networks", "pyruntime0", "leases", ".10.0.0.2.new").write_text("")
    assert (state.names(), state.leases("pyruntime0")) == ([], set())
    state.forget_network("pyruntime0")
    assert state.bridges() == []


def test_the_state_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with State(str(tmp_path / "new")) as state:
            state.save_network("br0", {})
            state.lease("br0", "10.0.0.2", "a")
            state.save({"veth": "a"})
    finally:
        os.umask(before)
    assert [path for path in (tmp_path / "new").rglob("*") if path.stat().st_mode & 0o022] == []
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(RuntimeFailure, match="others may write to it"):
        State(str(tmp_path / "open")).__enter__()


@given(st.text(min_size=1), st.text(min_size=1, max_size=15))
def test_names_of_veths_fit_the_kernel(container: str, ifname: str) -> None:
    name = veth_name(container, ifname)
    assert len(name) == 15 and name.isascii() and name.startswith(prefix(container))


def test_what_a_container_puts_into_the_table() -> None:
    record = {
        "addresses": ["10.87.0.2", "fd00::2"],
        "publish": [
            ["tcp", None, 8080, 80, 1],
            ["udp", "192.0.2.1", 53, 5353, 2],
            ["tcp", "::1", 7000, 7000, 10],
        ],
    }
    assert firewall.container_elements(record) == [
        ("publish4", "tcp . 0.0.0.0/0 . 8080 : 10.87.0.2 . 80"),
        ("publish4", "udp . 192.0.2.1 . 53 : 10.87.0.2 . 5353"),
        ("publish4", "udp . 192.0.2.1 . 54 : 10.87.0.2 . 5354"),
        ("publish6", "tcp . ::/0 . 8080 : fd00::2 . 80"),
        ("ranges6", "tcp . ::1 . 7000-7009 : fd00::2"),
    ]


def test_the_text_of_resolv_conf_and_hosts() -> None:
    nothing = parse([])
    assert names.texts(nothing, ["10.0.0.2"], "web") == {}
    asked = parse(["--dns", "9.9.9.9", "--dns-option", "ndots:2", "--dns-search", "a.org", "--add-host", "db:fd00::7"])
    assert names.texts(asked, ["10.0.0.2", "fd00::2"], "web") == {
        "resolv.conf": "search a.org\nnameserver 9.9.9.9\noptions ndots:2\n",
        "hosts": "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
        "10.0.0.2 web\nfd00::2 web\nfd00::7 db\n",
    }


def test_a_file_is_written_whole_also_when_the_kernel_takes_it_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    with State(str(tmp_path)) as state:
        state.save_file("pb0", "hosts", "127.0.0.1 localhost\n" * 3)
        assert Path(state.file("pb0", "hosts")).read_text() == "127.0.0.1 localhost\n" * 3
