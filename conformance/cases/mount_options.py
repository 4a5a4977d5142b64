"""Mount options: the table of config.md, the words that concern one mount."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from conformance import process
from conformance.bundle import bind, mount
from conformance.outcome import equal, require, skip
from conformance.registry import case, each
from conformance.stage import Stage

PROPAGATION = {"private": set(), "slave": {"master"}, "shared": {"shared"}, "unbindable": {"unbindable"}}

# option list -> (flags that must be shown, flags that must not), among the options of the mount
FLAGS: dict[str, tuple[list[str], set[str], set[str]]] = {
    "atime": (["noatime", "atime"], set(), {"noatime"}),
    "noatime": (["noatime"], {"noatime"}, {"relatime"}),
    "diratime": (["nodiratime", "diratime"], set(), {"nodiratime"}),
    "nodiratime": (["nodiratime"], {"nodiratime"}, set()),
    "relatime": (["relatime"], {"relatime"}, {"noatime"}),
    "norelatime": (["norelatime"], set(), {"noatime"}),
    "strictatime": (["strictatime"], set(), {"relatime", "noatime"}),
    "nostrictatime": (["strictatime", "nostrictatime"], {"relatime"}, {"noatime"}),
    "dev": (["nodev", "dev"], set(), {"nodev"}),
    "nodev": (["nodev"], {"nodev"}, set()),
    "exec": (["noexec", "exec"], set(), {"noexec"}),
    "noexec": (["noexec"], {"noexec"}, set()),
    "suid": (["nosuid", "suid"], set(), {"nosuid"}),
    "nosuid": (["nosuid"], {"nosuid"}, set()),
    "symfollow": (["nosymfollow", "symfollow"], set(), {"nosymfollow"}),
    "nosymfollow": (["nosymfollow"], {"nosymfollow"}, set()),
    "ro": (["ro"], {"ro"}, set()),
    "rw": (["ro", "rw"], {"rw"}, {"ro"}),
    "nolazytime": (["lazytime", "nolazytime"], set(), {"lazytime"}),
    "noiversion": (["iversion", "noiversion"], set(), set()),
    "iversion": (["iversion"], set(), set()),
    "silent": (["silent"], set(), set()),
    "loud": (["silent", "loud"], set(), set()),
    "mand": (["mand"], set(), set()),
    "nomand": (["mand", "nomand"], set(), set()),
    "defaults": (["defaults"], {"rw"}, {"ro", "nosuid", "nodev", "noexec"}),
}
# the same, among the options of the superblock
SUPER_FLAGS: dict[str, tuple[list[str], set[str], set[str]]] = {
    "async": (["sync", "async"], set(), {"sync"}),
    "sync": (["sync"], {"sync"}, set()),
    "dirsync": (["dirsync"], {"dirsync"}, set()),
    "lazytime": (["lazytime"], {"lazytime"}, set()),
}


@each({f"mount-option.{word}": row for word, row in FLAGS.items()})
def option_sets_the_flag(stage: Stage, words: list[str], shown: set[str], hidden: set[str]) -> None:
    """A tmpfs with the option shows exactly the flags of the mount that the option stands for."""
    stage.mounts.append(mount("/mnt", "tmpfs", "tmpfs", *words))
    stage.up()
    seen = stage.mount_at("/mnt").options
    require(shown <= seen and not hidden & seen, f"options {words} gave a mount with {sorted(seen)}")


@each({f"mount-option.{word}": row for word, row in SUPER_FLAGS.items()})
def option_sets_the_flag_of_the_filesystem(stage: Stage, words: list[str], shown: set[str], hidden: set[str]) -> None:
    """A tmpfs with the option shows exactly the flags of the filesystem that the option stands for."""
    stage.mounts.append(mount("/mnt", "tmpfs", "tmpfs", *words))
    stage.up()
    seen = stage.mount_at("/mnt").super_options
    require(shown <= seen and not hidden & seen, f"options {words} gave a filesystem with {sorted(seen)}")


@each({f"mount-option.{word}@bind": (word,) for word in ("ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime")})
def option_holds_for_a_bind_mount(stage: Stage, word: str) -> None:
    """The option holds for a bind mount, which the kernel changes only by a remount, and not for its source."""
    source = stage.tree()
    stage.mounts.append(bind(source, "/mnt", word))
    stage.up()
    require(word in stage.mount_at("/mnt").options, f"the bind mount shows {sorted(stage.mount_at('/mnt').options)}")
    outside = next(one for one in process.mounts_of() if one.point == str(source))
    require(word not in outside.options, f"the source became {word} too")


@case("mount-option.nodev", "mount-option.dev")
def device_nodes_obey(stage: Stage) -> None:
    """A device node works on a mount with dev and not on one with nodev."""
    del stage.resources["devices"]
    for name in ("dev", "nodev"):
        stage.mounts.append(mount(f"/{name}", "tmpfs", "tmpfs", name))
    script = "for d in dev nodev; do mknod /$d/null c 1 3; echo x > /$d/null && echo $d works; done 2>/dev/null"
    equal(stage.sh(script, status=None), "dev works\n", "which device nodes work")


@case("mount-option.noexec", "mount-option.exec")
def programs_obey(stage: Stage) -> None:
    """A program runs on a mount with exec and not on one with noexec."""
    for name in ("exec", "noexec"):
        stage.mounts.append(mount(f"/{name}", "tmpfs", "tmpfs", name))
    script = "for d in exec noexec; do cp /bin/busybox /$d/echo; /$d/echo $d works; done 2>/dev/null"
    equal(stage.sh(script, status=None), "exec works\n", "which programs run")


@case("mount-option.nosuid", "mount-option.suid")
def set_uid_bits_obey(stage: Stage) -> None:
    """A set-uid program changes its user on a mount with suid and not on one with nosuid."""
    # Not busybox: most of its applets give up a set-uid identity at once.
    python = Path(stage.host_python()).resolve()
    for name in ("suid", "nosuid"):
        source = stage.scratch()
        program = source / "python"
        shutil.copy(python, program)
        os.chown(program, 1234, 1234)
        program.chmod(0o6755)
        stage.mounts.append(bind(source, f"/{name}", name))
    stage.process["user"] = {"uid": 1000, "gid": 1000}
    probe = "-I -S -c 'import os; print(os.geteuid())'"
    equal(stage.sh(f"/suid/python {probe}; /nosuid/python {probe}"), "1234\n1000\n", "effective users")


@case("mount-option.nosymfollow")
def symbolic_links_obey(stage: Stage) -> None:
    """A symbolic link on a mount with nosymfollow cannot be followed."""
    stage.mounts.append(mount("/mnt", "tmpfs", "tmpfs", "nosymfollow"))
    output = stage.sh("echo text > /mnt/file; ln -s file /mnt/link; cat /mnt/file; cat /mnt/link 2>&1", status=None)
    require(output.startswith("text\n") and "text" not in output[5:], f"reading file and link gave {output!r}")


@case("mount-option.ro", "mount-option.rw")
def writing_obeys(stage: Stage) -> None:
    """Writing fails on a bind mount with ro and works on one with rw."""
    for name in ("ro", "rw"):
        stage.mounts.append(bind(stage.scratch(), f"/{name}", name))
    output = stage.sh("for d in ro rw; do echo x > /$d/file && echo $d; done 2>&1")
    require("Read-only file system" in output and output.endswith("rw\n"), f"writing gave {output!r}")


@case("mount-option.remount")
def remount_changes_a_mount(stage: Stage) -> None:
    """A second entry with remount changes the flags of the mount that is there."""
    stage.mounts.append(mount("/mnt", "tmpfs", "tmpfs", "rw"))
    stage.mounts.append(mount("/mnt", "tmpfs", "tmpfs", "remount", "ro", "nosuid"))
    stage.up()
    found = [one for one in process.mounts_of(stage.pid) if one.point == "/mnt"]
    equal(len(found), 1, "number of mounts on /mnt")
    require({"ro", "nosuid"} <= found[0].options, f"after the remount the mount shows {sorted(found[0].options)}")


@case("mount-option.bind")
def bind_shows_the_same_files(stage: Stage) -> None:
    """A bind mount is the source itself, without its submounts."""
    source = stage.tree()
    stage.mounts.append(bind(source, "/mnt"))
    stage.up()
    inside = os.stat(stage.inside("/mnt/file"))
    equal((inside.st_dev, inside.st_ino), file_identity(source / "file"), "device and inode of the file")
    require(not os.path.exists(stage.inside("/mnt/sub/file")), "the submount came along with bind")


@case("mount-option.rbind")
def rbind_takes_submounts_along(stage: Stage) -> None:
    """A recursive bind mount has the submounts of the source."""
    source = stage.tree()
    stage.mounts.append(bind(source, "/mnt", "rbind"))
    stage.up()
    inside = os.stat(stage.inside("/mnt/sub/file"))
    equal(
        (inside.st_dev, inside.st_ino),
        file_identity(source / "sub/file"),
        "device and inode of the file of the submount",
    )


def file_identity(path: os.PathLike[str]) -> tuple[int, int]:
    """Device and inode of a file."""
    found = os.stat(path)
    return found.st_dev, found.st_ino


@each(
    {f"mount-option.{word}": (word, tags, False) for word, tags in PROPAGATION.items()}
    | {f"mount-option.r{word}": (f"r{word}", tags, True) for word, tags in PROPAGATION.items()}
)
def propagation_is_set(stage: Stage, word: str, tags: set[str], recursive: bool) -> None:
    """The mount has the propagation type of the word; its submounts have it too with the r-form, and only then."""
    source = stage.tree()
    for point in (source, source / "sub"):
        process.mount("none", point, flags=process.MS_SHARED)
    stage.mounts.append(bind(source, "/mnt", "rbind", word))
    stage.up()
    seen = stage.mount_at("/mnt").propagation
    judge(seen, tags, f"/mnt with {word}")
    if recursive:
        judge(stage.mount_at("/mnt/sub").propagation, tags, f"the submount with {word}")


def judge(seen: set[str], tags: set[str], what: str) -> None:
    """A private mount has no tag; a slave may be shared as well (master plus shared), the others are exact."""
    seen = seen - {"propagate_from"}
    if tags == {"master"}:
        require("master" in seen, f"{what}: propagation tags are {sorted(seen)}")
    elif tags == {"shared"}:
        require("shared" in seen, f"{what}: propagation tags are {sorted(seen)}")
    else:
        equal(seen, tags, f"propagation tags of {what}")


@case("mount-option.silent", "mount-option.loud")
def silent_and_loud_reach_nobody(stage: Stage) -> None:
    """silent and loud are flags, not data: a filesystem that refuses unknown data accepts them."""
    stage.mounts.append(mount("/one", "tmpfs", "tmpfs", "silent"))
    stage.mounts.append(mount("/two", "tmpfs", "tmpfs", "loud"))
    stage.up()
    if stage.mount_at("/one").type != "tmpfs":
        skip("no tmpfs on this host")
