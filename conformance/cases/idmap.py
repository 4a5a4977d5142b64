"""Idmapped mounts: config.md, section POSIX-platform Mounts, and the options idmap and ridmap."""

from __future__ import annotations

import os
from typing import Any

from conformance import process
from conformance.bundle import bind
from conformance.outcome import equal, require
from conformance.registry import case, each
from conformance.stage import Stage

SHIFT = 100000
MAPPING = [{"containerID": 0, "hostID": SHIFT, "size": 65536}]


def source_of(stage: Stage, owner: int = 0) -> str:
    """A directory with one file that belongs to `owner`."""
    source = stage.scratch()
    (source / "file").write_text("content\n")
    os.chown(source / "file", owner, owner)
    return str(source)


def mapped(entry: dict[str, Any], mapping: list[dict[str, int]] | None = None) -> dict[str, Any]:
    """The mount entry with mappings on it."""
    return entry | {"uidMappings": mapping or MAPPING, "gidMappings": mapping or MAPPING}


def owner_inside(stage: Stage, path: str = "/mnt/file") -> tuple[int, int]:
    """uid and gid of a file of the running container, as the host's user namespace sees them."""
    seen = os.stat(stage.inside(path))
    return seen.st_uid, seen.st_gid


@case(
    "mounts.uidMappings",
    "mounts.gidMappings",
    "mounts.idMappings.format",
    "mount-option.idmap",
    "mount-option.idmap.uses-mappings",
)
def files_change_their_owner(stage: Stage) -> None:
    """Files of uid 0 on the source belong to the first host id of the mapping on the mount."""
    stage.mounts.append(mapped(bind(source_of(stage), "/mnt", "idmap")))
    stage.up()
    equal(owner_inside(stage), (SHIFT, SHIFT), "owner of a file of root")


@case("mounts.idMappings.mechanism")
def source_is_not_touched(stage: Stage) -> None:
    """The owner on the source stays; the mount is an idmapped one."""
    source = source_of(stage)
    stage.mounts.append(mapped(bind(source, "/mnt", "idmap")))
    stage.up()
    equal(
        (os.stat(f"{source}/file").st_uid, owner_inside(stage)[0]), (0, SHIFT), "owner on the source and on the mount"
    )
    require("idmapped" in stage.mount_at("/mnt").options, f"mountinfo shows {sorted(stage.mount_at('/mnt').options)}")


@case("mounts.uidMappings", "mounts.gidMappings")
def uid_and_gid_are_mapped_apart(stage: Stage) -> None:
    """Different mappings for users and groups are kept apart."""
    entry = bind(source_of(stage), "/mnt", "idmap")
    entry["uidMappings"] = [{"containerID": 0, "hostID": 3000, "size": 10}]
    entry["gidMappings"] = [{"containerID": 0, "hostID": 4000, "size": 10}]
    stage.mounts.append(entry)
    stage.up()
    equal(owner_inside(stage), (3000, 4000), "owner and group of a file of root")


@each({"mounts.idMappings.both@uid": ("uidMappings",), "mounts.idMappings.both@gid": ("gidMappings",)})
def one_mapping_alone_is_an_error(stage: Stage, name: str) -> None:
    """uidMappings without gidMappings, or the reverse, is an error."""
    stage.mounts.append(bind(source_of(stage), "/mnt", "idmap") | {name: MAPPING})
    stage.refused(f"only {name} is given")


@case("mounts.idMappings.option")
def mappings_work_without_the_word(stage: Stage) -> None:
    """Mappings without idmap among the options are applied all the same, or refused, but never ignored."""
    stage.mounts.append(mapped(bind(source_of(stage), "/mnt")))
    stage.process["args"] = ["/bin/sleep", "300"]
    if stage.create(ok=False).ok:
        equal(owner_inside(stage), (SHIFT, SHIFT), "owner of a file of root")


@case("mount-option.ridmap")
def ridmap_reaches_submounts(stage: Stage) -> None:
    """With ridmap the submount is mapped too, with idmap it is not."""
    source, sub = source_of(stage), source_of(stage)  # binds and no tmpfs, which has mappings since Linux 6.3 only
    os.mkdir(f"{source}/sub")
    process.mount(source, source, flags=process.MS_BIND)
    process.mount(sub, f"{source}/sub", flags=process.MS_BIND)
    stage.mounts.append(mapped(bind(source, "/deep", "rbind", "ridmap")))
    stage.mounts.append(mapped(bind(source, "/flat", "rbind", "idmap")))
    stage.up()
    seen = [owner_inside(stage, path)[0] for path in ("/deep/file", "/deep/sub/file", "/flat/file", "/flat/sub/file")]
    equal(seen, [SHIFT, SHIFT, SHIFT, 0], "owners on mount and submount, first with ridmap, then with idmap")


@each({"mount-option.idmap.not-to-kernel@idmap": ("idmap",), "mount-option.idmap.not-to-kernel@ridmap": ("ridmap",)})
def word_is_not_filesystem_data(stage: Stage, word: str) -> None:
    """idmap and ridmap are not handed to the kernel as data: a mount with them and mappings succeeds and is mapped."""
    stage.mounts.append(mapped(bind(source_of(stage), "/mnt", "rbind", word, "nosuid")))
    stage.up()
    require("idmapped" in stage.mount_at("/mnt").options, f"mountinfo shows {sorted(stage.mount_at('/mnt').options)}")


@case("mount-option.idmap.uses-mappings")
def mappings_of_the_mount_win(stage: Stage) -> None:
    """In a container with a user namespace the mappings on the mount are used, not those of the container."""
    stage.add_user_namespace()
    other = [{"containerID": 0, "hostID": SHIFT + 5000, "size": 1000}]
    stage.mounts.append(mapped(bind(source_of(stage), "/mnt", "idmap"), other))
    stage.up()
    equal(owner_inside(stage), (SHIFT + 5000, SHIFT + 5000), "owner of a file of root")


@case("mount-option.idmap.userns-default")
def user_namespace_may_be_the_default(stage: Stage) -> None:
    """idmap without mappings uses those of the container's user namespace, or is an error; it is never ignored."""
    stage.add_user_namespace()
    stage.mounts.append(bind(source_of(stage), "/mnt", "idmap"))
    stage.process["args"] = ["/bin/sleep", "300"]
    if stage.create(ok=False).ok:
        equal(owner_inside(stage), (SHIFT, SHIFT), "owner of a file of root")


@each(
    {"mount-option.idmap.no-userns-error@idmap": ("idmap",), "mount-option.idmap.no-userns-error@ridmap": ("ridmap",)}
)
def nothing_to_map_with_is_an_error(stage: Stage, word: str) -> None:
    """idmap without mappings in a container without a user namespace is an error."""
    stage.mounts.append(bind(source_of(stage), "/mnt", "rbind", word))
    stage.refused(f"{word} has no mappings and there is no user namespace")
