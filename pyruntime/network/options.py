"""What can be asked of the hook: one table, read from the command line and from the container's annotations.

`--publish 8080:80` and the annotation `org.pyruntime.network.publish: 8080:80` mean the same. An option that may be
repeated takes several values separated by commas or spaces in an annotation. Annotations win over the command line,
which is where whoever installs the hook sets the defaults; `--no-annotations` shuts them out.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence

from pyruntime.errors import RuntimeFailure

ANNOTATION = "org.pyruntime.network."

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

DEFAULT_SUBNET = ipaddress.IPv4Network("10.87.0.0/16")
PROTOCOLS = ("tcp", "udp", "sctp")


class Publish:
    """Published ports: packets for `host` (None: every address of the host) and `host_port` go to `port`.

    The `count` - 1 ports after each of them likewise.
    """

    __slots__ = ("count", "host", "host_port", "port", "protocol")

    def __init__(self, protocol: str, host: Address | None, host_port: int, port: int, count: int = 1) -> None:
        self.protocol = protocol
        self.host = host
        self.host_port = host_port
        self.port = port
        self.count = count


class Rate:
    """A bandwidth limit: `bits` per second on average, `burst` bytes at once."""

    __slots__ = ("bits", "burst")

    def __init__(self, bits: int, burst: int) -> None:
        self.bits = bits
        self.burst = burst


class Settings:
    """What the hook is to do. Every value is checked; what was not asked for has its default."""

    def __init__(self) -> None:
        # Of the network: the same for every container on the bridge.
        self.bridge = "pyruntime0"
        self.subnets: list[Network] = []
        self.isolate = False
        self.internal = False
        self.masquerade = True
        # Of this container.
        self.mode = "bridge"
        self.ifname = "eth0"
        self.addresses: list[Address] = []
        self.mac: str | None = None
        self.mtu: int | None = None
        self.publish: list[Publish] = []
        self.rate_in: Rate | None = None
        self.rate_out: Rate | None = None
        self.dns: list[Address] = []
        self.dns_search: list[str] = []
        self.dns_options: list[str] = []
        self.hosts = False
        self.extra_hosts: list[tuple[str, Address]] = []
        # Of the hook.
        self.state_dir = "/run/pyruntime-bridge"
        self.annotations = True

    def check(self) -> None:
        """Check what only the values together show. Raises RuntimeFailure."""
        if not self.subnets:
            self.subnets = [DEFAULT_SUBNET]
        if len({subnet.version for subnet in self.subnets}) != len(self.subnets):
            raise RuntimeFailure("--subnet: at most one IPv4 and one IPv6 subnet")
        if len({address.version for address in self.addresses}) != len(self.addresses):
            raise RuntimeFailure("--ip: at most one IPv4 and one IPv6 address")
        for address in self.addresses:
            subnet = next((s for s in self.subnets if s.version == address.version), None)
            if subnet is None or address not in subnet:
                known = " and ".join(str(s) for s in self.subnets)
                raise RuntimeFailure(f"--ip: {address} is not in the subnet of the bridge {self.bridge} ({known})")
            if address in {subnet.network_address, gateway(subnet)} or (
                address.version == 4 and address == subnet.broadcast_address
            ):
                raise RuntimeFailure(f"--ip: {address} is the address of the network or the bridge itself")
        versions = {subnet.version for subnet in self.subnets}
        for one in self.publish:
            if one.host is not None and one.host.version not in versions:
                raise RuntimeFailure(
                    f"--publish: {one.host} is IPv{one.host.version}, and the bridge has no such subnet"
                )


def gateway(subnet: Network) -> Address:
    """The bridge's own address: the first one of the subnet."""
    return subnet.network_address + 1


def overlap(one: Network, other: Network) -> bool:
    """Do two subnets have an address in common?"""
    return (
        one.version == other.version
        and int(one.network_address) <= int(other.broadcast_address)
        and int(other.network_address) <= int(one.broadcast_address)
    )


class Option:
    """One option: `take` checks the value and puts it into the settings. `value` is its name in the help, or None."""

    __slots__ = ("help", "many", "take", "value")

    def __init__(self, take: Callable[[Settings, str], None], value: str | None, help: str, many: bool = False) -> None:
        self.take = take
        self.value = value
        self.help = help
        self.many = many


def parse(arguments: Sequence[str]) -> Settings:
    """The settings of a command line, not yet checked as a whole. Raises RuntimeFailure that names the option."""
    settings = Settings()
    words = iter(arguments)
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        option = OPTIONS.get(name)
        if option is None or not word.startswith("--"):
            raise RuntimeFailure(f"unknown argument {word!r}: see pyruntime-bridge --help", 2)
        if option.value is None:
            if equals:
                raise RuntimeFailure(f"--{name} takes no value", 2)
            value = "true"
        elif not equals:
            try:
                value = next(words)
            except StopIteration:
                raise RuntimeFailure(f"--{name}: {option.value} is missing", 2) from None
        _take(settings, option, f"--{name}", [value])
    return settings


