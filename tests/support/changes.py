"""Changes to a configuration, to be combined: `container(["true"], process(cwd="/tmp"), mount("/x", type="tmpfs"))`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.bundles import Change, Config


def process(**fields: Any) -> Change:
    """Set properties of `process`."""
    return lambda config: config["process"].update(fields)


def linux(**fields: Any) -> Change:
    """Set properties of `linux`."""
    return lambda config: config["linux"].update(fields)


def root(**fields: Any) -> Change:
    """Set properties of `root`."""
    return lambda config: config["root"].update(fields)


def top(**fields: Any) -> Change:
    """Set properties of the configuration itself."""
    return lambda config: config.update(fields)


def resources(**fields: Any) -> Change:
    """Set properties of `linux.resources`."""
    return lambda config: config["linux"].setdefault("resources", {}).update(fields)


def mount(
    destination: str,
    source: str | Path | None = None,
    options: list[str] | None = None,
    type: str | None = None,
    **more: Any,
) -> Change:
    """One more entry at the end of `mounts`."""
    entry: dict[str, Any] = {"destination": destination, **more}
    if source is not None:
        entry["source"] = str(source)
    if type is not None:
        entry["type"] = type
    if options is not None:
        entry["options"] = options
    return lambda config: config["mounts"].append(entry)


def bind(source: str | Path, destination: str, *options: str) -> Change:
    """A bind mount; with `rbind` among the options a recursive one."""
    return mount(destination, source, [*options] if "rbind" in options else ["bind", *options])


def without_mount(*destinations: str) -> Change:
    """Drop entries of `mounts`."""

    def change(config: Config) -> None:
        config["mounts"] = [entry for entry in config["mounts"] if entry["destination"] not in destinations]

    return change


def mount_options(destination: str, *options: str) -> Change:
    """Replace the options of a mount that is there."""

    def change(config: Config) -> None:
        (entry,) = (entry for entry in config["mounts"] if entry["destination"] == destination)
        entry["options"] = list(options)

    return change


def namespace(kind: str, path: str | Path | None = None) -> Change:
    """Make (or join) a namespace of this kind, whatever was listed before."""

    def change(config: Config) -> None:
        without_namespace(kind)(config)
        entry = {"type": kind} if path is None else {"type": kind, "path": str(path)}
        config["linux"]["namespaces"].append(entry)

    return change


def without_namespace(*kinds: str) -> Change:
    """Drop kinds from `linux.namespaces`: the container shares those with its caller."""

    def change(config: Config) -> None:
        spaces = config["linux"]["namespaces"]
        config["linux"]["namespaces"] = [entry for entry in spaces if entry["type"] not in kinds]

    return change


def user_namespace(host: int = 100000, size: int = 65536) -> Change:
    """A new user namespace whose ids 0 to `size` - 1 are the host's from `host` on."""

    def change(config: Config) -> None:
        namespace("user")(config)
        config["linux"]["uidMappings"] = [{"containerID": 0, "hostID": host, "size": size}]
        config["linux"]["gidMappings"] = [{"containerID": 0, "hostID": host, "size": size}]

    return change


def hooks(**lists: list[dict[str, Any]]) -> Change:
    """Set hook lists."""
    return lambda config: config.setdefault("hooks", {}).update(lists)
