"""containerd with its CRI plugin, in directories and a network namespace of its own, and how a kubelet uses it."""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from engines.engine import Daemon, call, command_line, environment, processes_of, remove_cgroups, sweep
from support.container import wait_for
from support.cri import CONTAINER, EXITED, NODE, POD, Client, Failure, Message
from support.images import docker_archive
from support.websocket import Streams

IMAGE = "localhost/box:latest"
PAUSE = "localhost/pause:1"

CONFIGURATION = """\
version = 2
root = "{directory}/root"
state = "{directory}/state"
[grpc]
address = "{directory}/socket"
[plugins."io.containerd.internal.v1.opt"]
path = "{directory}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{directory}/cni"
"""
DEFAULT = """\
[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "{name}"
"""
HANDLER = """\
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{name}]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{name}.options]
BinaryName = "{program}"
"""
PLUGINS = next((path for path in ("/usr/lib/cni", "/opt/cni/bin") if os.path.exists(f"{path}/bridge")), None)
SUBNET = "10.244.7.0/24"


def handlers(programs: Mapping[str, str]) -> str:
    """The part of the configuration that makes each runtime known by its name, the first one as the default."""
    tables = [HANDLER.format(name=name, program=program) for name, program in programs.items()]
    return DEFAULT.format(name=next(iter(programs))) + "".join(tables)


class Kubelet:
    """The daemon, whose configuration ends with `handlers`. `pod()` runs a sandbox; `clean()` removes all pods."""

    def __init__(self, directory: Path, archive: Path, handlers: str) -> None:
        (directory / "cni").mkdir(parents=True)
        self.directory = directory
        self.handler = ""
        self.socket = directory / "socket"
        self.group = f"kubepods-{os.getpid()}-{directory.name}"
        self.numbers = itertools.count(1)
        text = CONFIGURATION.format(directory=directory, pause=PAUSE, plugins=PLUGINS)
        (directory / "config.toml").write_text(text + handlers)
        network = {
            "cniVersion": "0.4.0",
            "name": "pods",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "cni0",
                    "isGateway": True,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": f"{directory}/addresses",
                        "ranges": [[{"subnet": SUBNET}]],
                    },
                }
            ],
        }
        (directory / "cni" / "10-pods.conflist").write_text(json.dumps(network))
        self.netns = f"kubelet-{os.getpid()}-{directory.name}"
        call("ip", "netns", "add", self.netns).ok()
        self.client = Client(self.socket)
        self.daemon = Daemon(
            directory / "log",
            *("nsenter", f"--net=/run/netns/{self.netns}"),
            *("containerd", "--config", directory / "config.toml"),
            env=environment(TMPDIR=str(directory)),
        )
        try:
            call("ip", "-n", self.netns, "link", "set", "lo", "up").ok()
            self.start()
            self.import_image(archive)
            self.import_image(_pause_archive(directory))
        except BaseException:
            self.end()
            raise

    def start(self) -> None:
        """Start the daemon and wait until it accepts calls, which it does only after a look at all that exists."""
        self.socket.unlink(missing_ok=True)
        self.daemon.start(self.socket)

        def ready() -> bool:
            try:
                return bool(self.client("Status"))
            except Failure:
                return False

        wait_for(ready, "the CRI plugin", 30)

    def import_image(self, archive: Path) -> None:
        call("ctr", "--address", self.socket, "--namespace", "k8s.io", "images", "import", archive).ok()

    def connect(self, address: str, port: int) -> socket.socket:
        """A connection made on the node: in the network namespace of the daemon."""
        made: list[socket.socket | OSError] = []

        def enter() -> None:
            libc = ctypes.CDLL(None, use_errno=True)
            with open(f"/run/netns/{self.netns}") as file:
                assert libc.setns(file.fileno(), 0x40000000) == 0, os.strerror(ctypes.get_errno())  # CLONE_NEWNET
            try:
                made.append(socket.create_connection((address, port), 10))
            except OSError as error:
                made.append(error)

        thread = threading.Thread(target=enter)  # ends after it, so that nothing else runs in that namespace
        thread.start()
        thread.join()
        if isinstance(made[0], OSError):
            raise made[0]
        return made[0]

    def streams(self, url: str) -> Streams:
        address, port = re.fullmatch(r"http://([\d.]+):(\d+)/.*", url).groups()  # type: ignore[union-attr]
        return Streams(self.connect(address, int(port)), url)

    def pod(self, *, network: int = NODE, pid: int = CONTAINER, ipc: int = POD, **more: Any) -> Pod:
        """Run a sandbox. `security`, `sysctls` and `cgroup_parent` go into its part for Linux, the rest beside that."""
        number = next(self.numbers)
        uid = f"{os.getpid()}-{number}-{self.handler}"
        logs = self.directory / "logs" / uid
        logs.mkdir(parents=True)
        spaces = {"network": network, "pid": pid, "ipc": ipc}
        config: Message = {
            "metadata": {"name": f"pod{number}", "uid": uid, "namespace": "default", "attempt": 0},
            "log_directory": str(logs),
            "linux": {
                "cgroup_parent": more.pop("cgroup_parent", f"/{self.group}/pod{uid}"),
                "security_context": {"namespace_options": spaces, **more.pop("security", {})},
                "sysctls": more.pop("sysctls", {}),
            },
            **({"hostname": f"host{number}"} if network == POD else {}),
            **more,
        }
        answer = self.client("RunPodSandbox", config=config, runtime_handler=self.handler)
        return Pod(self, answer["pod_sandbox_id"], config, spaces)

    def clean(self) -> None:
        for item in self.client("ListPodSandbox")["items"]:
            self.client("StopPodSandbox", pod_sandbox_id=item["id"])
            self.client("RemovePodSandbox", pod_sandbox_id=item["id"])

    def close(self) -> list[str]:
        try:
            self.clean()
            deadline = time.monotonic() + 10  # the shims end behind the answer
            while any("shim" in command_line(pid) for pid in processes_of(self.directory)):
                if time.monotonic() > deadline:
                    break
                time.sleep(0.05)
        finally:
            left = self.end()
        return left

    def end(self) -> list[str]:
        """End the daemon, then what it has left, of which this is a list."""
        self.client.close()
        self.daemon.stop()
        left = sweep(self.directory) + remove_cgroups(self.group)
        subprocess.run(["ip", "netns", "del", self.netns], check=False)
        return left


