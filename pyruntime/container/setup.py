"""From command line and bundle to a launched container: load, look at the host, plan, launch."""

from __future__ import annotations

import posix

from pyruntime.cgroups import manager as cgroups
from pyruntime.cgroups.host import Host, detect
from pyruntime.container import report
from pyruntime.container.caller import check_console, close_unknown, listen_fds
from pyruntime.errors import SpecError
from pyruntime.kernel.cgroupfs import UNIFIED
from pyruntime.kernel.facts import read_facts
from pyruntime.plan import build
from pyruntime.plan.cgroupfs import Hierarchy
from pyruntime.plan.step import HOST, Step
from pyruntime.spec import load

HANDLER = "run.oci.handler"  # crun's: a library, such as krun or a WebAssembly engine, that runs instead of the program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.container.context import Context
    from pyruntime.container.create import CreateOptions
    from pyruntime.container.launch import Launch
    from pyruntime.spec.types import Spec


def launch(
    context: Context, container_id: str, bundle: str, options: CreateOptions, *, detached: bool, gated: bool
) -> Launch:
    """Bring a container to "created". Raises RuntimeFailure; nothing is left behind then."""
    from pyruntime.container.launch import Launch

    listening = listen_fds()
    spec = _load(bundle, options)
    close_unknown(listening + options.preserve_fds)  # the configuration may have come through one: --config <(...)
    if not gated and spec.get("process") is None:
        raise SpecError("process", "required by run: process property must not be empty")
    _check_terminal(spec, options, detached)
    _check_root(spec, bundle)
    rootless = is_rootless(context)
    host = detect()
    cgroup = plan_cgroup(context, container_id, spec, rootless, host)
    settings = _settings(context, container_id, bundle, spec, cgroup, host, options)
    settings.passed_descriptors = listening + options.preserve_fds
    if listening:
        settings.environment += [f"LISTEN_FDS={listening}", "LISTEN_PID=1"]
        names = posix.environ.get(b"LISTEN_FDNAMES")
        if names:
            settings.environment.append("LISTEN_FDNAMES=" + names.decode("utf-8", "surrogateescape"))
    notify = posix.environ.get(b"NOTIFY_SOCKET", b"").decode("utf-8", "surrogateescape")
    if notify:
        from pyruntime.container import notify_socket

        mounts: Any = spec.setdefault("mounts", [])
        mounts.append(notify_socket.mount(f"{context.root}/{container_id}"))
        settings.environment.append(notify_socket.VARIABLE)
    _seccomp(context, spec, settings)
    _start_hooks(container_id, bundle, spec, settings)
    plan = build.build(spec, settings)
    for warning in plan.warnings:
        report.warn(warning)
    if (spec.get("annotations") or {}).get(HANDLER):
        report.warn(f"annotation {HANDLER}: this runtime has no handlers, it makes an ordinary container")
    new = Launch(context.root, spec, plan, cgroup)
    new.listener = settings.listener
    new.notify = notify
    new.create(container_id, bundle, gated)
    return new


def preview(context: Context, container_id: str, bundle: str, options: CreateOptions) -> list[Step]:
    """The plan as a list, host and init in the order things happen; makes no change and needs no privileges."""
    spec = _load(bundle, options)
    rootless = is_rootless(context)
    host = detect()
    cgroup = plan_cgroup(context, container_id, spec, rootless, host)
    settings = _settings(context, container_id, bundle, spec, cgroup, host, options)
    linux: Any = spec.get("linux") or {}
    if linux.get("seccomp"):
        settings.seccomp = _Words("load the seccomp filter")
    hooks: Any = spec.get("hooks") or {}
    if hooks.get("startContainer"):
        settings.start_hooks = _Words("run the startContainer hooks")
    plan = build.build(spec, settings)
    steps: list[Step] = [*plan.host, _Words(plan.namespaces.describe(), HOST)]
    if plan.userns and not plan.namespaces.paths.get("user"):
        steps.append(_Words("write the id mappings of the user namespace", HOST))
    steps += [_Words(line, HOST) for line in cgroup.describe()]
    if plan.net_devices is not None:
        steps.append(plan.net_devices)
    hook_words = [_Words(f"run the {kind} hooks", HOST) for kind in plan.hook_kinds]
    for step in plan.init:
        steps.append(step)
        if type(step).__name__ == "ReportMounted":
            steps += hook_words
    if hooks.get("poststart"):
        steps.append(_Words("run the poststart hooks", HOST))
    return steps


class _Words(Step):
    """An act that a plan mentions and another part of the runtime carries out."""

    __slots__ = ("side", "text")

    def __init__(self, text: str, side: str = "init") -> None:
        self.text = text
        self.side = side

    def describe(self) -> str:
        return self.text


def is_rootless(context: Context) -> bool:
    """Whether cgroups that cannot be written are to be done without: --rootless, or not the host's root."""
    if context.rootless != "auto":
        return context.rootless == "true"
    return posix.geteuid() != 0 or in_user_namespace()


