"""Devices: config-linux.md, sections Devices, Default Devices and Allowed Device list."""

from __future__ import annotations

import os
import stat
from typing import Any

from conformance import cgroups
from conformance.outcome import equal, require
from conformance.registry import case, each
from conformance.stage import Stage

DEFAULTS = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
KINDS = {"c": stat.S_ISCHR, "b": stat.S_ISBLK, "u": stat.S_ISCHR, "p": stat.S_ISFIFO}


def node(path: str, kind: str = "c", major: int | None = 1, minor: int | None = 3, **more: Any) -> dict[str, Any]:
    """One entry of linux.devices."""
    numbers = {} if major is None else {"major": major, "minor": minor}
    return {"path": path, "type": kind, **numbers, **more}


def made(stage: Stage, path: str) -> os.stat_result:
    """stat of a device node of the created container, which must be there."""
    try:
        return os.lstat(stage.inside(path))
    except FileNotFoundError:
        require(False, f"{path} does not exist in the container")
        raise


@each({f"devices.type@{kind}": (kind,) for kind in KINDS}, "devices", "devices.path", "devices.major-minor")
def device_is_made(stage: Stage, kind: str) -> None:
    """A listed device is there, with the type, the path and the numbers of the entry."""
    stage.linux["devices"] = [node("/dev/mine", kind, 10, 229) if kind != "p" else node("/dev/mine", "p", None)]
    stage.create()
    found = made(stage, "/dev/mine")
    require(KINDS[kind](found.st_mode), f"/dev/mine has mode {stat.filemode(found.st_mode)}")
    if kind != "p":
        equal((os.major(found.st_rdev), os.minor(found.st_rdev)), (10, 229), "device numbers")


@case("devices")
def device_can_be_used(stage: Stage) -> None:
    """A listed device that the rules allow can be opened and read."""
    stage.linux["devices"] = [node("/dev/my-zero", "c", 1, 5)]
    stage.resources["devices"] += [{"allow": True, "type": "c", "major": 1, "minor": 5, "access": "rwm"}]
    equal(stage.sh("head -c 4 /dev/my-zero | od -An -tx1").split(), ["00"] * 4, "bytes read")


@case("devices.major-minor")
def numbers_of_a_fifo_mean_nothing(stage: Stage) -> None:
    """A fifo with device numbers is a fifo."""
    stage.linux["devices"] = [node("/dev/pipe", "p", 8, 666)]
    stage.create()
    require(stat.S_ISFIFO(made(stage, "/dev/pipe").st_mode), "/dev/pipe is no fifo")


@each({"devices.type@x": (node("/dev/x", "x"),), "devices.path@missing": ({"type": "c", "major": 1, "minor": 3},)})
def wrong_entry_is_an_error(stage: Stage, entry: dict[str, Any]) -> None:
    """An entry of an unknown type, or without a path, is an error."""
    stage.linux["devices"] = [entry]
    stage.refused(f"the device {entry} is invalid")


@each({"devices.path.mismatch@file": ("file",), "devices.path.mismatch@device": ("device",)})
def another_file_at_the_path_is_an_error(stage: Stage, kind: str) -> None:
    """A file at the path that is not the device asked for is an error."""
    target = stage.rootfs / "opt/node"
    if kind == "file":
        target.write_text("")
    else:
        os.mknod(target, stat.S_IFCHR | 0o666, os.makedev(1, 7))
    stage.linux["devices"] = [node("/opt/node", "c", 1, 3)]
    stage.refused(f"a {kind} is in the way of the device")


@case("devices.path.anywhere")
def path_may_lie_outside_dev(stage: Stage) -> None:
    """A device outside /dev is made, with the directories that lead to it."""
    stage.linux["devices"] = [node("/opt/deep/null")]
    stage.create()
    require(stat.S_ISCHR(made(stage, "/opt/deep/null").st_mode), "/opt/deep/null is no character device")


@each({"devices.fileMode@given": (0o640, 0o640), "devices.fileMode@unset": (None, 0o666)})
def mode_is_exact(stage: Stage, mode: int | None, wanted: int) -> None:
    """The permission bits are fileMode, whatever the umask; 0666 if unset."""
    stage.linux["devices"] = [node("/dev/mine") | ({} if mode is None else {"fileMode": mode})]
    stage.create(shell="umask 077")
    equal(oct(made(stage, "/dev/mine").st_mode & 0o7777), oct(wanted), "permission bits")