class Pod:
    """A sandbox that runs. What is started in it are containers of IMAGE."""

    def __init__(self, kubelet: Kubelet, id: str, config: Message, spaces: Message) -> None:
        self.kubelet = kubelet
        self.client = kubelet.client
        self.id = id
        self.config = config
        self.spaces = spaces
        self.numbers = itertools.count(1)

    def create(self, *command: str, name: str | None = None, attempt: int = 0, **more: Any) -> Container:
        """A container. `security` and `resources` go into its part for Linux, the rest beside that."""
        name = name or f"c{next(self.numbers)}"
        config: Message = {
            "metadata": {"name": name, "attempt": attempt},
            "image": {"image": IMAGE},
            "command": list(command),
            "log_path": f"{name}-{attempt}.log",
            "linux": {
                "resources": more.pop("resources", {}),
                "security_context": {"namespace_options": self.spaces, **more.pop("security", {})},
            },
            **more,
        }
        answer = self.client("CreateContainer", pod_sandbox_id=self.id, config=config, sandbox_config=self.config)
        return Container(self, answer["container_id"], config)

    def start(self, *command: str, **more: Any) -> Container:
        container = self.create(*command, **more)
        container.start()
        return container

    def run(self, *command: str, **more: Any) -> tuple[int, str]:
        """Start a container and wait for its end; its exit code and its output, what it complains included."""
        container = self.start(*command, **more)
        status = container.wait()
        return status["exit_code"], "".join(container.said())

    def status(self) -> Message:
        return dict(self.client("PodSandboxStatus", pod_sandbox_id=self.id)["status"])

    def info(self) -> Message:
        """What containerd tells about it for people, of which the pid and the specification are of use here."""
        answer = self.client("PodSandboxStatus", pod_sandbox_id=self.id, verbose=True)
        return dict(json.loads(answer["info"]["info"]))

    @property
    def pid(self) -> int:
        return int(self.info()["pid"])

    def stop(self) -> None:
        self.client("StopPodSandbox", pod_sandbox_id=self.id)

    def remove(self) -> None:
        self.client("RemovePodSandbox", pod_sandbox_id=self.id)


