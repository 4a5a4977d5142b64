"""`events`: what a container uses, at intervals, and each time the kernel killed a process of it for lack of memory."""

from __future__ import annotations

import os
import select
import threading

from pyruntime.container import report, store
from pyruntime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyruntime.cgroups.manager import Manager
    from pyruntime.container.context import Context


def stream(
    context: Context, container_id: str, interval: float, once: bool, write: Callable[[dict[str, Any]], None]
) -> None:
    """Call `write` with one event after the other until the container has ended; with `once`, with its statistics.

    Raises RuntimeFailure when the container is not running.
    """
    record = store.open_container(context.root, container_id)
    status, pid = record.status()
    if status == store.STOPPED:
        raise RuntimeFailure(f"container with id {container_id} is not running")
    cgroup = record.cgroup()
    if once:
        write(_statistics(record, cgroup))
        return
    pidfd = os.pidfd_open(pid)
    lock = threading.Lock()

    def put(event: dict[str, Any]) -> None:
        with lock:
            write(event)

    # A thread, as the two wait for different things; it ends with the process.
    threading.Thread(target=_report_ooms, args=(cgroup, container_id, put), daemon=True).start()
    while not select.select([pidfd], [], [], interval)[0]:
        try:
            put(_statistics(record, cgroup))
        except (OSError, RuntimeFailure):
            if record.pid():
                raise  # otherwise it ended between the wait and the reading


def _report_ooms(cgroup: Manager, container_id: str, put: Callable[[dict[str, Any]], None]) -> None:
    try:
        for _ in cgroup.wait_oom():
            put({"type": "oom", "id": container_id})
    except (OSError, RuntimeFailure) as error:
        report.warn(f"no out-of-memory events: {error}")


def _statistics(record: store.Record, cgroup: Manager) -> dict[str, Any]:
    data = cgroup.stats()
    if record.data.get("intelRdt"):
        from pyruntime.container.resctrl_stats import read

        data["intel_rdt"] = read(record.data["intelRdt"])
    return {"type": "stats", "id": record.id, "data": data}
