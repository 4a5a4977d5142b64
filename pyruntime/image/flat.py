"""All layers on top of each other in one directory: whiteouts remove what the layers below brought.

A whiteout hides what lies below its own layer and nothing else, wherever in the layer it stands (layer.md,
"Whiteouts"), so what the layer at hand has brought is remembered. The first layer has nothing below, and needs no
memory.
"""

from __future__ import annotations

import os
import stat

from pyruntime.image.documents import ImageError
from pyruntime.image.tree import Directory, Tree

_NEST = 256
"""How deep directories below a whiteout may nest."""


class FlatTree(Tree):
    """The rootfs of *flat* mode."""

    def __init__(self, root: int, mapped: bool) -> None:
        super().__init__(root, mapped)
        self._layer = 0
        self._brought: dict[int, set[bytes]] = {}  # inode of a directory -> names in it that are of this layer
        self._hidden: set[tuple[int, bytes]] = set()

    def begin_layer(self) -> None:
        """Forget what the layer before brought: from now on it lies below."""
        self._layer += 1
        self._brought.clear()
        self._hidden.clear()

    def mark(self, parent: Directory, name: bytes) -> None:
        """Remember that `name` is of this layer."""
        if self._layer > 1:
            names = self._brought.get(parent.inode)
            if names is None:
                self._brought[parent.inode] = {name}
            else:
                names.add(name)

    def whiteout(self, parent: bytes, name: bytes) -> None:
        """Remove `name` as far as it is of a layer below."""
        directory = self.existing(parent) if self._layer > 1 else None
        if directory is not None and (directory.inode, name) not in self._hidden:
            self._hidden.add((directory.inode, name))  # once is enough: nothing comes to lie below any more
            self._hide(directory, name, 0)

    def opaque(self, parent: bytes) -> None:
        """Remove everything in `parent` that is of a layer below."""
        directory = self.existing(parent) if self._layer > 1 else None
        if directory is not None and (directory.inode, b"") not in self._hidden:
            self._hidden.add((directory.inode, b""))
            for name in os.listdir(directory.fd):
                self._hide(directory, os.fsencode(name), 0)

    def _hide(self, parent: Directory, name: bytes, depth: int) -> None:
        try:
            status = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        mine = name in self._brought.get(parent.inode, ())
        if not stat.S_ISDIR(status.st_mode):
            if not mine:
                self.replace(parent, name)
            return
        if not self._brought:
            self.replace(parent, name)
            return
        # This layer may have put something into it, or deep below it.
        if depth > _NEST:
            raise ImageError(f"a whiteout of directories nested more than {_NEST} deep")
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent.fd)
        inner = Directory(fd, status)
        for child in os.listdir(fd):
            self._hide(inner, os.fsencode(child), depth + 1)
        if not mine:
            try:
                os.rmdir(name, dir_fd=parent.fd)
            except OSError:  # not empty: what is in it is of this layer
                return
            self.forget()
