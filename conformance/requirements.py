"""The list of requirements: what the specification demands, where it says so, and whether a program can see it."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
SPEC = "https://github.com/opencontainers/runtime-spec/blob/v1.3.0/"

# The longest prefix of a requirement's id decides which section of the specification its link opens.
SECTIONS = {
    "annotations": "config.md#annotations",
    "bundle": "bundle.md#container-format",
    "cgroup": "config-linux.md#control-groups",
    "cgroup.ownership": "config-linux.md#cgroup-ownership",
    "cgroup.path": "config-linux.md#cgroups-path",
    "cps": "config-linux.md#the-container-process-state",
    "dev": "runtime-linux.md#dev-symbolic-links",
    "devices": "config-linux.md#devices",
    "devices.default": "config-linux.md#default-devices",
    "domainname": "config.md#domainname",
    "errors": "runtime.md#errors",
    "extensibility": "config.md#extensibility",
    "fds": "runtime-linux.md#file-descriptors",
    "features": "features.md#features-structure",
    "features.linux": "features-linux.md#linux-features-structure",
    "features.linux.namespaces": "features-linux.md#namespaces",
    "features.linux.capabilities": "features-linux.md#capabilities",
    "features.linux.cgroup": "features-linux.md#cgroup",
    "features.linux.seccomp": "features-linux.md#seccomp",
    "features.linux.memoryPolicy": "features-linux.md#memorypolicy",
    "features.linux.intelRdt": "features-linux.md#intel-rdt",
    "features.linux.mountExtensions": "features-linux.md#mountextensions",
    "features.linux.netDevices": "features-linux.md#netdevices",
    "fs": "config-linux.md#default-filesystems",
    "hooks": "config.md#posix-platform-hooks",
    "hooks.prestart": "config.md#prestart",
    "hooks.createRuntime": "config.md#createruntime-hooks",
    "hooks.createContainer": "config.md#createcontainer-hooks",
    "hooks.startContainer": "config.md#startcontainer-hooks",
    "hooks.poststart": "config.md#poststart",
    "hooks.poststop": "config.md#poststop",
    "hostname": "config.md#hostname",
    "json": "glossary.md#json",
    "lifecycle": "runtime.md#lifecycle",
    "maskedPaths": "config-linux.md#masked-paths",
    "memoryPolicy": "config-linux.md#memory-policy",
    "mount-option": "config.md#linux-mount-options",
    "mountLabel": "config-linux.md#mount-label",
    "mounts": "config.md#mounts",
    "mounts.options": "config.md#linux-mount-options",
    "mounts.uidMappings": "config.md#posix-platform-mounts",
    "mounts.gidMappings": "config.md#posix-platform-mounts",
    "mounts.idMappings": "config.md#posix-platform-mounts",
    "netDevices": "config-linux.md#network-devices",
    "ns": "config-linux.md#namespaces",
    "ociVersion": "config.md#specification-version",
    "ops": "runtime.md#operations",
    "ops.create": "runtime.md#create",
    "ops.delete": "runtime.md#delete",
    "ops.kill": "runtime.md#kill",
    "ops.start": "runtime.md#start",
    "ops.state": "runtime.md#query-state",
    "personality": "config-linux.md#personality",
    "platform": "config.md#platform-specific-configuration",
    "process": "config.md#process",
    "process.apparmorProfile": "config.md#linux-process",
    "process.capabilities": "config.md#linux-process",
    "process.execCPUAffinity": "config.md#linux-process",
    "process.ioPriority": "config.md#linux-process",
    "process.noNewPrivileges": "config.md#linux-process",
    "process.oomScoreAdj": "config.md#linux-process",
    "process.rlimits": "config.md#posix-process",
    "process.scheduler": "config.md#linux-process",
    "process.selinuxLabel": "config.md#linux-process",
    "process.user": "config.md#posix-platform-user",
    "rdt": "config-linux.md#intelrdt",
    "readonlyPaths": "config-linux.md#readonly-paths",
    "res.blockIO": "config-linux.md#block-io",
    "res.cpu": "config-linux.md#cpu",
    "res.devices": "config-linux.md#allowed-device-list",
    "res.hugepageLimits": "config-linux.md#huge-page-limits",
    "res.memory": "config-linux.md#memory",
    "res.network": "config-linux.md#network",
    "res.pids": "config-linux.md#pids",
    "res.rdma": "config-linux.md#rdma",
    "res.unified": "config-linux.md#unified",
    "root": "config.md#root",
    "rootfsPropagation": "config-linux.md#rootfs-mount-propagation",
    "seccomp": "config-linux.md#seccomp",
    "state": "runtime.md#state",
    "sysctl": "config-linux.md#sysctl",
    "timens": "config-linux.md#offset-for-time-namespace",
    "userns": "config-linux.md#user-namespace-mappings",
    "values": "config.md#valid-values",
    "warnings": "runtime.md#warnings",
}


class Requirement(NamedTuple):
    """One row of `requirements.tsv`.

    `level` is the word of RFC 2119 the specification uses; OPTIONAL and REQUIRED mark properties of the configuration,
    STATED a sentence that defines behaviour without such a word. `upstream` names tests elsewhere that touch the same
    sentence: `rt:` a validation program of runtime-tools, `contest:` a group of youki's contest suite.
    """

    id: str
    area: str
    level: str
    config_path: str
    text: str
    interface: str
    verify: str
    upstream: str

    @property
    def link(self) -> str:
        """Address of the section of the specification (version 1.3.0) that holds the sentence."""
        parts = self.id.split(".")
        for length in range(len(parts), 0, -1):
            section = SECTIONS.get(".".join(parts[:length]))
            if section:
                return SPEC + section
        raise KeyError(f"no section of the specification is known for requirement {self.id}")


@cache
def load() -> dict[str, Requirement]:
    """All requirements by id, in the order of the list."""
    with open(HERE / "requirements.tsv", encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        next(rows)
        return {row[0]: Requirement(*row) for row in rows}


@cache
def unobservable() -> dict[str, str]:
    """Requirements no case can show, each with the reason."""
    with open(HERE / "unobservable.tsv", encoding="utf-8", newline="") as file:
        return dict(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
