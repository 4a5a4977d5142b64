"""Who opens what below a directory: inotify(7), which sees opens by inode, through whatever mount or root they come.

Opening with O_PATH is not seen, nor is stat: neither reads anything.
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

IN_ACCESS, IN_OPEN, IN_Q_OVERFLOW = 0x1, 0x20, 0x4000
_libc = ctypes.CDLL(None, use_errno=True)


class Watch:
    """Watches every directory below `top`, without following links, until `close()`; not what is called `but`."""

    def __init__(self, top: Path, *, but: str = "") -> None:
        self.top = top
        self.but = but
        self.descriptor = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        self.directories: dict[int, str] = {}
        for directory, names, _ in os.walk(top):
            names[:] = [name for name in names if name != but and not os.path.islink(os.path.join(directory, name))]
            number = _libc.inotify_add_watch(self.descriptor, os.fsencode(directory), IN_OPEN | IN_ACCESS)
            assert number >= 0, f"inotify_add_watch {directory}: {os.strerror(ctypes.get_errno())}"
            self.directories[number] = directory
        self.opened()  # by the walk itself

    def opened(self) -> set[str]:
        """What was opened or read since the last call, by path from the top."""
        found: set[str] = set()
        while True:
            try:
                data = os.read(self.descriptor, 1 << 16)
            except BlockingIOError:
                return found
            at = 0
            while at < len(data):
                number, mask, _, size = struct.unpack_from("iIII", data, at)
                name = data[at + 16 : at + 16 + size].rstrip(b"\0")
                at += 16 + size
                assert not mask & IN_Q_OVERFLOW, "more events than the kernel keeps"
                path = os.path.join(self.directories[number], os.fsdecode(name))
                if name != os.fsencode(self.but):
                    found.add(os.path.relpath(path, self.top))

    def close(self) -> None:
        os.close(self.descriptor)
