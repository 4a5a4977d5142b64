"""Namespaces: config-linux.md, sections Namespaces, User namespace mappings, Offset for Time Namespace."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from conformance import process
from conformance.outcome import equal, require, skip
from conformance.registry import case, each
from conformance.stage import Stage, wait_for

# type in the configuration -> name in /proc/PID/ns
LINKS = {
    "pid": "pid",
    "network": "net",
    "mount": "mnt",
    "ipc": "ipc",
    "uts": "uts",
    "user": "user",
    "cgroup": "cgroup",
    "time": "time",
}


def need(kind: str) -> None:
    """Skip the case if this kernel has no such namespaces."""
    if not Path(f"/proc/self/ns/{LINKS[kind]}").exists():
        skip(f"this kernel has no {kind} namespaces")


def ask(stage: Stage, kind: str) -> None:
    """Put a new namespace of this kind into the configuration."""
    need(kind)
    if kind == "user":
        stage.add_user_namespace()
    else:
        stage.add_namespace(kind)


@each({f"ns.{kind}": (kind,) for kind in LINKS}, "ns.new", "ns.list")
def new_namespace_is_made(stage: Stage, kind: str) -> None:
    """A listed namespace without path is a new one."""
    ask(stage, kind)
    stage.up()
    own = process.namespace("self", LINKS[kind])
    require(process.namespace(stage.pid, LINKS[kind]) != own, f"the {kind} namespace is that of the runtime")


@case("ns.pid")
def program_is_process_one(stage: Stage) -> None:
    """In a new pid namespace the program is process 1 and sees no others."""
    equal(
        stage.sh("echo $$; ls -d /proc/[0-9]* | wc -l; :").split(),
        ["1", "3"],
        "own pid, number of processes of the pipe",
    )


@case("ns.network")
def only_loopback_is_there(stage: Stage) -> None:
    """In a new network namespace there is only lo, and it is up."""
    stage.add_namespace("network")
    output = stage.sh(
        "ls /sys/class/net | grep -v -e '^tunl' -e '^sit' -e '^ip6' -e '^gre' -e '^erspan'; ip link show lo"
    )
    require(output.startswith("lo\n"), f"the interfaces are {output!r}")
    require("LOOPBACK,UP" in output, f"lo is not up: {output!r}")


@case("ns.mount")
def mounts_do_not_leak(stage: Stage) -> None:
    """A mount made in the container is not seen outside."""
    stage.add_capabilities("CAP_SYS_ADMIN")
    stage.sh("mount -t tmpfs leak /tmp && grep -q leak /proc/self/mountinfo")
    require(not any(one.source == "leak" for one in process.mounts_of()), "the mount is visible outside")


@case("ns.ipc")
def ipc_is_separate(stage: Stage) -> None:
    """System V objects of the container are not those of the host."""
    stage.sh("test $(wc -l < /proc/sysvipc/shm) = 1 && test $(wc -l < /proc/sysvipc/msg) = 1")


@case("ns.uts")
def names_are_separate(stage: Stage) -> None:
    """A host name set in the container stays there."""
    before = os.uname().nodename
    stage.add_capabilities("CAP_SYS_ADMIN")
    equal(stage.sh("hostname inner; hostname"), "inner\n", "host name inside")
    equal(os.uname().nodename, before, "host name outside")


@case("ns.cgroup")
def cgroup_view_is_cut(stage: Stage) -> None:
    """In a new cgroup namespace the container's own cgroup is /."""
    stage.add_namespace("cgroup")
    paths = {
        line.split(":", 2)[2]
        for line in stage.sh("cat /proc/self/cgroup").splitlines()
        if ":pids:" in line or line.startswith("0:")
    }
    require(
        "/" in paths and not any("conformance" in path for path in paths),
        f"paths in /proc/self/cgroup are {sorted(paths)}",
    )


