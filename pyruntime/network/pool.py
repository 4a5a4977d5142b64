"""Which addresses a container gets.

The next one after the last given out, so that an address rests as long as possible before it has another owner.
"""

from __future__ import annotations

from pyruntime.errors import RuntimeFailure
from pyruntime.network.options import Address, Network, Settings, gateway
from pyruntime.network.state import State


def choose(state: State, settings: Settings, before: list[str]) -> list[str]:
    """One free address of each subnet: the one asked for, else the one the container had `before`, else the next.

    Raises RuntimeFailure if the one asked for is taken, or all are.
    """
    found = []
    taken = state.leases(settings.bridge)
    for subnet in settings.subnets:
        asked = next((address for address in settings.addresses if address.version == subnet.version), None)
        if asked is not None:
            if str(asked) in taken:
                holder = state.record(state.holder(settings.bridge, str(asked)) or "")
                raise RuntimeFailure(f"--ip: container {holder['id'] if holder else '(unknown)'} already has {asked}")
            found.append(str(asked))
            continue
        again = next((a for a in before if a not in taken and _inside(a, subnet)), None)
        if again is not None:
            found.append(again)
            continue
        address = _next(subnet, taken, state.last(settings.bridge, subnet.version))
        state.set_last(settings.bridge, subnet.version, address)
        found.append(address)
    return found


def _next(subnet: Network, taken: set[str], last: str | None) -> str:
    first = int(gateway(subnet)) + 1
    end = int(subnet.broadcast_address) + (1 if subnet.version == 6 else 0)  # IPv6 has no broadcast address
    size = end - first
    start = _number(last, subnet) + 1 - first if last and _inside(last, subnet) else 0
    kind: type[Address] = type(subnet.network_address)
    for step in range(min(size, len(taken) + 1)):  # among one more than are taken, one is free
        address = str(kind(first + (start + step) % size))
        if address not in taken:
            return address
    raise RuntimeFailure(f"--subnet: all {size} addresses of {subnet} are taken: remove containers or use a larger one")


def _inside(address: str, subnet: Network) -> bool:
    return (":" in address) == (subnet.version == 6) and type(subnet.network_address)(address) in subnet


def _number(address: str, subnet: Network) -> int:
    return int(type(subnet.network_address)(address))
