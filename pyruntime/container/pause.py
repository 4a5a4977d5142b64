"""`pause` and `resume`: the freezer of the container's cgroup. The runtime spec has neither, every runtime has."""

from __future__ import annotations

from pyruntime.container import store
from pyruntime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.container.context import Context


def pause(context: Context, container_id: str) -> None:
    """Freeze every process of the container."""
    record = store.open_container(context.root, container_id)
    status, _ = record.status()
    if status not in (store.RUNNING, store.CREATED):
        raise RuntimeFailure("container not running")
    record.cgroup().freeze()


def resume(context: Context, container_id: str) -> None:
    """Thaw a paused container."""
    record = store.open_container(context.root, container_id)
    status, _ = record.status()
    if status != store.PAUSED:
        raise RuntimeFailure("container not paused")
    record.cgroup().thaw()
