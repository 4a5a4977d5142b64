"""What containers there are, and what runs in them: `list` and `ps`."""

from __future__ import annotations

import posix

from pyruntime.container import directories, report, store
from pyruntime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.container.context import Context


def listing(context: Context) -> list[dict[str, Any]]:
    """The states of all containers below the root; one that cannot be read is reported and left out."""
    documents = []
    for container_id in directories.list_ids(context.root):
        try:
            record = store.open_container(context.root, container_id)
            document = record.describe()
            document["owner"] = _owner(record.directory)
        except store.NoContainer:
            report.warn(f"{context.root}/{container_id}: no state there (yet)")
            continue
        except OSError as error:
            report.warn(f"load container {container_id}: {error.filename or ''}: {error.strerror}")
            continue
        except RuntimeFailure as error:
            report.warn(f"load container {container_id}: {error}")
            continue
        documents.append(document)
    return documents


def _owner(directory: str) -> str:
    uid = posix.stat(directory).st_uid
    try:
        import pwd

        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def ps(context: Context, container_id: str) -> list[int]:
    """The pids of every process of the container, as the runtime sees them."""
    record = store.open_container(context.root, container_id)
    if record.has_cgroup():
        return record.cgroup().pids()
    pid = record.pid()
    return [pid] if pid else []
