"""Configurations for tests: shaped like those of engines, and one with every property of the spec."""

from __future__ import annotations

from typing import Any

from pyruntime.spec import names, template

Config = dict[str, Any]


def podman_like() -> Config:
    """As podman writes them: 437 names in the seccomp profile, sysctl, file type bits in device modes."""
    calls = [f"call{number}" for number in range(437)]
    capabilities = list(names.CAPABILITIES[:11])
    return {
        "ociVersion": "1.0.2-dev",
        "process": {
            "user": {"uid": 0, "gid": 0, "umask": 18},
            "args": ["true"],
            "env": ["PATH=/usr/bin:/bin", "TERM=xterm", "container=podman", "HOSTNAME=7d1ddd9965f8", "EMPTY="],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [
                {"type": "RLIMIT_NOFILE", "hard": 1048576, "soft": 1048576},
                {"type": "RLIMIT_NPROC", "hard": 2**64 - 1, "soft": 2**64 - 1},
            ],
            "oomScoreAdj": 0,
        },
        "root": {"path": "/var/lib/containers/storage/overlay/de40c47a/merged"},
        "hostname": "7d1ddd9965f8",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {
                "destination": "/etc/hosts",
                "type": "bind",
                "source": "/run/containers/storage/hosts",
                "options": ["bind", "rprivate", "size=1"],
            },
            {"destination": "/data", "type": "bind", "source": "/srv", "options": ["rbind", "rslave", "z"]},
        ],
        "annotations": {"io.container.manager": "libpod", "org.opencontainers.image.stopSignal": "15", "a": ""},
        "linux": {
            "sysctl": {"net.ipv4.ping_group_range": "0 0"},
            "resources": {
                "devices": [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": -1, "minor": -1}],
                "pids": {"limit": 2048},
                "memory": {"swappiness": 2**64 - 1},
            },
            "cgroupsPath": "/libpod_parent/libpod-7d1ddd9965f8",
            "namespaces": [
                {"type": "pid"},
                {"type": "network", "path": "/run/netns/netns-1"},
                {"type": "ipc"},
                {"type": "uts"},
                {"type": "mount"},
            ],
            "devices": [
                {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 8630, "uid": 0, "gid": 0}
            ],
            "seccomp": {
                "defaultAction": "SCMP_ACT_ERRNO",
                "defaultErrnoRet": 38,
                "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
                "syscalls": [
                    {"names": calls, "action": "SCMP_ACT_ALLOW"},
                    {"names": ["bdflush", "io_pgetevents"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
                    *(
                        {
                            "names": ["personality"],
                            "action": "SCMP_ACT_ALLOW",
                            "args": [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}],
                        }
                        for value in (0, 8, 131072, 131080, 4294967295)
                    ),
                ],
            },
            "rootfsPropagation": "rslave",
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/sys"],
        },
    }


def docker_like() -> Config:
    """As dockerd writes them: weight 0 for unset, a prestart hook, a console size of zero."""
    return {
        "ociVersion": "1.0.2-dev",
        "process": {
            "consoleSize": {"height": 0, "width": 0},
            "user": {"uid": 0, "gid": 0, "additionalGids": [0, 10]},
            "args": ["sh", "-c", "true"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {"bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"]},
            "apparmorProfile": "docker-default",
            "oomScoreAdj": 0,
        },
        "root": {"path": "/var/lib/docker/overlay2/x/merged"},
        "hostname": "a483d95c15cb",
        "domainname": "example.org",
        "mounts": [{"destination": "/dev/shm", "type": "bind", "source": "/x/shm", "options": ["rbind", "rprivate"]}],
        "hooks": {"prestart": [{"path": "/proc/1/exe", "args": ["libnetwork-setkey", "-exec-root=/run/docker", "a"]}]},
        "linux": {
            "sysctl": {"net.ipv4.ip_unprivileged_port_start": "0"},
            "resources": {
                "devices": [
                    {"allow": False, "access": "rwm"},
                    {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "rwm"},
                ],
                "memory": {"limit": 67108864, "swap": 134217728, "disableOOMKiller": False},
                "cpu": {"shares": 0, "quota": 50000, "period": 100000, "cpus": "0"},
                "pids": {"limit": -1},
                "blockIO": {"weight": 0, "throttleReadBpsDevice": [{"major": 254, "minor": 0, "rate": 1048576}]},
            },
            "cgroupsPath": "/docker/a483d95c15cb",
            "namespaces": [{"type": name} for name in ("mount", "network", "uts", "pid", "ipc")],
            "seccomp": {
                "defaultAction": "SCMP_ACT_ERRNO",
                "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{"names": ["accept", "access"], "action": "SCMP_ACT_ALLOW"}],
            },
            "maskedPaths": ["/proc/acpi"],
            "readonlyPaths": ["/proc/bus"],
        },
    }


def containerd_like() -> Config:
    """As containerd's CRI plugin writes them for a pod with a user namespace: joined namespaces, mappings repeated."""
    mappings = [{"containerID": 0, "hostID": 65536, "size": 65536}]
    return {
        "ociVersion": "1.2.1",
        "process": {
            "user": {"uid": 65535, "gid": 65535, "additionalGids": [65535]},
            "args": ["/pause"],
            "env": ["PATH=/bin", "HOSTNAME=pod"],
            "cwd": "/",
            "capabilities": {"bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"]},
            "noNewPrivileges": True,
            "oomScoreAdj": -998,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "pod",
        "mounts": [
            {
                "destination": "/data",
                "type": "bind",
                "source": "/var/lib/kubelet/x",
                "options": ["rbind", "rro"],
                "uidMappings": mappings,
                "gidMappings": mappings,
            },
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
        ],
        "annotations": {"io.kubernetes.cri.container-type": "sandbox"},
        "linux": {
            "uidMappings": mappings,
            "gidMappings": mappings,
            "sysctl": {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"},
            "resources": {
                "devices": [{"allow": False, "access": "rwm"}],
                "cpu": {"shares": 2, "quota": -1, "period": 100000},
                "hugepageLimits": [{"pageSize": "2MB", "limit": 0}, {"pageSize": "1GB", "limit": 0}],
                "unified": {"memory.oom.group": "1"},
            },
            "cgroupsPath": "kubepods-besteffort-pod1.slice:cri-containerd:1",
            "namespaces": [
                {"type": "pid"},
                {"type": "ipc"},
                {"type": "uts"},
                {"type": "mount"},
                {"type": "network", "path": "/var/run/netns/cni-1"},
                {"type": "user", "path": "/proc/10/ns/user"},
                {"type": "cgroup"},
            ],
        },
    }


def complete() -> Config:
    """Every property that the spec defines for Linux, with valid values."""
    mappings = [{"containerID": 0, "hostID": 100000, "size": 1000}, {"containerID": 1000, "hostID": 200000, "size": 1}]
    throttle = [{"major": 8, "minor": 0, "rate": 2**64 - 1}]
    hook = {"path": "/bin/true", "args": ["true", "x"], "env": ["A=B"], "timeout": 1}
    return {
        "ociVersion": "1.3.0",
        "root": {"path": "rootfs", "readonly": False},
        "mounts": [
            {
                "destination": "/idmapped",
                "type": "none",
                "source": "data",
                "options": ["rbind", "ridmap"],
                "uidMappings": mappings,
                "gidMappings": mappings,
            },
            {"destination": "relative", "type": "tmpfs"},
        ],
        "process": {
            "terminal": True,
            "consoleSize": {"height": 24, "width": 80},
            "cwd": "/",
            "env": ["A=B", "NOTHING", "=odd"],
            "args": ["sh", ""],
            "commandLine": "for another platform",
            "user": {"uid": 1, "gid": 2, "umask": 511, "additionalGids": [3, 4294967294], "username": "x"},
            "rlimits": [{"type": name, "soft": 0, "hard": 2**64 - 1} for name in names.RLIMITS],
            "apparmorProfile": "profile",
            "capabilities": {
                kind: ["CAP_CHOWN", "CAP_UNHEARD_OF"]
                for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")
            },
            "noNewPrivileges": False,
            "oomScoreAdj": -1000,
            "scheduler": {
                "policy": "SCHED_DEADLINE",
                "nice": 0,
                "priority": 0,
                "flags": ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_DL_OVERRUN"],
                "runtime": 1000000,
                "deadline": 2000000,
                "period": 3000000,
            },
            "selinuxLabel": "system_u:system_r:container_t:s0",
            "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 7},
            "execCPUAffinity": {"initial": "0-3,7", "final": ""},
        },
        "hostname": "h" * 64,
        "domainname": "example.org",
        "hooks": {name: [hook] for name in names.HOOKS},
        "annotations": {"org.example.key": "value", "ä": ""},
        "linux": {
            "namespaces": [{"type": name, "path": ""} for name in names.NAMESPACES],
            "uidMappings": mappings,
            "gidMappings": mappings,
            "timeOffsets": {"monotonic": {"secs": -1, "nanosecs": 999999999}, "boottime": {}},
            "devices": [
                {"type": "c", "path": "/dev/c", "major": 1, "minor": 3, "fileMode": 438, "uid": 0, "gid": 0},
                {"type": "b", "path": "/dev/b", "major": 4095, "minor": 1048575},
                {"type": "u", "path": "/dev/u", "major": 0, "minor": 0},
                {"type": "p", "path": "/srv/pipe"},
            ],
            "netDevices": {"eth0": {"name": "container_eth0"}, "eth1": {}, "eth2": {"name": "net%d"}},
            "cgroupsPath": "anything at all",
            "resources": {
                "devices": [{"allow": True, "type": "a", "major": 1, "minor": 2, "access": "mwr"}, {"allow": False}],
                "memory": {
                    "limit": 1000,
                    "reservation": -1,
                    "swap": 1000,
                    "kernel": 0,
                    "kernelTCP": 2**63 - 1,
                    "swappiness": 100,
                    "disableOOMKiller": True,
                    "useHierarchy": True,
                    "checkBeforeUpdate": True,
                },
                "cpu": {
                    "shares": 1024,
                    "quota": 1000,
                    "burst": 1000,
                    "period": 2**64 - 1,
                    "realtimeRuntime": -(2**63),
                    "realtimePeriod": 0,
                    "cpus": "0-1",
                    "mems": "0",
                    "idle": 1,
                },
                "pids": {"limit": 0},
                "blockIO": {
                    "weight": 10,
                    "leafWeight": 1000,
                    "weightDevice": [{"major": 8, "minor": 0, "weight": 500, "leafWeight": 300}],
                    "throttleReadBpsDevice": throttle,
                    "throttleWriteBpsDevice": throttle,
                    "throttleReadIOPSDevice": throttle,
                    "throttleWriteIOPSDevice": throttle,
                },
                "hugepageLimits": [{"pageSize": "64KB", "limit": 0}],
                "network": {"classID": 4294967295, "priorities": [{"name": "eth0", "priority": 0}]},
                "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 4294967295}, "mlx5_2": {"hcaObjects": 1}},
                "unified": {"memory.high": "max", "unheard.of": ""},
            },
            "intelRdt": {
                "closID": "guaranteed",
                "schemata": ["L3:0=7f0;1=1f"],
                "l3CacheSchema": "L3:0=7f0;1=1f",
                "memBwSchema": "MB:0=20;1=70",
                "enableMonitoring": True,
            },
            "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0-1,3", "flags": ["MPOL_F_STATIC_NODES"]},
            "sysctl": {
                "kernel.shmmax": "1",
                "fs.mqueue.msg_max": "1",
                "net/ipv4/conf/eth0.100/forwarding": "1",
                "net.ipv4.conf.eth0/100.rp_filter": "1\n",
                "kernel.domainname": "example.org",
                "user.max_user_namespaces": "1",
            },
            "seccomp": {
                "defaultAction": "SCMP_ACT_TRACE",
                "defaultErrnoRet": 65535,
                "architectures": list(names.SECCOMP_ARCHITECTURES),
                "flags": list(names.SECCOMP_FLAGS),
                "listenerPath": "/run/listener",
                "listenerMetadata": "text",
                "syscalls": [
                    {
                        "names": ["getcwd"],
                        "action": "SCMP_ACT_ERRNO",
                        "errnoRet": 0,
                        "args": [
                            {"index": 5, "value": 2**64 - 1, "valueTwo": 0, "op": operator}
                            for operator in names.SECCOMP_OPERATORS
                        ],
                    },
                    *({"names": ["x"], "action": action} for action in names.SECCOMP_ACTIONS),
                ],
            },
            "rootfsPropagation": "unbindable",
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"],
            "mountLabel": "system_u:object_r:container_file_t:s0",
            "personality": {"domain": "LINUX32", "flags": []},
        },
        "windows": {"layerFolders": 5},
        "solaris": [],
        "vm": None,
        "org.example.extension": {"anything": [1.5, None]},
    }


def starter() -> Config:
    """What `spec` writes."""
    return dict(template.config())


def minimal() -> Config:
    """The least that create takes: there is no process, so it cannot be started."""
    return {"ociVersion": "1.0.0-rc5", "root": {"path": "r"}}


ALL = (minimal, starter, podman_like, docker_like, containerd_like, complete)
