"""The options of pyruntime-bridge: what is understood, what is refused, and that nothing strange gets through."""

from __future__ import annotations

import ipaddress
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyruntime.errors import RuntimeFailure
from pyruntime.network.options import (
    ANNOTATION,
    OPTIONS,
    PROTOCOLS,
    Settings,
    annotate,
    overlap,
    parse,
    parse_publish,
    parse_rate,
)

ports = st.integers(1, 65535)
addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


def test_nothing_asked_is_a_bridge_with_the_default_subnet() -> None:
    settings = parse([])
    settings.check()
    assert (settings.bridge, settings.ifname, settings.mode) == ("pyruntime0", "eth0", "bridge")
    assert [str(subnet) for subnet in settings.subnets] == ["10.87.0.0/16"]


@given(st.one_of(st.none(), addresses), ports, ports, st.integers(0, 300), st.sampled_from(["", *PROTOCOLS]))
def test_publish_means_what_it_says(
    host: ipaddress.IPv4Address | ipaddress.IPv6Address | None, outside: int, inside: int, more: int, protocol: str
) -> None:
    more = min(more, 65535 - max(outside, inside))
    first = f"{outside}-{outside + more}" if more else str(outside)
    second = f"{inside}-{inside + more}" if more else str(inside)
    where = "" if host is None else f"[{host}]:" if host.version == 6 else f"{host}:"
    one = parse_publish(f"{where}{first}:{second}" + (f"/{protocol}" if protocol else ""))
    assert (one.host_port, one.port, one.count, one.protocol) == (outside, inside, more + 1, protocol or "tcp")
    assert one.host == (None if host is None or host.is_unspecified else host)


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "80", "80:", ":80", "0:80", "80:0", "65536:80", "-1:80", "a:80", "80:80/", "80:80/icmp", "80:80/TCP",
        "80-81:80", "81-80:81-80", "1-:1-", "1.2.3:80:80", "1.2.3.4:80", "::1:80:80", "[::1]80:80", "[::1:80:80",
        "[::1%a]:80:80", "1.2.3.4:80:80:80", "8 0:80", "\uff18\uff10:80", "[1.2.3.4]80:80",
    ],
)  # fmt: skip
def test_publish_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_publish(text)


@given(st.text(alphabet=string.printable + "é%{};\0", max_size=40))
def test_what_is_taken_is_harmless_in_the_text_of_a_rule(text: str) -> None:
    """Names and addresses become part of a script for nft and of /etc/hosts: no option lets other characters in."""
    for name, option in OPTIONS.items():
        if option.value is None or name in {"state-dir", "dns-option"}:
            continue
        settings = Settings()
        try:
            option.take(settings, text)
        except ValueError:
            continue
        given = [
            settings.bridge, settings.ifname, settings.mac or "", *map(str, settings.addresses), *settings.dns_search,
            *map(str, settings.subnets), *map(str, settings.dns), *(str(one.host) for one in settings.publish),
            *(f"{host} {address}" for host, address in settings.extra_hosts),
        ]  # fmt: skip
        for word in given:
            assert not set(word) - set(string.ascii_letters + string.digits + "-._:/ ")


@given(st.text(max_size=20))
def test_dns_options_stay_on_their_line(text: str) -> None:
    settings = Settings()
    try:
        OPTIONS["dns-option"].take(settings, text)
    except ValueError:
        return
    assert settings.dns_options == [text]
    assert text.split() == [text]


@pytest.mark.parametrize(
    ("text", "bits", "burst"),
    [
        ("10mbit", 10_000_000, 67036), ("10M", 10_000_000, 67036), ("500kbit", 500_000, 67036),
        ("1gbit", 10**9, 6_250_000), ("64000", 64000, 67036), ("10mbit/3000", 10_000_000, 3000),
    ],
)  # fmt: skip
def test_rates(text: str, bits: int, burst: int) -> None:
    rate = parse_rate(text)
    assert (rate.bits, rate.burst) == (bits, burst)


@pytest.mark.parametrize(
    "text", ["", "0", "fast", "10tbit", "1.5mbit", "-1mbit", "35gbit", "10mbit/", "10mbit/10", "7k"]
)
def test_rates_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_rate(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["publish"], "unknown argument 'publish'"),
        (["--isolate=true"], "--isolate takes no value"),
        (["--subnet"], "--subnet: CIDR is missing"),
        (["--subnet", "10.0.0.0"], "--subnet: '10.0.0.0': a subnet is written as 10.87.0.0/16"),
        (["--subnet", "10.0.0.0/31"], "has room for no container"),
        (["--subnet", "fe80::%x/64"], "an address without a scope"),
        (["--mac", "03:00:00:00:00:01"], "is a group address"),
        (["--mtu", "67"], "not an MTU from 68 to 65535"),
        (["--bridge", "a" * 16], "is not the name of an interface"),
        (["--bridge", ".."], "is not the name of an interface"),
        (["--state-dir", "here"], "'here' is not an absolute path"),
        (["--mode", "host"], "the mode is bridge or none"),
        (["--add-host", "db"], "write NAME:ADDRESS"),
    ],
)
def test_a_wrong_argument_is_named(arguments: list[str], message: str) -> None:
    with pytest.raises(RuntimeFailure) as caught:
        parse(arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--subnet", "10.0.0.0/24", "--subnet", "10.1.0.0/24"], "at most one IPv4 and one IPv6 subnet"),
        (["--ip", "10.87.0.2", "--ip", "10.87.0.3"], "at most one IPv4 and one IPv6 address"),
        (["--ip", "fd00::2"], "fd00::2 is not in the subnet of the bridge pyruntime0 (10.87.0.0/16)"),
        (["--ip", "10.87.255.255"], "is the address of the network or the bridge itself"),
        (["--publish", "[::1]:80:80"], "::1 is IPv6, and the bridge has no such subnet"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(RuntimeFailure) as caught:
        parse(arguments).check()
    assert message in str(caught.value)


def test_annotations_replace_lists_and_leave_the_rest() -> None:
    settings = parse(["--publish", "1:1", "--publish", "2:2", "--mtu", "1400", "--isolate"])
    annotate(
        settings,
        {f"{ANNOTATION}publish": "3:3, 4:4/udp", f"{ANNOTATION}isolate": "false", "org.example": "--publish 9:9"},
    )
    assert [one.host_port for one in settings.publish] == [3, 4]
    assert (settings.mtu, settings.isolate) == (1400, False)
    with pytest.raises(RuntimeFailure, match=r"annotation org\.pyruntime\.network\.colour: there is no such option"):
        annotate(settings, {f"{ANNOTATION}colour": "red"})


def test_every_list_can_be_replaced_by_an_annotation() -> None:
    for name, option in OPTIONS.items():
        if option.many:
            annotate(Settings(), {f"{ANNOTATION}{name}": ""})


@given(st.ip_addresses(v=4), st.integers(1, 32), st.ip_addresses(v=4), st.integers(1, 32))
def test_overlap_is_that_of_the_standard_library(
    one: ipaddress.IPv4Address, short: int, other: ipaddress.IPv4Address, long: int
) -> None:
    first = ipaddress.IPv4Network((one, short), strict=False)
    second = ipaddress.IPv4Network((other, long), strict=False)
    assert overlap(first, second) == first.overlaps(second)
    assert not overlap(first, ipaddress.IPv6Network("::/0"))
