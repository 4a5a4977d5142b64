"""Control groups: config-linux.md, sections Cgroups Path and Cgroup ownership."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from conformance import cgroups, process
from conformance.bundle import mount
from conformance.outcome import equal, require, skip
from conformance.registry import case, each
from conformance.stage import Stage

DELEGATED = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")


def some_controller() -> str:
    """A controller that is in use on this host: pids where possible."""
    points = cgroups.mount_points()
    if not points:
        skip("no cgroup hierarchy is mounted on this host")
    return "pids" if "pids" in points or "" in points else sorted(points)[0]


def where(stage: Stage) -> str:
    """Path of the container's cgroup below the mount point."""
    paths = cgroups.own_paths(stage.pid)
    name = some_controller()
    return paths.get(name, paths.get("", ""))


@case("cgroup.path", "cgroup.path.absolute", "cgroup.path.form", "cgroup.path.create")
def absolute_path_counts_from_the_mount(stage: Stage) -> None:
    """An absolute cgroupsPath is that path below the mount point, and is made if it is missing, with its parents."""
    stage.linux["cgroupsPath"] = f"/{stage.id}/deep/er"
    stage.undo.callback(cgroups.remove, f"/{stage.id}")
    stage.up()
    equal(where(stage), f"/{stage.id}/deep/er", "cgroup of the container")


@case("cgroup.path.relative", "cgroup.path.form")
def relative_path_is_placed_somewhere(stage: Stage) -> None:
    """A relative cgroupsPath ends up below a place of the runtime's choice."""
    stage.linux["cgroupsPath"] = f"{stage.id}/inner"
    stage.undo.callback(cgroups.remove, f"/{stage.id}")
    stage.up()
    require(where(stage).endswith(f"{stage.id}/inner"), f"the cgroup is {where(stage)}")


@each({"cgroup.path.consistent@absolute": ("/",), "cgroup.path.consistent@relative": ("",)})
def one_value_leads_to_one_place(stage: Stage, prefix: str) -> None:
    """Two containers in turn with the same cgroupsPath have the same cgroup."""
    stage.linux["cgroupsPath"] = f"{prefix}{stage.id}"
    places = []
    for _ in range(2):
        stage.up()
        places.append(where(stage))
        stage.delete("--force")
    equal(places[0], places[1], "cgroup of the second container")


@case("cgroup.path.default")
def path_may_be_absent(stage: Stage) -> None:
    """Without cgroupsPath the runtime picks a place, one per container."""
    del stage.linux["cgroupsPath"]
    other = stage.companion()
    del other.linux["cgroupsPath"]
    stage.up()
    other.up()
    require(where(stage) != where(other), f"two containers share the cgroup {where(stage)}")


@case("cgroup.path.invalid")
def path_does_not_lead_out(stage: Stage) -> None:
    """A cgroupsPath with .. is refused or stays below the mount point."""
    name = f"{stage.id}-out"
    stage.linux["cgroupsPath"] = f"/../../../../tmp/{name}"
    stage.process["args"] = ["/bin/sleep", "300"]
    if stage.create(ok=False).ok:
        require(".." not in where(stage), f"the cgroup is {where(stage)}")
    outside = [str(path) for path in (Path("/tmp") / name, Path("/sys/fs/tmp") / name) if path.exists()]
    for folder in outside:
        stage.undo.callback(shutil.rmtree, folder, ignore_errors=True)
    equal(outside, [], "directories made outside the cgroup mounts")
    cgroups.remove(f"/tmp/{name}")
    for point in cgroups.mount_points().values():
        if (point / "tmp").is_dir() and not any((point / "tmp").glob("*/")):
            (point / "tmp").rmdir()


@case("cgroup.resources")
def existing_values_are_kept(stage: Stage) -> None:
    """In a cgroup that exists, what linux.resources does not mention stays as it is."""
    path = f"/{stage.id}"
    stage.undo.callback(cgroups.remove, path)
    cgroups.make(path)
    points = cgroups.mount_points()
    folder = points.get("pids", points.get("", Path("/"))) / stage.id
    if not (folder / "pids.max").exists():
        skip("no pids controller on this host")
    (folder / "pids.max").write_text("345")
    del stage.linux["resources"]
    stage.up()
    equal((folder / "pids.max").read_text().strip(), "345", "pids.max of the existing cgroup")
    equal(where(stage), path, "cgroup of the container")


