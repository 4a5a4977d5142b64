"""The JSON documents of an image, read with suspicion: digests, descriptors, indexes, manifests, configurations.

Everything here comes from whoever built the image. So every document has a size limit, is read by the strict JSON
reader of the runtime (no duplicate keys: two readers that pick different ones would see two images), and may not be an
index and a manifest at once (CVE-2021-41190). OCI image-spec: descriptor.md, image-index.md, manifest.md.
"""

from __future__ import annotations

import re
from typing import Any

from pyruntime.errors import RuntimeFailure, SpecError
from pyruntime.spec import jsontext

DOCUMENT_MAX = 8 << 20
"""Bytes of one JSON document. Registries refuse manifests above 4 MiB; configurations may be larger."""

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"

INDEXES = (INDEX, DOCKER_LIST)
MANIFESTS = (MANIFEST, DOCKER_MANIFEST)
CONFIGS = (CONFIG, DOCKER_CONFIG)
LAYERS = frozenset(
    f"application/vnd.oci.image.layer.{kind}v1.tar{suffix}"
    for kind in ("", "nondistributable.")
    for suffix in ("", "+gzip", "+zstd")
) | frozenset(
    f"application/vnd.docker.image.rootfs.{kind}.tar{suffix}"
    for kind in ("diff", "foreign.diff")
    for suffix in ("", ".gzip", ".zstd")
)

_DIGEST = re.compile(r"(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})")


class ImageError(RuntimeFailure):
    """The image is damaged, hostile, or of a kind that cannot be unpacked."""


def text(raw: bytes | str) -> str:
    """A name out of an image, fit for a terminal: what is not printable is shown as an escape."""
    shown = raw.decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else raw
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)


def explain(error: Exception) -> str:
    """An exception as one line for people."""
    if isinstance(error, OSError) and error.strerror:
        name = error.filename if isinstance(error.filename, (str, bytes)) else b""
        return f"{text(name)}: {error.strerror}" if name else error.strerror
    if isinstance(error, RecursionError):
        return "the image nests directories too deeply"
    return str(error) if isinstance(error, RuntimeFailure) else f"{type(error).__name__}: {error}"


def digest(value: object, where: str) -> str:
    """`value` if it is a digest this program can check (sha256 or sha512), and so is also safe as a file name."""
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ImageError(f"{where}: {text(repr(value))} is not a sha256 or sha512 digest")
    return value


class Descriptor:
    """A pointer to a blob: its digest, its size in bytes, its media type (image-spec descriptor.md)."""

    __slots__ = ("annotations", "digest", "media_type", "platform", "size")

    def __init__(
        self,
        digest: str,
        size: int,
        media_type: str,
        annotations: dict[str, str] | None = None,
        platform: dict[str, Any] | None = None,
    ) -> None:
        self.digest = digest
        self.size = size
        self.media_type = media_type
        self.annotations = annotations or {}
        self.platform = platform


def parse(raw: bytes, where: str) -> dict[str, Any]:
    """The JSON object in `raw`. Raises ImageError naming `where` for anything else."""
    if len(raw) > DOCUMENT_MAX:
        raise ImageError(f"{where}: larger than {DOCUMENT_MAX >> 20} MiB")
    try:
        value = jsontext.loads(raw, where)
    except SpecError as error:
        raise ImageError(text(str(error))) from None
    if not isinstance(value, dict):
        raise ImageError(f"{where}: not a JSON object")
    return value


def docker_manifest(raw: bytes, where: str) -> list[dict[str, Any]]:
    """manifest.json of a docker-archive: a list of {Config, RepoTags, Layers}. Raises ImageError."""
    # The strict reader wants an object, and this is a list.
    images = parse(b'{"images":' + raw + b"}", where)["images"]
    if not isinstance(images, list) or not images:
        raise ImageError(f"{where}: not a list of images")
    for i, image in enumerate(images):
        if not isinstance(image, dict) or not isinstance(image.get("Config"), str):
            raise ImageError(f"{where}[{i}].Config: missing")
        string_list(image.get("Layers"), f"{where}[{i}].Layers")
        string_list(image.get("RepoTags"), f"{where}[{i}].RepoTags")
    return images


def strings(value: object, where: str) -> dict[str, str]:
    """`value` as a map of strings (annotations, labels); None counts as empty."""
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise ImageError(f"{where}: not a map of strings")
    return value


def string_list(value: object, where: str) -> list[str]:
    """`value` as a list of strings without NUL bytes; None counts as empty."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise ImageError(f"{where}: not a list of strings")
    if any("\0" in v for v in value):
        raise ImageError(f"{where}: a NUL byte in a string")
    return value


def descriptor(value: object, where: str) -> Descriptor:
    """Check one descriptor. Raises ImageError naming `where`."""
    if not isinstance(value, dict):
        raise ImageError(f"{where}: not a descriptor object")
    size = value.get("size")
    if type(size) is not int or not 0 <= size < 1 << 63:
        raise ImageError(f"{where}.size: {text(repr(size))} is not a size in bytes")
    media_type = value.get("mediaType")
    if not isinstance(media_type, str):
        raise ImageError(f"{where}.mediaType: missing")
    platform = value.get("platform")
    if platform is not None and not isinstance(platform, dict):
        raise ImageError(f"{where}.platform: not an object")
    return Descriptor(
        digest(value.get("digest"), f"{where}.digest"),
        size,
        media_type,
        strings(value.get("annotations"), f"{where}.annotations"),
        platform,
    )


def check_kind(document: dict[str, Any], expected: tuple[str, ...], where: str) -> None:
    """Refuse a document that says it is something else, or that could be read as two things."""
    if "manifests" in document and ("layers" in document or "config" in document):
        raise ImageError(f"{where}: an index and a manifest in one document; no reader can know which is meant")
    declared = document.get("mediaType", expected[0])
    if declared not in expected:
        raise ImageError(f"{where}: says it is {text(repr(declared))} where {expected[0]} is expected")
    if document.get("schemaVersion") != 2:
        raise ImageError(f"{where}: schemaVersion is {text(repr(document.get('schemaVersion')))}, not 2")


def descriptors(document: dict[str, Any], key: str, where: str) -> list[Descriptor]:
    """The list of descriptors under `key`."""
    items = document.get(key)
    if not isinstance(items, list):
        raise ImageError(f"{where}: no list {key!r}")
    if len(items) > 4096:
        raise ImageError(f"{where}.{key}: {len(items)} descriptors, more than any image has")
    return [descriptor(item, f"{where}.{key}[{i}]") for i, item in enumerate(items)]
