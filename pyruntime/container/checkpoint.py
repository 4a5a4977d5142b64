"""`checkpoint` and `restore`: a container's processes written to disk by CRIU, and brought back to life.

What CRIU cannot know are the things that come from outside of the container: bind mounts (see criu_mounts), namespaces
given by path, the standard streams. They have names of ours in the images.
"""

from __future__ import annotations

import os

from pyruntime.cgroups.host import detect
from pyruntime.container import caller, criu, criu_mounts, delete, handover, hooks, report, setup, store
from pyruntime.container.criu_options import CheckpointOptions, CriuOptions, RestoreOptions
from pyruntime.container.directories import claim
from pyruntime.container.launch import Launch
from pyruntime.errors import RuntimeFailure
from pyruntime.kernel import mounts as m
from pyruntime.kernel import processes as p
from pyruntime.kernel.paths import make_in_root
from pyruntime.plan import build
from pyruntime.plan.namespaces import Namespaces
from pyruntime.spec import jsontext
from pyruntime.spec.load import load_bundle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.container.context import Context

__all__ = ("CheckpointOptions", "RestoreOptions", "checkpoint", "restore")

DUMP_LOG, RESTORE_LOG = "dump.log", "restore.log"
DESCRIPTORS = "descriptors.json"
CRIU_CONFIG = "/etc/criu/runc.conf"
LOG_LEVEL = 4
CLONE_NEWNET = 0x40000000
EXTERNAL = {"network": ("net", "extRootNetNS"), "pid": ("pid", "extRootPidNS")}


class _Directories:
    """The directories of images and logs, open, and told to CRIU."""

    def __init__(self, options: CriuOptions, request: criu.Options, log: str, make: bool) -> None:
        if make:
            _mkdir(options.image_path)
        self.images = _open_directory(options.image_path)
        request.set("images_dir_fd", self.images)
        self.log = f"{options.image_path}/{log}"
        self.work = -1
        if options.work_path:
            _mkdir(options.work_path)
            self.work = _open_directory(options.work_path)
            request.set("work_dir_fd", self.work)
            self.log = f"{options.work_path}/{log}"
        request.set("log_file", log)
        request.set("log_level", LOG_LEVEL)

    def lend(self, config: Any) -> None:
        """Let root of a user namespace look into the directory of the images: CRIU opens some of them as that user."""
        linux = config.get("linux") or {}
        if not any(entry["type"] == "user" for entry in linux.get("namespaces") or []):
            return
        owner = [
            next((one["hostID"] for one in linux.get(name) or [] if one["containerID"] == 0), -1)
            for name in ("uidMappings", "gidMappings")
        ]
        if not os.fstat(self.images).st_mode & 0o001:
            os.chown(self.images, *owner)

    def close(self) -> None:
        os.close(self.images)
        if self.work >= 0:
            os.close(self.work)


def _check_parent(images: str, parent: str) -> None:
    """CRIU would only say that the dump failed, after it has stopped the container."""
    path = os.path.normpath(f"{images}/{parent}")  # "../first" is good before there is a directory for the images
    try:
        descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise RuntimeFailure(f"invalid --parent-path: stat {path}: {(error.strerror or '').lower()}") from None
    os.close(descriptor)


