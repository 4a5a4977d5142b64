"""Puts a bundle together: rootfs, config.json, volumes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Any, cast

from pyruntime.image import convert, overlay, store, unpack, userns
from pyruntime.image.choose import Image
from pyruntime.image.documents import ImageError, text
from pyruntime.image.flat import FlatTree
from pyruntime.image.limits import Limits
from pyruntime.image.lower import Lower
from pyruntime.image.progress import Progress
from pyruntime.image.target import Target
from pyruntime.image.users import FILE_MAX
from pyruntime.kernel.copyup import copy_tree
from pyruntime.kernel.paths import open_in_root
from pyruntime.spec import jsontext, template

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW

# What engines grant by default: without these neither apt-get nor nginx, postgres or su work as root of a container.
_CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETFCAP",
    "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
)  # fmt: skip

_OCI_VERSION = "1.0.2"
"""The oldest version with all that is written here: crun before 1.9 refuses whatever does not say 1.0."""


class Job:
    """All that `unpack` was asked for."""

    __slots__ = (
        "environ", "host_mount", "image", "limits", "mapping", "mode", "overrides", "progress", "replace", "rootless",
        "store", "sync", "target", "volumes",
    )  # fmt: skip

    def __init__(self, image: Image, target: str, progress: Progress) -> None:
        self.image = image
        self.target = target
        self.progress = progress
        self.mode = "flat"
        self.store = ""
        self.host_mount = False
        self.mapping: userns.Mapping | None = None
        self.rootless = False
        self.replace = False
        self.sync = False
        self.limits = Limits()
        self.overrides = convert.Overrides()
        self.volumes = "bind"
        self.environ: dict[str, str] = {}


def make(job: Job) -> None:
    """Unpack the image and write the bundle: completely, or nothing. Raises RuntimeFailure."""
    os.umask(0)
    with Target(job.target, job.replace) as target:
        if job.mapping is not None and not job.rootless:
            # While the container's root fills the bundle it owns it; afterwards it may only pass through.
            owner = job.mapping.root()
            os.chown(target.fd, *owner)
            for layer in job.image.layers:
                layer.hold()
            config = userns.run(job.mapping, lambda: _fill(job, target))
            os.chown(target.fd, 0, owner[1])
            os.fchmod(target.fd, 0o710)
        else:
            config = _fill(job, target)
        overlay.write_file(target.fd, "config.json", jsontext.dumps(config, indent=2) + "\n")
        if job.sync:
            target.sync()
        target.commit()
    if job.host_mount:
        overlay.mount(job.target)


def _fill(job: Job, target: Target) -> dict[str, Any]:
    os.mkdir("rootfs", 0o755, dir_fd=target.fd)
    config = cast("dict[str, Any]", template.config(rootless=job.rootless))
    config["ociVersion"] = _OCI_VERSION
    if job.mode == "overlay":
        return _overlay(job, target, config)
    return _flat(job, target, config)


def _flat(job: Job, target: Target, config: dict[str, Any]) -> dict[str, Any]:
    root = os.open("rootfs", _DIRECTORY, dir_fd=target.fd)
    tree = FlatTree(root, userns.in_user_namespace())
    for number, layer in enumerate(job.image.layers):
        job.progress.layer(number + 1, str(layer), layer.size)
        unpack.apply_layer(tree, layer, unpack.layer_name(job.image, number), job.limits, job.progress)
    tree.finish()
    job.progress.close()
    unpack.report_losses(tree)

    def read(path: bytes) -> bytes:
        try:
            fd = open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except (FileNotFoundError, NotADirectoryError):
            return b""
        except OSError as error:
            raise ImageError(f"/{text(path)} in the image: {error.strerror}") from None
        return read_regular(fd, path)

    def seed(path: str, volume: int) -> None:
        try:
            source = open_in_root(root, path.encode("utf-8", "surrogateescape"), os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            copy_tree(source, volume)
        finally:
            os.close(source)

    _complete(job, target, config, read, seed)
    os.close(root)
    return config


def _overlay(job: Job, target: Target, config: dict[str, Any]) -> dict[str, Any]:
    stack = store.Store(job.store, job.mapping).unpack(job.image, job.limits, job.progress, job.sync)
    job.progress.close()
    os.mkdir("upper", 0o755, dir_fd=target.fd)
    os.mkdir("work", 0o700, dir_fd=target.fd)
    upper = os.open("upper", _DIRECTORY, dir_fd=target.fd)
    stack.dress(upper)
    os.close(upper)
    lower = Lower(stack.directories)

    def read(path: bytes) -> bytes:
        try:
            found = lower.resolve(path)
        except OSError as error:
            raise ImageError(f"/{text(path)} in the image: {error.strerror}") from None
        if found is None:
            return b""
        if not stat.S_ISREG(found.status.st_mode):
            raise ImageError(f"/{text(path)} in the image is not a regular file")
        return read_regular(found.open(os.O_RDONLY | os.O_NONBLOCK), path)

    def seed(path: str, volume: int) -> None:
        found = lower.resolve(path.encode("utf-8", "surrogateescape"))
        if found is not None and found.merged is not None:
            found.merged.copy(volume)

    _complete(job, target, config, read, seed)
    options = stack.options(job.target)
    stack.close()
    if job.host_mount:
        overlay.on_host(config, target.fd, job.target, options)
    else:
        config["mounts"].insert(0, overlay.in_container(options))
    return config


def read_regular(fd: int, path: bytes) -> bytes:
    """All of an open file of the image, which must be a regular one of reasonable size. Closes it."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ImageError(f"/{text(path)} in the image is not a regular file")
    with os.fdopen(fd, "rb") as file:
        raw = file.read(FILE_MAX + 1)
    if len(raw) > FILE_MAX:
        raise ImageError(f"/{text(path)} in the image is larger than {FILE_MAX >> 20} MiB")
    return raw


def _complete(
    job: Job,
    target: Target,
    config: dict[str, Any],
    read: Callable[[bytes], bytes],
    seed: Callable[[str, int], None],
) -> None:
    """Fill in `config` and make the volumes."""
    convert.convert(config, job.image.config, job.overrides, read, job.environ)
    process = config["process"]
    process["capabilities"] = {name: list(_CAPABILITIES) for name in ("bounding", "effective", "permitted")}
    process["noNewPrivileges"] = False  # images count on their set-user-id programs
    process.pop("rlimits", None)
    if job.mapping is not None:
        linux = config["linux"]
        if not any(namespace["type"] == "user" for namespace in linux["namespaces"]):
            linux["namespaces"].append({"type": "user"})
        linux.update(job.mapping.config())
    mounted = {mount["destination"].rstrip("/") for mount in job.overrides.mounts}
    paths = [path for path in convert.volumes(job.image.config.get("config") or {}) if path not in mounted]
    if job.volumes == "bind" and paths:
        os.mkdir("volumes", 0o711, dir_fd=target.fd)
        for number, path in enumerate(paths):
            name = f"volumes/{number}"
            os.mkdir(name, 0o755, dir_fd=target.fd)
            volume = os.open(name, _DIRECTORY, dir_fd=target.fd)
            seed(path, volume)
            os.close(volume)
            # A relative source is relative to the bundle (runtime-spec config.md), so the bundle can be moved.
            config["mounts"].append({"destination": path, "type": "bind", "source": name, "options": ["rbind", "rw"]})
    elif job.volumes == "tmpfs":
        for path in paths:
            config["mounts"].append(
                {"destination": path, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev"]}
            )
    config["mounts"] += job.overrides.mounts
