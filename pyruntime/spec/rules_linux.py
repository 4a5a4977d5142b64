"""The rules between properties of the linux section; `rules.py` says how rules work."""

from __future__ import annotations

from pyruntime.spec.checker import report
from pyruntime.spec.quoting import join, shorten

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from pyruntime.errors import SpecError

    Rule = Callable[[dict[str, Any], str, list[SpecError]], None]
    Rules = Iterable[tuple[tuple[str, ...], Rule]]

_SYSCTL_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-./@")

# Parameters of kernel.* that belong to the ipc namespace; those of fs.mqueue do as a whole.
_IPC_SYSCTLS = frozenset(
    (
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
        "kernel/sem",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
        "kernel/shm_rmid_forced",
    )
)

_WITH_DATA = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")

_INTERFACE_MAX = 15  # IFNAMSIZ less the terminating NUL


def sysctl_path(name: str) -> str | None:
    """The file below /proc/sys of a kernel parameter, or None if `name` cannot be one.

    As in sysctl(8): the first separator, dot or slash, is the one between components, and the other one is a literal
    dot within one: `net.ipv4.conf.eth0/100.forwarding` and `net/ipv4/conf/eth0.100/forwarding` are the same.
    """
    dot, slash = name.find("."), name.find("/")
    if dot >= 0 and (slash < 0 or dot < slash):
        name = name.translate({ord("."): "/", ord("/"): "."})
    if not _SYSCTL_LETTERS.issuperset(name) or any(part in ("", ".", "..") for part in name.split("/")):
        return None
    return name


def is_list(text: str) -> bool:
    """Whether `text` is a list of numbers and ranges, such as `0-3,7`. Spaces and empty entries are harmless."""
    for entry in text.split(","):
        first, dash, last = entry.strip(" ").partition("-")
        if not dash:
            last = first
        if (dash or first) and not (_is_number(first) and _is_number(last) and int(first) <= int(last)):
            return False
    return True


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10  # isdecimal() alone admits digits of any script


def _sysctl(linux: dict[str, Any], path: str, found: list[SpecError]) -> None:
    """Only parameters of a namespace that the container does not share with the host (CVE-2022-0532)."""
    sysctl = linux.get("sysctl")
    if not sysctl:
        return
    namespaces = {entry["type"] for entry in linux.get("namespaces", ())}
    for name, value in sysctl.items():
        place = join(f"{path}.sysctl", name)
        file = sysctl_path(name)
        if file is None:
            report(found, place, "not the name of a kernel parameter")
            continue
        needed = _sysctl_namespace(file)
        if file == "kernel/hostname":
            report(found, place, "use the hostname property instead")
        elif needed is None:
            report(
                found,
                place,
                f"sysctl {shorten(name)} is not in a separate kernel namespace, it would change the host's",
            )
        elif needed not in namespaces:
            report(found, place, f"needs a {needed} namespace in linux.namespaces, it would change the host's")
        if "\n" in value.removesuffix("\n"):
            report(found, place, "a value has one line")


def _sysctl_namespace(file: str) -> str | None:
    if file in _IPC_SYSCTLS or file.startswith("fs/mqueue/"):
        return "ipc"
    if file.startswith("net/"):
        return "network"
    if file.startswith("user/"):
        return "user"
    if file == "kernel/domainname":
        return "uts"
    return None


def _time_offsets(linux: dict[str, Any], path: str, found: list[SpecError]) -> None:
    if linux.get("timeOffsets"):
        paths = [entry.get("path") for entry in linux.get("namespaces", ()) if entry["type"] == "time"]
        if not paths:
            report(found, f"{path}.timeOffsets", "needs a time namespace in linux.namespaces")
        elif paths[0]:
            # The clocks of a namespace can only be set before a process is in it, see time_namespaces(7).
            report(found, f"{path}.timeOffsets", "needs a new time namespace, the one with a path keeps its clocks")


