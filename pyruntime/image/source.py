"""Where an image lies: an OCI image layout (directory or tar), or a docker-archive.

OCI image-spec image-layout.md; `docker save` and `podman save` write a `manifest.json`, newer ones an OCI layout too,
which is then preferred: it has digests.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from typing import Any

from pyruntime.image import documents
from pyruntime.image.documents import Descriptor, ImageError, text
from pyruntime.image.limits import Limits
from pyruntime.image.names import split
from pyruntime.image.stream import CHUNK, decompress, verify_blob
from pyruntime.image.tar import HARD_LINK, REGULAR, SYMLINK, Archive, Reader, padding


class FileBlob:
    """`size` bytes of an open file from `offset` on."""

    def __init__(self, fd: int, offset: int, size: int, digest: str = "") -> None:
        self.size = size
        self.digest = digest
        self._fd = fd
        self._position = offset
        self._left = size

    def read(self, size: int) -> bytes:
        """At most `size` bytes, b"" at the end."""
        data = os.pread(self._fd, min(size, self._left), self._position)
        self._position += len(data)
        self._left -= len(data)
        return data

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def _open_regular(path: str | bytes, dir_fd: int | None = None) -> int:
    # O_NONBLOCK: opening a FIFO that somebody put there must not hang.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=dir_fd)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ImageError(f"{text(os.fsencode(path))}: not a regular file")
    return fd


class Files:
    """Files by name, in a directory or in a tar archive. `name` says in errors what it is."""

    name: str

    def open(self, path: bytes) -> FileBlob:
        """The file `path`. Raises FileNotFoundError."""
        raise NotImplementedError

    def read(self, path: str) -> bytes:
        """A small file as a whole."""
        blob = self.open(path.encode())
        try:
            if blob.size > documents.DOCUMENT_MAX:
                raise ImageError(f"{self.name}: {text(path)} is larger than {documents.DOCUMENT_MAX >> 20} MiB")
            return blob.read(blob.size)
        finally:
            blob.close()

    def has(self, path: str) -> bool:
        """Whether there is a file `path`."""
        try:
            self.open(path.encode()).close()
        except FileNotFoundError:
            return False
        return True


class DirectoryFiles(Files):
    """Files in a directory."""

    def __init__(self, path: str) -> None:
        self.name = path
        self._fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def open(self, path: bytes) -> FileBlob:
        """The file `path`, through a symbolic link too: build systems fill blobs/ with links."""
        fd = _open_regular(path, self._fd)
        return FileBlob(fd, 0, os.fstat(fd).st_size)


class ArchiveFiles(Files):
    """Files in a tar archive, which is indexed once and then read in place."""

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self._fd = fd
        self._members: dict[bytes, tuple[int, int] | bytes] = {}  # (offset, size), or the target of a link
        try:
            self._index()
        except ImageError as error:
            raise ImageError(f"{name}: {error}") from None

    def _index(self) -> None:
        size = os.fstat(self._fd).st_size
        position = 0

        def next_chunk() -> bytes:
            nonlocal position
            chunk = os.pread(self._fd, 1024, position)
            position += len(chunk)
            return chunk

        archive = Archive(reader := Reader(next_chunk), Limits(entries=100_000))
        while (entry := archive.next()) is not None:
            path, last = split(entry.name)
            full = path + b"/" + last if path else last
            if entry.kind == REGULAR and entry.pieces is None:
                offset = position - reader.buffered
                if offset + entry.size > size:
                    raise ImageError(f"the archive ends in the middle of {text(entry.name)}")
                self._members[full] = (offset, entry.size)
                position = offset + entry.size + padding(entry.size)
                reader.discard()
            elif entry.kind == SYMLINK:
                # Older `docker save` links equal layers; such links are relative and stay inside the archive.
                self._members[full] = b"/".join(_normal(path + b"/" + entry.link))
            elif entry.kind == HARD_LINK:
                self._members[full] = b"/".join(_normal(entry.link))

    def open(self, path: bytes) -> FileBlob:
        """The member `path`, through links inside the archive."""
        member = self._members.get(b"/".join(_normal(path)))
        for _ in range(8):
            if not isinstance(member, bytes):
                break
            member = self._members.get(member)
        if member is None or isinstance(member, bytes):
            raise FileNotFoundError(path)
        return FileBlob(os.dup(self._fd), *member)


def _normal(path: bytes) -> list[bytes]:
    result: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            if result:
                result.pop()
        elif part not in (b"", b"."):
            result.append(part)
    return result


def _seekable_tar(path: str) -> int:
    """The archive as an uncompressed file. What is compressed, or a pipe, goes through a nameless temporary file."""
    fd = os.dup(0) if path == "-" else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    kind = os.fstat(fd).st_mode
    if stat.S_ISDIR(kind):
        raise ImageError(f"{path}: a directory")
    if stat.S_ISREG(kind) and os.pread(fd, 512, 0)[257:262] == b"ustar":
        return fd
    limits = Limits()

    def read() -> bytes:
        data = os.read(fd, CHUNK)
        limits.bytes_in += len(data)
        return data

    with tempfile.TemporaryFile() as spool:
        try:
            for chunk in decompress(read):
                limits.grow(len(chunk))
                spool.write(chunk)
        except ImageError as error:
            raise ImageError(f"{path}: {error}") from None
        finally:
            os.close(fd)
        spool.flush()
        return os.dup(spool.fileno())


class Source:
    """Blobs by digest, and documents."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.name = files.name
        self.docker: list[dict[str, Any]] | None = None
        """The images of a docker-archive, as its manifest.json lists them."""

    def blob(self, descriptor: Descriptor) -> FileBlob:
        """The blob that `descriptor` points to; its digest is not checked yet. Raises ImageError if it is missing."""
        algorithm, _, encoded = descriptor.digest.partition(":")
        try:
            blob = self.files.open(f"blobs/{algorithm}/{encoded}".encode())
        except FileNotFoundError:
            raise ImageError(f"{self.name}: there is no blob {descriptor.digest}") from None
        if blob.size != descriptor.size:
            blob.close()
            raise ImageError(
                f"{self.name}: the blob {descriptor.digest} is {blob.size} bytes long, "
                f"not the promised {descriptor.size}"
            )
        blob.digest = descriptor.digest
        return blob

    def document(self, descriptor: Descriptor) -> dict[str, Any]:
        """The JSON document that `descriptor` points to, its digest checked."""
        where = f"{self.name}: blob {descriptor.digest}"
        if descriptor.size > documents.DOCUMENT_MAX:
            raise ImageError(f"{where}: larger than {documents.DOCUMENT_MAX >> 20} MiB")
        blob = self.blob(descriptor)
        try:
            raw = blob.read(descriptor.size)
        finally:
            blob.close()
        hasher = hashlib.new(descriptor.digest.partition(":")[0], raw)
        try:
            verify_blob(blob, len(raw), hasher)
        except ImageError as error:
            raise ImageError(f"{where} {error}") from None
        return documents.parse(raw, where)


def open_source(path: str) -> Source:
    """Find out what `path` is. Raises ImageError, OSError."""
    try:
        files: Files = DirectoryFiles(path) if os.path.isdir(path) else ArchiveFiles(path, _seekable_tar(path))
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from None
    source = Source(files)
    if files.has("index.json") and files.has("oci-layout"):
        layout = documents.parse(files.read("oci-layout"), f"{path}: oci-layout")
        if layout.get("imageLayoutVersion") != "1.0.0":
            raise ImageError(f"{path}: the image layout version is not 1.0.0")
        return source
    if files.has("manifest.json"):
        source.docker = documents.docker_manifest(files.read("manifest.json"), f"{path}: manifest.json")
        return source
    raise ImageError(
        f"{path}: neither an OCI image layout (oci-layout, index.json) nor a docker-archive (manifest.json)"
    )
