"""The configuration that `spec` writes: a shell on a terminal, few privileges, and what containers usually mount.

It is what users of other runtimes expect to find and edit, in the order in which config.md presents it.
"""

from __future__ import annotations

import os

from pyruntime import SPEC_VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.spec.types import Linux, Mount, Spec

_CAPABILITIES = ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")

# Files that tell about, or act on, the whole machine and have no namespace. A path that a kernel lacks is skipped.
_MASKED = (
    "/proc/acpi",  # CVE-2018-10892
    "/proc/asound",
    "/proc/interrupts",  # GHSA-6fw5-f8r9-fgfm: thermal interrupts tell what others compute
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",  # GHSA-7ww5-4wqc-m92c: so does the power meter (CVE-2020-8694)
    "/sys/firmware",
)

_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def config(rootless: bool = False) -> Spec:
    """A configuration to start from; `rootless` makes it one that the calling user can run without privileges."""
    return {
        "ociVersion": SPEC_VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": list(_CAPABILITIES),
                "effective": list(_CAPABILITIES),
                "permitted": list(_CAPABILITIES),
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "pyruntime",
        "mounts": _mounts(rootless),
        "linux": _linux(rootless),
    }


def _mounts(rootless: bool) -> list[Mount]:
    # Group 5 is tty; the user namespace of a rootless container has no such group.
    devpts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    sysfs: Mount
    if rootless:
        # Without a network namespace of its own a container may not mount a new sysfs, see user_namespaces(7).
        sysfs = {
            "destination": "/sys",
            "type": "none",
            "source": "/sys",
            "options": ["rbind", "nosuid", "noexec", "nodev", "ro"],
        }
    else:
        devpts.append("gid=5")
        sysfs = {
            "destination": "/sys",
            "type": "sysfs",
            "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", "ro"],
        }
    return [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": devpts},
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
        sysfs,
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", "ro"],
        },
    ]


def _linux(rootless: bool) -> Linux:
    types = ["pid", "ipc", "uts", "mount"]
    if not rootless:
        types.insert(1, "network")
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):  # cgroup v2; v1 hosts rarely want this namespace
        types.append("cgroup")
    linux: Linux = {}
    if rootless:
        types.append("user")
        linux["uidMappings"] = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
        linux["gidMappings"] = [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
    else:
        linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    linux["namespaces"] = [{"type": name} for name in types]
    linux["maskedPaths"] = [*_MASKED, *_thermal()]
    linux["readonlyPaths"] = list(_READ_ONLY)
    return linux


def _thermal() -> list[str]:
    """The counters of thermal throttling of each CPU of this host (GHSA-6fw5-f8r9-fgfm)."""
    directory = "/sys/devices/system/cpu"
    try:
        entries = os.listdir(directory)
    except OSError:
        return []
    numbers = sorted(int(entry[3:]) for entry in entries if entry.startswith("cpu") and entry[3:].isdecimal())
    paths = (f"{directory}/cpu{number}/thermal_throttle" for number in numbers)
    return [path for path in paths if os.path.exists(path)]