def in_user_namespace() -> bool:
    """Whether ids are mapped in any way but all of them to themselves. See user_namespaces(7)."""
    try:
        descriptor = posix.open("/proc/self/uid_map", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return False
    try:
        return posix.read(descriptor, 4096).split() != [b"0", b"0", b"4294967295"]
    except OSError as error:
        error.filename = "/proc/self/uid_map"
        raise
    finally:
        posix.close(descriptor)


def plan_cgroup(context: Context, container_id: str, spec: Spec, rootless: bool, host: Host) -> cgroups.Manager:
    """The manager for the container's cgroup; nothing is made yet."""
    linux: Any = spec.get("linux") or {}
    return cgroups.plan(
        container_id,
        linux.get("cgroupsPath"),
        linux.get("resources"),
        systemd=context.systemd_cgroup,
        rootless=rootless,
        host=host,
        disabled=context.cgroup_manager == "disabled",
        annotations=spec.get("annotations") or {},
        userns_owner=_cgroup_owner(spec, linux),
    )


def _cgroup_owner(spec: Spec, linux: Any) -> int | None:
    """The host uid that shall own the cgroup: the spec wants a new cgroup namespace and a writable cgroup mount."""
    kinds = {entry["type"] for entry in linux.get("namespaces") or [] if not entry.get("path")}
    if "cgroup" not in kinds:
        return None
    for mount in spec.get("mounts") or []:
        if mount.get("type") in ("cgroup", "cgroup2") and mount["destination"].rstrip("/") == "/sys/fs/cgroup":
            if "ro" in (mount.get("options") or ()):
                return None
            break
    else:
        return None
    process: Any = spec.get("process") or {}
    uid: int = (process.get("user") or {}).get("uid", 0)
    if "user" not in kinds:
        return uid or None
    for one in linux.get("uidMappings") or []:
        if one["containerID"] <= uid < one["containerID"] + one["size"]:
            host: int = one["hostID"] + uid - one["containerID"]
            return host
    return None


def _load(bundle: str, options: CreateOptions) -> Spec:
    spec = load.load_file(options.config) if options.config else load.load_bundle(bundle)
    linux: Any = spec.get("linux") or {}
    if not linux.get("uidMappings") and any(
        entry["type"] == "user" and not entry.get("path") for entry in linux.get("namespaces") or ()
    ):
        from pyruntime.container import own_mappings

        own_mappings.complete(spec)
    return spec


def _settings(
    context: Context,
    container_id: str,
    bundle: str,
    spec: Spec,
    cgroup: cgroups.Manager,
    host: Host,
    options: CreateOptions,
) -> build.Settings:
    process: Any = spec.get("process") or {}
    linux: Any = spec.get("linux") or {}
    labels = bool(process.get("apparmorProfile") or process.get("selinuxLabel") or linux.get("mountLabel"))
    settings = build.Settings(bundle, container_id, read_facts(labels))
    if posix.geteuid() != 0:
        from pyruntime.container.rootless import denies_setgroups

        settings.privileged = False
        settings.facts.setgroups = settings.facts.setgroups and not denies_setgroups(linux.get("gidMappings") or [])
    settings.no_pivot = options.no_pivot
    settings.new_keyring = not options.no_new_keyring
    if any(mount.get("type") in ("cgroup", "cgroup2") for mount in spec.get("mounts") or []):
        settings.hierarchies = hierarchies(cgroup, host)
        settings.cgroup_unified = host.unified
    settings.userns_for = userns_for
    return settings


def userns_for(uids: list[Any], gids: list[Any]) -> object:
    from pyruntime.container.usermap import MappedNamespace

    return MappedNamespace(uids, gids)


def hierarchies(cgroup: cgroups.Manager, host: Host) -> list[Hierarchy]:
    """The host's cgroup mounts as a container shows them, each with the container's own directory."""
    by_mount: dict[str, list[str]] = {}
    for controller, (mount, _) in host.mounts.items():
        by_mount.setdefault(mount, []).append(controller)
    shown = []
    for mount, controllers in by_mount.items():
        source = next((cgroup.paths[one] for one in controllers if one in cgroup.paths), mount)
        unified = UNIFIED in controllers
        name = mount.rpartition("/")[2]
        own = host.own_directory(controllers[0])
        shown.append(Hierarchy(name, [one for one in controllers if one], source, own, unified))
    return shown


def _seccomp(context: Context, spec: Spec, settings: build.Settings) -> None:
    linux: Any = spec.get("linux") or {}
    section = linux.get("seccomp")
    if not section:
        return
    from pyruntime.container import directories, store
    from pyruntime.plan.seccomp import STRICT, InstallSeccomp, compile_filter

    directories.make_root(context.root)
    strict = (spec.get("annotations") or {}).get(STRICT) == "1"
    compiled = compile_filter(section, f"{context.root}/{store.FILTERS}", strict)
    if compiled is None:
        return
    for warning in compiled.warnings:
        report.warn(warning)
    if report.debugging:
        from pyruntime.container import narrate

        narrate.seccomp(compiled.flags)
    if compiled.notify:
        from pyruntime.plan.seccomp_listener import Listener, listener_path

        settings.listener = Listener(listener_path(section, spec.get("annotations") or {}))
    settings.seccomp = InstallSeccomp(compiled, settings.listener)


def _start_hooks(container_id: str, bundle: str, spec: Spec, settings: build.Settings) -> None:
    hooks: Any = spec.get("hooks") or {}
    if hooks.get("startContainer"):
        from pyruntime.container.start_hooks import RunStartHooks

        settings.start_hooks = RunStartHooks(container_id, bundle, spec)


def _check_terminal(spec: Spec, options: CreateOptions, detached: bool) -> None:
    process: Any = spec.get("process") or {}
    terminal = bool(process.get("terminal"))
    check_console(terminal, options.console_socket, detached)


def _check_root(spec: Spec, bundle: str) -> None:
    path = spec["root"]["path"]
    full = path if path.startswith("/") else f"{bundle}/{path}"
    try:
        posix.close(posix.open(full, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC))
    except NotADirectoryError:
        raise SpecError("root.path", f"{full} is not a directory") from None
    except OSError as error:
        raise SpecError("root.path", f"stat {full}: {(error.strerror or '').lower()}") from None
