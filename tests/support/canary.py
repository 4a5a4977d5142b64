"""A directory of the host that no container has any business with, and what has become of it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path


class Canary:
    """`path` holds `file` and `directory/inner`. Anybody may write there, so that a container's user could, too."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="canary-", dir="/var/tmp"))
        (self.path / "file").write_text("secret\n")
        (self.path / "directory").mkdir()
        (self.path / "directory" / "inner").write_text("secret\n")
        for folder, _, files in os.walk(self.path):
            os.chmod(folder, 0o777)
            for name in files:
                os.chmod(os.path.join(folder, name), 0o666)
        self._before = self._look()

    @property
    def file(self) -> Path:
        return self.path / "file"

    @property
    def directory(self) -> Path:
        return self.path / "directory"

    def _look(self) -> dict[str, tuple[object, ...]]:
        found: dict[str, tuple[object, ...]] = {}
        for folder, folders, files in os.walk(self.path):
            for name in (".", *folders, *files):
                path = os.path.join(folder, name)
                status = os.lstat(path)
                regular = name in files and status.st_mode & 0o170000 == 0o100000
                content = Path(path).read_bytes() if regular else b""
                key = os.path.relpath(path, self.path)
                found[key] = (oct(status.st_mode), status.st_uid, status.st_gid, status.st_ino, status.st_rdev, content)
        return found

    def touched(self) -> set[str]:
        """Names that were made, removed or changed since the beginning."""
        now = self._look()
        return {name for name in self._before.keys() | now.keys() if self._before.get(name) != now.get(name)}

    def remove(self) -> None:
        shutil.rmtree(self.path)
