"""Block I/O, RDMA, the unified map, Intel RDT: config-linux.md; most of it needs hardware or a kernel that has it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from conformance import cgroups, process
from conformance.outcome import equal, require, skip
from conformance.registry import case, each
from conformance.stage import Stage

RESCTRL = Path("/sys/fs/resctrl")


def a_disk() -> tuple[int, int]:
    """Device numbers of a whole disk of this host that has a driver."""
    unlike = ("loop", "ram", "zram", "dm-", "md", "sr")
    disks = sorted(path for path in Path("/sys/block").iterdir() if not path.name.startswith(unlike))
    if not disks:
        skip("this host has no disk")
    major, minor = (disks[0] / "dev").read_text().split(":")
    return int(major), int(minor)


def io_folder(stage: Stage) -> Path:
    """The cgroup directory of the block I/O controller of the created container."""
    return stage.cgroup("blkio" if not cgroups.v2_only() else "io")


def first_file(folder: Path, *names: str) -> Path:
    """The first of the files that this kernel has; the case is skipped if it has none."""
    there = [folder / name for name in names if (folder / name).exists()]
    if not there:
        skip(f"this kernel offers no {' or '.join(names)}")
    return there[0]


WEIGHTS = ("blkio.weight", "blkio.bfq.weight", "io.bfq.weight", "io.weight")


def need_file(*names: str) -> None:
    """Skip the case unless cgroups of the block controller have one of the files."""
    point = cgroups.mount_points().get("blkio", cgroups.mount_points().get("", Path("/nowhere")))
    trial = point / f"conformance-{os.getpid()}-trial"
    if not point.exists():
        skip("no block I/O controller is mounted on this host")
    trial.mkdir()
    try:
        first_file(trial, *names)
    finally:
        trial.rmdir()


@case("res.blockIO", "res.blockIO.weight")
def weight_is_written(stage: Stage) -> None:
    """The default weight is set in the file the kernel has for it."""
    need_file(*WEIGHTS)
    stage.resources["blockIO"] = {"weight": 500}
    stage.up()
    file = first_file(io_folder(stage), *WEIGHTS)
    require("500" in file.read_text() or file.name == "io.weight", f"{file.name} holds {file.read_text()!r}")


@each({"res.blockIO.weight@5": (5,), "res.blockIO.weight@1001": (1001,)})
def weight_out_of_range_is_an_error(stage: Stage, weight: int) -> None:
    """A weight outside 10 to 1000 is an error."""
    stage.resources["blockIO"] = {"weight": weight}
    stage.refused(f"the weight is {weight}")


@case("res.blockIO.leafWeight", "res.blockIO.weightDevice.leafWeight")
def leaf_weight_is_written_or_refused(stage: Stage) -> None:
    """Leaf weights are set where the kernel has them (before 5.0), and an error where it does not."""
    point = cgroups.mount_points().get("blkio")
    major, minor = a_disk()
    stage.resources["blockIO"] = {
        "leafWeight": 300,
        "weightDevice": [{"major": major, "minor": minor, "leafWeight": 300}],
    }
    if point is not None and (point / "blkio.leaf_weight").exists():
        stage.up()
        cgroups.expect(io_folder(stage), "blkio.leaf_weight", "300")
    else:
        stage.refused("this kernel has no leaf weights")


@case("res.blockIO.weightDevice", "res.blockIO.weightDevice.weight", "res.blockIO.weightDevice.major-minor")
def weight_of_a_device_is_written(stage: Stage) -> None:
    """The weight of one device is set."""
    need_file("blkio.weight_device", "blkio.bfq.weight_device", "io.bfq.weight")
    major, minor = a_disk()
    scheduler = Path(f"/sys/dev/block/{major}:{minor}/queue/scheduler")
    if not scheduler.exists() or "[bfq]" not in scheduler.read_text():
        skip("weights of devices need a disk with the bfq scheduler")
    stage.resources["blockIO"] = {"weightDevice": [{"major": major, "minor": minor, "weight": 200}]}
    stage.up()
    file = first_file(io_folder(stage), "blkio.weight_device", "blkio.bfq.weight_device", "io.bfq.weight")
    require(f"{major}:{minor} 200" in file.read_text().splitlines(), f"{file.name} holds {file.read_text()!r}")


@case("res.blockIO.weightDevice.one-of")
def weight_of_a_device_needs_a_weight(stage: Stage) -> None:
    """An entry with neither weight nor leafWeight is an error."""
    major, minor = a_disk()
    stage.resources["blockIO"] = {"weightDevice": [{"major": major, "minor": minor}]}
    stage.refused("an entry of weightDevice has no weight")


@each({"res.blockIO.weightDevice.major-minor@missing": ("weightDevice", {"weight": 200}),
       "res.blockIO.throttle.entry@missing": ("throttleReadBpsDevice", {"major": 1})})  # fmt: skip
def incomplete_entry_is_an_error(stage: Stage, name: str, entry: dict[str, int]) -> None:
    """An entry without device numbers, or without a rate, is an error."""
    stage.resources["blockIO"] = {name: [entry]}
    stage.refused(f"an entry of {name} is incomplete: {entry}")


THROTTLES = {
    "throttleReadBpsDevice": ("blkio.throttle.read_bps_device", "rbps"),
    "throttleWriteBpsDevice": ("blkio.throttle.write_bps_device", "wbps"),
    "throttleReadIOPSDevice": ("blkio.throttle.read_iops_device", "riops"),
    "throttleWriteIOPSDevice": ("blkio.throttle.write_iops_device", "wiops"),
}


@each({f"res.blockIO.{name}": (name, *row) for name, row in THROTTLES.items()}, "res.blockIO.throttle.entry")
def throttle_is_written(stage: Stage, name: str, v1: str, v2: str) -> None:
    """The limit of one device is set."""
    major, minor = a_disk()
    stage.resources["blockIO"] = {name: [{"major": major, "minor": minor, "rate": 1048576}]}
    stage.up()
    folder = io_folder(stage)
    if cgroups.v2_only():
        text = (folder / "io.max").read_text()
        require(f"{v2}=1048576" in text, f"io.max holds {text!r}")
    else:
        cgroups.expect_line(folder, v1, f"{major}:{minor} 1048576")


# -- rdma -------------------------------------------------------------------------------------------------------------


@each(
    {"res.rdma.hcaHandles": ("hcaHandles", "hca_handle"), "res.rdma.hcaObjects": ("hcaObjects", "hca_object")},
    "res.rdma",
)
def rdma_limit_is_written(stage: Stage, name: str, word: str) -> None:
    """The limit of an RDMA device is set."""
    devices = sorted(os.listdir("/sys/class/infiniband")) if Path("/sys/class/infiniband").exists() else []
    if not devices or "rdma" not in Path("/proc/cgroups").read_text():
        skip("this host has no RDMA device or no rdma controller")
    stage.resources["rdma"] = {devices[0]: {name: 3}}
    stage.up()
    text = (stage.cgroup("rdma") / "rdma.max").read_text()
    require(f"{word}=3" in text, f"rdma.max holds {text!r}")


@case("res.rdma.one-of")
def empty_rdma_entry_is_an_error(stage: Stage) -> None:
    """An entry with neither limit is an error."""
    stage.resources["rdma"] = {"mlx5_1": {}}
    stage.refused("an entry of rdma has no limit")


# -- unified ----------------------------------------------------------------------------------------------------------


@each({"res.unified@pids.max": ("pids.max", "77"), "res.unified.enable-controller": ("memory.high", "104857600"),
       "res.unified.unknown": ("memory.oom.group", "1")})  # fmt: skip
def unified_value_is_written(stage: Stage, name: str, value: str) -> None:
    """A file of cgroup v2 gets the value, whether or not the runtime knows the file."""
    cgroups.need_v2("linux.resources.unified is about cgroup v2")
    stage.resources["unified"] = {name: value}
    stage.up()
    cgroups.expect(stage.cgroup(""), name, value)


@case("res.unified.missing-controller")
def unified_file_that_does_not_exist_is_an_error(stage: Stage) -> None:
    """A file of a controller that does not exist is an error, and so is any on a host without cgroup v2."""
    stage.resources["unified"] = {"nothing.max": "1"}
    stage.refused("there is no controller named nothing")


@case("res.unified.v1-conversion")
def old_settings_work_on_the_new_layout(stage: Stage) -> None:
    """memory.limit of the configuration ends up in memory.max."""
    cgroups.need_v2("the conversion is about cgroup v2")
    stage.resources["memory"] = {"limit": 64 << 20}
    stage.up()
    cgroups.expect(stage.cgroup("memory"), "memory.max", str(64 << 20))


@each({f"res.unified.v1-no-conversion@{name}": (section, value) for name, section, value in (
    ("swappiness", "memory", {"swappiness": 17}),
    ("realtimeRuntime", "cpu", {"realtimeRuntime": 5000}),
    ("leafWeight", "blockIO", {"leafWeight": 300}),
)})  # fmt: skip
def what_cannot_be_converted_is_an_error(stage: Stage, section: str, value: dict[str, Any]) -> None:
    """A setting that cgroup v2 has nothing for is an error there."""
    cgroups.need_v2("the conversion is about cgroup v2")
    stage.resources[section] = value
    stage.refused(f"cgroup v2 has nothing like {value}")


# -- Intel RDT --------------------------------------------------------------------------------------------------------


def need_resctrl() -> str:
    """Skip the case without a mounted resctrl; returns an L3 schema of the root group."""
    if not (RESCTRL / "schemata").exists():
        skip("resctrl is not mounted on this host")
    lines = [line.strip() for line in (RESCTRL / "schemata").read_text().splitlines()]
    found = [line for line in lines if line.startswith("L3:")]
    return found[0] if found else lines[0]


def rdt_up(stage: Stage, value: dict[str, Any], group: str) -> Path:
    """Start a container with this intelRdt section and return the group it must be in."""
    stage.linux["intelRdt"] = value
    stage.up()
    folder = RESCTRL / group if group else RESCTRL
    require(folder.is_dir(), f"there is no group {group}")
    require(
        str(stage.pid) in (folder / "tasks").read_text().split(), f"the container is not in the group {group or '/'}"
    )
    return folder


@case("rdt", "rdt.closID", "rdt.closID.create", "rdt.l3CacheSchema", "rdt.write.either", "rdt.remove.others")
def group_is_made_and_stays(stage: Stage) -> None:
    """A closID with a schema makes the group, the pid is in it, and the group stays after delete."""
    schema = need_resctrl()
    name = f"conformance-{os.getpid()}"
    folder = rdt_up(stage, {"closID": name, "l3CacheSchema": schema}, name)
    stage.undo.callback(folder.rmdir)
    require(schema in (folder / "schemata").read_text(), "the schema was not written")
    stage.delete("--force")
    require(folder.is_dir(), "delete removed a group with a closID")


@case("rdt.closID.unset", "rdt.remove.own", "rdt.write.schemata-last", "rdt.schemata")
def group_is_named_after_the_container(stage: Stage) -> None:
    """Without closID the group has the container's id, holds what schemata says last, and goes with the container."""
    schema = need_resctrl()
    folder = rdt_up(stage, {"l3CacheSchema": schema, "schemata": [schema]}, stage.id)
    require(schema in (folder / "schemata").read_text(), "the schema was not written")
    stage.delete("--force")
    require(not folder.exists(), "the group is still there after delete")


