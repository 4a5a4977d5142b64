"""Propagation, masked and read-only paths, labels, sysctl, personality, memory policy: config-linux.md."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from conformance import process
from conformance.bundle import mount
from conformance.outcome import equal, require, skip
from conformance.registry import case, each
from conformance.stage import Stage

PROPAGATION: dict[str, set[str]] = {
    "shared": {"shared"},
    "slave": {"master"},
    "private": set(),
    "unbindable": {"unbindable"},
}


@each({f"rootfsPropagation.{word}": (word, tags) for word, tags in PROPAGATION.items()})
def root_has_the_propagation(stage: Stage, word: str, tags: set[str]) -> None:
    """/ of the container has the propagation type of the word."""
    process.mount(stage.rootfs, stage.rootfs, flags=process.MS_BIND)
    process.mount("none", stage.rootfs, flags=process.MS_SHARED)
    stage.linux["rootfsPropagation"] = word
    stage.up()
    seen = stage.mount_at("/").propagation - {"propagate_from"}
    if word in ("shared", "slave"):
        require(tags <= seen, f"propagation tags of / are {sorted(seen)}")
    else:
        equal(seen, tags, "propagation tags of /")


@case("rootfsPropagation.private")
def private_root_sees_nothing_of_the_host(stage: Stage) -> None:
    """With private a mount made on the host's side of the root filesystem does not appear inside."""
    process.mount(stage.rootfs, stage.rootfs, flags=process.MS_BIND)
    process.mount("none", stage.rootfs, flags=process.MS_SHARED)
    stage.linux["rootfsPropagation"] = "private"
    stage.up()
    process.mount("late", stage.rootfs / "opt", "tmpfs")
    require(not any(one.source == "late" for one in process.mounts_of(stage.pid)), "the mount of the host came in")


@case("rootfsPropagation.slave")
def slave_root_follows_the_host(stage: Stage) -> None:
    """With slave a mount made on the host's side of the root filesystem appears inside."""
    process.mount(stage.rootfs, stage.rootfs, flags=process.MS_BIND)
    process.mount("none", stage.rootfs, flags=process.MS_SHARED)
    stage.linux["rootfsPropagation"] = "slave"
    stage.up()
    process.mount("late", stage.rootfs / "opt", "tmpfs")
    require(any(one.source == "late" for one in process.mounts_of(stage.pid)), "the mount of the host did not come in")


@case("rootfsPropagation.invalid")
def unknown_propagation_is_an_error(stage: Stage) -> None:
    """Another word is an error."""
    stage.linux["rootfsPropagation"] = "bogus"
    stage.refused("rootfsPropagation is `bogus`")


@case("maskedPaths")
def masked_paths_are_empty(stage: Stage) -> None:
    """A masked file cannot be read, a masked directory is empty, and a missing path is no error."""
    (stage.rootfs / "opt/secret").write_text("secret")
    (stage.rootfs / "opt/dir").mkdir()
    (stage.rootfs / "opt/dir/secret").write_text("secret")
    stage.linux["maskedPaths"] = ["/opt/secret", "/opt/dir", "/opt/missing", "/proc/kcore", "/sys/firmware"]
    output = stage.sh(
        "cat /opt/secret; ls /opt/dir; cat /proc/kcore | head -c 4; ls /sys/firmware; echo; ls /opt", status=None
    )
    equal(output.split(), ["dir", "secret"], "what could be read, and the names in /opt")
    equal((stage.rootfs / "opt/secret").read_text(), "secret", "the file of the image")


@case("maskedPaths")
def masked_directory_cannot_be_written(stage: Stage) -> None:
    """Nothing can be put into a masked directory, and the mask cannot be taken away."""
    (stage.rootfs / "opt/dir").mkdir()
    stage.linux["maskedPaths"] = ["/opt/dir"]
    output = stage.sh("touch /opt/dir/x 2>&1; umount /opt/dir 2>&1; ls /opt/dir", status=None)
    require("Read-only file system" in output, f"writing gave {output!r}")
    require("not permitted" in output, f"unmounting gave {output!r}")


