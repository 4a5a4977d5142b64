"""Mount options: the words of the OCI spec and of mount(8), and what each means to the kernel.

A word is one of: an attribute of this mount (`ro`, `nosuid`), an attribute of this mount and all below it (`rro`), a
propagation type (`rshared`), a flag of the filesystem itself (`sync`), a way to mount (`bind`, `remount`,
`tmpcopyup`, `idmap`), or anything else, which goes to the filesystem as data. Later words win over earlier ones.
"""

from __future__ import annotations

from pyruntime.kernel import mounts as m

_ATIME = m.MOUNT_ATTR__ATIME

# word -> (attributes to set, attributes to clear). The access time is one field of several bits, so it is cleared
# whole before a value is set: mount_setattr(2) refuses anything else.
_ATTRIBUTES: dict[str, tuple[int, int]] = {
    "ro": (m.MOUNT_ATTR_RDONLY, 0),
    "rw": (0, m.MOUNT_ATTR_RDONLY),
    "nosuid": (m.MOUNT_ATTR_NOSUID, 0),
    "suid": (0, m.MOUNT_ATTR_NOSUID),
    "nodev": (m.MOUNT_ATTR_NODEV, 0),
    "dev": (0, m.MOUNT_ATTR_NODEV),
    "noexec": (m.MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, m.MOUNT_ATTR_NOEXEC),
    "nodiratime": (m.MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, m.MOUNT_ATTR_NODIRATIME),
    "noatime": (m.MOUNT_ATTR_NOATIME, _ATIME),
    "atime": (0, _ATIME),
    "relatime": (m.MOUNT_ATTR_RELATIME, _ATIME),
    "norelatime": (0, _ATIME),
    "strictatime": (m.MOUNT_ATTR_STRICTATIME, _ATIME),
    "nostrictatime": (0, _ATIME),
    "nosymfollow": (m.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, m.MOUNT_ATTR_NOSYMFOLLOW),
}

_PROPAGATION = {
    "shared": (m.MS_SHARED, False),
    "rshared": (m.MS_SHARED, True),
    "slave": (m.MS_SLAVE, False),
    "rslave": (m.MS_SLAVE, True),
    "private": (m.MS_PRIVATE, False),
    "rprivate": (m.MS_PRIVATE, True),
    "unbindable": (m.MS_UNBINDABLE, False),
    "runbindable": (m.MS_UNBINDABLE, True),
}

# Flags of the superblock: the new mount API takes them as words of the same name.
_SUPERBLOCK = {"sync", "async", "dirsync", "lazytime", "nolazytime", "mand", "nomand"}
_OPPOSITE = {"sync": "async", "async": "sync", "lazytime": "nolazytime", "nolazytime": "lazytime", "mand": "nomand",
             "nomand": "mand", "ro": "rw", "rw": "ro"}  # fmt: skip

# Accepted and without effect: `defaults` is mount(8)'s "nothing special"; iversion and silent are mount(2) flags
# that have no counterpart in the mount API (iversion is set by the filesystems themselves since Linux 4.17, and
# silent only keeps messages out of the kernel log).
_NOTHING = {"defaults", "iversion", "noiversion", "silent", "loud"}

WORDS: list[str] = sorted(
    {*_ATTRIBUTES, *("r" + word for word in _ATTRIBUTES), *_PROPAGATION, *_SUPERBLOCK, *_NOTHING}
    | {"bind", "rbind", "remount", "tmpcopyup", "idmap", "ridmap", "src-nofollow", "dest-nofollow", "copy-symlink"}
)
"""Every word that is not handed to the filesystem, for `features`."""


# The words that set an access time, and those that take one back again.
_ATIME_WORDS = {"noatime", "nodiratime", "relatime", "strictatime"}
_ATIME_UNSET = {"atime": "noatime", "diratime": "nodiratime", "norelatime": "relatime", "nostrictatime": "strictatime"}


class Options:
    """A parsed option list. The `add` and `clear` fields are MOUNT_ATTR_* bits."""

    __slots__ = (
        "add", "atime", "bind", "clear", "copy_symlink", "copy_up", "data", "dest_nofollow", "flags", "idmap",
        "idmap_text", "propagation", "recursive", "recursive_add", "recursive_clear", "remount", "src_nofollow",
        "superblock",
    )  # fmt: skip

    def __init__(self, words: list[str]) -> None:
        self.bind = self.recursive = self.remount = self.copy_up = False
        self.src_nofollow = self.dest_nofollow = self.copy_symlink = False
        self.idmap = ""  # "", "idmap" or "ridmap"
        self.idmap_text: str | None = None  # what follows "idmap=", in crun's notation
        self.add = self.clear = self.recursive_add = self.recursive_clear = 0
        self.flags = False  # any word about flags of the mount, be it to clear one
        self.atime: set[str] = set()  # the words about the access time that are in force
        self.propagation: list[tuple[int, bool]] = []  # (MS_* type, recursive), in the order given
        self.superblock: list[str] = []
        self.data: list[tuple[bytes, bytes | None]] = []
        for word in words:
            self._take(word)

    def _take(self, word: str) -> None:
        attribute = _ATTRIBUTES.get(word)
        if attribute is not None:
            self.add = self.add & ~(attribute[0] | attribute[1]) | attribute[0]
            self.clear = self.clear & ~attribute[0] | attribute[1]
            self.flags = True
            if word in _ATIME_WORDS:
                self.atime.add(word)
            elif word in _ATIME_UNSET:
                self.atime.discard(_ATIME_UNSET[word])
            if word in ("ro", "rw"):
                self._superblock(word)
            return
        if word in ("bind", "rbind"):
            self.bind = True
            self.recursive = self.recursive or word == "rbind"
            return
        propagation = _PROPAGATION.get(word)
        if propagation is not None:
            self.propagation.append(propagation)
            return
        attribute = _ATTRIBUTES.get(word[1:]) if word[:1] == "r" else None
        if attribute is not None:
            self.recursive_add = self.recursive_add & ~(attribute[0] | attribute[1]) | attribute[0]
            self.recursive_clear = self.recursive_clear & ~attribute[0] | attribute[1]
        elif word in _SUPERBLOCK:
            self._superblock(word)
        elif word == "remount":
            self.remount = True
        elif word == "tmpcopyup":
            self.copy_up = True
        elif word in ("idmap", "ridmap"):
            self.idmap = word
        elif word[:6] == "idmap=" or word[:7] == "ridmap=":
            self.idmap, _, self.idmap_text = word.partition("=")
        elif word == "src-nofollow":
            self.src_nofollow = True
        elif word == "dest-nofollow":
            self.dest_nofollow = True
        elif word == "copy-symlink":
            self.copy_symlink = True
        elif word and word not in _NOTHING:
            name, equals, value = word.partition("=")
            self.data.append((name.encode(), value.encode() if equals else None))

    def _superblock(self, word: str) -> None:
        opposite = _OPPOSITE.get(word)
        if opposite in self.superblock:
            self.superblock.remove(opposite)
        if word not in self.superblock:
            self.superblock.append(word)

    def filesystem(self) -> list[tuple[bytes, bytes | None]]:
        """What a new filesystem is configured with: (name, value) pairs."""
        return [(word.encode(), None) for word in self.superblock] + self.data
