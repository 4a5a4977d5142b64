"""Layers to a directory tree: runs the streams, the tar reader and the tree together, and names the layer in errors."""

from __future__ import annotations

from pyruntime.image.choose import Image, Layer
from pyruntime.image.documents import ImageError
from pyruntime.image.limits import Limits
from pyruntime.image.names import split
from pyruntime.image.progress import Progress, warn
from pyruntime.image.stream import LayerStream
from pyruntime.image.tar import REGULAR, Archive, Reader, padding
from pyruntime.image.tree import Tree


def apply_layer(tree: Tree, layer: Layer, where: str, limits: Limits, progress: Progress) -> None:
    """Write one layer into `tree`. Raises ImageError that begins with `where`."""
    tree.begin_layer()
    try:
        with LayerStream(layer.open(), layer.diff_id, limits, progress.advance) as stream:
            archive = Archive(Reader(stream.next_chunk), limits)
            try:
                tree.apply(archive)
                archive.drain()
            except ImageError as error:
                raise stream.explain(error) from None
    except ImageError as error:
        raise ImageError(f"{where}: {error}") from None


def verify_layer(layer: Layer, where: str, limits: Limits, progress: Progress) -> int:
    """Read one layer to its end, as unpacking would, and write nothing. Returns how many entries it has."""
    entries = 0
    try:
        with LayerStream(layer.open(), layer.diff_id, limits, progress.advance) as stream:
            archive = Archive(Reader(stream.next_chunk), limits)
            try:
                while (entry := archive.next()) is not None:
                    entries += 1
                    split(entry.name)
                    if entry.kind == REGULAR:
                        stored = entry.size if entry.pieces is None else sum(length for _, length in entry.pieces)
                        archive.reader.skip(stored + padding(stored))
                archive.drain()
            except ImageError as error:
                raise stream.explain(error) from None
    except ImageError as error:
        raise ImageError(f"{where}: {error}") from None
    return entries


def layer_name(image: Image, number: int) -> str:
    """How errors call layer `number` (from 0)."""
    return f"layer {number + 1} of {len(image.layers)} ({image.layers[number]})"


def report_losses(tree: Tree) -> None:
    """Say what the file system or the lack of privilege did not let through."""
    for name, count in tree.attributes.lost.items():
        warn(f"the extended attribute {name.decode('utf-8', 'backslashreplace')} was left out on {count} files")
    if tree.owners_left_out:
        warn(
            f"{tree.owners_left_out} files have an owner or group that is not mapped and now belong to root; ranges in "
            "/etc/subuid and /etc/subgid, or --uid-map and --gid-map, give them one"
        )
    if tree.devices_left_out:
        warn(f"{tree.devices_left_out} device nodes were left out: a user namespace cannot make them")
