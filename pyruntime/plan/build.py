"""From a checked configuration to the whole plan of a container.

`build()` is pure: what it needs to know of the host comes in as arguments, and nothing is touched. The result is one
list for the runtime process and one for the init, in the order they are applied; docs/architecture.md explains the
order, and `pyruntime plan` prints it.
"""

from __future__ import annotations

from pyruntime.errors import SpecError
from pyruntime.kernel import mounts as m
from pyruntime.kernel.facts import Facts
from pyruntime.kernel.paths import clean
from pyruntime.plan import lifecycle as life
from pyruntime.plan import rootfs as root
from pyruntime.plan import system
from pyruntime.plan.cgroupfs import Hierarchy, MountCgroups
from pyruntime.plan.command import Command
from pyruntime.plan.devices import MakeDevices, MakeDevLinks, devices
from pyruntime.plan.limits import has_little_memory
from pyruntime.plan.mounts import Filesystem, ReadonlyDev, mount_steps
from pyruntime.plan.namespaces import Namespaces, OpenNamespaces
from pyruntime.plan.options import Options
from pyruntime.plan.process import ProcessPlan, process_steps
from pyruntime.plan.step import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyruntime.plan.netdevices import MoveNetDevices
    from pyruntime.plan.seccomp_listener import Listener
    from pyruntime.spec.types import Spec

HOOKS_BEFORE_PIVOT = ("prestart", "createRuntime", "createContainer")


class Settings:
    """What the caller adds to the configuration: command line flags and facts about the host."""

    __slots__ = (
        "bundle", "cgroup_unified", "container_id", "environment", "facts", "hierarchies", "listener", "new_keyring",
        "no_pivot", "passed_descriptors", "privileged", "seccomp", "start_hooks", "userns_for",
    )  # fmt: skip

    def __init__(self, bundle: str, container_id: str, facts: Facts) -> None:
        self.bundle = bundle
        self.container_id = container_id
        self.facts = facts
        self.hierarchies: list[Hierarchy] = []  # for a mount of type cgroup
        self.cgroup_unified = False
        self.environment: list[str] = []  # added to process.env: LISTEN_FDS, NOTIFY_SOCKET
        self.passed_descriptors = 0
        self.privileged = True  # the runtime may mount in its own mount namespace
        self.start_hooks: Step | None = None  # runs the startContainer hooks
        self.no_pivot = False
        self.new_keyring = True
        self.seccomp: Step | None = None
        self.listener: Listener | None = None  # of a seccomp filter that notifies
        self.userns_for: Callable[[list[Any], list[Any]], object] | None = None  # for id-mapped mounts


class Plan:
    """The steps of a container."""

    __slots__ = (
        "command", "holds_memory", "hook_kinds", "host", "init", "namespaces", "net_devices", "open_namespaces",
        "process", "terminal", "userns", "warnings",
    )  # fmt: skip

    def __init__(self) -> None:
        self.host: list[Step] = []  # by the runtime, before the init exists
        self.init: list[Step] = []  # by the init, from its first moment to execve
        self.holds_memory = False  # its first step is HoldMemory
        self.namespaces = Namespaces([], {})
        self.open_namespaces: OpenNamespaces | None = None
        self.net_devices: MoveNetDevices | None = None
        self.process: ProcessPlan | None = None
        self.command: Command | None = None
        self.hook_kinds: list[str] = []  # hooks that run before pivot_root
        self.userns = False  # the container has a user namespace of its own, new or joined
        self.terminal = False
        self.warnings: list[str] = []