@case("rdt.closID.root", "rdt.write.none")
def root_group_is_the_default_class(stage: Stage) -> None:
    """closID / is the root of resctrl, whose schemata stay."""
    need_resctrl()
    before = (RESCTRL / "schemata").read_text()
    rdt_up(stage, {"closID": "/"}, "")
    equal((RESCTRL / "schemata").read_text(), before, "schemata of the root group")


@case("rdt.closID.preconfigured")
def missing_group_without_schema_is_an_error(stage: Stage) -> None:
    """A closID without any schema needs an existing group."""
    need_resctrl()
    stage.linux["intelRdt"] = {"closID": f"conformance-missing-{os.getpid()}"}
    stage.refused("the group does not exist and there is no schema")


@case("rdt.closID.compare")
def other_schema_in_an_existing_group_is_an_error(stage: Stage) -> None:
    """A schema that differs from that of the existing group is an error."""
    schema = need_resctrl()
    folder = RESCTRL / f"conformance-{os.getpid()}-old"
    folder.mkdir()
    stage.undo.callback(folder.rmdir)
    stage.linux["intelRdt"] = {"closID": folder.name, "l3CacheSchema": schema.rpartition("=")[0] + "=1"}
    stage.refused("the schema differs from that of the group")


@case("rdt.enableMonitoring")
def monitoring_group_is_made(stage: Stage) -> None:
    """enableMonitoring makes a monitoring group named like the container, which goes with it."""
    schema = need_resctrl()
    folder = rdt_up(stage, {"l3CacheSchema": schema, "enableMonitoring": True}, stage.id) / "mon_groups" / stage.id
    require(folder.is_dir(), "there is no monitoring group")
    stage.delete("--force")
    require(not folder.exists(), "the monitoring group is still there after delete")


