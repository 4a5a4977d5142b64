"""Bundles for the tests: a configuration like the one of `runc spec`, and a root file system."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Config = dict[str, Any]
Change = Callable[[Config], object]

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MIRROR = "http://deb.debian.org/debian"
CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]

_DEFAULT: Config = {
    "ociVersion": "1.0.2",
    "process": {
        "terminal": False,
        "user": {"uid": 0, "gid": 0},
        "args": ["true"],
        "env": [PATH, "TERM=xterm"],
        "cwd": "/",
        "capabilities": {
            "bounding": CAPABILITIES,
            "effective": CAPABILITIES,
            "permitted": CAPABILITIES,
        },
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "noNewPrivileges": True,
    },
    "root": {"path": "rootfs", "readonly": False},
    "hostname": "pyruntime",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {
            "destination": "/dev/shm",
            "type": "tmpfs",
            "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        },
        {
            "destination": "/dev/mqueue",
            "type": "mqueue",
            "source": "mqueue",
            "options": ["nosuid", "noexec", "nodev"],
        },
        {
            "destination": "/sys",
            "type": "sysfs",
            "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", "ro"],
        },
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", "ro"],
        },
    ],
    "linux": {
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
        "maskedPaths": [
            "/proc/acpi",
            "/proc/asound",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/timer_list",
            "/proc/timer_stats",
            "/proc/sched_debug",
            "/sys/firmware",
            "/proc/scsi",
        ],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    },
}


def default_config(args: Sequence[str] = ("true",)) -> Config:
    """A fresh configuration like the one that `runc spec` writes, without a terminal, with a writable root."""
    config = copy.deepcopy(_DEFAULT)
    config["process"]["args"] = list(args)
    return config


class Bundle:
    """A bundle directory. `write()` puts the present `config` on disk."""

    def __init__(self, path: Path, config: Config) -> None:
        self.path = path
        self.config = config
        self.write()

    @property
    def rootfs(self) -> Path:
        return Path(self.path, self.config["root"]["path"])

    def write(self) -> None:
        (self.path / "config.json").write_text(json.dumps(self.config, indent=1))


def find_busybox() -> Path | None:
    """A busybox that needs no library: an ELF without a program interpreter."""
    for path in (Path("/bin/busybox"), Path("/usr/bin/busybox")):
        if path.exists():
            with path.open("rb") as file:
                if b"/ld-" not in file.read(4096):
                    return path
    return None


def make_busybox_rootfs(target: Path, busybox: Path) -> Path:
    """A root file system in the new directory `target`: busybox under the names of all its applets."""
    for name in ("bin", "dev", "etc", "proc", "root", "sys", "tmp", "usr", "var"):
        (target / name).mkdir(parents=True)
    (target / "tmp").chmod(0o1777)
    shutil.copy(busybox, target / "bin" / "busybox")
    names = subprocess.run([busybox, "--list"], stdout=subprocess.PIPE, check=True, text=True).stdout.split()
    for name in names:
        if name != "busybox":
            (target / "bin" / name).symlink_to("busybox")
    (target / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n")
    (target / "etc" / "group").write_text("root:x:0:\nuser:x:1000:\nextra:x:2000:user\n")
    return target


def copy_tree(source: Path, target: Path) -> Path:
    """A faithful copy of a root file system: owners, modes, links, devices, attributes."""
    subprocess.run(["cp", "-a", "--reflink=auto", "--", source, target], check=True)
    return target


def make_debian_rootfs(cache: Path, suite: str = "bookworm") -> Path:
    """A minimal Debian below `cache`, made once by debootstrap (about a minute, needs the package mirror)."""
    import fcntl

    cache.mkdir(parents=True, exist_ok=True)
    target: Path = cache / f"debian-{suite}"
    with open(cache / f"debian-{suite}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            unfinished = cache / f"debian-{suite}.{os.getpid()}"
            shutil.rmtree(unfinished, ignore_errors=True)
            subprocess.run(
                ["debootstrap", "--variant=minbase", suite, unfinished, MIRROR], check=True, stdout=subprocess.DEVNULL
            )
            unfinished.rename(target)
    return target