def _hidden_paths(linux: dict[str, Any], path: str, found: list[SpecError]) -> None:
    for name in ("maskedPaths", "readonlyPaths"):
        if linux.get(name) and not any(entry["type"] == "mount" for entry in linux.get("namespaces", ())):
            report(found, f"{path}.{name}", "needs a mount namespace in linux.namespaces, it would change the host's")


def _devices(linux: dict[str, Any], path: str, found: list[SpecError]) -> None:
    for index, device in enumerate(linux.get("devices", ())):
        if device["type"] == "p":  # a pipe has no number, and one that is given means nothing
            continue
        # dev_t of the kernel has 12 and 20 bits.
        for name, limit in (("major", 4095), ("minor", 1048575)):
            place = f"{path}.devices[{index}].{name}"
            if name not in device:
                report(found, place, "required, but missing")
            elif not 0 <= device[name] <= limit:
                report(found, place, f"expected an integer from 0 to {limit}, got {device[name]}")


def _net_devices(linux: dict[str, Any], path: str, found: list[SpecError]) -> None:
    devices = linux.get("netDevices")
    if not devices:
        return
    path = f"{path}.netDevices"
    if not any(entry["type"] == "network" for entry in linux.get("namespaces", ())):
        report(found, path, "needs a network namespace in linux.namespaces to move interfaces to")
    taken = set()
    for name, device in devices.items():
        place = join(path, name)
        inside = device.get("name") or name
        if not _is_interface(name):
            report(found, place, "not the name of a network interface")
        elif not _is_interface(inside):
            report(found, f"{place}.name", f"{shorten(inside)} is not the name of a network interface")
        elif inside in taken:
            report(found, f"{place}.name", f"{shorten(inside)} is the name of two interfaces")
        if "%d" not in inside:  # a template, for which the kernel picks a free number
            taken.add(inside)


def _is_interface(name: str) -> bool:
    """dev_valid_name() of the kernel."""
    return (
        len(name.encode("utf-8", "surrogatepass")) <= _INTERFACE_MAX
        and name not in ("", ".", "..")
        and not any(letter in "/:" or letter.isspace() for letter in name)
    )


def _intel_rdt(linux: dict[str, Any], path: str, found: list[SpecError]) -> None:
    name = linux.get("intelRdt", {}).get("closID", "")
    # "/" is the default class, the root of resctrl; every other value is one directory in it.
    if name in (".", "..") or (name != "/" and "/" in name):
        report(found, f"{path}.intelRdt.closID", f"{shorten(name)} is not the name of a directory")


def _count(nodes: str) -> int:
    """How many numbers a list of the form 0-3,7 has."""
    ends = [part.split("-") for part in nodes.replace(" ", "").split(",") if part]
    return sum(int(end[-1]) - int(end[0]) + 1 for end in ends)


def _memory_policy(linux: dict[str, Any], path: str, found: list[SpecError]) -> None:
    """What set_mempolicy(2) refuses with a bare EINVAL."""
    policy = linux.get("memoryPolicy")
    if policy is None:
        return
    path = f"{path}.memoryPolicy"
    mode, nodes, flags = policy["mode"], policy.get("nodes", ""), policy.get("flags", ())
    some = nodes.strip(" ,")
    if not is_list(nodes):
        report(found, f"{path}.nodes", f"expected a list of nodes such as 0-1,3, got {shorten(nodes)}")
    elif some and mode in ("MPOL_DEFAULT", "MPOL_LOCAL"):
        report(found, f"{path}.nodes", f"{mode} mode requires 0 nodes but got {_count(nodes)}")
    elif not some and mode not in ("MPOL_DEFAULT", "MPOL_LOCAL", "MPOL_PREFERRED"):
        report(found, f"{path}.nodes", f"{mode} needs at least one node")
    fixed = [flag for flag in ("MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES") if flag in flags]
    if len(fixed) == 2:
        report(found, f"{path}.flags", "MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other")
    elif fixed and (mode == "MPOL_LOCAL" or (mode == "MPOL_PREFERRED" and not some)):
        report(found, f"{path}.flags", f"{fixed[0]} needs nodes")
    if "MPOL_F_NUMA_BALANCING" in flags and mode not in ("MPOL_BIND", "MPOL_PREFERRED_MANY"):
        report(found, f"{path}.flags", f"{mode} does not go with MPOL_F_NUMA_BALANCING")


