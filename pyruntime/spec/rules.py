"""The rules between properties that a schema cannot say: the process, namespaces, mounts.

Each rule names the sections that it reads and is skipped when the schema has found one of them malformed: so a rule
may trust the types it meets, and a report still lists everything that can be said. Rules follow runtime-spec 1.3.0;
what the spec leaves open follows the kernel (a value that it refuses in every case) and runc.
docs/validation.md lists them for users. What concerns one kernel subsystem only is in `rules_linux.py`.
"""

from __future__ import annotations

from pyruntime.spec.checker import check, report
from pyruntime.spec.quoting import shorten
from pyruntime.spec.rules_linux import LINUX_RULES, RESOURCE_RULES, is_list
from pyruntime.spec.table import CONSOLE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from pyruntime.errors import SpecError

    Rule = Callable[[dict[str, Any], str, list[SpecError]], None]
    Rules = Iterable[tuple[tuple[str, ...], Rule]]

_HOST_NAME_MAX = 64  # __NEW_UTS_LEN of the kernel, for both names
_MAPPINGS_MAX = 340  # UID_GID_MAP_MAX_EXTENTS
_ID_END = (1 << 32) - 1  # the last id, -1, is no id


def apply(config: object, found: list[SpecError]) -> None:
    """Append the problems of a whole configuration; `found` holds those that the schema has."""
    if type(config) is dict:
        schema = list(found)
        run(_CONFIG_RULES, config, "", schema, found)
        for rules, section, path in (
            (PROCESS_RULES, config.get("process"), "process"),
            (LINUX_RULES, config.get("linux"), "linux"),
        ):
            if type(section) is dict:
                run(rules, section, path, schema, found)
        linux = config.get("linux")
        resources = linux.get("resources") if type(linux) is dict else None
        if type(resources) is dict:
            run(RESOURCE_RULES, resources, "linux.resources", schema, found)


def run(rules: Rules, section: dict[str, Any], path: str, schema: list[SpecError], found: list[SpecError]) -> None:
    """Apply `rules` to the object at `path`, except those that read what the `schema` problems are about."""
    prefix = f"{path}." if path else ""
    for reads, rule in rules:
        if not schema or not any(_related(problem.path, prefix + read) for problem in schema for read in reads):
            rule(section, path, found)


def _related(one: str, other: str) -> bool:
    """Whether one of two paths lies in the other."""
    if len(one) > len(other):
        one, other = other, one
    return one == "" or (other.startswith(one) and other[len(one) : len(one) + 1] in ("", ".", "["))


# ---------------------------------------------------------------------------------------------------------- process


def _console_size(process: dict[str, Any], path: str, found: list[SpecError]) -> None:
    # The spec wants it ignored otherwise, whatever it holds.
    if process.get("terminal") and "consoleSize" in process:
        check(CONSOLE_SIZE, process["consoleSize"], f"{path}.consoleSize", found)


def _rlimits(process: dict[str, Any], path: str, found: list[SpecError]) -> None:
    seen = set()
    for index, limit in enumerate(process.get("rlimits", ())):
        place = f"{path}.rlimits[{index}]"
        name = limit["type"]
        if name in seen:
            report(found, place, f"{name} is limited twice")
        seen.add(name)
        if limit["soft"] > limit["hard"]:
            report(found, f"{place}.soft", f"{limit['soft']} is above the hard limit of {limit['hard']}")


def _scheduler(process: dict[str, Any], path: str, found: list[SpecError]) -> None:
    """What sched_setattr(2) refuses with a bare EINVAL."""
    scheduler = process.get("scheduler")
    if scheduler is None:
        return
    path = f"{path}.scheduler"
    policy = scheduler["policy"]
    priority = scheduler.get("priority", 0)
    if policy == "SCHED_ISO":
        report(found, f"{path}.policy", "SCHED_ISO is reserved, Linux does not implement it")
    if policy in ("SCHED_OTHER", "SCHED_BATCH") and not -20 <= scheduler.get("nice", 0) <= 19:
        report(found, f"{path}.nice", f"expected an integer from -20 to 19, got {scheduler['nice']}")
    if policy in ("SCHED_FIFO", "SCHED_RR"):
        if not 1 <= priority <= 99:
            report(found, f"{path}.priority", f"{policy} needs a priority from 1 to 99, got {priority}")
    elif priority:
        report(found, f"{path}.priority", f"only SCHED_FIFO and SCHED_RR have a priority, not {policy}")
    if policy == "SCHED_DEADLINE":
        _deadline(scheduler, path, found)
    else:
        for name in ("runtime", "deadline", "period"):
            if scheduler.get(name):
                report(found, f"{path}.{name}", f"only SCHED_DEADLINE has a {name}, not {policy}")


def _deadline(scheduler: dict[str, Any], path: str, found: list[SpecError]) -> None:
    """1024 ns <= runtime <= deadline <= period, as sched(7) wants it; said in the words that crun has for it."""
    for name in ("runtime", "deadline"):
        if name not in scheduler:
            report(found, f"{path}.{name}", f"sched_setattr: `SCHED_DEADLINE` requires `{name}`")
            return
    runtime, deadline = scheduler["runtime"], scheduler["deadline"]
    period = scheduler.get("period") or deadline
    if not runtime:
        why, name = "runtime must be greater than 0", "runtime"
    elif not 1024 <= runtime < 1 << 63:
        why, name = f"runtime ({runtime}) must be between 1024 and {(1 << 63) - 1} ns", "runtime"
    elif runtime > deadline:
        why, name = f"runtime ({runtime}) must be <= deadline ({deadline})", "runtime"
    elif deadline > period:
        why, name = f"deadline ({deadline}) must be <= period ({period})", "deadline"
    elif period >= 1 << 63:
        why, name = f"period ({period}) must be below {1 << 63} ns", "period"
    else:
        return
    report(found, f"{path}.{name}", f"sched_setattr: `SCHED_DEADLINE` {why}")