def annotate(settings: Settings, annotations: Mapping[str, str]) -> None:
    """Let the container's annotations override `settings`. Raises RuntimeFailure that names the annotation."""
    for key, value in annotations.items():
        if not key.startswith(ANNOTATION):
            continue
        name = key[len(ANNOTATION) :]
        option = OPTIONS.get(name)
        if option is None or name in COMMAND_LINE_ONLY:
            raise RuntimeFailure(f"annotation {key}: there is no such option for a container")
        values = value.replace(",", " ").split() if option.many else [value.strip()]
        if option.many:
            _CLEAR[name](settings)
        _take(settings, option, f"annotation {key}", values)


def _take(settings: Settings, option: Option, where: str, values: Sequence[str]) -> None:
    for value in values:
        try:
            option.take(settings, value)
        except ValueError as error:
            raise RuntimeFailure(f"{where}: {error}") from None


def parse_publish(text: str) -> Publish:
    """`[HOST:]PORT[-PORT]:PORT[-PORT][/PROTOCOL]`, with an IPv6 HOST in brackets. Raises ValueError."""
    rest, slash, protocol = text.partition("/")
    if slash and protocol not in PROTOCOLS:
        raise ValueError(f"{text!r}: the protocol is tcp, udp or sctp")
    host: Address | None = None
    if rest.startswith("["):
        inside, bracket, rest = rest[1:].partition("]:")
        if not bracket:
            raise ValueError(f"{text!r}: an IPv6 address is written as [ADDRESS]:PORT:PORT")
        host = _address(inside)
    elif rest.count(":") == 2:
        first, rest = rest.split(":", 1)
        host = _address(first)
    here, colon, there = rest.partition(":")
    if not colon:
        raise ValueError(f"{text!r}: say which port of the host and which of the container, as in 8080:80")
    outside, inner = _ports(here, text), _ports(there, text)
    if len(outside) != len(inner):
        raise ValueError(f"{text!r}: {len(outside)} ports of the host for {len(inner)} of the container")
    if host is not None and host.is_unspecified:
        host = None
    return Publish(protocol or "tcp", host, outside[0], inner[0], len(outside))


def _ports(text: str, whole: str) -> range:
    first, dash, last = text.partition("-")
    for number in (first, last) if dash else (first,):
        if not (number.isascii() and number.isdigit() and 0 < int(number) < 65536):
            raise ValueError(f"{whole!r}: {number!r} is not a port from 1 to 65535")
    found = range(int(first), int(last if dash else first) + 1)
    if not found:
        raise ValueError(f"{whole!r}: the range {text} runs backwards")
    return found


_UNITS = {"": 1, "bit": 1, "k": 1000, "kbit": 1000, "m": 10**6, "mbit": 10**6, "g": 10**9, "gbit": 10**9}


