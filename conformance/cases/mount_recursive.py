"""Mount options that reach submounts: the r-words of config.md, made with mount_setattr(2) (Linux 5.12)."""

from __future__ import annotations

from conformance import process
from conformance.bundle import bind
from conformance.outcome import require
from conformance.registry import each
from conformance.stage import Stage

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_NOSYMFOLLOW, MS_NOATIME, MS_NODIRATIME, MS_STRICTATIME = 256, 1024, 2048, 1 << 24

# word -> (flags of the source beforehand, options that must be shown on mount and submount, options that must not)
WORDS: dict[str, tuple[int, set[str], set[str]]] = {
    "rro": (0, {"ro"}, {"rw"}),
    "rrw": (MS_RDONLY, {"rw"}, {"ro"}),
    "rnosuid": (0, {"nosuid"}, set()),
    "rsuid": (MS_NOSUID, set(), {"nosuid"}),
    "rnodev": (0, {"nodev"}, set()),
    "rdev": (MS_NODEV, set(), {"nodev"}),
    "rnoexec": (0, {"noexec"}, set()),
    "rexec": (MS_NOEXEC, set(), {"noexec"}),
    "rnodiratime": (0, {"nodiratime"}, set()),
    "rdiratime": (MS_NODIRATIME, set(), {"nodiratime"}),
    "rrelatime": (MS_NOATIME, {"relatime"}, {"noatime"}),
    "rnorelatime": (0, set(), {"noatime"}),
    "rnoatime": (0, {"noatime"}, {"relatime"}),
    "ratime": (MS_NOATIME, set(), {"noatime"}),
    "rstrictatime": (MS_NOATIME, set(), {"noatime", "relatime"}),
    "rnostrictatime": (MS_STRICTATIME, set(), {"noatime"}),
    "rnosymfollow": (0, {"nosymfollow"}, set()),
    "rsymfollow": (MS_NOSYMFOLLOW, set(), {"nosymfollow"}),
}


@each({f"mount-option.{word}": (word, *row) for word, row in WORDS.items()})
def word_reaches_the_submount(stage: Stage, word: str, before: int, shown: set[str], hidden: set[str]) -> None:
    """A recursive bind mount with the word has the attribute on itself and its submount; the source keeps its own."""
    source = stage.tree()
    for place in (source / "sub", source):
        process.mount("none", place, flags=process.MS_BIND | MS_REMOUNT | before)
    outside = {one.point: one.options for one in process.mounts_of() if one.point.startswith(str(source))}
    stage.mounts.append(bind(source, "/mnt", "rbind", word))
    stage.up()
    for point in ("/mnt", "/mnt/sub"):
        seen = stage.mount_at(point).options
        require(shown <= seen and not hidden & seen, f"{point} with {word} shows {sorted(seen)}")
    after = {one.point: one.options for one in process.mounts_of() if one.point.startswith(str(source))}
    require(after == outside, f"{word} changed the source as well: {after}")


@each({"mount-option.rro@write": ("rro", "Read-only file system"), "mount-option.rrw@write": ("rrw", "")})
def writing_to_the_submount_obeys(stage: Stage, word: str, wanted: str) -> None:
    """With rro the submount cannot be written, with rrw it can."""
    source = stage.tree()
    if word == "rrw":
        for point in (source / "sub", source):
            process.mount("none", point, flags=process.MS_BIND | MS_REMOUNT | MS_RDONLY)
    stage.mounts.append(bind(source, "/mnt", "rbind", word))
    output = (
        stage.sh("echo x 2>&1 > /mnt/sub/new", status=None)
        if not wanted
        else stage.sh("(echo x > /mnt/sub/new) 2>&1", None)
    )
    require(wanted in output if wanted else not output, f"writing to the submount gave {output!r}")