@case("rdt.no-mount")
def resctrl_is_needed(stage: Stage) -> None:
    """intelRdt without a mounted resctrl is an error."""
    if (RESCTRL / "schemata").exists():
        skip("resctrl is mounted on this host")
    stage.linux["intelRdt"] = {"closID": "conformance", "l3CacheSchema": "L3:0=f"}
    stage.refused("resctrl is not mounted")


@case("rdt.unset")
def resctrl_is_not_touched(stage: Stage) -> None:
    """Without intelRdt no group is made."""
    before = sorted(os.listdir(RESCTRL)) if RESCTRL.exists() else []
    stage.up()
    after = sorted(os.listdir(RESCTRL)) if RESCTRL.exists() else []
    equal(after, before, "groups of resctrl")
    if not any(one.type == "resctrl" for one in process.mounts_of()):
        equal(after, [], "groups without a mounted resctrl")


@each(
    {
        "rdt.memBwSchema@prefix": ({"memBwSchema": "L3:0=f"},),
        "rdt.memBwSchema.newline": ({"memBwSchema": "MB:0=50\nMB:1=50"},),
        "rdt.l3CacheSchema@prefix": ({"l3CacheSchema": "MB:0=50"},),
        "rdt.schemata.newline": ({"schemata": ["L3:0=f\nMB:0=50"]},),
    }
)
def malformed_schema_is_an_error(stage: Stage, value: dict[str, Any]) -> None:
    """A schema with the wrong beginning, or with a newline in it, is an error."""
    stage.linux["intelRdt"] = {"closID": "conformance", **value}
    stage.refused(f"{value} is malformed")


@case("rdt.obsolete")
def old_switches_are_unknown_properties(stage: Stage) -> None:
    """enableCMT and enableMBM, which 1.3.0 dropped, make no error where resctrl is not used otherwise."""
    need_resctrl()
    stage.linux["intelRdt"] = {"closID": "/", "enableCMT": True, "enableMBM": True}
    equal(stage.sh("echo runs"), "runs\n", "output of the program")
