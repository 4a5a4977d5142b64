"""The engines of this machine, each with files of its own: to see what they write for a runtime, and to run it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.engine import IMAGE, Daemon, call, environment, make_archive, need, remove_cgroups, sweep
from engines.podman import Podman

CONTAINERD = """\
version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{directory}/socket"
"""

# Keeps the configuration of the container that it shall create, and fails.
KEEPER = """\
#!/bin/sh
while [ $# -gt 0 ]; do
    case $1 in --bundle | -b) cp "$2/config.json" {target} ;; esac
    shift
done
exit 1
"""

Config = dict[str, Any]


class Engines:
    """podman and containerd, where they are installed. `close()` ends them and removes what they leave."""

    def __init__(self, work: Path) -> None:
        self.work = work / "e"  # podman wants short paths
        self.work.mkdir(mode=0o755)
        self.podman: Podman | None = None
        self.containerd: Daemon | None = None
        self.socket = self.work / "containerd" / "socket"
        (self.work / "image").mkdir()
        archive = make_archive(self.work / "image")
        for programs, begin in ((("podman",), self._start_podman), (("containerd", "ctr"), self._start_containerd)):
            if need(*programs):
                continue
            try:
                begin(archive)
            except AssertionError as error:  # as the tests say it
                print(f"bench: without {programs[0]}, which does not work here: {error}", file=sys.stderr)

    def _start_podman(self, archive: Path) -> None:
        self.podman = Podman(self.work / "podman", archive)

    def _start_containerd(self, archive: Path) -> None:
        directory = self.socket.parent
        directory.mkdir()
        (directory / "config.toml").write_text(CONTAINERD.format(directory=directory))
        argv = ("containerd", "--config", directory / "config.toml")
        daemon = Daemon(directory / "log", *argv, env=environment(TMPDIR=str(directory)))
        try:
            daemon.start(self.socket)
            call("ctr", "--address", self.socket, "images", "import", archive, env=environment()).ok()
        except BaseException:
            daemon.stop()
            raise
        self.containerd = daemon

    def names(self) -> list[str]:
        return [name for name, engine in (("podman", self.podman), ("ctr", self.containerd)) if engine]

    def run(self, name: str, program: str, container: str) -> tuple[list[str], Mapping[str, str]]:
        """The command line (and the environment) that runs `true` in a new container under the runtime `program`."""
        if name == "podman":
            assert self.podman is not None
            podman = self.podman.through(program)
            argv = podman.argv("run", "--rm", "--name", container, IMAGE, "true")
            return ["/usr/bin/env", *argv], podman.env
        flags = ["run", "--rm", "--null-io", "--seccomp", "--runc-binary", program]
        return ["/usr/bin/env", "ctr", "--address", str(self.socket), *flags, IMAGE, container, "true"], environment()

    def configuration(self, name: str) -> Config | None:
        """The config.json that an engine writes for `run IMAGE true`, None when it is not there."""
        if name not in self.names():
            return None
        target, keeper = self.work / f"{name}.json", self.work / f"{name}-runtime"
        keeper.write_text(KEEPER.format(target=target))
        keeper.chmod(0o755)
        argv, env = self.run(name, str(keeper), f"bench-config-{os.getpid()}")
        told = call(*argv, env=env)
        if not target.exists():
            raise RuntimeError(f"{name} has not called the runtime that was to keep its configuration: {told}")
        config: Config = json.loads(target.read_text())
        return config

    def close(self) -> None:
        """End the daemon, remove containers, mounts and cgroups."""
        if self.podman is not None:
            self.podman.close()
        if self.containerd is not None:
            for kind in ("tasks", "containers"):
                listed = call("ctr", "--address", self.socket, kind, "ls", "--quiet", env=environment()).stdout
                for one in listed.split():
                    force = ["--force"] if kind == "tasks" else []
                    call("ctr", "--address", self.socket, kind, "rm", *force, one, env=environment())
            self.containerd.stop()
            remove_cgroups("default")
        sweep(self.work)
