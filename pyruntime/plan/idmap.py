"""`idmap=` among mount options: id mappings in crun's notation, without mount properties of their own.

    idmap=uids=0-100000-65536#70000-200000-10;gids=0-100000-65536

Each triplet is FROM-TO-LENGTH as in uidMappings (id in the mount, id on the host, how many). With an @ in front TO is
an id of the container's user namespace, and is translated to the host's.
"""

from __future__ import annotations

from pyruntime.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.spec.types import IdMapping

HIGHEST = 0xFFFFFFFF


def parse_mappings(text: str, linux: Any, path: str) -> tuple[list[IdMapping], list[IdMapping]]:
    """(uid mappings, gid mappings) of an `idmap=` option. `linux` has the container's own. Raises SpecError."""
    found: dict[str, list[IdMapping]] = {"uids": [], "gids": []}
    for part in text.split(";"):
        name, equals, triplets = part.partition("=")
        if name not in found or not equals:
            raise SpecError(path, f'idmap: expected uids=… or gids=…, got "{part}"')
        own = linux.get("uidMappings" if name == "uids" else "gidMappings") or []
        found[name] += [_triplet(triplet, own, path) for triplet in triplets.split("#")]
    return found["uids"], found["gids"]


def _triplet(text: str, own: list[IdMapping], path: str) -> IdMapping:
    relative = text.startswith("@")
    fields = text[relative:].split("-")
    if len(fields) != 3 or not all(field.isascii() and field.isdigit() and len(field) <= 10 for field in fields):
        raise SpecError(path, f'idmap: expected FROM-TO-LENGTH in numbers, got "{text}"')
    start, host, size = (int(field) for field in fields)
    if relative:
        host = _to_host(host, own, path)
    if not size or max(start, host) + size - 1 > HIGHEST:
        raise SpecError(path, f'idmap: "{text}" is empty or ends beyond {HIGHEST}')
    return {"containerID": start, "hostID": host, "size": size}


def _to_host(number: int, own: list[IdMapping], path: str) -> int:
    for one in own:
        if one["containerID"] <= number < one["containerID"] + one["size"]:
            return one["hostID"] + number - one["containerID"]
    raise SpecError(path, f"idmap: id {number} is not mapped in the container's user namespace")