def parse_rate(text: str) -> Rate:
    """`RATE[/BURST]`: bits per second with kbit, mbit or gbit; bytes, by default what flows in 50 ms. ValueError."""
    rate, slash, burst = text.lower().partition("/")
    digits = rate.rstrip("bitkmg")
    unit = rate[len(digits) :]
    if unit not in _UNITS or not (digits.isascii() and digits.isdigit()):
        raise ValueError(f"{text!r}: a rate is written as 10mbit, 500kbit or 1gbit")
    bits = int(digits) * _UNITS[unit]
    if not 8000 <= bits < 8 << 32:  # struct tc_ratespec has 32 bits for the bytes per second
        raise ValueError(f"{text!r}: a rate is at least 8kbit and less than 34gbit")
    if slash and not (burst.isascii() and burst.isdigit() and 1500 <= int(burst) <= min(25 * bits, 1 << 30)):
        raise ValueError(f"{text!r}: the burst is a number of bytes, at least 1500 and at most what flows in 200 s")
    # A bucket smaller than a packet lets nothing through; with segmentation offload a packet can be 64 KiB.
    return Rate(bits, int(burst) if slash else max(bits // 160, 65536 + 1500))


def _address(text: str) -> Address:
    if "%" in text:  # ipaddress takes any text at all as the scope of an IPv6 address
        raise ValueError(f"{text!r}: an address without a scope is needed")
    return ipaddress.ip_address(text)


def _name(text: str, what: str, limit: int = 253) -> str:
    if not text or len(text) > limit or not text.isascii() or not all(c.isalnum() or c in "-._" for c in text):
        raise ValueError(f"{text!r} is not {what}")
    return text


def _interface(text: str) -> str:
    if text in {".", ".."}:
        raise ValueError(f"{text!r} is not the name of an interface")
    return _name(text, "the name of an interface: at most 15 letters, digits and -._", 15)


def _subnet(text: str) -> Network:
    address, slash, length = text.partition("/")
    if not (slash and length.isascii() and length.isdigit()):
        raise ValueError(f"{text!r}: a subnet is written as 10.87.0.0/16")
    subnet = ipaddress.ip_network((_address(address), int(length)), strict=False)
    if subnet.num_addresses < 4 or subnet.is_multicast or subnet.is_loopback or subnet.is_unspecified:
        raise ValueError(f"{text!r} cannot be the subnet of a bridge: it has room for no container")
    return subnet


def _mac(text: str) -> str:
    parts = text.lower().split(":")
    if len(parts) != 6 or not all(len(p) == 2 and all(c in "0123456789abcdef" for c in p) for p in parts):
        raise ValueError(f"{text!r} is not a hardware address such as 02:00:0a:57:00:02")
    if int(parts[0], 16) & 1 or text.strip("0:") == "":
        raise ValueError(f"{text!r} is a group address: an interface needs one with an even first byte")
    return ":".join(parts)


def _mtu(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 68 <= int(text) <= 65535):
        raise ValueError(f"{text!r} is not an MTU from 68 to 65535")
    return int(text)


def _switch(text: str) -> bool:
    if text not in {"true", "false"}:
        raise ValueError(f"{text!r}: say true or false")
    return text == "true"


def _mode(text: str) -> str:
    if text not in {"bridge", "none"}:
        raise ValueError(f"{text!r}: the mode is bridge or none")
    return text


def _extra_host(text: str) -> tuple[str, Address]:
    name, colon, address = text.partition(":")
    if not colon:
        raise ValueError(f"{text!r}: write NAME:ADDRESS")
    return _name(name, "a host name"), _address(address.strip("[]"))


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError(f"{text!r} is not an absolute path")
    return text


def _no_newline(text: str) -> str:
    if not text or any(c.isspace() or not c.isprintable() for c in text):
        raise ValueError(f"{text!r} is not an option of resolv.conf")
    return text


def _set(attribute: str, convert: Callable[[str], object]) -> Callable[[Settings, str], None]:
    return lambda settings, text: setattr(settings, attribute, convert(text))


def _add(attribute: str, convert: Callable[[str], object]) -> Callable[[Settings, str], None]:
    return lambda settings, text: getattr(settings, attribute).append(convert(text))


def _not(attribute: str) -> Callable[[Settings, str], None]:
    return lambda settings, text: setattr(settings, attribute, not _switch(text))


OPTIONS: dict[str, Option] = {
    "bridge": Option(_set("bridge", _interface), "NAME", "the bridge, made if it is not there (default pyruntime0)"),
    "subnet": Option(
        _add("subnets", _subnet), "CIDR", "its subnet; once for IPv4, once for IPv6 (default 10.87.0.0/16)", True
    ),
    "mode": Option(_set("mode", _mode), "MODE", "bridge, or none: leave the container without a network"),
    "ifname": Option(_set("ifname", _interface), "NAME", "the interface in the container (default eth0)"),
    "ip": Option(_add("addresses", _address), "ADDRESS", "a static address; once per IP version", True),
    "mac": Option(_set("mac", _mac), "ADDRESS", "a static hardware address (default: made from the IP address)"),
    "mtu": Option(_set("mtu", _mtu), "BYTES", "the MTU (default: that of the bridge)"),
    "publish": Option(
        _add("publish", parse_publish),
        "[HOST:]PORT:PORT[/tcp|udp|sctp]",
        "publish a port, or a range such as 8000-8009:80-89, on the host",
        True,
    ),
    "isolate": Option(_set("isolate", _switch), None, "no packets to and from other bridges, save published ports"),
    "internal": Option(_set("internal", _switch), None, "no packets to and from anywhere outside the bridge"),
    "no-masquerade": Option(_not("masquerade"), None, "containers appear outside with their own addresses"),
    "rate-in": Option(
        _set("rate_in", parse_rate), "RATE[/BURST]", "limit what the container receives: 10mbit, burst in bytes"
    ),
    "rate-out": Option(_set("rate_out", parse_rate), "RATE[/BURST]", "limit what the container sends"),
    "dns": Option(_add("dns", _address), "ADDRESS", "a name server for /etc/resolv.conf", True),
    "dns-search": Option(
        _add("dns_search", lambda text: _name(text, "a domain")), "DOMAIN", "a search domain for /etc/resolv.conf", True
    ),
    "dns-option": Option(_add("dns_options", _no_newline), "OPTION", "an option for /etc/resolv.conf", True),
    "hosts": Option(_set("hosts", _switch), None, "write /etc/hosts with the container's name and addresses"),
    "add-host": Option(_add("extra_hosts", _extra_host), "NAME:ADDRESS", "one more line of /etc/hosts", True),
    "state-dir": Option(_set("state_dir", _path), "DIRECTORY", "leases and records (default /run/pyruntime-bridge)"),
    "no-annotations": Option(_not("annotations"), None, "ignore the container's annotations"),
}

COMMAND_LINE_ONLY = frozenset({"state-dir", "no-annotations"})

_CLEAR: dict[str, Callable[[Settings], None]] = {
    "subnet": lambda settings: settings.subnets.clear(),
    "ip": lambda settings: settings.addresses.clear(),
    "publish": lambda settings: settings.publish.clear(),
    "dns": lambda settings: settings.dns.clear(),
    "dns-search": lambda settings: settings.dns_search.clear(),
    "dns-option": lambda settings: settings.dns_options.clear(),
    "add-host": lambda settings: settings.extra_hosts.clear(),
}
