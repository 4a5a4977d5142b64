"""The layers of *overlay* mode: each unpacked once, under the digest of its tar, shared by all images and bundles.

    STORE/layers/ALGORITHM-HEX/diff     a layer that is the same above every other one, by diff ID
    STORE/chains/ALGORITHM-HEX/diff     a layer as it is above certain others, by chain ID (image-spec config.md)
    STORE/l/N                           short names for both, for mount(2) takes one page of options
    STORE/mapped-MAPPING/…              the same again for each mapping of ids

A layer is made complete or not at all (`target.Target`), so two programs may unpack the same one at the same time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os

from pyruntime.image import userns
from pyruntime.image.choose import Image
from pyruntime.image.documents import ImageError, text
from pyruntime.image.layer import LayerTree
from pyruntime.image.limits import Limits
from pyruntime.image.lower import Lower
from pyruntime.image.progress import Progress
from pyruntime.image.target import Target
from pyruntime.image.unpack import apply_layer, layer_name, report_losses

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_ROOT_DESCRIBED = "root-described"
_PAGE = 4096


def default_path() -> str:
    """Where the store is unless the user says otherwise."""
    if os.geteuid() == 0 and not userns.in_user_namespace():
        return "/var/lib/pyruntime/image"
    data = os.environ.get("XDG_DATA_HOME") or os.path.join(os.environ.get("HOME", "/"), ".local/share")
    return os.path.join(data, "pyruntime/image")


def chain_id(diff_ids: list[str]) -> str:
    """The ID of a stack of layers: image-spec config.md, "Layer ChainID"."""
    chain = diff_ids[0]
    for diff_id in diff_ids[1:]:
        chain = "sha256:" + hashlib.sha256(f"{chain} {diff_id}".encode()).hexdigest()
    return chain


class Stack:
    """The layers of one image in the store. `directories` are descriptors of them, the uppermost first."""

    def __init__(self, mapped: bool) -> None:
        self.directories: list[int] = []
        self.names: list[str] = []
        self._described: list[bool] = []
        self._mapped = mapped

    def add(self, entry: str, short: str) -> None:
        """Put the layer in the directory `entry` on top."""
        self.directories.insert(0, os.open(os.path.join(entry, "diff"), _DIRECTORY))
        self.names.insert(0, short)
        self._described.insert(0, os.path.exists(os.path.join(entry, _ROOT_DESCRIBED)))

    def dress(self, upper: int) -> None:
        """Give the upper directory, which will be the container's `/`, the attributes of the image's root."""
        for fd, described in zip(self.directories, self._described, strict=True):
            if described:
                status = os.fstat(fd)
                os.fchown(upper, status.st_uid, status.st_gid)
                os.fchmod(upper, status.st_mode & 0o7777)
                os.utime(upper, ns=(status.st_mtime_ns, status.st_mtime_ns))
                return

    def options(self, bundle: str) -> list[str]:
        """The mount options of the overlay that is the rootfs of the bundle at `bundle`."""
        bundle = os.path.abspath(bundle)
        if not self.names:
            raise ImageError("the image has no layers; use flat mode")
        # The kernel refuses a directory twice (ELOOP). Of a layer that occurs twice the upper one covers the lower.
        layers = dict.fromkeys(self.names)
        options = [
            "lowerdir=" + ":".join(layers), f"upperdir={_plain(bundle)}/upper", f"workdir={_plain(bundle)}/work"
        ]  # fmt: skip
        if self._mapped:
            options.append("userxattr")
        if len(",".join(options)) >= _PAGE:
            raise ImageError(
                f"{len(self.names)} layers make more mount options than the {_PAGE} bytes the kernel takes; use a "
                "store and a bundle with shorter paths, or flat mode"
            )
        return options

    def close(self) -> None:
        """Close the descriptors."""
        for fd in self.directories:
            os.close(fd)
        self.directories.clear()


def _plain(path: str) -> str:
    if any(c in path for c in ',:\\"\n'):
        raise ImageError(f'{text(path)}: overlayfs options cannot hold a path with one of , : \\ "')
    return path


class Store:
    """The store at `path` (with `mapping`, its part for these ids)."""

    def __init__(self, path: str, mapping: userns.Mapping | None) -> None:
        self._mapped = userns.in_user_namespace()
        self._path = _plain(os.path.abspath(path))
        if mapping is not None:
            self._path = os.path.join(self._path, "mapped-" + mapping.key())

    @staticmethod
    def prepare(path: str, mapping: userns.Mapping | None, owner: tuple[int, int] | None) -> None:
        """Make the directories of the store. With `owner`, for whoever will be root in the user namespace."""
        top = os.path.abspath(path)
        os.makedirs(top, 0o711, exist_ok=True)
        if mapping is not None:
            top = os.path.join(top, "mapped-" + mapping.key())
        for name in ("", "layers", "chains", "l"):
            directory = os.path.join(top, name)
            os.makedirs(directory, 0o711, exist_ok=True)
            if owner is not None:
                os.chown(directory, *owner)

    def unpack(self, image: Image, limits: Limits, progress: Progress, sync: bool) -> Stack:
        """Have all layers of `image` in the store. Raises ImageError."""
        stack = Stack(self._mapped)
        diff_ids: list[str] = []
        for number, layer in enumerate(image.layers):
            diff_ids.append(layer.diff_id)
            alone = os.path.join(self._path, "layers", layer.diff_id.replace(":", "-"))
            chained = os.path.join(self._path, "chains", chain_id(diff_ids).replace(":", "-"))
            entry = next((path for path in (alone, chained) if os.path.isdir(path)), None)
            if entry is None:
                progress.layer(number + 1, str(layer), layer.size)
                with Target(alone, collide=True) as target:
                    os.mkdir("diff", 0o755, dir_fd=target.fd)
                    root = os.open("diff", _DIRECTORY, dir_fd=target.fd)
                    tree = LayerTree(root, self._mapped, Lower(stack.directories))
                    apply_layer(tree, layer, layer_name(image, number), limits, progress)
                    tree.finish()
                    report_losses(tree)
                    os.close(root)
                    if tree.root_described:
                        os.close(os.open(_ROOT_DESCRIBED, os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=target.fd))
                    if sync:
                        target.sync()
                    os.fchmod(target.fd, 0o711)
                    entry = chained if tree.depends else alone
                    target.commit(entry)
            else:
                progress.layer(number + 1, str(layer), layer.size, "using")
                progress.advance(layer.size)
            stack.add(entry, self._short(entry))
        return stack

    def _short(self, entry: str) -> str:
        """The short name of a layer: a link STORE/l/N."""
        where = os.path.join(self._path, "l")
        target = os.path.relpath(entry, where) + "/diff"
        record = os.path.join(entry, "short")
        lock = os.open(where, _DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                name = os.readlink(record)
                if os.readlink(os.path.join(where, name)) == target:
                    return os.path.join(where, name)
            except OSError:
                pass
            taken = set(os.listdir(where))
            name = next(str(n) for n in range(len(taken) + 1) if str(n) not in taken)
            os.symlink(target, os.path.join(where, name))
            try:
                os.unlink(record)
            except FileNotFoundError:
                pass
            os.symlink(name, record)
            return os.path.join(where, name)
        finally:
            os.close(lock)