def _affinity(process: dict[str, Any], path: str, found: list[SpecError]) -> None:
    for name, text in process.get("execCPUAffinity", {}).items():
        if name in ("initial", "final") and not is_list(text):
            report(found, f"{path}.execCPUAffinity.{name}", f'expected a CPU list such as 0-3,7, got "{text[:60]}"')


PROCESS_RULES: Rules = (
    (("terminal", "consoleSize"), _console_size),
    (("rlimits",), _rlimits),
    (("scheduler",), _scheduler),
    (("execCPUAffinity",), _affinity),
)


# ------------------------------------------------------------------------------------------- namespaces and mounts


def _host_names(config: dict[str, Any], path: str, found: list[SpecError]) -> None:
    for name in ("hostname", "domainname"):
        value = config.get(name)
        if value:
            if "uts" not in _namespaces(config):
                report(found, name, "needs a uts namespace in linux.namespaces; it would change the host's")
            if len(value.encode("utf-8", "surrogatepass")) > _HOST_NAME_MAX:
                report(found, name, f"longer than the {_HOST_NAME_MAX} bytes that Linux has room for")


def _domain_name_twice(config: dict[str, Any], path: str, found: list[SpecError]) -> None:
    sysctl = config.get("linux", {}).get("sysctl")
    domain = config.get("domainname")
    if not domain or not sysctl:
        return
    for key in ("kernel.domainname", "kernel/domainname"):
        value = sysctl.get(key, domain)
        if value != domain:
            report(found, "domainname", f"linux.sysctl sets kernel.domainname to something else: {shorten(value)}")


def _user_namespace(config: dict[str, Any], path: str, found: list[SpecError]) -> None:
    linux = config.get("linux", {})
    maps = [name for name in ("uidMappings", "gidMappings") if linux.get(name)]
    for name in maps:
        _mappings(linux[name], f"linux.{name}", found)
    if "user" not in _namespaces(config):
        # Every id mapped to itself is what the container gets without a user namespace, too.
        changing = [name for name in maps if any(one["containerID"] != one["hostID"] for one in linux[name])]
        if changing:
            report(found, f"linux.{changing[0]}", "needs a user namespace in linux.namespaces")
    elif len(maps) == 1:
        # None at all are the caller's own (container/own_mappings.py), or those of the namespace that is joined.
        other = "gidMappings" if maps == ["uidMappings"] else "uidMappings"
        report(found, f"linux.{other}", f"required along with {maps[0]}")


def _mounts(config: dict[str, Any], path: str, found: list[SpecError]) -> None:
    for index, mount in enumerate(config.get("mounts", ())):
        uids, gids = mount.get("uidMappings"), mount.get("gidMappings")
        if not uids and not gids:
            options = mount.get("options", ())
            if ("idmap" in options or "ridmap" in options) and "user" not in _namespaces(config):
                report(
                    found,
                    f"mounts[{index}].options",
                    "idmap needs uidMappings and gidMappings, or a user namespace whose mappings it can use",
                )
            continue
        place = f"mounts[{index}]"
        for name, other, given in (("gidMappings", "uidMappings", gids), ("uidMappings", "gidMappings", uids)):
            if not given:
                report(found, f"{place}.{name}", f"required along with {other}")
        _mappings(uids or (), f"{place}.uidMappings", found)
        _mappings(gids or (), f"{place}.gidMappings", found)


def _mappings(mappings: Iterable[dict[str, int]], path: str, found: list[SpecError]) -> None:
    """What the kernel refuses in uid_map and gid_map (map_write in kernel/user_namespace.c) with a bare EINVAL."""
    mappings = list(mappings)
    if len(mappings) > _MAPPINGS_MAX:
        report(found, path, f"{len(mappings)} ranges, the kernel takes {_MAPPINGS_MAX} at most")
        return
    for key in ("containerID", "hostID"):
        ranges = sorted((entry[key], entry["size"], index) for index, entry in enumerate(mappings))
        end = 0
        for first, size, index in ranges:
            if first < end:
                report(found, f"{path}[{index}].{key}", f"the range from {first} overlaps another one")
            end = first + size
            if end > _ID_END:
                report(found, f"{path}[{index}].size", f"{size} ids from {first} end above 4294967294")


def _duplicate_namespaces(config: dict[str, Any], path: str, found: list[SpecError]) -> None:
    seen = set()
    for index, namespace in enumerate(config.get("linux", {}).get("namespaces", ())):
        if namespace["type"] in seen:
            report(found, f"linux.namespaces[{index}]", f"the {namespace['type']} namespace is listed twice")
        seen.add(namespace["type"])


def _namespaces(config: dict[str, Any]) -> dict[str, str]:
    """Path by type; an empty path stands for a new namespace."""
    return {entry["type"]: entry.get("path", "") for entry in config.get("linux", {}).get("namespaces", ())}


_CONFIG_RULES: Rules = (
    (("linux.namespaces",), _duplicate_namespaces),
    (("hostname", "domainname", "linux.namespaces"), _host_names),
    (("domainname", "linux.sysctl"), _domain_name_twice),
    (("linux.uidMappings", "linux.gidMappings", "linux.namespaces"), _user_namespace),
    (("mounts", "linux.namespaces"), _mounts),
)
