"""The bundle every case starts from: a root filesystem of busybox applets and an ordinary configuration."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

# The applets the scripts of the cases use; one symbolic link each.
APPLETS = (
    "[ ash awk basename cat chgrp chmod chown chrt cp cut date dd df dirname echo env expr false find free grep head "
    "hexdump hostname id ifconfig ionice ip kill ln ls mkdir mkfifo mknod mktemp mount mv nice nproc od ping printf ps "
    "pwd readlink realpath renice rm rmdir sed seq setsid sh sleep sort stat stty su sync sysctl tail taskset tee test "
    "timeout touch tr true tty umount uname uniq unshare uptime usleep vi wc whoami xargs"
).split()

CAPABILITIES = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
]


def busybox() -> Path:
    """The static busybox the root filesystems are made of (package busybox-static)."""
    for candidate in (os.environ.get("CONFORMANCE_BUSYBOX"), "/bin/busybox", "/usr/bin/busybox", "/bin/busybox.static"):
        if candidate and os.access(candidate, os.X_OK):
            with open(candidate, "rb") as file:
                if b"ld-linux" not in file.read(8192):
                    return Path(candidate)
    raise FileNotFoundError("no static busybox found: install busybox-static, or name one in CONFORMANCE_BUSYBOX")


def build_rootfs(rootfs: Path) -> None:
    """Fill `rootfs` with busybox, its links and the directories an image has."""
    for directory in ("bin", "dev", "etc", "opt", "proc", "root", "run", "sys", "tmp", "usr", "var"):
        (rootfs / directory).mkdir(parents=True)
    (rootfs / "tmp").chmod(0o1777)
    (rootfs / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    (rootfs / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    shutil.copy(busybox(), rootfs / "bin/busybox")
    for applet in APPLETS:
        (rootfs / "bin" / applet).symlink_to("busybox")


def default_config(cgroups_path: str) -> dict[str, Any]:
    """What a container engine would write for a small container, as far as the specification says."""
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/true"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {name: list(CAPABILITIES) for name in ("bounding", "effective", "permitted")},
            "noNewPrivileges": False,
        },
        "root": {"path": "rootfs", "readonly": False},
        "hostname": "conformance",
        "mounts": [
            mount("/proc", "proc", "proc"),
            mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
            mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
            mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
            mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
            mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
        ],
        "linux": {
            "cgroupsPath": cgroups_path,
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")],
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        },
    }


def mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    """One entry of `mounts`."""
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def bind(source: str | Path, destination: str, *options: str) -> dict[str, Any]:
    """A bind mount; `options` follow `bind` (give `rbind` yourself to have it instead)."""
    words = list(options) if "rbind" in options else ["bind", *options]
    return {"destination": destination, "type": "none", "source": str(source), "options": words}
