"""Who mounts the overlay that is a bundle's rootfs.

In the container, which is best: an entry of `mounts` with the destination `/`. The runtime makes it first, in the
container's mount namespace, so it comes and goes with the container, also after a crash, and no hook is needed.
pyruntime and runc do that; crun (1.8) cannot mount on `/`.

On the host, for any runtime: mounted when the bundle is made, unmounted by a `poststop` hook that is plain umount(8),
mounted again with `pyruntime-image mount`. The options are kept in the bundle, in the file `overlay`.
"""

from __future__ import annotations

import os
import shutil
from typing import Any

from pyruntime.image.documents import ImageError
from pyruntime.kernel import mounts
from pyruntime.kernel.libc import path as kernel_path

_OPTIONS = "overlay"


def in_container(options: list[str]) -> dict[str, Any]:
    """The entry of `mounts` that makes the rootfs."""
    return {"destination": "/", "type": "overlay", "source": "overlay", "options": options}


def on_host(config: dict[str, Any], directory: int, bundle: str, options: list[str]) -> None:
    """Keep the options in the new bundle, and have the runtime unmount what `mount` will mount."""
    umount = shutil.which("umount", path="/usr/bin:/bin:/usr/sbin:/sbin")
    if umount is None:
        raise ImageError("no umount(8) for the hook that unmounts the rootfs; use --overlay-mount container")
    write_file(directory, _OPTIONS, ",".join(options) + "\n")
    rootfs = os.path.join(os.path.abspath(bundle), "rootfs")
    hook = {"path": umount, "args": ["umount", "--lazy", rootfs]}
    config.setdefault("hooks", {}).setdefault("poststop", []).append(hook)


def write_file(directory: int, name: str, content: str) -> None:
    """Write a new file of the bundle."""
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=directory)
    with os.fdopen(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(content)


def _is_mounted(rootfs: str) -> bool:
    return os.stat(rootfs).st_dev != os.stat(os.path.dirname(rootfs)).st_dev


def mount(bundle: str) -> None:
    """Mount the rootfs of `bundle` unless it is mounted. Raises ImageError."""
    rootfs = os.path.join(os.path.abspath(bundle), "rootfs")
    try:
        with open(os.path.join(bundle, _OPTIONS), "rb") as file:
            options = file.read().rstrip(b"\n")
        if not _is_mounted(rootfs):
            mounts.mount(b"overlay", kernel_path(rootfs), b"overlay", 0, options)
    except FileNotFoundError:
        raise ImageError(f"{bundle}: not a bundle whose overlay is mounted on the host") from None
    except OSError as error:
        raise ImageError(f"{rootfs}: cannot mount the overlay: {error.strerror}") from None


def unmount(bundle: str) -> None:
    """Unmount the rootfs of `bundle` if it is mounted. Raises ImageError."""
    rootfs = os.path.join(os.path.abspath(bundle), "rootfs")
    try:
        if _is_mounted(rootfs):
            mounts.umount(kernel_path(rootfs))
    except OSError as error:
        raise ImageError(f"{rootfs}: cannot unmount: {error.strerror}") from None
