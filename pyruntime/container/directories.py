"""The state root, and making and removing the directories of containers in it; what is in one, store.py knows."""

from __future__ import annotations

import posix
from errno import EEXIST, ENOTEMPTY

from pyruntime.container.store import CONFIG
from pyruntime.errors import RuntimeFailure


def make_root(root: str) -> None:
    """Make the state root and its parents, for us alone."""
    try:
        posix.mkdir(root, 0o700)
    except FileExistsError:
        pass
    except FileNotFoundError:
        make_root(root.rpartition("/")[0])
        make_root(root)  # which another create may have made by now


def claim(root: str, container_id: str) -> None:
    """Take the id: the directory must be new, which makes mkdir(2) the lock between racing creates."""
    try:
        make_root(root)
        posix.mkdir(f"{root}/{container_id}", 0o700)
    except FileExistsError:
        raise RuntimeFailure("container with given ID already exists") from None
    except OSError as error:
        raise RuntimeFailure(f"cannot make {root}/{container_id}: {(error.strerror or '').lower()}") from None


def make_fifo(path: str) -> None:
    """mkfifo(3). Raises OSError, which unlike that of `os` names the path."""
    try:
        posix.mkfifo(path, 0o600)
    except OSError as error:
        error.filename = path
        raise


def has_config(root: str, container_id: str) -> bool:
    """Whether the configuration is there, which is kept when the cgroup has been made."""
    try:
        posix.lstat(f"{root}/{container_id}/{CONFIG}")
    except OSError:
        return False
    return True


def list_ids(root: str) -> list[str]:
    """The ids below `root`, sorted. Files and names with a leading dot are no containers."""
    try:
        entries = sorted(posix.scandir(root), key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RuntimeFailure(f"cannot list {root}: {(error.strerror or '').lower()}") from None
    return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False) and entry.name[0] != "."]


def remove_directory(directory: str) -> None:
    """Remove a container's directory, file by file: there are no directories in it that we did not make."""
    try:
        descriptor = posix.open(directory, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_NOFOLLOW | posix.O_CLOEXEC)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        posix.unlink(directory)
        return
    try:
        for name in posix.listdir(descriptor):
            try:
                posix.unlink(name, dir_fd=descriptor)
            except IsADirectoryError:
                remove_directory(f"{directory}/{name}")
            except FileNotFoundError:
                pass
    except OSError as error:
        error.filename = f"cannot remove {directory}"
        raise
    finally:
        posix.close(descriptor)
    try:
        posix.rmdir(directory)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in (ENOTEMPTY, EEXIST):
            raise
        remove_directory(directory)  # another verb was still writing its state


def write_file(path: str, data: bytes, mode: int = 0o600) -> None:
    """Write a whole file under a temporary name beside it and rename it, over an existing one too."""
    folder, _, name = path.rpartition("/")
    temporary = f"{folder}/.{name[:40]}.{posix.getpid()}"  # which must not be too long where the name is not
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_NOFOLLOW | posix.O_CLOEXEC
    try:
        try:
            descriptor = posix.open(temporary, flags, mode)
        except FileExistsError:  # left by a killed runtime that had our pid
            posix.unlink(temporary)
            descriptor = posix.open(temporary, flags, mode)
    except OSError as error:
        error.filename = f"cannot write {path}"
        raise
    try:
        try:
            while data:
                data = data[posix.write(descriptor, data) :]
        finally:
            posix.close(descriptor)
        posix.rename(temporary, path)
    except OSError as error:
        error.filename = f"cannot write {path}"
        posix.unlink(temporary)
        raise