def checkpoint(context: Context, container_id: str, options: CheckpointOptions) -> None:
    """Save a container; without leave_running or pre_dump it ends and is deleted. Raises RuntimeFailure."""
    record = store.open_container(context.root, container_id)
    status, pid = record.status()
    if status in (store.CREATED, store.CREATING, store.STOPPED):
        raise RuntimeFailure(f"Container cannot be checkpointed in {status} state")
    if options.parent_path:
        _check_parent(options.image_path, options.parent_path)
    program = criu.find(options.criu)
    config = record.config()
    linux = config.get("linux") or {}
    request = criu.Options()
    directories = _Directories(options, request, DUMP_LOG, make=True)
    try:
        directories.lend(config)
        _common(request, options, config)
        request.set("root", record.data["rootfs"])
        request.set("pid", pid)
        request.set("leave_running", int(options.leave_running))
        request.set("tcp_skip_in_flight", int(options.tcp_skip_in_flight))
        request.set("link_remap", int(options.link_remap))
        freezer = record.data["cgroup"].get("paths") or {}
        request.set("freeze_cgroup", freezer.get("freezer") or freezer.get(""))
        if options.page_server:
            address, port = options.page_server
            request.set("ps", criu.field(1, address) + criu.field(2, port))
        if options.parent_path:
            request.set("parent_img", options.parent_path)
        if options.parent_path or options.pre_dump:
            request.set("track_mem", 1)
        for entry in linux.get("namespaces") or []:
            if entry.get("path") and entry["type"] in EXTERNAL:
                kind, key = EXTERNAL[entry["type"]]
                request.set("external", f"{kind}[{os.stat(entry['path']).st_ino}]:{key}")
        if not options.pre_dump:
            for name in criu_mounts.saved(record.cgroup(), config, pid):
                request.set("external", name)
            _write(f"{options.image_path}/{DESCRIPTORS}", jsontext.dumps(_streams(pid)))
        server = criu.Server(program, {}, streams=False)
        try:
            server.request(
                criu.PRE_DUMP if options.pre_dump else criu.DUMP, request, lambda event: _dumping(event, options)
            )
        finally:
            server.close()
    except RuntimeFailure as error:
        raise RuntimeFailure(f"{error}{criu.explain(directories.log)} (log file: {directories.log})") from None
    finally:
        directories.close()
    if not options.leave_running and not options.pre_dump:
        delete.delete(context, container_id, force=True)


def _dumping(event: criu.Notification, options: CheckpointOptions) -> None:
    if event.script == "status-ready" and options.status_fd >= 0:
        # The page server can be asked now: whoever migrates the container waits for this byte.
        os.write(options.status_fd, b"\0")
        os.close(options.status_fd)


def _common(request: criu.Options, options: CriuOptions, config: Any) -> None:
    request.set("notify_scripts", 1)
    request.set("manage_cgroups", 1)
    request.set("manage_cgroups_mode", criu.CGROUP_MODES[options.manage_cgroups_mode])
    request.set("orphan_pts_master", 1)
    for name in ("tcp_established", "tcp_close", "ext_unix_sk", "shell_job", "file_locks", "lazy_pages", "auto_dedup"):
        if getattr(options, name):
            request.set(name, 1)
    if "network" in options.empty_ns:
        request.set("empty_ns", CLONE_NEWNET)
    given = (config.get("annotations") or {}).get("org.criu.config")
    path = given if given is not None else CRIU_CONFIG
    if path and (given is not None or os.path.exists(path)):
        request.set("config_file", path)


def _streams(pid: int) -> list[str]:
    """What the container's standard streams are, as CRIU names them: a pipe is recognised by this name at restore."""
    names = []
    for number in (0, 1, 2):
        try:
            names.append(os.readlink(f"/proc/{pid}/fd/{number}"))
        except OSError:
            names.append("")
    return names


def restore(context: Context, container_id: str, bundle: str, options: RestoreOptions) -> int:
    """Make a container that goes on where a checkpoint was made. Returns the exit status to leave with."""
    program = criu.find(options.criu)
    spec: Any = load_bundle(bundle)
    process = spec.get("process") or {}
    caller.check_console(bool(process.get("terminal")), options.console_socket, options.detach)
    streams = _saved_streams(options.image_path)
    cgroup = setup.plan_cgroup(context, container_id, spec, setup.is_rootless(context), detect())
    if not options.detach and not options.no_subreaper:
        p.prctl(p.PR_SET_CHILD_SUBREAPER, 1)
    plan = build.Plan()
    linux = spec.get("linux") or {}
    plan.namespaces = Namespaces(linux.get("namespaces") or [], {})
    launch = Launch(context.root, spec, plan, cgroup)
    claim(context.root, container_id)
    launch.record = store.Record(context.root, container_id, launch.new_data(container_id, bundle))
    new = _Restore(launch, options)
    try:
        new.run(program, streams)
        launch.record.data["stage"] = store.CREATED
        launch.record.data["cgroup"] = cgroup.save()
        launch.record.save()
        launch.save_config()
        if options.console_socket and launch.console >= 0:
            handover.send_console(options.console_socket, launch.console)
        if options.pid_file:
            handover.write_pid(options.pid_file, launch.pid)
    except BaseException:
        launch.undo()
        raise
    if options.detach:
        return 0
    from pyruntime.container import foreground

    try:
        return foreground.wait(launch.pid, foreground.Terminal(launch.console) if launch.console >= 0 else None)
    finally:
        delete.destroy(launch.record)


