"""The bundles that are run: one as `runc spec` writes it, and those that podman and containerd write."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.bundles import Bundle, default_config, find_busybox, make_busybox_rootfs

Config = dict[str, Any]

# What the engines wrote elsewhere, for machines without them.
STORED = {
    "podman": Path(__file__).resolve().parents[1] / "bundles" / "engine" / "config.json",
    "ctr": Path(__file__).with_name("containerd.json"),
}


def rootfs(directory: Path) -> Path:
    """The root file system of all bundles: busybox."""
    busybox = find_busybox()
    if busybox is None:
        raise SystemExit("bench: needs a static busybox: apt-get install busybox-static")
    return make_busybox_rootfs(directory / "rootfs", busybox)


def plain(directory: Path, root: Path, change: Callable[[Config], object] | None = None) -> Bundle:
    """`runc spec`'s configuration, without a terminal, its root read-only."""
    config = default_config(["/bin/true"])
    config["root"] = {"path": str(root), "readonly": True}
    if change:
        change(config)
    directory.mkdir(parents=True)
    return Bundle(directory, config)


def engine(directory: Path, root: Path, config: Config) -> Bundle:
    """The configuration of an engine, for `root` and this machine."""
    directory.mkdir(parents=True)
    config["root"] = {**config["root"], "path": str(root)}
    config["process"]["args"] = ["/bin/true"]
    config["linux"].pop("cgroupsPath", None)
    for limit in config["process"].get("rlimits", []):
        hard = resource.getrlimit(getattr(resource, limit["type"]))[1]
        if hard != resource.RLIM_INFINITY:  # this machine may not grant what the engine asks for
            limit["hard"], limit["soft"] = min(limit["hard"], hard), min(limit["soft"], hard)
    # The sample bundle takes its programs from the host.
    config["mounts"] = [one for one in config["mounts"] if one["destination"] != "/usr"]
    for number, mount in enumerate(config["mounts"]):
        if mount["type"] == "bind":  # the engine's own files are gone: others like them
            source = directory / f"source{number}"
            if mount["destination"].startswith("/dev/"):
                source.mkdir()
            else:
                source.touch()
            mount["source"] = str(source)
    return Bundle(directory, config)


def stored(name: str) -> Config:
    config: Config = json.loads(STORED[name].read_text())
    return config


def sleeper(bundle: Bundle, directory: Path) -> Bundle:
    """The same bundle, with a program that waits to be killed."""
    config = json.loads(json.dumps(bundle.config))
    config["process"]["args"] = ["/bin/sleep", "1000"]
    directory.mkdir(exist_ok=True)
    return Bundle(directory, config)
