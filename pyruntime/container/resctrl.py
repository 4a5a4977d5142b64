"""linux.intelRdt: cache and memory bandwidth of a container, by the resctrl file system. Runtime spec, "IntelRdt"."""

from __future__ import annotations

import os
from errno import ENOSPC

from pyruntime.errors import RuntimeFailure, SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def mount_point() -> str:
    """Where resctrl is mounted. Raises RuntimeFailure."""
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file.read().split(b"\n"):
            before, _, after = line.partition(b" - ")
            if after.startswith(b"resctrl "):
                return os.fsdecode(before.split(b" ")[4])
    raise RuntimeFailure("linux.intelRdt: resctrl is not mounted (mount -t resctrl resctrl /sys/fs/resctrl)")


def plan(section: dict[str, Any], container_id: str, root: str | None = None) -> dict[str, Any]:
    """What `apply`, `join`, `update` and `remove` have to know, after every check that needs no write.

    It goes into the state before anything is made, so that a runtime that is killed leaves nothing unknown. Raises
    RuntimeFailure.
    """
    root = root or mount_point()
    given = section.get("closID") or None
    name = given or container_id
    group = root if name == "/" else f"{root}/{name}"
    exists = name == "/" or os.path.isdir(group)
    lines = schemata(section)
    if given and not exists and not lines:
        raise SpecError("linux.intelRdt.closID", f"{group} does not exist, and there is no schema to make it with")
    if given and exists and lines and name != "/":
        _compare(group, lines)
        lines = []
    monitoring = f"{group}/mon_groups/{container_id}" if section.get("enableMonitoring") else None
    return {
        "root": root, "group": group, "made": not exists, "own": not exists and not given, "lines": lines,
        "monitoring": monitoring,
    }  # fmt: skip


def apply(saved: dict[str, Any], pids: list[int]) -> None:
    """Make the class of service and the monitoring group, and put `pids` into both. Raises RuntimeFailure."""
    if saved["made"]:
        _mkdir(saved, saved["group"])
    if saved["lines"]:
        _write_schemata(saved, saved["lines"])
    if saved["monitoring"]:
        _mkdir(saved, saved["monitoring"])
    for pid in pids:
        try:
            join(saved, pid)
        except RuntimeFailure:
            if os.path.exists(f"/proc/{pid}"):
                raise  # otherwise it ended meanwhile


def join(saved: dict[str, Any], pid: int) -> None:
    """Put a process into the class, then into the monitoring group inside it. Raises RuntimeFailure."""
    for group in (saved["group"], saved["monitoring"]):
        if group:
            _write(saved, f"{group}/tasks", str(pid))


def schemata(section: dict[str, Any]) -> list[str]:
    """The lines to write, in the order of the spec: L3, then memory bandwidth, then `schemata`."""
    lines = [section[name] for name in ("l3CacheSchema", "memBwSchema") if section.get(name)]
    return lines + list(section.get("schemata") or [])


def update(saved: dict[str, Any] | None, section: dict[str, Any]) -> None:
    """Write other schemata. Raises RuntimeFailure when the container has no class of its own."""
    if not saved:
        raise RuntimeFailure("the container has no linux.intelRdt, so it has no schema to change")
    lines = schemata(section)
    if lines:
        _write_schemata(saved, lines)


def remove(saved: dict[str, Any], failed: bool = False) -> None:
    """Remove the monitoring group, and the class if it was named by the container's id.

    A class with a name stays for others, unless it was made by a create that `failed`.
    """
    for path in (saved["monitoring"], saved["group"] if saved["own"] or (failed and saved["made"]) else None):
        if path:
            try:
                os.rmdir(path)
            except FileNotFoundError:
                pass
            except OSError as error:
                raise RuntimeFailure(f"cannot remove {path}: {error.strerror}") from None


def _compare(group: str, lines: list[str]) -> None:
    """A class that is there already must be what the configuration asks for."""
    try:
        with open(f"{group}/schemata", encoding="ascii", errors="replace") as file:
            there = _parse(file.read().split("\n"))
    except OSError as error:
        raise RuntimeFailure(f"cannot read {group}/schemata: {error.strerror}") from None
    for resource, domains in _parse(lines).items():
        for domain, value in domains.items():
            found = there.get(resource, {}).get(domain)
            if found != value:
                raise SpecError(
                    "linux.intelRdt", f"{group} exists with {resource}:{domain}={found or 'nothing'}, asked for {value}"
                )


def _parse(lines: list[str]) -> dict[str, dict[str, str]]:
    """`L3:0=fff;1=fff` as {resource: {domain: value}}; leading zeros of a mask do not count."""
    parsed: dict[str, dict[str, str]] = {}
    for line in lines:
        resource, colon, rest = line.strip().partition(":")
        if colon:
            domains = parsed.setdefault(resource.strip(), {})
            for part in rest.split(";"):
                domain, _, value = part.partition("=")
                domains[domain.strip()] = value.strip().lower().lstrip("0") or "0"
    return parsed


def _mkdir(saved: dict[str, Any], path: str) -> None:
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        pass
    except OSError as error:
        hint = ": the processor has no class or monitor left" if error.errno == ENOSPC else ""
        raise RuntimeFailure(f"linux.intelRdt: cannot make {path}: {error.strerror}{hint}{_status(saved)}") from None


def _write_schemata(saved: dict[str, Any], lines: list[str]) -> None:
    _write(saved, f"{saved['group']}/schemata", "".join(line + "\n" for line in lines))


def _write(saved: dict[str, Any], path: str, text: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        shown = text.strip().replace("\n", ", ")
        raise RuntimeFailure(
            f"linux.intelRdt: cannot write {shown} to {path}: {error.strerror}{_status(saved)}"
        ) from None


def _status(saved: dict[str, Any]) -> str:
    """Why the kernel refused the last request, in its own words: an errno alone says next to nothing here."""
    try:
        with open(f"{saved['root']}/info/last_cmd_status", encoding="ascii", errors="replace") as file:
            text = " ".join(file.read().split())
    except OSError:
        return ""
    return f" ({text})" if text and text != "ok" else ""
