"""`update`: other limits for a container that is there."""

from __future__ import annotations

import posix

from pyruntime.container import report, store
from pyruntime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.container.context import Context


def update(context: Context, container_id: str, resources: dict[str, Any]) -> None:
    """Change the limits that `resources` names, keep the others, and remember what is in force now.

    Device rules are left as they are: engines send the whole of linux.resources, and a changed rule would not reach
    the programs that have a device open. Raises RuntimeFailure.
    """
    record = store.open_container(context.root, container_id)
    lock = record.lock()
    try:
        record = store.open_container(context.root, container_id)  # as it is now that nobody else changes it
        status, _ = record.status()
        if status == store.STOPPED:
            raise RuntimeFailure("container not running")
        wanted = {name: value for name, value in resources.items() if name not in ("devices", "intelRdt")}
        cgroup = record.cgroup()
        if wanted:
            cgroup.update(wanted)
            for warning in cgroup.warnings:
                report.warn(warning)
        if resources.get("intelRdt"):
            from pyruntime.container import resctrl

            resctrl.update(record.data.get("intelRdt"), resources["intelRdt"])
        record.data["cgroup"] = cgroup.save()
        record.save()
    finally:
        posix.close(lock)
