"""linux.intelRdt: cache and memory bandwidth of a container, by the resctrl file system. Runtime spec, "IntelRdt"."""

from __future__ import annotations

import os

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


def apply(section: dict[str, Any], container_id: str, pid: int, root: str | None = None) -> dict[str, Any]:
    """Put `pid` into its class of service. Returns what `update` and `remove` have to know. Raises RuntimeFailure."""
    root = root or mount_point()
    given = section.get("closID")
    name = given if given is not None else container_id
    lines = schemata(section)
    group = root if name == "/" else f"{root}/{name}"
    saved: dict[str, Any] = {"group": group, "own": False, "monitoring": None}
    if name != "/":
        exists = os.path.isdir(group)
        if given is not None and not lines and not exists:
            raise SpecError("linux.intelRdt.closID", f"{group} does not exist, and there is no schema to make it with")
        if exists and given is not None and lines:
            _compare(group, lines)
            lines = []
        if not exists:
            _mkdir(group)
            saved["own"] = given is None
    try:
        if lines:
            _write(f"{group}/schemata", "".join(line + "\n" for line in lines))
        _write(f"{group}/tasks", str(pid))
        if section.get("enableMonitoring"):
            monitoring = f"{group}/mon_groups/{container_id}"
            _mkdir(monitoring)
            saved["monitoring"] = monitoring
            _write(f"{monitoring}/tasks", str(pid))
    except RuntimeFailure:
        remove(saved)
        raise
    return saved


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
        _write(f"{saved['group']}/schemata", "".join(line + "\n" for line in lines))


def remove(saved: dict[str, Any]) -> None:
    """Remove what `apply` made: the monitoring group, and the class if it was named by the container's id."""
    for path in (saved.get("monitoring"), saved["group"] if saved["own"] else None):
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


def _mkdir(path: str) -> None:
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        pass
    except OSError as error:
        hint = ": the processor has no class or monitor left" if error.errno == 28 else ""
        raise RuntimeFailure(f"linux.intelRdt: cannot make {path}: {error.strerror}{hint}") from None


def _write(path: str, text: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise RuntimeFailure(f"linux.intelRdt: cannot write {path}: {error.strerror}") from None