def build(spec: Spec, settings: Settings) -> Plan:
    """The plan of `spec`. Raises SpecError for what only becomes clear while planning."""
    plan = Plan()
    linux: Any = spec.get("linux") or {}
    process: Any = spec.get("process")
    plan.namespaces = spaces = Namespaces(linux.get("namespaces") or [], linux.get("timeOffsets") or {})
    plan.userns = spaces.has("user")
    plan.terminal = bool(process and process.get("terminal"))
    if process is not None:
        plan.command = Command(process, settings.environment)
    hooks: Any = spec.get("hooks") or {}
    plan.hook_kinds = [kind for kind in HOOKS_BEFORE_PIVOT if hooks.get(kind)]
    setgroups = settings.facts.setgroups
    facts = settings.facts.in_user_namespace(setgroups) if plan.userns else settings.facts

    if linux.get("netDevices"):
        from pyruntime.plan.netdevices import plan_net_devices

        plan.net_devices = plan_net_devices(linux["netDevices"], spaces.has("network"), not settings.privileged)

    propagation = source_propagation(linux.get("rootfsPropagation", ""))
    in_mount_namespace = spaces.has("mount")
    root_path = spec["root"]["path"]
    if not root_path.startswith("/"):
        root_path = f"{settings.bundle}/{root_path}"
    opening: list[Step] = [
        root.OpenRoot(root_path, propagation)
        if in_mount_namespace
        else root.OpenPlainRoot(root_path, bool(spec["root"].get("readonly")))
    ]
    if spaces.paths:
        plan.open_namespaces = OpenNamespaces(spaces.paths)
        plan.host.append(plan.open_namespaces)

    mount_label = linux.get("mountLabel") if facts.selinux else None
    if linux.get("mountLabel") and not facts.selinux:
        plan.warnings.append("linux.mountLabel: left out: SELinux is not active on this host")
    mounts = _inside_root(spec.get("mounts") or [], root_path)
    host_mounts, init_mounts = mount_steps(
        mounts,
        settings.bundle,
        root_path,
        propagation if in_mount_namespace else 0,
        lambda number, entry, options: id_mapping(number, entry, options, linux, settings),
        lambda destination, options: MountCgroups(
            destination, options, settings.hierarchies, settings.cgroup_unified, spaces.has("cgroup")
        ),
        # With rootfsPropagation shared too: attaching the root takes away what makes a source a peer of the host's.
        settings.privileged and (plan.userns or "mount" in spaces.paths or not propagation),
        plan.userns or not settings.privileged,
    )
    opening += host_mounts
    if settings.privileged:
        plan.host += opening
        opening = []
    if mount_label:
        label_mounts(init_mounts, mount_label)

    init = plan.init
    plan.holds_memory = has_little_memory(linux)
    if plan.holds_memory:
        from pyruntime.plan.memory import HoldMemory

        init.append(HoldMemory())
    _enter(plan, init, spec, linux, setgroups)
    if in_mount_namespace:
        new_mounts = bool(spaces.new & 0x00020000)
        own, recursive = _own_propagation(linux.get("rootfsPropagation", ""), new_mounts)
        if own:
            init.append(root.DetachFromHost(own, recursive))
    # An ordinary user may copy mounts only in a mount namespace of its own, which the init is the first to have.
    init += opening
    if in_mount_namespace:
        init.append(root.AttachRoot(root_path, not own))
    waited = False
    for step in init_mounts:
        if isinstance(step, MountCgroups) and not waited:
            waited = True
            _wait_for_cgroup(init, spaces, settings.listener)
        init.append(step)
    dev_is_bound = any(
        mount["destination"].rstrip("/") == "/dev" and {"bind", "rbind"} & set(mount.get("options") or ())
        for mount in mounts
    )
    listed = linux.get("devices") or []
    has_pts = any(mount["destination"].rstrip("/") == "/dev/pts" for mount in mounts)
    if not dev_is_bound or listed:
        nodes = devices(listed, not dev_is_bound)
        if has_pts and not dev_is_bound:  # a link takes its place, and a bound node could not be unlinked for it
            nodes = [node for node in nodes if node.path != b"/dev/ptmx"]
        init.append(MakeDevices(nodes, plan.userns))
    if not dev_is_bound:
        init.append(MakeDevLinks(has_pts))
    if not waited:
        _wait_for_cgroup(init, spaces, settings.listener)
    if plan.hook_kinds:
        init.append(life.ReportMounted())
        init.append(life.WaitFor(life.GO_HOOKS, f"the {', '.join(plan.hook_kinds)} hooks have run"))
    if plan.terminal:
        size = process.get("consoleSize")
        init.append(life.OpenTerminal((size["height"], size["width"]) if size else None, True))
    else:
        init.append(life.NewSession())
    _close_up(plan, init_mounts, spec, linux, settings, mount_label, in_mount_namespace)
    if not plan.terminal:
        init.append(life.ReopenNull())
    if process is not None:
        _process(plan, process, linux, spec, settings, facts)
    else:
        init += [life.CloseDescriptors(0), life.ReportReady(), life.WaitForStart()]
    return plan


