"""Write the config.json files of the sample bundles: `python3 bundles/make.py`.

The samples need no image: their root file systems hold a few symbolic links, and the host's /usr is mounted read-only
where they point. What is written is committed, so that a bundle can be run, read and changed without this program.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

SHELL = r"""
echo "This is a container: host name $(hostname), process number $$, and these are all its processes:"
ps -o pid,args 2>/dev/null || ls -d /proc/[0-9]*
"""

# Engines give root in a container these capabilities and no others.
CAPABILITIES = [
    f"CAP_{name}"
    for name in (
        "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP",
        "SETUID", "SYS_CHROOT",
    )
]  # fmt: skip


def mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def common(args: list[str], hostname: str) -> dict[str, Any]:
    """A container of its own in every way, with the host's /usr."""
    private = ("nosuid", "noexec", "nodev")
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": [PATH, "TERM=xterm", "HOME=/tmp"],
            "cwd": "/",
            "capabilities": {name: [] for name in ("bounding", "effective", "permitted")},
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": hostname,
        "mounts": [
            mount("/proc", "proc", "proc", *private),
            mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
            mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
            mount("/dev/shm", "tmpfs", "shm", *private, "mode=1777", "size=65536k"),
            mount("/sys", "sysfs", "sysfs", *private, "ro"),
            mount("/tmp", "tmpfs", "tmpfs", "nosuid", "nodev", "mode=1777", "size=65536k"),
            mount("/usr", "bind", "/usr", "rbind", "ro", "nosuid", "nodev"),
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
            "resources": {"devices": [{"allow": False, "access": "rwm"}], "pids": {"limit": 100}},
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }


def hello() -> dict[str, Any]:
    return common(["sh", "-c", SHELL], "hello")


def shell() -> dict[str, Any]:
    """An interactive shell on a terminal."""
    config = common(["sh"], "shell")
    config["process"]["terminal"] = True
    config["process"]["env"].append("PS1=\\u0024 ")
    return config


def engine() -> dict[str, Any]:
    """A container as an engine writes it: more of everything, above all a filter of hundreds of system calls."""
    config = common(["sh", "-c", SHELL], "engine")
    process, linux = config["process"], config["linux"]
    process["noNewPrivileges"] = False
    process["user"]["umask"] = 0o22
    process["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES)
    process["rlimits"] = [
        {"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024},
        {"type": "RLIMIT_NPROC", "hard": 4096, "soft": 4096},
    ]
    process["env"].append("container=pyruntime")
    config["mounts"] += [
        mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        mount("/etc/hosts", "bind", "hosts", "bind", "rprivate"),
        mount("/etc/hostname", "bind", "hostname", "bind", "rprivate"),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", "rprivate", "nosuid", "noexec", "nodev", "relatime", "ro"),
    ]
    config["annotations"] = {"org.opencontainers.image.stopSignal": "15"}
    linux["sysctl"] = {"net.ipv4.ping_group_range": "0 0"}
    linux["resources"]["pids"]["limit"] = 2048
    linux["maskedPaths"] += [
        "/proc/latency_stats", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/fs/selinux",
        "/sys/dev/block",
    ]  # fmt: skip
    linux["readonlyPaths"].insert(0, "/proc/asound")
    linux["seccomp"] = seccomp()
    return config


def seccomp() -> dict[str, Any]:
    """A filter in the shape of the engines' default: what programs use is allowed by name, with a few conditions;
    what administers the machine is refused, and what the filter does not know does not exist."""
    names = (HERE / "engine" / "syscalls.txt").read_text().split()
    administration = {
        "acct", "bpf", "chroot", "clock_adjtime", "clock_settime", "create_module", "delete_module", "fanotify_init",
        "finit_module", "fsconfig", "fsmount", "fsopen", "fspick", "get_kernel_syms", "init_module", "ioperm", "iopl",
        "kcmp", "kexec_file_load", "kexec_load", "lookup_dcookie", "mount", "mount_setattr", "move_mount", "move_pages",
        "name_to_handle_at", "nfsservctl", "open_by_handle_at", "open_tree", "perf_event_open", "pivot_root",
        "process_vm_readv", "process_vm_writev", "ptrace", "query_module", "quotactl", "quotactl_fd", "reboot",
        "set_mempolicy", "setdomainname", "sethostname", "setns", "settimeofday", "stime", "swapoff", "swapon",
        "syslog", "umount", "umount2", "unshare", "uselib", "userfaultfd", "ustat", "vhangup", "vm86", "vm86old",
    }  # fmt: skip
    conditional = {"personality", "socket", "clone", "clone3"}
    allowed = [name for name in names if name not in administration | conditional]
    refused = [name for name in names if name in administration]

    def rule(action: str, chosen: list[str], *conditions: tuple[int, int, str], **more: int) -> dict[str, Any]:
        args = [{"index": index, "value": value, "op": op} for index, value, op in conditions]
        return {"names": chosen, "action": action, **more, **({"args": args} if args else {})}

    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            rule("SCMP_ACT_ERRNO", refused, errnoRet=1),
            rule("SCMP_ACT_ALLOW", allowed),
            # Execution domains: Linux and 32 bit Linux, with and without a randomised address space, and "tell me".
            *(
                rule("SCMP_ACT_ALLOW", ["personality"], (0, value, "SCMP_CMP_EQ"))
                for value in (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
            ),
            # Sockets of every family but AF_VSOCK, which reaches the hypervisor.
            rule("SCMP_ACT_ALLOW", ["socket"], (0, 40, "SCMP_CMP_NE")),
            # New processes, but no new namespaces. clone3 hides its flags in memory: glibc falls back on ENOSYS.
            {
                "names": ["clone"],
                "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 0, "value": 0x7E020000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
            },
            rule("SCMP_ACT_ERRNO", ["clone3"], errnoRet=38),
        ],
    }


ROOTFS_LINKS = {name: f"usr/{name}" for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32")}
SAMPLES = {"hello": hello, "shell": shell, "engine": engine}


def main() -> None:
    for name, make in SAMPLES.items():
        bundle = HERE / name
        (bundle / "rootfs").mkdir(parents=True, exist_ok=True)
        for link, target in ROOTFS_LINKS.items():
            path = bundle / "rootfs" / link
            if not path.is_symlink():
                path.symlink_to(target)
        (bundle / "config.json").write_text(json.dumps(make(), indent=1) + "\n")


if __name__ == "__main__":
    main()