def _saved_streams(images: str) -> list[str]:
    try:
        data = jsontext.loads(jsontext.read_file(f"{images}/{DESCRIPTORS}"), DESCRIPTORS)
    except OSError as error:
        raise RuntimeFailure(f"cannot read {images}/{DESCRIPTORS}: {(error.strerror or '').lower()}") from None
    if not isinstance(data, list) or len(data) > 3 or not all(isinstance(one, str) for one in data):
        raise RuntimeFailure(f"{images}/{DESCRIPTORS} is not a list of three descriptors")
    return data


class _Restore:
    """One container on its way back."""

    def __init__(self, launch: Launch, options: RestoreOptions) -> None:
        self.launch = launch
        self.options = options
        self.spec: Any = launch.spec
        assert launch.record is not None
        self.record = launch.record
        self.root = f"{self.record.directory}/criu-root"
        self.home = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    def run(self, program: str, streams: list[str]) -> None:
        """Have CRIU restore the processes. Raises RuntimeFailure."""
        options, launch = self.options, self.launch
        linux = self.spec.get("linux") or {}
        request = criu.Options()
        os.mkdir(self.root, 0o755)
        self._make_mount_points()
        self._mount_root()
        directories = _Directories(options, request, RESTORE_LOG, make=False)
        try:
            directories.lend(self.spec)
            _common(request, options, self.spec)
            request.set("root", self.root)
            request.set("rst_sibling", 1)  # the restored init is our child, as one that we made
            request.set("evasive_devices", 1)
            request.set("lsm_profile", options.lsm_profile)
            request.set("lsm_mount_context", options.lsm_mount_context)
            descriptors = self._namespaces(linux, request)
            for number, name in enumerate(streams):
                if name.startswith("pipe:"):
                    request.set("inherit_fd", criu.field(1, name) + criu.field(2, number))
            launch.cgroup.create()
            launch.has_cgroup = True
            for name in criu_mounts.restored(launch.cgroup, self.spec, self.record.data["bundle"]):
                request.set("external", name)
            self.record.data["cgroup"] = launch.cgroup.save()
            self.record.save()
            server = criu.Server(program, descriptors, streams=True)
            try:
                launch.cgroup.add(server.pid)
                launch.cgroup.apply()
                for controllers, path in _cgroups_of(server.pid):
                    request.set("cg_root", criu.field(1, controllers) + criu.field(2, path))
                launch.pid = server.request(criu.RESTORE, request, self._restoring)
            finally:
                server.close()
            launch.pidfd = p.pidfd_open(launch.pid)
            launch.set_rdt(launch.cgroup.pids())
            self.record.data["pid"] = launch.pid
            self.record.data["started"] = p.start_time(launch.pid)
            self._compare()
        except RuntimeFailure as error:
            raise RuntimeFailure(f"{error}{criu.explain(directories.log)} (log file: {directories.log})") from None
        finally:
            directories.close()
            p.setns(self.home, p.CLONE_NEWNS)
            os.close(self.home)
            os.rmdir(self.root)

    def _namespaces(self, linux: Any, request: criu.Options) -> dict[int, int]:
        """Open the namespaces that are given by path; CRIU inherits them under their keys."""
        descriptors: dict[int, int] = {}
        for entry in linux.get("namespaces") or []:
            if entry.get("path") and entry["type"] in EXTERNAL:
                number = criu.SOCKET + 1 + len(descriptors)
                descriptors[number] = os.open(entry["path"], os.O_RDONLY | os.O_CLOEXEC)
                request.set("inherit_fd", criu.field(1, EXTERNAL[entry["type"]][1]) + criu.field(2, number))
        return descriptors

    def _mount_root(self) -> None:
        """Make the root a mount point, as CRIU wants it, in a mount namespace that is ours for so long: CRIU works in
        directories that we have open, and those must lie in the namespace it mounts in."""
        p.unshare(p.CLONE_NEWNS)
        m.set_propagation(b"/", m.MS_SLAVE, True)
        tree = m.open_tree(m.AT_FDCWD, os.fsencode(self.record.data["rootfs"]), recursive=True)
        m.attach_at(tree, os.fsencode(self.root))
        os.close(tree)

    def _make_mount_points(self) -> None:
        """Make the mount points that create would have made, in a process whose mounts vanish with it."""
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                p.unshare(p.CLONE_NEWNS)
                m.set_propagation(b"/", m.MS_SLAVE, True)
                self._mount_points()
                status = 0
            except (OSError, RuntimeFailure) as error:
                os.write(2, f"cannot make the mount points: {error}\n".encode())
            finally:
                os._exit(status)
        if os.waitpid(pid, 0)[1]:
            raise RuntimeFailure("cannot make the mount points of the container")

    def _mount_points(self) -> None:
        tree = m.open_tree(m.AT_FDCWD, os.fsencode(self.record.data["rootfs"]), recursive=True)
        m.attach_at(tree, os.fsencode(self.root))
        binds = dict(criu_mounts.binds(self.spec))
        covered: list[str] = []
        for index, entry in enumerate(self.spec.get("mounts") or []):
            destination = entry["destination"].rstrip("/")
            if entry.get("type") in ("cgroup", "cgroup2") or any(destination.startswith(one) for one in covered):
                continue  # CRIU brings what lies in a tmpfs along
            if entry.get("type") == "tmpfs" and index not in binds:
                covered.append(destination + "/")
            directory = index not in binds or os.path.isdir(criu_mounts.source(entry, self.record.data["bundle"]))
            target = make_in_root(tree, os.fsencode(destination), directory)
            if index in binds:
                m.attach(
                    m.open_tree(
                        m.AT_FDCWD, os.fsencode(criu_mounts.source(entry, self.record.data["bundle"])), recursive=True
                    ),
                    target,
                )
            os.close(target)

    def _compare(self) -> None:
        """Say so if the processes have lost what the bundle asks for: CRIU before 4.0 forgets no_new_privs."""
        if (self.spec.get("process") or {}).get("noNewPrivileges"):
            with open(f"/proc/{self.launch.pid}/status", "rb") as file:
                if b"NoNewPrivs:\t0" in file.read():
                    report.warn("process.noNewPrivileges is not in effect any more: this CRIU does not restore it")

    def _restoring(self, event: criu.Notification) -> None:
        lists = self.spec.get("hooks") or {}
        if event.script == "setup-namespaces":
            document = self.record.state_text(store.CREATED, event.pid)
            for kind in ("prestart", "createRuntime"):
                hooks.run_hooks(kind, lists.get(kind) or [], document, self.record.data["bundle"], self._go_home)
        elif event.script == "orphan-pts-master" and event.descriptor >= 0:
            self.launch.console = event.descriptor
        elif event.descriptor >= 0:
            os.close(event.descriptor)
        report.debug(f"criu: {event.script}")

    def _go_home(self) -> None:
        """In a hook's process: back to the runtime's own mount namespace."""
        p.setns(self.home, p.CLONE_NEWNS)


def _cgroups_of(pid: int) -> list[tuple[str, str]]:
    """(controllers, path) of each hierarchy, as in /proc/PID/cgroup."""
    with open(f"/proc/{pid}/cgroup", "rb") as file:
        lines = file.read().decode("utf-8", "surrogateescape").split("\n")
    return [(controllers, path) for _, controllers, path in (line.split(":", 2) for line in lines if line)]


def _mkdir(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise RuntimeFailure(f"mkdir {path}: {(error.strerror or '').lower()}") from None


def _open_directory(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY)  # inherited by CRIU under the same number
    except OSError as error:
        raise RuntimeFailure(f"open {path}: {(error.strerror or '').lower()}") from None


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
