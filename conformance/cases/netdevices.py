"""Network devices: config-linux.md, section Network Devices."""

from __future__ import annotations

import os
import time

from conformance.outcome import equal, require, skip
from conformance.registry import case, each
from conformance.stage import NAP, Stage, quiet

ADDRESS, ADDRESS6 = "10.234.5.6/24", "fd00:dead:beef::6/64"


def ip(*arguments: str) -> str:
    """Run ip(8) of the host."""
    done = quiet("ip", *arguments)
    require(done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def device(stage: Stage) -> str:
    """Make a virtual interface with addresses on the host; it is removed with the stage."""
    name = f"cf{os.getpid() % 100000}{stage.number % 100}"
    peer = f"{name}p"
    if quiet("ip", "link", "add", name, "type", "veth", "peer", "name", peer).returncode:
        skip("this kernel cannot make a veth interface")
    stage.undo.callback(quiet, "ip", "link", "delete", peer)
    ip("link", "set", name, "mtu", "1380", "address", "02:00:00:12:34:56")
    ip("address", "add", ADDRESS, "dev", name)
    quiet("ip", "address", "add", ADDRESS6, "dev", name, "nodad")
    stage.add_namespace("network")
    return name


def inside(stage: Stage, *arguments: str) -> str:
    """Run ip(8) of the host in the container's network namespace."""
    done = quiet("nsenter", "-t", str(stage.pid), "-n", "ip", *arguments)
    return done.stdout if done.returncode == 0 else ""


@case("netDevices", "netDevices.up")
def interface_is_moved(stage: Stage) -> None:
    """A listed interface is in the container, up, and no longer on the host."""
    name = device(stage)
    stage.linux["netDevices"] = {name: {}}
    stage.up()
    require(quiet("ip", "link", "show", name).returncode, "the interface is still on the host")
    shown = inside(stage, "-o", "link", "show", name)
    require(name in shown, "the interface is not in the container")
    require(",UP" in shown.replace("<UP", ",UP"), f"the interface is not up: {shown!r}")


@case("netDevices.name")
def interface_is_renamed(stage: Stage) -> None:
    """The interface has the name of the entry inside."""
    stage.linux["netDevices"] = {device(stage): {"name": "inner0"}}
    stage.up()
    require("inner0" in inside(stage, "-o", "link", "show", "inner0"), "there is no inner0 in the container")


@case("netDevices.preserve")
def attributes_survive(stage: Stage) -> None:
    """MTU, hardware address and the permanent global addresses survive the move."""
    name = device(stage)
    stage.linux["netDevices"] = {name: {"name": "inner0"}}
    stage.up()
    link, addresses = inside(stage, "-o", "link", "show", "inner0"), inside(stage, "-o", "address", "show", "inner0")
    require("mtu 1380" in link and "02:00:00:12:34:56" in link, f"the link is {link!r}")
    require(ADDRESS in addresses, f"the addresses are {addresses!r}")
    if os.path.exists("/proc/net/if_inet6"):
        require(ADDRESS6 in addresses, f"the addresses are {addresses!r}")


@case("netDevices.template")
def kernel_picks_the_number(stage: Stage) -> None:
    """A name that ends in %d gets a number from the kernel."""
    stage.linux["netDevices"] = {device(stage): {"name": "eth%d"}}
    stage.up()
    require("eth0" in inside(stage, "-o", "link", "show", "eth0"), "there is no eth0 in the container")


@case("netDevices.check")
def network_namespace_is_needed(stage: Stage) -> None:
    """Without a network namespace of its own the container cannot have the interface, which stays as it is."""
    name = device(stage)
    stage.drop_namespace("network")
    stage.linux["netDevices"] = {name: {}}
    stage.refused("there is no network namespace to move the interface to")
    equal(quiet("ip", "link", "show", name).returncode, 0, "the interface is still on the host")


@each({"netDevices.check@missing": ("no-such-if", {}), "netDevices.check@name": ("lo", {"name": "a/b"})})
def impossible_move_is_an_error(stage: Stage, name: str, entry: dict[str, str]) -> None:
    """An interface that does not exist, or an impossible new name, is an error."""
    stage.add_namespace("network")
    stage.linux["netDevices"] = {name: entry}
    stage.refused(f"the interface {name} cannot be moved as {entry}")


@case("netDevices.collision")
def taken_name_is_an_error(stage: Stage) -> None:
    """A name that exists in the container's network namespace is an error."""
    name = device(stage)
    stage.linux["netDevices"] = {name: {"name": "lo"}}
    stage.refused("the container has an interface named lo")


@case("netDevices.no-move-out")
def interface_goes_with_the_container(stage: Stage) -> None:
    """The runtime does not move the interface back: a virtual one is gone with the network namespace."""
    name = device(stage)
    stage.linux["netDevices"] = {name: {}}
    stage.up()
    stage.kill("KILL")
    stage.wait()
    stage.delete()
    require(quiet("ip", "link", "show", name).returncode, "the interface is back on the host")


@case("netDevices.no-lifecycle")
def interface_is_left_alone_afterwards(stage: Stage) -> None:
    """What somebody does to the interface inside stays: set down after create, it is down after start and later."""
    name = device(stage)
    stage.linux["netDevices"] = {name: {}}
    stage.process["args"] = NAP
    stage.create()
    require(name in inside(stage, "-o", "link", "show", name), "the interface is not in the container")
    inside(stage, "link", "set", name, "down")
    stage.start()
    time.sleep(0.2)
    shown = inside(stage, "-o", "link", "show", name)
    require(",UP" not in shown and "<UP" not in shown, f"the interface was set up again: {shown!r}")
