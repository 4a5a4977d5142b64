"""Which image of a source is meant: by tag, digest and platform, through nested indexes.

OCI image-spec image-index.md, annotations.md (`org.opencontainers.image.ref.name`), config.md.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from pyruntime.image import documents
from pyruntime.image.documents import CONFIGS, INDEXES, LAYERS, MANIFESTS, Descriptor, ImageError, text
from pyruntime.image.source import FileBlob, Source

REF_NAME = "org.opencontainers.image.ref.name"
_FULL_NAME = "io.containerd.image.name"  # docker, containerd and nerdctl put the whole reference here

_NESTED = 8
_VISITED = 1024

_MACHINES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i686": ("386", ""),
    "ppc64le": ("ppc64le", ""),
    "riscv64": ("riscv64", ""),
    "s390x": ("s390x", ""),
    "loongarch64": ("loong64", ""),
}


class Layer:
    """One layer: how to read it, and what is known about it."""

    __slots__ = ("_held", "_open", "diff_id", "digest", "size")

    def __init__(self, open_blob: Callable[[], FileBlob], diff_id: str, digest: str, size: int) -> None:
        self._open = open_blob
        self._held: FileBlob | None = None
        self.diff_id = diff_id
        self.digest = digest
        self.size = size

    def open(self) -> FileBlob:
        """The blob, from its beginning."""
        blob, self._held = self._held, None
        return blob or self._open()

    def hold(self) -> None:
        """Open the blob now, for an `open()` by somebody who may not have access to it."""
        self._held = self._open()

    def __str__(self) -> str:
        return self.digest or self.diff_id


class Image:
    """One image: its configuration and its layers, the lowest first."""

    __slots__ = ("config", "config_digest", "layers", "manifest", "names", "platform")

    def __init__(self, config: dict[str, Any], config_digest: str, layers: list[Layer], names: list[str]) -> None:
        self.config = config
        self.config_digest = config_digest
        self.layers = layers
        self.names = names
        self.manifest: Descriptor | None = None
        self.platform = platform_text(config)


class Candidate:
    """An image of a source before it is loaded: its manifest (or its number in a docker-archive) and its names."""

    __slots__ = ("manifest", "names", "number", "path", "platform")

    def __init__(
        self,
        names: list[str],
        manifest: Descriptor | None,
        platform: dict[str, Any] | None,
        path: list[str],
        number: int,
    ) -> None:
        self.names = names
        self.manifest = manifest
        self.platform = platform
        self.path = path  # digests of the indexes above it
        self.number = number


def platform_text(platform: dict[str, Any]) -> str:
    """`linux/arm64/v8` of a platform object or of an image configuration."""
    parts = [platform.get(key) for key in ("os", "architecture", "variant")]
    return "/".join(part for part in parts if isinstance(part, str) and part)


def host_platform() -> str:
    """The platform of this machine."""
    machine = os.uname().machine
    architecture, variant = _MACHINES.get(machine, (machine, ""))
    return f"linux/{architecture}" + (f"/{variant}" if variant else "")


def _names(annotations: dict[str, str]) -> list[str]:
    return [annotations[key] for key in (_FULL_NAME, REF_NAME) if annotations.get(key)]


def candidates(source: Source) -> Iterator[Candidate]:
    """All images of `source`, in order. Raises ImageError for a broken index, or a graph of indexes that explodes."""
    if source.docker is not None:
        for number, image in enumerate(source.docker):
            yield Candidate(image.get("RepoTags") or [], None, None, [], number)
        return
    where = f"{source.name}: index.json"
    top = documents.parse(source.files.read("index.json"), where)
    visited: set[str] = set()
    yield from _walk(source, top, where, [], [], visited)


def _walk(
    source: Source, index: dict[str, Any], where: str, path: list[str], names: list[str], visited: set[str]
) -> Iterator[Candidate]:
    documents.check_kind(index, INDEXES, where)
    if len(path) > _NESTED:
        raise ImageError(f"{where}: indexes nested more than {_NESTED} deep")
    for item in documents.descriptors(index, "manifests", where):
        own = _names(item.annotations) or names
        if item.media_type in INDEXES:
            if item.digest in path:
                raise ImageError(f"{where}: the index {item.digest} contains itself")
            if len(visited) > _VISITED:
                raise ImageError(f"{source.name}: more than {_VISITED} indexes")
            key = f"{item.digest} {own}"  # the same index under the same name gives the same images again
            if key not in visited:
                visited.add(key)
                document = source.document(item)
                inner = f"{source.name}: index {item.digest}"
                yield from _walk(source, document, inner, [*path, item.digest], own, visited)
        elif item.media_type in MANIFESTS:
            yield Candidate(own, item, item.platform, path, -1)


def _matches_name(candidate: Candidate, tag: str) -> bool:
    if candidate.manifest is not None and tag in (candidate.manifest.digest, *candidate.path):
        return True
    for name in candidate.names:
        last = name.rpartition("/")[2]
        short = last.partition(":")[2] or last
        if tag in (name, short, last) or name.endswith("/" + tag):
            return True
        if ":" not in tag and tag in (name.partition(":")[0], last.partition(":")[0]):
            return True
    return False


def _matches_platform(platform: str, wanted: str) -> bool:
    have, want = platform.split("/"), wanted.split("/")
    # arm64 is arm64/v8: one of the two often goes without the variant
    return have[:2] == want[:2] and (len(have) < 3 or len(want) < 3 or have[2] == want[2])


def _describe(found: list[Candidate]) -> str:
    names: list[str] = []
    for candidate in found:
        for name in candidate.names or ([candidate.manifest.digest] if candidate.manifest else []):
            if name not in names:
                names.append(name)
    return ", ".join(text(name) for name in names[:10]) or "none"


def choose(source: Source, tag: str | None, platform: str | None) -> Image:
    """The one image of `source` that `tag` (a name, a tag, a digest) and `platform` (os/architecture[/variant]) select.

    Without `tag` there must be one image; without `platform` this machine's. Raises ImageError listing what there is.
    """
    found = list(candidates(source))
    if not found:
        raise ImageError(f"{source.name}: contains no image")
    named = [candidate for candidate in found if tag is None or _matches_name(candidate, tag)]
    if not named and source.docker is not None and tag is not None:
        # An image ID, whole or shortened, is the digest of the configuration.
        named = [c for c in found if _config_id(source, c).startswith(tag.removeprefix("sha256:")) and len(tag) >= 12]
    if not named:
        raise ImageError(f"{source.name}: no image {text(tag or '')}; there are: {_describe(found)}")
    loaded = [candidate for candidate in named if candidate.platform is not None]
    images: list[Image] = []
    wanted = platform or host_platform()
    if len(named) > 1 or platform is not None:
        suitable = [c for c in loaded if _matches_platform(platform_text(c.platform or {}), wanted)]
        bare = [c for c in named if c.platform is None]
        images = [load(source, c) for c in suitable]
        if not images:
            # No platform in the index: the configuration knows it.
            images = [image for image in (load(source, c) for c in bare) if _matches_platform(image.platform, wanted)]
        if not images:
            have = sorted({platform_text(c.platform or {}) for c in loaded} | {load(source, c).platform for c in bare})
            raise ImageError(f"{source.name}: no image for {text(wanted)}; there are: {text(', '.join(have))}")
    else:
        images = [load(source, named[0])]
    distinct = {image.config_digest: image for image in images}
    exact = [image for image in distinct.values() if image.platform == wanted]
    if len(exact) == 1:
        return exact[0]
    if len(distinct) > 1:
        raise ImageError(f"{source.name}: more than one image fits ({_describe(named)}); choose one with --tag")
    return next(iter(distinct.values()))


def _config_id(source: Source, candidate: Candidate) -> str:
    assert source.docker is not None
    name: str = source.docker[candidate.number]["Config"]
    return name.rpartition("/")[2].removesuffix(".json")


def _diff_ids(config: dict[str, Any], where: str) -> list[str]:
    rootfs = config.get("rootfs")
    if not isinstance(rootfs, dict) or rootfs.get("type") != "layers":
        raise ImageError(f"{where}: rootfs.type is not `layers`")
    ids = documents.string_list(rootfs.get("diff_ids"), f"{where}: rootfs.diff_ids")
    return [documents.digest(value, f"{where}: rootfs.diff_ids[{i}]") for i, value in enumerate(ids)]


def load(source: Source, candidate: Candidate) -> Image:
    """Read the manifest and the configuration of `candidate`. Raises ImageError."""
    if candidate.manifest is None:
        return _load_docker(source, candidate)
    where = f"{source.name}: manifest {candidate.manifest.digest}"
    manifest = source.document(candidate.manifest)
    documents.check_kind(manifest, MANIFESTS, where)
    pointer = documents.descriptor(manifest.get("config"), f"{where}: config")
    if pointer.media_type not in CONFIGS:
        raise ImageError(f"{where}: an artifact of type {text(pointer.media_type)}, not a container image")
    config = source.document(pointer)
    blobs = documents.descriptors(manifest, "layers", where)
    ids = _diff_ids(config, f"{source.name}: configuration {pointer.digest}")
    if len(ids) != len(blobs):
        raise ImageError(f"{where}: {len(blobs)} layers, but the configuration has {len(ids)} diff_ids")
    layers = []
    for blob, diff_id in zip(blobs, ids, strict=True):
        if blob.media_type not in LAYERS:
            kind = "an encrypted layer" if blob.media_type.endswith("+encrypted") else "a layer of unknown type"
            raise ImageError(f"{where}: {kind}, {text(blob.media_type)}")
        layers.append(Layer(lambda blob=blob: source.blob(blob), diff_id, blob.digest, blob.size))  # type: ignore[misc]
    image = Image(config, pointer.digest, layers, candidate.names)
    image.manifest = candidate.manifest
    return image


def _load_docker(source: Source, candidate: Candidate) -> Image:
    assert source.docker is not None
    record = source.docker[candidate.number]
    where = f"{source.name}: {text(record['Config'])}"
    raw = _member(source, record["Config"]).read(documents.DOCUMENT_MAX + 1)
    config = documents.parse(raw, where)
    actual = hashlib.sha256(raw).hexdigest()
    name = _config_id(source, candidate)
    if len(name) == 64 and name != actual:
        raise ImageError(f"{where}: its digest is sha256:{actual}, not the one in its name")
    ids = _diff_ids(config, where)
    paths = record.get("Layers") or []
    if len(ids) != len(paths):
        raise ImageError(f"{where}: {len(ids)} diff_ids, but manifest.json lists {len(paths)} layers")
    layers = []
    for path, diff_id in zip(paths, ids, strict=True):
        blob = _member(source, path)
        blob.close()
        layers.append(Layer(lambda path=path: _member(source, path), diff_id, "", blob.size))  # type: ignore[misc]
    return Image(config, f"sha256:{actual}", layers, candidate.names)


def _member(source: Source, path: str) -> FileBlob:
    try:
        return source.files.open(path.encode("utf-8", "surrogateescape"))
    except FileNotFoundError:
        raise ImageError(f"{source.name}: {text(path)} is listed and missing") from None
