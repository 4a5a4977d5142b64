"""Mounts: config.md, section Mounts, without the table of options."""

from __future__ import annotations

import os
from pathlib import Path

from conformance import process
from conformance.bundle import bind, mount
from conformance.outcome import equal, require
from conformance.registry import case, each
from conformance.stage import Stage


@case("mounts", "mounts.destination", "mounts.type", "lifecycle.create-environment")
def mounts_are_made(stage: Stage) -> None:
    """Every entry of mounts is in the mount table of the container, on its destination, with its type."""
    stage.mounts.append(mount("/mnt/deep/er", "tmpfs", "conformance"))
    stage.up()
    found = {one.point: one.type for one in process.mounts_of(stage.pid)}
    wanted = {entry["destination"]: entry["type"] for entry in stage.mounts}
    equal({point: found.get(point) for point in wanted}, wanted, "types of the mounts")


@case("mounts.order")
def mounts_are_made_in_order(stage: Stage) -> None:
    """A later entry may use what an earlier one made: a tmpfs, and a bind mount on a directory in it."""
    source = stage.scratch()
    (source / "file").write_text("inner\n")
    stage.mounts.append(mount("/a", "tmpfs", "tmpfs"))
    stage.mounts.append(bind(source, "/a/b"))
    equal(stage.sh("cat /a/b/file"), "inner\n", "the bind mount inside the tmpfs")


@case("mounts.order")
def later_mounts_cover_earlier_ones(stage: Stage) -> None:
    """Two mounts on one destination: the later one is on top."""
    for name in ("one", "two"):
        source = stage.scratch()
        (source / "name").write_text(name)
        stage.mounts.append(bind(source, "/mnt"))
    equal(stage.sh("cat /mnt/name"), "two", "what /mnt shows")


@case("mounts.destination")
def destination_is_needed(stage: Stage) -> None:
    """An entry without destination is refused."""
    stage.mounts.append({"type": "tmpfs", "source": "tmpfs"})
    stage.refused("a mount has no destination")


@case("mounts.destination.absolute")
def absolute_destination_needs_no_warning(stage: Stage) -> None:
    """An absolute destination is taken without a warning."""
    stage.mounts.append(mount("/mnt", "tmpfs", "tmpfs"))
    stage.process["args"] = ["/bin/true"]
    result = stage.create()
    require("mnt" not in result.err, f"the runtime complains: {result.message}")


@case("mounts.destination.relative")
def relative_destination_counts_from_root(stage: Stage) -> None:
    """A relative destination is taken as relative to / of the container."""
    stage.mounts.append(mount("mnt/here", "tmpfs", "conformance"))
    stage.process["cwd"] = "/tmp"
    stage.up()
    equal(stage.mount_at("/mnt/here").type, "tmpfs", "type of the mount on /mnt/here")


@case("mounts.destination")
def links_in_the_image_do_not_lead_out(stage: Stage) -> None:
    """A destination that passes a symbolic link of the image stays inside the root filesystem."""
    outside = stage.scratch()
    (stage.rootfs / "link").symlink_to(outside)
    stage.mounts.append(mount("/link/there", "tmpfs", "conformance"))
    if stage.create(ok=False).ok:
        require(any(one.point.endswith("/there") for one in process.mounts_of(stage.pid)), "the mount is nowhere")
    equal(os.listdir(outside), [], "what was made outside the root filesystem")


@case("mounts.source")
def source_is_shown(stage: Stage) -> None:
    """The source of a mount of no device is handed to the kernel as it is."""
    stage.mounts.append(mount("/mnt", "tmpfs", "my-source"))
    stage.up()
    equal(stage.mount_at("/mnt").source, "my-source", "source in mountinfo")


@case("mounts.source.bind-relative")
def bind_source_may_be_relative(stage: Stage) -> None:
    """A relative source of a bind mount counts from the bundle."""
    (stage.bundle / "data").mkdir()
    (stage.bundle / "data/file").write_text("relative\n")
    stage.mounts.append(bind("data", "/mnt"))
    stage.script("cat /mnt/file")
    stage.create(cwd=Path("/"))
    stage.start()
    equal(stage.finish(), "relative\n", "file behind the bind mount")


@case("mounts.source")
def file_can_be_bound(stage: Stage) -> None:
    """A file is bound onto a file, which is made if it is missing."""
    source = stage.scratch() / "source"
    source.write_text("a file\n")
    stage.mounts.append(bind(source, "/etc/new-file"))
    equal(stage.sh("cat /etc/new-file"), "a file\n", "the bound file")


@case("mounts.source")
def missing_bind_source_is_an_error(stage: Stage) -> None:
    """A bind mount whose source does not exist is an error."""
    stage.mounts.append(bind(stage.dir / "missing", "/mnt"))
    stage.refused("the source of a bind mount does not exist")


