"""Removing a container whose state cannot be used: cut short, overwritten, or written by another version.

Only `delete --force` comes here. What is left in the container's directory says enough: config.json names the cgroup
as it did at create, and the cgroup names the processes. Loaded for nothing else.
"""

from __future__ import annotations

from pyruntime.cgroups.host import detect
from pyruntime.container import report, store
from pyruntime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.container.context import Context

SIGKILL = 9


def delete(context: Context, container_id: str) -> None:
    """End the processes in the container's cgroup, remove the cgroup and the directory. Hooks are not run.

    Raises RuntimeFailure when the cgroup cannot be removed; the directory stays then, for another try.
    """
    from pyruntime.container import setup

    record = store.Record(context.root, container_id, {})
    spec: Any = {}
    try:
        spec = record.config()
    except RuntimeFailure:
        pass  # then the cgroup is where it is by default
    if not isinstance(spec, dict):
        spec = {}
    cgroup = setup.plan_cgroup(context, container_id, spec, setup.is_rootless(context), detect())
    if cgroup.exists():
        try:
            cgroup.kill(SIGKILL)
        except RuntimeFailure as error:
            report.warn(f"{container_id}: {error}")
    cgroup.destroy()
    record.remove()