@case("readonlyPaths")
def readonly_paths_cannot_be_written(stage: Stage) -> None:
    """A read-only file or directory can be read and not written; a missing path is no error."""
    (stage.rootfs / "opt/file").write_text("text\n")
    (stage.rootfs / "opt/dir").mkdir()
    stage.linux["readonlyPaths"] = ["/opt/file", "/opt/dir", "/opt/missing", "/proc/sys"]
    output = stage.sh(
        "cat /opt/file; for f in /opt/file /opt/dir/x /proc/sys/kernel/hostname; do (echo x > $f) 2>&1; done; "
        "touch /opt/free",
        status=None,
    )
    require(output.startswith("text\n"), f"reading gave {output!r}")
    equal(output.count("Read-only file system"), 3, f"refusals in {output!r}")
    require((stage.rootfs / "opt/free").exists(), "the rest became read-only too")


@each({"maskedPaths.absolute": ("maskedPaths",), "readonlyPaths.absolute": ("readonlyPaths",)})
def relative_path_is_an_error(stage: Stage, name: str) -> None:
    """A relative path is an error."""
    stage.linux[name] = ["opt"]
    stage.refused(f"{name} holds a relative path")


@case("mountLabel")
def mount_label_is_applied(stage: Stage) -> None:
    """Mounts of the container carry the SELinux label."""
    if not Path("/sys/fs/selinux/enforce").exists():
        skip("SELinux is not active on this host")
    label = "system_u:object_r:container_file_t:s0"
    stage.linux["mountLabel"] = label
    stage.mounts.append(mount("/mnt", "tmpfs", "tmpfs"))
    stage.up()
    equal(os.getxattr(stage.inside("/mnt"), "security.selinux").rstrip(b"\0").decode(), label, "label of the mount")


@case("process.selinuxLabel")
def process_label_is_applied(stage: Stage) -> None:
    """The program has the SELinux label; without SELinux the label is an error or ignored, never fatal later."""
    if not Path("/sys/fs/selinux/enforce").exists():
        skip("SELinux is not active on this host")
    label = "system_u:system_r:container_t:s0"
    stage.process["selinuxLabel"] = label
    stage.up()
    equal(Path(f"/proc/{stage.pid}/attr/current").read_text().rstrip("\0\n"), label, "label of the program")


@case("process.apparmorProfile")
def apparmor_profile_is_applied(stage: Stage) -> None:
    """The program runs under the AppArmor profile (one that is loaded), and an unknown one is an error."""
    profiles = Path("/sys/kernel/security/apparmor/profiles")
    if not profiles.exists():
        skip("AppArmor is not active on this host")
    loaded = [line.split(" (")[0] for line in profiles.read_text().splitlines()]
    stage.process["apparmorProfile"] = "conformance-no-such-profile"
    result = stage.create(ok=False)
    result = stage.start(ok=False) if result.ok else result
    require(not result.ok, "an unknown profile was accepted")
    stage.delete("--force", ok=False)
    if not loaded:
        skip("no AppArmor profile is loaded on this host")
    stage.process["apparmorProfile"] = loaded[0]
    stage.up()
    require(loaded[0] in Path(f"/proc/{stage.pid}/attr/current").read_text(), "the program has another profile")


# -- sysctl -----------------------------------------------------------------------------------------------------------


@case("sysctl")
def sysctl_is_set_inside_only(stage: Stage) -> None:
    """Kernel parameters of namespaces have their value inside, and the host keeps its own."""
    stage.add_namespace("network")
    host = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()
    stage.linux["sysctl"] = {
        "net.ipv4.ip_unprivileged_port_start": "777",
        "kernel.shmmni": "1234",
        "fs.mqueue.msg_max": "11",
    }
    output = stage.sh(
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmni /proc/sys/fs/mqueue/msg_max"
    )
    equal(output.split(), ["777", "1234", "11"], "values inside")
    equal(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text(), host, "value of the host")


@each(
    {
        "sysctl@host": ("vm.swappiness",),
        "sysctl@shared": ("net.ipv4.ip_forward",),
        "sysctl@kernel": ("kernel.core_pattern",),
    }
)
def sysctl_of_the_host_is_refused(stage: Stage, name: str) -> None:
    """A parameter that belongs to the host, or to a namespace the container shares with it, is an error."""
    path = Path("/proc/sys", *name.split("."))
    before = path.read_text()
    stage.linux["sysctl"] = {name: before.strip()}
    stage.refused(f"{name} is a parameter of the host")
    equal(path.read_text(), before, "value of the host")