def _seccomp(linux: dict[str, Any], path: str, found: list[SpecError]) -> None:
    seccomp = linux.get("seccomp")
    if seccomp is None:
        return
    path = f"{path}.seccomp"
    default = seccomp["defaultAction"]
    if "defaultErrnoRet" in seccomp and default not in _WITH_DATA:
        report(found, f"{path}.defaultErrnoRet", f"{default} returns no errno, only ERRNO and TRACE do")
    for index, rule in enumerate(seccomp.get("syscalls", ())):
        if "errnoRet" in rule and rule["action"] not in _WITH_DATA:
            report(
                found,
                f"{path}.syscalls[{index}].errnoRet",
                f"{rule['action']} returns no errno, only ERRNO and TRACE do",
            )
    if seccomp.get("listenerMetadata") and not seccomp.get("listenerPath"):
        report(found, f"{path}.listenerMetadata", "needs listenerPath")


def _personality(linux: dict[str, Any], path: str, found: list[SpecError]) -> None:
    """Version 1.3.0 of the specification has a list of flags and no flag to put into it."""
    for index, flag in enumerate(linux.get("personality", {}).get("flags", ())):
        report(found, f"{path}.personality.flags[{index}]", f"{shorten(flag)} is no flag: none is defined")


LINUX_RULES: Rules = (
    (("sysctl", "namespaces"), _sysctl),
    (("timeOffsets", "namespaces"), _time_offsets),
    (("maskedPaths", "readonlyPaths", "namespaces"), _hidden_paths),
    (("devices",), _devices),
    (("netDevices", "namespaces"), _net_devices),
    (("intelRdt",), _intel_rdt),
    (("memoryPolicy",), _memory_policy),
    (("personality",), _personality),
    (("seccomp",), _seccomp),
)


# -------------------------------------------------------------------------------------------------------- resources


def _cpu(resources: dict[str, Any], path: str, found: list[SpecError]) -> None:
    cpu = resources.get("cpu", {})
    quota, burst = cpu.get("quota", 0), cpu.get("burst", 0)
    if 0 < quota < burst:
        report(found, f"{path}.cpu.burst", f"{burst} is above the quota of {quota}")


def _memory(resources: dict[str, Any], path: str, found: list[SpecError]) -> None:
    memory = resources.get("memory", {})
    limit, swap = memory.get("limit", 0), memory.get("swap", 0)
    if 0 < swap < limit:
        report(found, f"{path}.memory.swap", f"memory and swap together ({swap}) are below the memory limit of {limit}")


def _weights(resources: dict[str, Any], path: str, found: list[SpecError]) -> None:
    for index, device in enumerate(resources.get("blockIO", {}).get("weightDevice", ())):
        if "weight" not in device and "leafWeight" not in device:
            report(found, f"{path}.blockIO.weightDevice[{index}]", "needs weight or leafWeight")


def _rdma(resources: dict[str, Any], path: str, found: list[SpecError]) -> None:
    for name, limits in resources.get("rdma", {}).items():
        if "hcaHandles" not in limits and "hcaObjects" not in limits:
            report(found, join(f"{path}.rdma", name), "needs hcaHandles or hcaObjects")


RESOURCE_RULES: Rules = (
    (("cpu",), _cpu),
    (("memory",), _memory),
    (("blockIO",), _weights),
    (("rdma",), _rdma),
)
