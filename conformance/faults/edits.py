"""Faults of a runtime that overlooks or misreads a part of config.json: each is a function that edits it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Config = dict[str, Any]
Edit = Callable[[Config], None]


def without(*path: str) -> Edit:
    """Overlook a property, wherever it stands."""

    def edit(config: Config) -> None:
        inner: Any = config
        for key in path[:-1]:
            inner = inner.get(key) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            inner.pop(path[-1], None)

    return edit


def with_value(value: Any, *path: str) -> Edit:
    """Take another value than the configured one."""

    def edit(config: Config) -> None:
        inner: Any = config
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = value

    return edit


def before_program(script: str) -> Edit:
    """Leave the container in another condition than it should be: a script that runs right before the program."""

    def edit(config: Config) -> None:
        process = config.get("process") or {}
        if process.get("args"):
            process["args"] = ["/bin/sh", "-c", f'{script}; exec "$@"', "sh", *process["args"]]

    return edit


def without_option(word: str) -> Edit:
    """Overlook a mount option."""

    def edit(config: Config) -> None:
        for entry in config.get("mounts") or []:
            entry["options"] = [one for one in entry.get("options", []) if one != word]

    return edit


def without_mount(point: str) -> Edit:
    """Overlook a mount."""

    def edit(config: Config) -> None:
        config["mounts"] = [one for one in config.get("mounts") or [] if one.get("destination") != point]

    return edit


def without_namespace(kind: str) -> Edit:
    """Overlook a namespace."""

    def edit(config: Config) -> None:
        spaces = config["linux"].get("namespaces") or []
        config["linux"]["namespaces"] = [one for one in spaces if one.get("type") != kind]

    return edit


def reverse_mounts(config: Config) -> None:
    """Mount in the opposite order, what is not there by default."""
    config["mounts"] = config["mounts"][:6] + config["mounts"][6:][::-1]


def ignore_idmap(config: Config) -> None:
    """Treat an idmapped mount as an ordinary one."""
    for entry in config["mounts"]:
        entry.pop("uidMappings", None)
        entry.pop("gidMappings", None)
        entry["options"] = [one for one in entry.get("options", []) if one not in ("idmap", "ridmap")]


def reverse_hooks(config: Config) -> None:
    """Run the hooks of each list from the last to the first."""
    config["hooks"] = {name: entries[::-1] for name, entries in config.get("hooks", {}).items()}


def more_capabilities(config: Config) -> None:
    """Keep a capability nobody asked for."""
    for members in config["process"].get("capabilities", {}).values():
        members.append("CAP_SYS_PTRACE")


def halve_limits(config: Config) -> None:
    """Set rlimits to half of what was asked for."""
    for entry in config["process"].get("rlimits", []):
        entry["soft"] //= 2


def allow_all_devices(config: Config) -> None:
    """Allow every device in the end."""
    config["linux"].setdefault("resources", {}).setdefault("devices", []).append({"allow": True, "access": "rwm"})


def shift_maps(config: Config) -> None:
    """Be off by one in user namespace maps."""
    for entry in config["linux"].get("uidMappings", []):
        entry["hostID"] += 1


def one_more_process(config: Config) -> None:
    """Be off by one in the pids limit."""
    config["linux"]["resources"].get("pids", {"limit": 0})["limit"] += 1


def other_cgroup(config: Config) -> None:
    """Put the container somewhere else."""
    config["linux"]["cgroupsPath"] += "-x"


def correct_types(config: Config) -> None:
    """Be lenient with wrong types."""
    config["root"]["readonly"] = bool(config["root"].get("readonly"))