@case("sysctl.name-form")
def sysctl_name_may_have_slashes(stage: Stage) -> None:
    """A name may be written with slashes."""
    stage.add_namespace("network")
    stage.linux["sysctl"] = {"net/ipv4/ip_unprivileged_port_start": "778"}
    equal(stage.sh("cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), "778\n", "value inside")


# -- personality ------------------------------------------------------------------------------------------------------


@each({"personality.domain@LINUX": ("LINUX",), "personality.domain@LINUX32": ("LINUX32",)}, "personality")
def personality_is_set(stage: Stage, domain: str) -> None:
    """The execution domain of the program is the one asked for."""
    stage.linux["personality"] = {"domain": domain}
    stage.up()
    seen = int(Path(f"/proc/{stage.pid}/personality").read_text(), 16)
    equal(seen & 0xFF, {"LINUX": 0, "LINUX32": 8}[domain], "execution domain")


@case("personality.domain")
def unknown_domain_is_an_error(stage: Stage) -> None:
    """Another domain is an error."""
    stage.linux["personality"] = {"domain": "BSD"}
    stage.refused("the domain BSD does not exist", at_start=True)


@case("personality.flags")
def personality_without_flags(stage: Stage) -> None:
    """An empty list of flags is accepted."""
    stage.linux["personality"] = {"domain": "LINUX", "flags": []}
    equal(stage.sh("echo runs"), "runs\n", "output of the program")


@case("personality.flags")
def personality_flag_is_not_ignored(stage: Stage) -> None:
    """No flag is defined, so any is an error, or at least a warning."""
    stage.linux["personality"] = {"domain": "LINUX", "flags": ["NO_SUCH_FLAG"]}
    stage.process["args"] = ["/bin/true"]
    result = stage.create(ok=False)
    require(not result.ok or "flag" in result.message.lower(), "an unknown flag was taken without a word")


# -- memory policy ----------------------------------------------------------------------------------------------------

POLICIES: dict[str, tuple[dict[str, Any], str]] = {
    "MPOL_BIND": ({"nodes": "0"}, "bind:0"),
    "MPOL_INTERLEAVE": ({"nodes": "0"}, "interleave:0"),
    "MPOL_PREFERRED": ({"nodes": "0"}, "prefer:0"),
    "MPOL_PREFERRED_MANY": ({"nodes": "0"}, "prefer (many):0"),
    "MPOL_WEIGHTED_INTERLEAVE": ({"nodes": "0"}, "weighted interleave:0"),
    "MPOL_LOCAL": ({}, "local"),
    "MPOL_DEFAULT": ({}, "default"),
}


@each({f"memoryPolicy.mode@{mode}": (mode,) for mode in POLICIES}, "memoryPolicy", "memoryPolicy.nodes")
def memory_policy_is_set(stage: Stage, mode: str) -> None:
    """The memory policy of the program is the one asked for, with its nodes."""
    if not Path("/proc/self/numa_maps").exists():
        skip("this kernel has no NUMA support")
    if mode == "MPOL_WEIGHTED_INTERLEAVE" and not process.has_weighted_interleave():
        skip("this kernel has no weighted interleaving, which came with Linux 6.9")
    more, wanted = POLICIES[mode]
    stage.linux["memoryPolicy"] = {"mode": mode, **more}
    stage.up()
    line = Path(f"/proc/{stage.pid}/numa_maps").read_text().splitlines()[0]
    require(f" {wanted}" in line, f"numa_maps says {line!r}, not {wanted!r}")


@case("memoryPolicy.flags")
def memory_policy_flag_is_set(stage: Stage) -> None:
    """A flag of the policy is applied."""
    if not Path("/proc/self/numa_maps").exists():
        skip("this kernel has no NUMA support")
    stage.linux["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}
    stage.up()
    line = Path(f"/proc/{stage.pid}/numa_maps").read_text().splitlines()[0]
    require("bind=static:0" in line, f"numa_maps says {line!r}")


@each(
    {
        "memoryPolicy.mode@bad": ({"mode": "MPOL_NONE"},),
        "memoryPolicy.flags@bad": ({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_NONE"]},),
        "memoryPolicy.nodes@bad": ({"mode": "MPOL_BIND", "nodes": "x"},),
        "memoryPolicy.nodes@missing": ({"mode": "MPOL_BIND"},),
    }
)
def impossible_memory_policy_is_an_error(stage: Stage, policy: dict[str, Any]) -> None:
    """An unknown mode, flag or node list is an error."""
    stage.linux["memoryPolicy"] = policy
    stage.refused(f"{policy} is no memory policy", at_start=True)
