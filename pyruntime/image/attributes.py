"""Which extended attributes of a layer are set, and how.

An attribute from an image may only describe its own file. `trusted.*` steers overlayfs (redirects, whiteouts), and so
does `user.overlay.*` for overlays mounted in a user namespace; `security.*` holds labels and signatures of the host
that built the image, which are none of this host. All of those are dropped; file capabilities and ACLs are kept.
"""

from __future__ import annotations

import os
from errno import EINVAL, ENODATA, ENOTSUP, EPERM

CAPABILITY = b"security.capability"
ACL_ACCESS = b"system.posix_acl_access"
ACL_DEFAULT = b"system.posix_acl_default"

_KEPT = frozenset((CAPABILITY, ACL_ACCESS, ACL_DEFAULT))


def kept(name: bytes) -> bool:
    """Whether an image may set the attribute `name`."""
    return name in _KEPT or (name.startswith(b"user.") and not name.startswith(b"user.overlay."))


class Attributes:
    """Sets extended attributes and remembers what could not be kept, for one warning at the end and not thousands."""

    def __init__(self, mapped: bool) -> None:
        self._mapped = mapped
        self.lost: dict[bytes, int] = {}
        """Name of an attribute -> on how many files it was dropped or refused by the file system."""

    def _lose(self, name: bytes) -> None:
        self.lost[name] = self.lost.get(name, 0) + 1

    def apply(self, target: int | str, wanted: dict[bytes, bytes]) -> None:
        """Set `wanted` on an open file or a path. Raises OSError.

        Only a file system without extended attributes, and in a user namespace the lack of privilege or of the ids in
        an ACL, are put up with.
        """
        for name, value in wanted.items():
            if not kept(name):
                self._lose(name)
                continue
            try:
                os.setxattr(target, name, value)
            except OSError as error:
                if error.errno == ENOTSUP or (error.errno in (EPERM, EINVAL) and self._mapped):
                    self._lose(name)
                    continue
                raise

    @staticmethod
    def clear(target: int) -> None:
        """Remove what an image may set: a directory that a later layer describes anew starts from nothing."""
        try:
            names = os.listxattr(target)
        except OSError as error:
            if error.errno == ENOTSUP:
                return
            raise
        for name in names:
            if kept(os.fsencode(name)):
                try:
                    os.removexattr(target, name)
                except OSError as error:
                    if error.errno not in (ENODATA, ENOTSUP):
                        raise
