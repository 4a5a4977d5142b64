"""Makes images for tests: layers entry by entry, OCI layouts, docker-archives; and describes trees for comparison."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
import tarfile
from pathlib import Path
from typing import Any

MTIME = 1_600_000_000

LAYER = "application/vnd.oci.image.layer.v1.tar"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
REF_NAME = "org.opencontainers.image.ref.name"


def sha256(raw: bytes) -> str:
    return "sha256:" + hashlib.sha256(raw).hexdigest()


class Layer:
    """A layer in the making: `Layer().directory("etc").file("etc/x", b"1").tar()`."""

    def __init__(self, format: int = tarfile.PAX_FORMAT) -> None:
        self._raw = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._raw, mode="w", format=format)  # noqa: SIM115

    def add(self, name: str, kind: bytes, data: bytes = b"", link: str = "", **attributes: Any) -> Layer:
        info = tarfile.TarInfo()
        info.name = name
        info.type = kind
        info.linkname = link
        info.size = len(data)
        info.mtime = MTIME
        info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
        for key, value in attributes.items():
            setattr(info, key, value)
        self._tar.addfile(info, io.BytesIO(data))
        return self

    def file(self, name: str, data: bytes = b"", **attributes: Any) -> Layer:
        return self.add(name, tarfile.REGTYPE, data, **attributes)

    def directory(self, name: str, **attributes: Any) -> Layer:
        return self.add(name, tarfile.DIRTYPE, **attributes)

    def symlink(self, name: str, target: str, **attributes: Any) -> Layer:
        return self.add(name, tarfile.SYMTYPE, link=target, **attributes)

    def hard_link(self, name: str, target: str, **attributes: Any) -> Layer:
        return self.add(name, tarfile.LNKTYPE, link=target, **attributes)

    def device(self, name: str, kind: bytes, major: int, minor: int, **attributes: Any) -> Layer:
        return self.add(name, kind, devmajor=major, devminor=minor, **attributes)

    def tar(self) -> bytes:
        self._tar.close()
        return self._raw.getvalue()


class Layout:
    """An OCI image layout in the directory `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifests: list[dict[str, Any]] = []
        (path / "blobs" / "sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def blob(self, raw: bytes, media_type: str) -> dict[str, Any]:
        """Store `raw`; its descriptor."""
        digest = sha256(raw)
        (self.path / "blobs" / digest.replace(":", "/")).write_bytes(raw)
        return {"mediaType": media_type, "digest": digest, "size": len(raw)}

    def document(self, value: Any, media_type: str) -> dict[str, Any]:
        return self.blob(json.dumps(value).encode(), media_type)

    def image(
        self,
        *tars: bytes,
        tag: str | None = "latest",
        config: dict[str, Any] | None = None,
        compress: Any = gzip.compress,
        suffix: str = "+gzip",
        **more: Any,
    ) -> dict[str, Any]:
        """Add an image of these layers; its descriptor, which is also put into the index if there is a `tag`."""
        document = {
            "architecture": "amd64",
            "os": "linux",
            "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": [sha256(tar) for tar in tars]},
            **more,
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.document(document, CONFIG),
            "layers": [self.blob(compress(tar), LAYER + suffix) for tar in tars],
        }
        descriptor = self.document(manifest, MANIFEST)
        if tag is not None:
            self.manifests.append({**descriptor, "annotations": {REF_NAME: tag}})
            self.write()
        return descriptor

    def index(self, manifests: list[dict[str, Any]]) -> dict[str, Any]:
        """Store an index; its descriptor."""
        return self.document({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}, INDEX)

    def write(self) -> None:
        (self.path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": self.manifests}))


def docker_archive(path: Path, *tars: bytes, tags: list[str], config: dict[str, Any] | None = None) -> str:
    """A docker-archive as older `docker save` writes it, equal layers being links; the ID of the image."""
    document = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": [sha256(tar) for tar in tars]},
        }
    ).encode()
    image_id = hashlib.sha256(document).hexdigest()
    archive = Layer()
    names = []
    seen: dict[bytes, str] = {}
    for number, tar in enumerate(tars):
        name = f"{number:064x}/layer.tar"
        if tar in seen:
            archive.symlink(name, "../" + seen[tar])
        else:
            archive.file(name, tar)
            seen[tar] = name
        names.append(name)
    archive.file(f"{image_id}.json", document)
    archive.file(
        "manifest.json",
        json.dumps([{"Config": f"{image_id}.json", "RepoTags": tags, "Layers": names}]).encode(),
    )
    path.write_bytes(archive.tar())
    return image_id


def describe(root: Path, inodes: bool = False) -> dict[str, tuple[Any, ...]]:
    """Everything that matters in a tree: path -> kind, mode, owner, times, content, target, device, attributes."""
    result: dict[str, tuple[Any, ...]] = {}
    links: dict[int, str] = {}
    for directory, directories, files in os.walk(os.fsencode(root)):
        top = [b"."] if directory == os.fsencode(root) else []
        for raw in [*top, *sorted(directories + files)]:
            path = os.path.join(directory, raw)
            status = os.lstat(path)
            name = os.fsdecode(os.path.relpath(path, os.fsencode(root)))
            content: Any = None
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    content = hashlib.sha256(file.read()).hexdigest()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
                content = status.st_rdev
            attributes = {
                key: os.getxattr(path, key, follow_symlinks=False)
                for key in os.listxattr(path, follow_symlinks=False)
                if not key.startswith(("trusted.overlay.", "user.overlay.", "security.selinux"))
            }
            same: Any = None
            if inodes and not stat.S_ISDIR(status.st_mode):
                same = links.setdefault(status.st_ino, name)
            result[name] = (
                status.st_mode,
                status.st_uid,
                status.st_gid,
                status.st_mtime_ns,
                content,
                tuple(sorted(attributes.items())),
                same,
            )
    return result
