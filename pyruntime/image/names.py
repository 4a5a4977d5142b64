"""Names in archives."""

from __future__ import annotations

from pyruntime.image.documents import ImageError
from pyruntime.image.limits import Limits


def split(name: bytes, depth: int = Limits.DEPTH) -> tuple[bytes, bytes]:
    """(parent, last component) of a name in an archive, relative to the root; the root itself is (b"", b"").

    Absolute names are taken as relative to the root of the image, as every engine does. `..` is refused: no builder
    writes it. Raises ImageError.
    """
    parts = name.split(b"/")
    if b"" in parts or b"." in parts:
        parts = [part for part in parts if part not in (b"", b".")]
    if b".." in parts:
        raise ImageError("its name contains `..`")
    if len(parts) > depth:
        raise ImageError(f"its name has more than {depth} components")
    if not parts:
        return b"", b""
    last = parts.pop()
    return b"/".join(parts), last
