"""`linux.netDevices`: interfaces of the host that become the container's. Runtime spec 1.3, config-linux.md.

Planning checks the names; whether the interfaces can move is checked when the step is applied, for all of them before
the first one moves.
"""

from __future__ import annotations

from pyruntime.errors import RuntimeFailure, SpecError
from pyruntime.plan.step import HOST, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

IFNAMSIZ = 16  # with the NUL byte: a name has at most 15 bytes


class MoveNetDevices(Step):
    """Move interfaces into the container's network namespace, keep what they have, set them up.

    `devices` are pairs (name on the host, name in the container, perhaps a template such as `eth%d`).
    """

    __slots__ = ("devices", "moved")

    side = HOST

    def __init__(self, devices: list[tuple[str, str]]) -> None:
        self.devices = devices
        self.moved: list[Any] = []

    def describe(self) -> str:
        moves = [name if name == target else f"{name} as {target}" for name, target in self.devices]
        return f"move network interface{'s' if len(moves) > 1 else ''} {', '.join(moves)} into the container"

    def move(self, netns: int) -> None:
        """Do it for the network namespace that `netns` is open on. Raises RuntimeFailure that names the interface."""
        from pyruntime.kernel.netdevices import move  # pyroute2: only containers with netDevices pay for it

        try:
            self.moved = move(self.devices, netns)
        except OSError as error:
            raise RuntimeFailure(f"linux.netDevices: {error.strerror}") from error

    def give_back(self, netns: int) -> None:
        """Undo `move`, for a container that does not come to be: virtual interfaces end with its namespace."""
        if self.moved:
            from pyruntime.kernel.netdevices import give_back

            give_back(self.moved, netns)


def plan_net_devices(
    devices: Mapping[str, Mapping[str, object]] | None, has_network_namespace: bool, rootless: bool
) -> MoveNetDevices | None:
    """The step for the field `linux.netDevices`, or None when it names no interface. Raises SpecError."""
    if not devices:
        return None
    if not has_network_namespace:
        raise SpecError(
            "linux.netDevices", "the container has no network namespace: add one of type network to linux.namespaces"
        )
    if rootless:
        raise SpecError("linux.netDevices", "moving an interface of the host needs root")
    pairs: list[tuple[str, str]] = []
    for name, device in devices.items():
        check_name(f"linux.netDevices.{name}", name)
        target = device.get("name") or name
        if not isinstance(target, str):
            raise SpecError(f"linux.netDevices.{name}.name", "not a string")
        if "%" in target:
            if target.count("%") != 1 or not target.endswith("%d"):
                raise SpecError(f"linux.netDevices.{name}.name", f"{target!r}: the template is a name that ends in %d")
            check_name(f"linux.netDevices.{name}.name", target[:-2] + "0")
        else:
            check_name(f"linux.netDevices.{name}.name", target)
            for other, taken in pairs:
                if taken == target:
                    raise SpecError(f"linux.netDevices.{name}.name", f"{target!r} is also the name for {other}")
        pairs.append((name, target))
    return MoveNetDevices(pairs)


def check_name(field: str, name: str) -> None:
    """What the kernel accepts as the name of an interface (dev_valid_name). Raises SpecError that names `field`."""
    size = len(name.encode("utf-8", "surrogateescape"))
    if not name or size >= IFNAMSIZ:
        raise SpecError(field, f"an interface name has 1 to {IFNAMSIZ - 1} bytes, {name!r} has {size}")
    if name in {".", ".."}:
        raise SpecError(field, f"{name!r} is not a name for an interface")
    for character in name:
        if character in "/:%\0" or character.isspace():
            raise SpecError(field, f"{character!r} cannot be part of an interface name")
