"""Podman with a storage, a state and a configuration of its own."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.engine import IMAGE, ULIMITS, call, cgroup_mounts, environment, sweep
from support.runtime import Result

CONFIGURATION = """\
[containers]
default_ulimits = [{ulimits}]
netns = "none"
[engine]
cgroup_manager = "{manager}"
events_logger = "file"
infra_image = "localhost/pause"
runtime_supports_json = ["pyruntime", "runc", "crun"]
runtime_supports_nocgroup = ["pyruntime", "crun"]
tmp_dir = "{directory}/tmp"
volume_path = "{directory}/volumes"
[network]
network_config_dir = "{directory}/networks"
"""


# What podman itself would choose.
MANAGER = "systemd" if Path("/run/systemd/system").is_dir() else "cgroupfs"


class Podman:
    """Call it to run podman: podman("ps"). `through(program)` gives one that uses another runtime."""

    def __init__(self, directory: Path, archive: Path) -> None:
        self.directory = directory
        self.runtime: str | None = None
        for name in ("tmp", "root", "runroot", "volumes", "networks"):
            (directory / name).mkdir(parents=True)
        configuration = directory / "containers.conf"
        ulimits = ", ".join(f'"{one}"' for one in ULIMITS)
        configuration.write_text(CONFIGURATION.format(directory=directory, ulimits=ulimits, manager=MANAGER))
        self.env = environment(CONTAINERS_CONF=str(configuration), TMPDIR=str(directory / "tmp"))
        self("load", "--input", archive).ok()
        (directory / "Containerfile").write_text(f'FROM {IMAGE}\nCMD ["sleep", "1000"]\n')
        pause = ("build", "--isolation", "chroot", "--tag", "localhost/pause", "--file", directory / "Containerfile")
        self(*pause, directory / "tmp").ok()

    def through(self, program: str) -> Podman:
        other = object.__new__(Podman)
        other.__dict__.update(self.__dict__, runtime=program)
        return other

    def argv(self, *arguments: str | Path) -> list[str]:
        fixed = ["--root", self.directory / "root", "--runroot", self.directory / "runroot"]
        chosen = ["--runtime", self.runtime] if self.runtime else []
        return ["podman", *map(str, fixed), *chosen, *map(str, arguments)]

    def __call__(self, *arguments: str | Path, env: Mapping[str, str] | None = None, **options: Any) -> Result:
        return call(*self.argv(*arguments), env=env or self.env, **options)

    def run(self, *arguments: str | Path, **options: Any) -> Result:
        """`run --rm` of the test's image: the flags, "--", the command."""
        at = arguments.index("--")
        return self("run", "--rm", *arguments[:at], IMAGE, *arguments[at + 1 :], **options)

    def start(self, name: str, *arguments: str | Path) -> Result:
        """`run --detach`, called `name`: flags, "--", command."""
        at = arguments.index("--")
        return self("run", "--detach", "--name", name, *arguments[:at], IMAGE, *arguments[at + 1 :]).ok()

    def inspect(self, name: str) -> dict[str, Any]:
        document = json.loads(self("container", "inspect", name).ok().stdout)[0]
        assert isinstance(document, dict)
        return document

    def pid(self, name: str) -> int:
        return int(self.inspect(name)["State"]["Pid"])

    def status(self, name: str) -> str:
        return str(self.inspect(name)["State"]["Status"])

    def clean(self) -> None:
        """Remove every container, pod and volume."""
        remove_false_cgroups()
        self("pod", "rm", "--all", "--force", "--time", "0")
        if self("rm", "--all", "--force", "--time", "0").status:  # in its own order: one that another needs comes later
            self("rm", "--all", "--force", "--time", "0").ok()
        self("volume", "rm", "--all", "--force")

    def close(self) -> list[str]:
        try:
            self.clean()
            self("rmi", "--all", "--force")
        finally:
            left = sweep(self.directory)
            # Podman never removes its common parent; rmdir leaves it when another podman of this machine uses it.
            for mount in cgroup_mounts():
                for folder, _, _ in os.walk(mount / "libpod_parent", topdown=False):
                    try:
                        os.rmdir(folder)
                    except OSError:
                        pass
        return [one for one in left if not one.endswith(("/root/overlay", "/root"))]


def remove_false_cgroups() -> None:
    """Remove what podman 4.3 takes for cgroups: directories and files on the tmpfs around the mounts.

    It makes them for hierarchies that the kernel has and nobody has mounted, and cannot remove a pod then.
    """
    for parent in Path("/sys/fs/cgroup").glob("*/libpod_parent"):
        if not os.path.ismount(parent.parent) and not os.path.exists("/sys/fs/cgroup/cgroup.procs"):  # not version 2
            shutil.rmtree(parent, ignore_errors=True)
            try:
                parent.parent.rmdir()
            except OSError:
                pass
