"""The bundles that are run: one as `runc spec` writes it, and one as an engine writes it."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.bundles import Bundle, default_config, find_busybox, make_busybox_rootfs

REPOSITORY = Path(__file__).resolve().parents[1]
Config = dict[str, Any]


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


def engine(directory: Path, root: Path, change: Callable[[Config], object] | None = None) -> Bundle:
    """The configuration of a podman on this machine; without podman, that of the sample bundle `engine`."""
    captured = from_podman(root, directory.with_name("podman"))
    config = captured or json.loads((REPOSITORY / "bundles" / "engine" / "config.json").read_text())
    directory.mkdir(parents=True)
    config["root"] = {**config["root"], "path": str(root)}
    config["process"]["args"] = ["/bin/true"]
    config["linux"].pop("cgroupsPath", None)
    for limit in config["process"].get("rlimits", []):
        hard = resource.getrlimit(getattr(resource, limit["type"]))[1]
        if hard != resource.RLIM_INFINITY:  # this machine may not grant what podman asks for
            limit["hard"], limit["soft"] = min(limit["hard"], hard), min(limit["soft"], hard)
    config["mounts"] = [one for one in config["mounts"] if one["destination"] != "/usr"]
    for number, mount in enumerate(config["mounts"]):
        if mount["type"] == "bind":  # the engine's own files are gone: others like them
            source = directory / f"source{number}"
            if mount["destination"].startswith("/dev/"):
                source.mkdir()
            else:
                source.touch()
            mount["source"] = str(source)
    if change:
        change(config)
    return Bundle(directory, config)


def from_podman(root: Path, here: Path) -> Config | None:
    """Let podman, with all that it writes in the new directory `here`, start a container with a runtime that keeps
    the configuration and does nothing else."""
    podman = shutil.which("podman")
    if podman is None:
        return None
    here.mkdir()
    fake = here / "runtime"
    fake.write_text(
        '#!/bin/sh\nwhile [ $# -gt 0 ]; do [ "$1" = --bundle ] && cp "$2/config.json" '
        f"{here}/config.json; shift; done\nexit 1\n"
    )
    fake.chmod(0o755)
    flags = ["--root", f"{here}/store", "--runroot", f"{here}/run", "--tmpdir", f"{here}/tmp"]
    flags += ["--cgroup-manager", "cgroupfs", "--storage-driver", "vfs", "--events-backend", "none"]
    flags += ["--runtime", str(fake), "run", "--rm", "--network", "none", "--rootfs", str(root), "/bin/true"]
    subprocess.run([podman, *flags], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=120)
    try:
        config: Config = json.loads((here / "config.json").read_text())
    except OSError:
        return None
    return config