def _inside_root(mounts: list[Any], root_path: str) -> list[Any]:
    """The mounts, with the rootfs taken off a destination that was given as the host sees it: every runtime does so."""
    prefix = clean(root_path.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape") + "/"
    if prefix == "//" or not any(mount["destination"].startswith(prefix) for mount in mounts):
        return mounts
    return [
        {**mount, "destination": mount["destination"].removeprefix(prefix[:-1])}
        if mount["destination"].startswith(prefix) else mount
        for mount in mounts
    ]  # fmt: skip


def _enter(plan: Plan, init: list[Step], spec: Spec, linux: Any, setgroups: bool) -> None:
    """From the clone to the first mount: namespaces and what belongs to them."""
    spaces = plan.namespaces
    if spaces.new & 0x10000000 and not needs_helper(spaces):
        init.append(life.WaitFor(life.GO_MAPPED, "the user namespace has its mappings"))
    joined = spaces.order()
    if plan.open_namespaces is not None and joined and not needs_helper(spaces):
        init.append(life.JoinNamespaces(plan.open_namespaces.descriptors, joined, ", ".join(joined)))
    if plan.userns:
        init.append(life.BecomeRoot(setgroups))
    if hostname := spec.get("hostname"):
        init.append(system.SetHostname(hostname))
    if domainname := spec.get("domainname"):
        init.append(system.SetDomainname(domainname))
    if spaces.new & 0x40000000:
        init.append(system.LoopbackUp())
    sysctls = linux.get("sysctl") or {}
    process: Any = spec.get("process") or {}
    if sysctls or process.get("apparmorProfile") or process.get("selinuxLabel"):
        init.append(life.OpenProcfs(bool(sysctls)))
    init += [system.SetSysctl(key, value) for key, value in sysctls.items()]


def needs_helper(spaces: Namespaces) -> bool:
    """Whether one clone3 cannot do it: see plan/namespaces.py."""
    both = bool(spaces.new & 0x10000000) and bool(spaces.paths)  # CLONE_NEWUSER
    return both or bool(spaces.new & 0x80) or "user" in spaces.paths or "pid" in spaces.paths


def _wait_for_cgroup(init: list[Step], spaces: Namespaces, listener: Listener | None) -> None:
    init.append(life.WaitFor(life.GO_CGROUP, "the runtime has put us into our cgroup", listener))
    if spaces.new & 0x02000000:
        init.append(life.NewCgroupNamespace())


def _close_up(
    plan: Plan,
    init_mounts: list[Step],
    spec: Spec,
    linux: Any,
    settings: Settings,
    label: str | None,
    pivot: bool,
) -> None:
    """From pivot_root to the last change of the file system."""
    init = plan.init
    if not pivot:
        init.append(root.Chroot())
    elif settings.no_pivot:
        init.append(root.ChrootOverRoot())
    else:
        init.append(root.PivotRoot())
    if plan.command is not None:
        init.append(life.MakeDirectory(plan.command))
    if any(getattr(step, "late_readonly", False) for step in init_mounts):
        init.append(ReadonlyDev())
    init += [root.ReadonlyPath(path) for path in linux.get("readonlyPaths") or []]
    if masked := linux.get("maskedPaths"):
        init.append(root.MaskedPaths(masked, label))
    if spec["root"].get("readonly"):
        init.append(root.ReadonlyRoot())
    if (word := linux.get("rootfsPropagation")) and pivot:
        init.append(root.SetRootPropagation(word))


def _process(plan: Plan, process: Any, linux: Any, spec: Spec, settings: Settings, facts: Facts) -> None:
    """From the working directory to execve."""
    assert plan.command is not None
    plan.process = attributes = process_steps(
        process,
        container_id=settings.container_id,
        facts=facts,
        linux=linux,
        annotations=spec.get("annotations"),
        seccomp=settings.seccomp,
        new_keyring=settings.new_keyring,
    )
    plan.warnings += attributes.warnings
    plan.init += attributes.before_start
    extra = settings.listener.connection if settings.listener else -1
    plan.init += [life.FindProgram(plan.command), life.CloseDescriptors(settings.passed_descriptors, extra)]
    plan.init += [life.ReportReady(), life.WaitForStart()]
    if settings.start_hooks is not None:
        settings.start_hooks.command = plan.command  # type: ignore[attr-defined]
    if settings.start_hooks is not None and settings.listener is None:
        settings.start_hooks.attributes = attributes.after_start  # type: ignore[attr-defined]
        plan.init.append(settings.start_hooks)
    plan.init += attributes.after_start
    if settings.start_hooks is not None and settings.listener is not None:
        # The agent is given one listener per connection: the hooks inherit the filter instead of loading their own.
        plan.init.append(settings.start_hooks)
    plan.init.append(life.Execute(plan.command))


def source_propagation(word: str) -> int:
    """What the detached copies of host mounts are set to, so that nothing of the container reaches the host."""
    if word in ("shared", "rshared"):
        return 0
    return m.MS_PRIVATE if word.lstrip("r") in ("private", "unbindable") else m.MS_SLAVE


def _own_propagation(word: str, new: bool) -> tuple[int, bool]:
    """What the init's whole mount namespace is set to; a namespace that others live in is left as it is."""
    propagation = source_propagation(word)
    return (propagation, True) if new and propagation else (0, False)


def id_mapping(number: int, entry: Any, options: Options, linux: Any, settings: Settings) -> object | None:
    uids, gids = entry.get("uidMappings") or [], entry.get("gidMappings") or []
    if not (options.idmap or uids or gids):
        return None
    if options.idmap_text is not None:
        from pyruntime.plan.idmap import parse_mappings

        uids, gids = parse_mappings(options.idmap_text, linux, f"mounts[{number}].options")
    if not uids and not gids:
        uids, gids = linux.get("uidMappings") or [], linux.get("gidMappings") or []
    if not uids or not gids:
        raise SpecError(
            f"mounts[{number}]", "an id-mapped mount needs uidMappings and gidMappings, its own or the container's"
        )
    assert settings.userns_for is not None
    return settings.userns_for(uids, gids)


def label_mounts(steps: list[Step], label: str) -> None:
    """linux.mountLabel: the SELinux context of every filesystem that is made for the container."""
    context = label.encode("utf-8", "surrogateescape")
    for step in steps:
        if isinstance(step, MountCgroups):
            # The filesystem is the host's, which has its context already; only what holds the v1 mounts is new.
            step.context = context
            continue
        options = getattr(step, "options", None)
        if not isinstance(options, Options) or options.bind:
            continue
        kind = getattr(step, "type_name", "")
        if isinstance(step, Filesystem) and kind == "mqueue":
            from pyruntime.kernel.lsm import set_file_label

            # It takes no context, but its files have labels of their own.
            step.label_root = lambda tree: set_file_label(tree, context)
        elif kind not in ("proc", "sysfs"):
            options.data.append((b"context", context))
