"""What `update` changes: new resources laid over the ones in force.

Values that only make sense together are written together, as far as one of them changes: memory and memory plus swap.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_KEYED = (
    "weightDevice",
    "throttleReadBpsDevice",
    "throttleWriteBpsDevice",
    "throttleReadIOPSDevice",
    "throttleWriteIOPSDevice",
)


def merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`old` with everything that `new` names replaced; the device rules stay."""
    result = dict(old)
    for key, value in new.items():
        if value is None or key == "devices":
            continue
        if key == "hugepageLimits":
            result[key] = _by(("pageSize",), old.get(key) or [], value)
        elif key in ("memory", "cpu", "pids", "network", "rdma", "unified"):
            result[key] = {**(old.get(key) or {}), **_given(value)}
        elif key == "blockIO":
            block = {**(old.get(key) or {}), **_given(value)}
            for name in _KEYED:
                if value.get(name):
                    block[name] = _by(("major", "minor"), (old.get(key) or {}).get(name) or [], value[name])
            result[key] = block
        else:
            result[key] = value
    memory = new.get("memory") or {}
    if memory.get("limit") == -1 and memory.get("swap") is None:
        # Unlimited memory cannot hold while memory plus swap is limited, so that limit goes too.
        (result.get("memory") or {}).pop("swap", None)
    return result


def changes(new: dict[str, Any], merged: dict[str, Any]) -> dict[str, Any]:
    """The part of `merged` that must be written when `new` came: `new` itself, and what belongs to it."""
    result = {key: value for key, value in new.items() if value is not None and key != "devices"}
    memory = result.get("memory") or {}
    if memory.get("limit") is not None or memory.get("swap") is not None:
        both = merged.get("memory") or {}
        result["memory"] = {**memory, **{key: both[key] for key in ("limit", "swap") if both.get(key) is not None}}
    return result


def _given(values: dict[str, Any]) -> dict[str, Any]:
    # An empty string is how engines write "no change" for cpus and mems.
    return {key: value for key, value in values.items() if value is not None and value != ""}


def _by(keys: tuple[str, ...], old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Entries of `old` replaced by those of `new` that are about the same thing, the rest appended."""
    result = {tuple(entry.get(key) for key in keys): entry for entry in old}
    for entry in new:
        name = tuple(entry.get(key) for key in keys)
        result[name] = {**result.get(name, {}), **entry}
    return list(result.values())