@case("cgroup.extra-controllers")
def container_is_in_every_controller_it_needs(stage: Stage) -> None:
    """Whatever other controllers the container is put into, its limits hold in those that were asked for."""
    stage.resources["pids"] = {"limit": 99}
    stage.resources["memory"] = {"limit": 64 << 20}
    stage.up()
    cgroups.expect(stage.cgroup("pids"), "pids.max", "99")
    folder = stage.cgroup("memory")
    name = "memory.max" if (folder / "memory.max").exists() else "memory.limit_in_bytes"
    cgroups.expect(folder, name, str(64 << 20))


@case("cgroup.fitness")
def populated_cgroup_is_refused_or_shared(stage: Stage) -> None:
    """create in a cgroup where processes live fails, or leaves those processes alone."""
    other = stage.companion()
    pid = other.up()
    stage.linux["cgroupsPath"] = other.linux["cgroupsPath"]
    stage.process["args"] = ["/bin/true"]
    result = stage.create(ok=False)
    if result.ok:
        stage.start()
        stage.wait()
        stage.delete("--force")
    require(process.alive(pid), "the processes that lived in the cgroup are gone")


# -- ownership --------------------------------------------------------------------------------------------------------


def owned_stage(stage: Stage, namespace: bool = True, options: tuple[str, ...] = ()) -> Path:
    """Start a container whose root is user 100000 outside, with a cgroup mount, and return its cgroup directory."""
    stage.add_user_namespace()
    if namespace:
        stage.add_namespace("cgroup")
    if options != ("none",):
        stage.mounts.append(mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", *options))
    stage.up()
    return stage.cgroup("" if cgroups.v2_only() else some_controller())


@case("cgroup.ownership.v1")
def v1_is_never_handed_over(stage: Stage) -> None:
    """On cgroup v1 the directory keeps its owner."""
    cgroups.need_v1("about cgroup v1")
    equal(os.stat(owned_stage(stage)).st_uid, 0, "owner of the cgroup directory")


@case("cgroup.ownership", "cgroup.ownership.iff-rw", "cgroup.ownership.files", "cgroup.ownership.missing-file")
def delegated_files_are_handed_over(stage: Stage) -> None:
    """With a writable cgroup mount the directory and the files that can be delegated belong to the container's root."""
    cgroups.need_v2("about cgroup v2")
    folder = owned_stage(stage)
    equal(os.stat(folder).st_uid, 100000, "owner of the cgroup directory")
    for name in delegatable():
        if (folder / name).exists():
            equal(os.stat(folder / name).st_uid, 100000, f"owner of {name}")


@case("cgroup.ownership.fallback")
def the_three_files_are_always_handed_over(stage: Stage) -> None:
    """cgroup.procs, .subtree_control and .threads belong to the container's root, whatever the kernel lists."""
    cgroups.need_v2("about cgroup v2")
    folder = owned_stage(stage)
    equal({name: os.stat(folder / name).st_uid for name in DELEGATED}, dict.fromkeys(DELEGATED, 100000), "owners")


@case("cgroup.ownership.no-others")
def other_files_keep_their_owner(stage: Stage) -> None:
    """Limits of the container itself stay with the host."""
    cgroups.need_v2("about cgroup v2")
    folder = owned_stage(stage)
    handed = [path.name for path in folder.glob("*.max") if os.stat(path).st_uid and path.name not in delegatable()]
    equal(handed, [], "limit files that belong to the container")


@each(
    {
        "cgroup.ownership.needs-cgroupns": (False, ()),
        "cgroup.ownership.iff-rw@ro": (True, ("ro",)),
        "cgroup.ownership.no-mount": (True, ("none",)),
    }
)
def nothing_is_handed_over_without_the_conditions(stage: Stage, namespace: bool, options: tuple[str, ...]) -> None:
    """Without a cgroup namespace, with a read-only cgroup mount, or with none, the directory keeps its owner."""
    cgroups.need_v2("about cgroup v2")
    equal(os.stat(owned_stage(stage, namespace, options)).st_uid, 0, "owner of the cgroup directory")


def delegatable() -> list[str]:
    """The files the kernel lists in /sys/kernel/cgroup/delegate."""
    path = Path("/sys/kernel/cgroup/delegate")
    return path.read_text().split() if path.exists() else list(DELEGATED)