@each({f"ns.path.join@{kind}": (kind,) for kind in LINKS}, "ns.path")
def namespace_is_joined(stage: Stage, kind: str) -> None:
    """A namespace with path is joined."""
    if kind == "mount":
        # Of a process that still sees the bundle: the mount namespace of a container does not.
        pid = subprocess.Popen(["unshare", "-m", "sleep", "300"]).pid
        wait_for(lambda: process.namespace(pid, "mnt") != process.namespace("self", "mnt"))
    else:
        other = stage.companion()
        ask(other, kind)
        pid = other.up()
    if kind == "user":
        ask(stage, kind)
        del stage.linux["uidMappings"], stage.linux["gidMappings"]
        # What hangs on the owner of the other namespaces is easiest if they come along.
        stage.add_namespace("network", path=f"/proc/{pid}/ns/net")
    stage.add_namespace(kind, path=f"/proc/{pid}/ns/{LINKS[kind]}")
    if kind == "uts":
        del stage.config["hostname"]
    stage.process["args"] = ["/bin/sleep", "300"]
    stage.create()
    equal(process.namespace(stage.pid, LINKS[kind]), process.namespace(pid, LINKS[kind]), f"{kind} namespace")


@each({f"ns.inherit@{kind}": (kind,) for kind in LINKS if kind not in ("mount",)})
def unlisted_namespace_is_inherited(stage: Stage, kind: str) -> None:
    """A namespace that is not listed is that of the runtime."""
    need(kind)
    stage.drop_namespace(kind)
    if kind == "uts":
        del stage.config["hostname"]
    if kind == "ipc":
        # An mqueue mount belongs to the ipc namespace; runtimes refuse sysctls there, not the mount.
        stage.config["mounts"] = [one for one in stage.mounts if one["type"] != "mqueue"]
    stage.up()
    own = process.namespace("self", LINKS[kind])
    equal(process.namespace(stage.pid, LINKS[kind]), own, f"{kind} namespace")


@case("ns.inherit")
def mount_namespace_can_be_inherited(stage: Stage) -> None:
    """Without a mount namespace the container stays in that of the runtime."""
    stage.drop_namespace("mount")
    stage.config["mounts"] = stage.mounts[:1]
    stage.process["args"] = ["/bin/sleep", "300"]
    stage.create()
    equal(process.namespace(stage.pid, "mnt"), process.namespace("self", "mnt"), "mount namespace")


@each({"ns.type@missing": ({},), "ns.type@unknown": ({"type": "nothing"},)})
def type_must_be_known(stage: Stage, entry: dict[str, str]) -> None:
    """A namespace without a type, or with an unknown one, is an error."""
    stage.linux["namespaces"].append(entry)
    stage.refused(f"the namespace {entry} has no known type")


@case("ns.path.absolute")
def relative_path_is_refused(stage: Stage) -> None:
    """A relative path of a namespace is an error."""
    stage.write_config()
    stage.add_namespace("ipc", path="proc/self/ns/ipc")
    stage.script("true")
    result = stage.create(ok=False, cwd=Path("/"))
    require(not result.ok, "a relative path of a namespace was accepted")


@each({f"ns.path.type-mismatch@{kind}": (kind,) for kind in LINKS})
def path_of_another_type_is_refused(stage: Stage, kind: str) -> None:
    """A path that leads to a namespace of another type is an error."""
    ask(stage, kind)
    other = "uts" if kind != "uts" else "ipc"
    stage.add_namespace(kind, path=f"/proc/self/ns/{other}")
    if kind == "uts":
        del stage.config["hostname"]
    stage.refused(f"the path of the {kind} namespace leads to a {other} namespace")


@case("ns.duplicate")
def type_twice_is_an_error(stage: Stage) -> None:
    """One type listed twice is an error."""
    stage.linux["namespaces"] += [{"type": "ipc"}]
    stage.refused("the ipc namespace is listed twice")


# -- user namespaces --------------------------------------------------------------------------------------------------

MAPS = [{"containerID": 0, "hostID": 200000, "size": 2000}, {"containerID": 5000, "hostID": 300000, "size": 300}]