@case("devices.uid", "devices.gid")
def owner_is_set(stage: Stage) -> None:
    """User and group of the node are uid and gid of the entry."""
    stage.linux["devices"] = [node("/dev/mine", uid=1001, gid=1002)]
    stage.create()
    found = made(stage, "/dev/mine")
    equal((found.st_uid, found.st_gid), (1001, 1002), "owner of the node")


@case("devices.uid", "devices.gid")
def owner_counts_in_the_user_namespace(stage: Stage) -> None:
    """In a container with a user namespace default devices can be used, and the ids of entries are those inside."""
    stage.add_user_namespace()
    equal(stage.sh("echo x > /dev/null && head -c 2 /dev/zero | od -An -tx1").split(), ["00", "00"], "devices in use")


@case("devices.duplicate")
def one_device_twice(stage: Stage) -> None:
    """The same numbers under two paths: both nodes are there, or the configuration is refused."""
    stage.linux["devices"] = [node("/dev/one"), node("/dev/two")]
    if stage.create(ok=False).ok:
        equal(made(stage, "/dev/one").st_rdev, made(stage, "/dev/two").st_rdev, "device numbers of both nodes")


def access(stage: Stage, *nodes: str) -> dict[str, str]:
    """Try to open device nodes of the image and return what was allowed for each: some of the letters r and w.

    `nodes` are words such as `c240:1`. No driver has to stand behind them: the device cgroup answers EPERM before the
    kernel looks for one, any other answer means that access was allowed.
    """
    for word in nodes:
        major, minor = word[1:].split(":")
        kind = stat.S_IFCHR if word[0] == "c" else stat.S_IFBLK
        os.mknod(stage.rootfs / "opt" / word, kind | 0o666, os.makedev(int(major), int(minor)))
    script = (
        f"for n in {' '.join(nodes)}; do a=; "
        "( : < /opt/$n ) 2>&1 | grep -q 'not permitted' || a=r; "
        "( : > /opt/$n ) 2>&1 | grep -q 'not permitted' || a=${a}w; "
        "echo $n=$a; done"
    )
    return dict(line.split("=") for line in stage.sh(script).split())


@case("devices.no-others", "res.devices")
def unlisted_devices_cannot_be_opened(stage: Stage) -> None:
    """A node that the image brings is useless if the rules deny it."""
    equal(access(stage, "c240:1", "b240:1"), {"c240:1": "", "b240:1": ""}, "access to devices that are not listed")


@each({f"devices.default.{name}": (name,) for name in DEFAULTS})
def default_device_is_there(stage: Stage, name: str) -> None:
    """The device is supplied without being listed, with its numbers, and can be used by everybody."""
    stage.process["user"] = {"uid": 1000, "gid": 1000}
    probe = {
        "null": "echo x > /dev/null && cat /dev/null",
        "zero": "head -c 1 /dev/zero | od -An -tx1",
        "full": "echo x 2>&1 > /dev/full; :",
        "random": "test -r /dev/random",
        "urandom": "head -c 1 /dev/urandom | wc -c",
        "tty": "test -c /dev/tty",
    }
    output = stage.sh(f"{probe[name]}; stat -c '%F %t:%T' /dev/{name}").strip().splitlines()
    equal(output[-1], "character special file {:x}:{:x}".format(*DEFAULTS[name]), f"/dev/{name}")


@case("devices.default.ptmx")
def ptmx_is_the_containers_own(stage: Stage) -> None:
    """/dev/ptmx leads to pts/ptmx of the container's own devpts."""
    output = stage.sh("readlink /dev/ptmx; stat -L -c %d:%i /dev/ptmx; stat -L -c %d:%i /dev/pts/ptmx").splitlines()
    equal(output[-1], output[-2], "file behind /dev/ptmx and /dev/pts/ptmx")


# -- access rules -----------------------------------------------------------------------------------------------------