class Container:
    def __init__(self, pod: Pod, id: str, config: Message) -> None:
        self.pod = pod
        self.client = pod.client
        self.id = id
        self.log = Path(pod.config["log_directory"]) / config["log_path"]

    def start(self) -> None:
        self.client("StartContainer", container_id=self.id)

    def exec(self, *command: str, timeout: int = 10) -> tuple[int, str, str]:
        """ExecSync: exit code, output, complaints."""
        answer = self.client("ExecSync", container_id=self.id, cmd=list(command), timeout=timeout)
        return answer["exit_code"], answer["stdout"].decode(), answer["stderr"].decode()

    def streams(self, *command: str, **flags: bool) -> Streams:
        """Exec with the streams whose names are given: stdin, stdout, stderr, tty."""
        answer = self.client("Exec", container_id=self.id, cmd=list(command), **flags)
        return self.pod.kubelet.streams(answer["url"])

    def attach(self, **flags: bool) -> Streams:
        return self.pod.kubelet.streams(self.client("Attach", container_id=self.id, **flags)["url"])

    def status(self) -> Message:
        return dict(self.client("ContainerStatus", container_id=self.id)["status"])

    @property
    def pid(self) -> int:
        answer = self.client("ContainerStatus", container_id=self.id, verbose=True)
        return int(json.loads(answer["info"]["info"])["pid"])

    def wait(self, timeout: float = 15) -> Message:
        """The status, when it has ended."""
        wait_for(lambda: self.status()["state"] == EXITED, "the container to exit", timeout)
        return self.status()

    def stop(self, timeout: int = 0) -> Message:
        self.client("StopContainer", container_id=self.id, timeout=timeout)
        return self.status()

    def remove(self) -> None:
        self.client("RemoveContainer", container_id=self.id)

    def records(self) -> Iterator[tuple[str, str, str]]:
        """The lines of the log: stream, tag (P for a part, F for the end of a line), text."""
        for line in self.log.read_text().splitlines():
            match = re.fullmatch(
                r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(?:Z|[+-]\d\d:\d\d) (stdout|stderr) ([PF]) (.*)", line
            )
            assert match, line
            yield match[1], match[2], match[3]

    def said(self, stream: str | None = None) -> list[str]:
        """What it has written, line by line; `stream` limits it to stdout or stderr."""
        return [text + "\n" * (tag == "F") for name, tag, text in self.records() if stream in (None, name)]

    def says(self, text: str) -> None:
        """Wait until the log has `text`."""
        wait_for(lambda: self.log.exists() and text in self.log.read_text(), f"{text!r} in the log")


def _pause_archive(directory: Path) -> Path:
    """An image whose command does nothing but wait and bury the dead, for sandboxes."""
    tar = call(
        "tar", "-C", directory.parent / "image" / "rootfs", "--numeric-owner", "--owner=0", "--group=0", "-c", "."
    )
    path = directory / "pause.tar"
    waiting = "trap 'exit 0' TERM INT; while :; do sleep 1000 & wait; done"
    docker_archive(path, tar.ok().raw, tags=[PAUSE], config={"Cmd": ["/bin/sh", "-c", waiting]})
    return path


__all__ = ["PLUGINS", "Container", "Failure", "Kubelet", "Pod", "handlers"]