@each(
    {"userns.uidMappings": ("uid_map",), "userns.gidMappings": ("gid_map",)},
    "userns.containerID",
    "userns.hostID",
    "userns.size",
)
def maps_are_written(stage: Stage, name: str) -> None:
    """The maps of the user namespace are the configured ones, with several entries."""
    stage.add_user_namespace(MAPS)
    stage.up()
    seen = [[int(word) for word in line.split()] for line in Path(f"/proc/{stage.pid}/{name}").read_text().splitlines()]
    equal(seen, [[one["containerID"], one["hostID"], one["size"]] for one in MAPS], name)


@case("userns.uidMappings", "userns.gidMappings", "ns.user")
def root_inside_is_nobody_outside(stage: Stage) -> None:
    """Root of the container is the mapped user outside, and its files belong to that user."""
    stage.add_user_namespace()
    stage.script("touch /made; exec sleep 300")
    stage.create()
    stage.start()
    equal(process.status(stage.pid, "Uid").split(), ["100000"] * 4, "users of the program outside")
    wait_for((stage.rootfs / "made").exists)
    equal(os.stat(stage.rootfs / "made").st_uid, 100000, "owner of a file the program made")


@case("userns.no-chown")
def files_keep_their_owner(stage: Stage) -> None:
    """The runtime does not change owners in the root filesystem to fit the maps."""
    stage.add_user_namespace()
    os.chown(stage.rootfs / "etc/passwd", 4711, 4712)
    before = {path: os.lstat(stage.rootfs / path).st_uid for path in ("etc", "etc/passwd", "bin/busybox", "tmp")}
    stage.up()
    after = {path: os.lstat(stage.rootfs / path).st_uid for path in before}
    equal(after, before, "owners in the root filesystem")


@case("userns.entry-limit")
def too_many_entries_are_an_error(stage: Stage) -> None:
    """A map longer than the kernel takes (340 entries) is an error, one that fits is not."""
    stage.add_user_namespace()
    maps = [{"containerID": number, "hostID": 100000 + number * 2, "size": 1} for number in range(341)]
    stage.linux["uidMappings"] = stage.linux["gidMappings"] = maps
    stage.refused("the map has 341 entries")


# -- time namespaces --------------------------------------------------------------------------------------------------


@each({"timens.timeOffsets.secs@plus": (100000,), "timens.timeOffsets.secs@minus": (-5,)}, "timens.timeOffsets")
def clocks_are_shifted(stage: Stage, seconds: int) -> None:
    """The clocks of the container are ahead of, or behind, those of the host by the offset."""
    ask(stage, "time")
    if seconds < 0 and time.clock_gettime(time.CLOCK_BOOTTIME) < 60:
        skip("the host has not been up for long enough to set its clock back")
    stage.linux["timeOffsets"] = {"boottime": {"secs": seconds}, "monotonic": {"secs": seconds}}
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    seen = float(stage.sh("cat /proc/uptime").split()[0])
    require(abs(seen - before - seconds) < 10, f"uptime inside is {seen}, outside {before:.0f}, offset {seconds}")


@case("timens.timeOffsets", "timens.timeOffsets.nanosecs")
def offsets_are_written(stage: Stage) -> None:
    """Both clocks have their own offset, in seconds and nanoseconds."""
    ask(stage, "time")
    stage.linux["timeOffsets"] = {"boottime": {"secs": 12, "nanosecs": 345}, "monotonic": {"secs": 67, "nanosecs": 890}}
    stage.up()
    lines = {
        line.split()[0]: line.split()[1:] for line in Path(f"/proc/{stage.pid}/timens_offsets").read_text().splitlines()
    }
    equal(lines, {"monotonic": ["67", "890"], "boottime": ["12", "345"]}, "timens_offsets")


@each({"timens.requires-new-ns@none": ("",), "timens.requires-new-ns@path": ("/proc/self/ns/time",)})
def offsets_need_a_new_namespace(stage: Stage, path: str) -> None:
    """Offsets without a time namespace, or for one that is joined, are an error."""
    need("time")
    if path:
        stage.add_namespace("time", path=path)
    stage.linux["timeOffsets"] = {"boottime": {"secs": 100}}
    stage.refused("there is no new time namespace to set offsets in")