def rule(allow: bool, access: str | None, kind: str | None = None, *numbers: int) -> dict[str, Any]:
    """One entry of linux.resources.devices."""
    entry: dict[str, Any] = {"allow": allow}
    if access is not None:
        entry["access"] = access
    if kind is not None:
        entry["type"] = kind
    return entry | dict(zip(("major", "minor"), numbers, strict=False))


def rules_file(stage: Stage) -> list[str]:
    """devices.list of the container; the case is skipped on cgroup v2, where programs judge and cannot be read."""
    cgroups.need_v1("devices.list exists on cgroup v1 only")
    return cgroups.value(stage.cgroup("devices"), "devices.list").splitlines()


@case("res.devices.order")
def rules_apply_in_order(stage: Stage) -> None:
    """A later rule wins: allowed after denied can be used, denied after allowed cannot."""
    stage.resources["devices"] = [
        rule(False, "rwm"),
        rule(True, "rwm", "c", 240, 1),
        rule(True, "rwm", "c", 240, 2),
        rule(False, "rwm", "c", 240, 2),
    ]
    equal(access(stage, "c240:1", "c240:2"), {"c240:1": "rw", "c240:2": ""}, "access")


@case("res.devices.order")
def rules_stand_in_the_configured_order(stage: Stage) -> None:
    """devices.list begins with the allowed devices of the configuration in their order."""
    numbers = [(10, 237), (8, 20), (10, 236)]
    stage.resources["devices"] = [rule(False, "rwm"), *(rule(True, "rw", "c", *pair) for pair in numbers)]
    stage.create()
    wanted = [f"c {major}:{minor} rw" for major, minor in numbers]
    equal([line for line in rules_file(stage) if line in wanted], wanted, "order of the rules")


@case("res.devices.allow")
def allow_is_needed(stage: Stage) -> None:
    """A rule without allow is an error or denies; it never allows."""
    entry = {"type": "c", "major": 240, "minor": 1, "access": "rwm"}
    stage.resources["devices"] = [rule(False, "rwm"), entry]
    if stage.create(ok=False).ok:
        stage.delete("--force")
        equal(access(stage, "c240:1"), {"c240:1": ""}, "access")


@case("res.devices.allow")
def allowed_devices_can_be_opened(stage: Stage) -> None:
    """With a rule that allows everything every device can be opened."""
    stage.resources["devices"] = [rule(True, "rwm")]
    equal(access(stage, "c240:1", "b240:1"), {"c240:1": "rw", "b240:1": "rw"}, "access")


@each({"res.devices.type@unset": (None,), "res.devices.type@a": ("a",)})
def rule_without_type_hits_both(stage: Stage, kind: str | None) -> None:
    """A rule without a type, or of type a, concerns character and block devices."""
    stage.resources["devices"] = [rule(True, "rwm"), rule(False, "rwm", kind)]
    equal(access(stage, "c240:1", "b240:1"), {"c240:1": "", "b240:1": ""}, "access")


@case("res.devices.type")
def type_separates(stage: Stage) -> None:
    """c and b are told apart."""
    stage.resources["devices"] = [rule(False, "rwm"), rule(True, "rwm", "b", 240, 1)]
    equal(access(stage, "c240:1", "b240:1"), {"c240:1": "", "b240:1": "rw"}, "access")


@case("res.devices.major-minor")
def missing_numbers_are_all(stage: Stage) -> None:
    """A rule without minor concerns every minor number, one without both every device of the type."""
    stage.resources["devices"] = [rule(False, "rwm"), rule(True, "rwm", "c", 240), rule(True, "rwm", "b")]
    wanted = {"c240:1": "rw", "c240:77": "rw", "c241:1": "", "b250:3": "rw"}
    equal(access(stage, *wanted), wanted, "access")


@case("res.devices.access")
def access_letters_count(stage: Stage) -> None:
    """r and w are granted one by one."""
    stage.resources["devices"] = [rule(False, "rwm"), rule(True, "r", "c", 240, 1), rule(True, "w", "c", 240, 2)]
    stage.resources["devices"].append(rule(True, "m", "c", 240, 3))
    wanted = {"c240:1": "r", "c240:2": "w", "c240:3": ""}
    equal(access(stage, *wanted), wanted, "access")