@each({"mounts.bind-detection@none": ("none",), "mounts.bind-detection@absent": ("",)})
def options_make_a_bind_mount(stage: Stage, kind: str) -> None:
    """bind or rbind among the options makes a bind mount, whatever type says, or if type is absent."""
    source = stage.tree()
    for word, point in (("bind", "/one"), ("rbind", "/two")):
        entry = {"destination": point, "type": kind, "source": str(source), "options": [word]}
        if not kind:
            del entry["type"]
        stage.mounts.append(entry)
    output = stage.sh("cat /one/file; ls /one/sub; ls /two/sub")
    equal(output, "content\nfile\n", "with bind the submount is hidden, with rbind it is there")


@case("mounts.type.bind-dummy", "mounts.bind-detection")
def type_of_a_bind_mount_is_ignored(stage: Stage) -> None:
    """The type of a bind mount is a dummy, even if it names no filesystem."""
    source = stage.scratch()
    (source / "file").write_text("bound\n")
    stage.mounts.append(bind(source, "/mnt") | {"type": "nonsense"})
    equal(stage.sh("cat /mnt/file"), "bound\n", "the bound file")


@case("mounts.type")
def unknown_type_is_an_error(stage: Stage) -> None:
    """A filesystem type the kernel does not know is an error."""
    stage.mounts.append(mount("/mnt", "nosuchfs", "nothing"))
    stage.refused("the filesystem type does not exist")


@case("mounts.options", "mounts.options.unknown-to-data")
def data_options_reach_the_filesystem(stage: Stage) -> None:
    """Options the runtime does not know are handed to the filesystem: size and mode of a tmpfs."""
    stage.mounts.append(mount("/mnt", "tmpfs", "tmpfs", "nosuid", "size=1024k", "mode=1710"))
    stage.up()
    found = stage.mount_at("/mnt")
    require("nosuid" in found.options, f"nosuid is missing: {sorted(found.options)}")
    require({"size=1024k", "mode=1710"} <= found.super_options, f"data did not arrive: {sorted(found.super_options)}")


@case("mounts.options.unknown-to-data")
def nonsense_option_is_refused_by_the_filesystem(stage: Stage) -> None:
    """An option nobody knows reaches the kernel, which refuses it."""
    stage.mounts.append(mount("/mnt", "tmpfs", "tmpfs", "nonsense"))
    stage.refused("tmpfs knows no option `nonsense`")


@case("mounts.options.custom", "mount-option.tmpcopyup")
def tmpcopyup_copies_what_it_covers(stage: Stage) -> None:
    """An option beyond the specification, tmpcopyup: the tmpfs starts with the files it covers, and is writable."""
    (stage.rootfs / "data").mkdir()
    (stage.rootfs / "data/file").write_text("from the image\n")
    stage.mounts.append(mount("/data", "tmpfs", "tmpfs", "tmpcopyup"))
    equal(stage.sh("cat /data/file; echo new > /data/file"), "from the image\n", "file on the tmpfs")
    equal((stage.rootfs / "data/file").read_text(), "from the image\n", "file of the image")


@each(
    {
        f"fs.default.{name}": (point, kind)
        for name, point, kind in (
            ("proc", "/proc", "proc"),
            ("sys", "/sys", "sysfs"),
            ("dev-pts", "/dev/pts", "devpts"),
            ("dev-shm", "/dev/shm", "tmpfs"),
        )
    }
)
def default_filesystems_work(stage: Stage, point: str, kind: str) -> None:
    """The filesystem every Linux program expects can be had, and is what it should be."""
    probe = {
        "proc": "cat /proc/1/comm",
        "sysfs": "ls /sys/kernel",
        "devpts": "ls /dev/pts/ptmx",
        "tmpfs": "touch /dev/shm/x",
    }
    stage.script(f"{probe[kind]}; exec sleep 300")
    stage.create()
    equal(stage.mount_at(point).type, kind, f"type of {point}")
    stage.start()


@case("fs.default.proc", "fs.default.sys", "fs.default.dev-pts", "fs.default.dev-shm")
def template_has_the_default_filesystems(stage: Stage) -> None:
    """The template the runtime writes has the default filesystems of the specification in mounts."""
    from conformance.cases.bundle import spec_template

    entries = spec_template(stage).get("mounts")
    require(entries, "the template has no mounts")
    found = {entry["destination"]: entry["type"] for entry in entries or [] if isinstance(entry, dict)}
    wanted = {"/proc": "proc", "/sys": "sysfs", "/dev/pts": "devpts", "/dev/shm": "tmpfs"}
    equal({point: found.get(point) for point in wanted}, wanted, "default filesystems of the template")
