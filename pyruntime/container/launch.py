"""Bringing a container up: the runtime's side of it.

    claim the id · open what belongs to the host · clone the init · record its pid · make the cgroup while the init
    mounts · let it go on · hooks · hear that it is ready · record that it is created

The init is cloned early and works beside us; it waits for us only where it must (its mappings, its cgroup, hooks).
Whatever fails on either side ends in `Launch.undo()`, and a runtime that is killed at any instruction leaves a state
directory with the pid and the cgroup paths in it, which `delete --force` cleans up.
"""

from __future__ import annotations

import _socket
import posix
import time

from pyruntime.container import create_hooks, directories, hooks, init, interruptions, report, store
from pyruntime.container.child import Child, words
from pyruntime.container.usermap import write_mappings
from pyruntime.errors import RuntimeFailure
from pyruntime.kernel import processes as p
from pyruntime.plan import lifecycle as life
from pyruntime.plan.build import Plan, needs_helper
from pyruntime.plan.limits import raise_hard_limits, write_oom_score
from pyruntime.plan.namespaces import join_all
from pyruntime.plan.step import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.cgroups.manager import Manager
    from pyruntime.plan.seccomp_listener import Listener
    from pyruntime.spec.types import Spec

SIGKILL = 9


class Launch(Child):
    """One container on its way up."""

    __slots__ = ("cgroup", "has_cgroup", "listener", "network", "notify", "plan", "record", "root", "spec")

    def __init__(self, root: str, spec: Spec, plan: Plan, cgroup: Manager) -> None:
        super().__init__()
        self.root = root
        self.spec = spec
        self.plan = plan
        self.steps = plan.init
        self.holds_memory = plan.holds_memory
        self.command = plan.command
        self.cgroup = cgroup
        self.has_cgroup = False  # made, by us: before that, what is at its path belongs to somebody else
        self.record: store.Record | None = None
        self.notify = ""  # the service manager's socket, for a container that says when it is ready
        self.listener: Listener | None = None  # connection to the seccomp agent, for the init
        self.network = -1  # the container's network namespace, as long as interfaces may have to come back from it

    def create(self, container_id: str, bundle: str, gated: bool) -> None:
        """Bring the container to "created". `gated`: the init waits on a FIFO that a later `start` writes to.

        Raises RuntimeFailure; then nothing is left behind.
        """
        # They wait wherever it takes no time: no signal may come between an act and the note that it is done, or make
        # both sides of a clone undo the container.
        interruptions.hold()
        interruptions.raise_them()
        record = store.Record(self.root, container_id, self.new_data(container_id, bundle))
        directories.claim(self.root, container_id)
        self.record = record
        try:
            directory = self.record.directory
            if self.notify:
                posix.mkdir(notify_directory(directory), 0o755)
            if gated:
                directories.make_fifo(f"{directory}/{store.START}")
                if self.record.data["startHooks"]:
                    directories.make_fifo(f"{directory}/{store.RESULT}")
                    self.place.result = posix.open(f"{directory}/{store.RESULT}", posix.O_RDWR | posix.O_CLOEXEC)
                self.place.gate = posix.open(f"{directory}/{store.START}", posix.O_RDWR | posix.O_CLOEXEC)
            if report.debugging:
                narrate().host_steps(self.plan.host)
            for step in self.plan.host:
                self._host(step)
            self._clone()
            if report.debugging:
                narrate().cloned(self.pid, self.plan.namespaces.describe(), self.steps)
            self._release_sources()
            self.record.data["pid"] = self.pid
            self.record.data["started"] = self._start_time()
            self.record.data["cgroup"] = self.cgroup.save()
            self.record.save()
            self._prepare()
            interruptions.allow()
            self._until_ready()
            interruptions.hold()
            if report.debugging:
                narrate().created()
            self.cgroup_ready()
        except BaseException:
            self.undo()
            raise

    def _start_time(self) -> int:
        """Of the init: without it nobody could tell it from a later process with its number."""
        started = p.start_time(self.pid)
        if not started:
            if p.stat(self.pid)[0] == b"Z":
                raise self.failure(self.receive())
            raise RuntimeFailure(f"cannot read /proc/{self.pid}/stat: is /proc mounted?")
        return started

    def cgroup_ready(self) -> None:
        """Everything is in place: put it on record. From here on the container outlives us."""
        assert self.record is not None and self.channel is not None
        data = self.record.data
        data["stage"] = store.CREATED
        data["cgroup"] = self.cgroup.save()
        self.record.save()
        if self.network >= 0:
            posix.close(self.network)  # it must not outlive the container
            self.network = -1

    def runs_hooks_at_start(self) -> bool:
        """Whether hooks run between `release()` and the program, or right after its start."""
        found: Any = self.spec.get("hooks") or {}
        return bool(found.get("startContainer") or found.get("poststart"))

    def undo(self) -> None:
        """Remove every trace. Must not fail: what cannot be removed is reported and left to `delete --force`."""
        interruptions.ignore()
        self.end()
        self._return_network_devices()
        self._close()  # first: removing files takes descriptors, and their want may be why we are here
        try:
            if self.has_cgroup:
                try:
                    if self.cgroup.exists():
                        self.cgroup.kill(SIGKILL)  # hooks, or a program that forked before it failed
                except (OSError, RuntimeFailure):
                    pass
                self.cgroup.destroy()
            if self.record is not None and self.record.data.get("intelRdt"):
                from pyruntime.container import resctrl

                resctrl.remove(self.record.data["intelRdt"], failed=True)
        except (OSError, RuntimeFailure) as error:
            said = words(error.errno or 0, error) if isinstance(error, OSError) else str(error)
            report.warn(f"cannot clean up after the failed create: {said}")
        self._run_poststop()
        if self.record is not None:
            try:
                self.record.remove()
            except OSError as error:
                report.warn(f"cannot remove {self.record.directory}: {error.strerror}")

    def _close(self) -> None:
        self._release_sources()
        if self.channel is not None:
            self.channel.close()
        for descriptor in (self.place.gate, self.place.result, self.pidfd, self.network):
            if descriptor >= 0:
                posix.close(descriptor)
        self.place.gate = self.place.result = self.pidfd = self.network = -1

    def _run_poststop(self) -> None:
        """The spec wants the poststop hooks after a failed hook as well: "proceed to the destroy steps"."""
        entries: Any = (self.spec.get("hooks") or {}).get("poststop")
        if entries and self.record is not None and self.pid:
            document = self.record.state_text(store.STOPPED, 0)
            for number, entry in enumerate(entries):
                failure = hooks.run_hook(
                    hooks.Hook("poststop", number, entry), document, self.record.data["bundle"].encode(), None
                )
                if failure:
                    report.warn(hooks.poststop_warning(number, failure))

    # From here on: one method per stage, in order.

    def new_data(self, container_id: str, bundle: str) -> dict[str, Any]:
        """What state.json says of a container that is about to come up."""
        now = time.time_ns()
        seconds, nanoseconds = divmod(now, 1_000_000_000)
        t = time.gmtime(seconds)
        root_path = self.spec["root"]["path"]
        hook_lists: Any = self.spec.get("hooks") or {}
        linux: Any = self.spec.get("linux") or {}
        return {
            "id": container_id,
            "ociVersion": self.spec["ociVersion"],
            "pid": 0,
            "started": 0,
            "stage": store.CREATING,
            "bundle": bundle,
            "rootfs": root_path if root_path.startswith("/") else _lexical(f"{bundle}/{root_path}"),
            "created": f"{t.tm_year:04d}-{t.tm_mon:02d}-{t.tm_mday:02d}T{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d}"
            f".{nanoseconds:09d}Z",
            "annotations": self.spec.get("annotations") or {},
            "namespaces": [entry["type"] for entry in linux.get("namespaces") or []],
            "privatePid": bool(self.plan.namespaces.new & p.CLONE_NEWPID),
            "hooks": {kind: hook_lists[kind] for kind in ("poststart", "poststop") if hook_lists.get(kind)},
            "startHooks": bool(hook_lists.get("startContainer")),
            "hasProcess": self.spec.get("process") is not None,
            "notify": self.notify,
            "cgroup": self.cgroup.save(),
        }

    def _host(self, step: Step) -> None:
        try:
            step.apply(self.place)
        except OSError as error:
            raise RuntimeFailure(f"{step.describe()}: {words(error.errno or 0, error)}") from None

    def _clone(self) -> None:
        ours, theirs = self.pair()
        # The container's processes may not look into ours (ptrace, /proc/PID/fd): set before the clone, so that the
        # init never is dumpable. A rootless caller must be able to write the init's uid_map, which belongs to root as
        # long as the process is not dumpable; there the init sets it once the mappings are written.
        if posix.geteuid() == 0:
            p.prctl(p.PR_SET_DUMPABLE, 0)
        spaces = self.plan.namespaces
        init.freeze_memory()
        flags = spaces.new & ~(p.CLONE_NEWCGROUP | p.CLONE_NEWTIME)
        pid = self._clone_through_helper(flags, theirs, ours) if needs_helper(spaces) else p.clone(flags)
        if pid == 0:
            self.begin(theirs, ours)
        self.adopt(pid, theirs, ours)

    def _clone_through_helper(self, flags: int, theirs: _socket.socket, ours: _socket.socket) -> int:
        """Clone the init from a process that first enters what a clone cannot: it becomes our child all the same.

        Needed to join a user or pid namespace, to join any before a new user namespace is made, and for a time
        namespace, whose offsets must be written by somebody who is not in it yet (time_namespaces(7)).
        """
        spaces = self.plan.namespaces
        said, say = posix.pipe2(posix.O_CLOEXEC)
        go, let = posix.pipe2(posix.O_CLOEXEC)
        new_user = bool(flags & p.CLONE_NEWUSER)
        helper = p.clone(0)
        if helper == 0:
            try:
                self._help(flags & ~p.CLONE_NEWUSER, new_user, go, say, theirs, ours)
            except OSError as error:
                posix.write(say, b"E%d" % (error.errno or 0))
            finally:
                posix._exit(1)
        posix.close(say)
        posix.close(go)
        try:
            answer = posix.read(said, 64)
        except OSError as error:
            raise RuntimeFailure(f"cannot hear from the helper: {words(error.errno or 0)}") from None
        if answer == b"U":
            self._map(helper)
            posix.write(let, b"m")
            answer = posix.read(said, 64)
        posix.close(let)
        posix.close(said)
        posix.waitpid(helper, 0)
        if not answer or answer[:1] == b"E":
            code = int(answer[1:] or b"0")
            raise RuntimeFailure(f"{spaces.describe()}: {posix.strerror(code).lower() if code else 'the helper died'}")
        return int(answer)

    def _help(
        self, flags: int, new_user: bool, go: int, say: int, theirs: _socket.socket, ours: _socket.socket
    ) -> None:
        spaces = self.plan.namespaces
        init.close_imports()  # a mount namespace that is joined has files of its own where Python looks for its
        if self.plan.open_namespaces is not None:
            join_all(self.plan.open_namespaces.descriptors, spaces.order())
            if "pid" in spaces.paths:
                p.setns(self.plan.open_namespaces.descriptors["pid"], p.CLONE_NEWPID)
        if new_user:
            p.unshare(p.CLONE_NEWUSER)
            posix.write(say, b"U")
            posix.read(go, 1)
        if spaces.new & p.CLONE_NEWTIME:
            p.unshare(p.CLONE_NEWTIME)
            if spaces.time_offsets:
                offsets = posix.open(b"/proc/self/timens_offsets", posix.O_WRONLY | posix.O_CLOEXEC)
                posix.write(offsets, spaces.time_offsets)
                posix.close(offsets)
        pid = p.clone(flags | p.CLONE_PARENT)
        if pid == 0:
            posix.close(say)  # or the end of a helper that was killed would not be heard
            self.begin(theirs, ours)
        posix.write(say, b"%d" % pid)
        posix._exit(0)

    def _release_sources(self) -> None:
        """What was opened for the init is the init's now."""
        if self.listener is not None:
            self.listener.close()
        for descriptor in (self.place.rootfs, *self.place.sources.values()):
            if descriptor >= 0:
                posix.close(descriptor)
        self.place.sources = {}
        self.place.rootfs = -1
        if self.plan.open_namespaces is not None:
            descriptors = self.plan.open_namespaces.descriptors
            if self.plan.net_devices is not None and "network" in descriptors:
                self.network = descriptors.pop("network")  # the init may not have joined it yet
            for descriptor in descriptors.values():
                posix.close(descriptor)
            descriptors.clear()

    def _map(self, pid: int) -> None:
        linux: Any = self.spec.get("linux") or {}
        write_mappings(pid, linux.get("uidMappings") or [], linux.get("gidMappings") or [], posix.geteuid() == 0)

    def _prepare(self) -> None:
        """What only we can do for the init, while it is busy with its mounts."""
        assert self.channel is not None
        process = self.plan.process
        if process is not None and process.oom_score is not None:
            # Before the mappings: once it has them the init is not dumpable, and its files belong to root.
            descriptor = posix.open(f"/proc/{self.pid}", posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
            try:
                write_oom_score(descriptor, process.oom_score)
            finally:
                posix.close(descriptor)
        if self.plan.namespaces.new & p.CLONE_NEWUSER and not needs_helper(self.plan.namespaces):
            self._map(self.pid)
            self.send(life.GO_MAPPED)
        self.cgroup.create()
        self.has_cgroup = True
        self.await_memory()
        self.cgroup.add(self.pid)
        p.reap_launcher_helper()
        self.cgroup.apply()
        for warning in self.cgroup.warnings:
            report.warn(warning)
        if not self.cgroup.paths and self.cgroup.rootless and not self.plan.namespaces.new & p.CLONE_NEWPID:
            report.warn(
                "a rootless container with no cgroup and no private pid namespace: Such configuration is strongly "
                "discouraged, as it is impossible to end all of its processes"
            )
        if process is not None and process.limits:
            raise_hard_limits(self.pid, process.limits)
        self._move_network_devices()
        self.set_rdt([self.pid])
        self.save_config()
        self.send(life.GO_CGROUP + self._agent_state())

    def _agent_state(self) -> bytes:
        """What the init tells the seccomp agent when it hands over the descriptor of its filter."""
        if self.listener is None:
            return b""
        from pyruntime.plan.seccomp_listener import process_state

        assert self.record is not None
        linux: Any = self.spec.get("linux") or {}
        document = self.record.state_text(store.CREATING, self.pid).decode("utf-8", "surrogatepass")
        metadata = linux["seccomp"].get("listenerMetadata") or ""
        return process_state(self.spec["ociVersion"], self.pid, metadata, document)

    def _move_network_devices(self) -> None:
        if self.plan.net_devices is not None:
            if self.network < 0:
                self.network = posix.open(f"/proc/{self.pid}/ns/net", posix.O_RDONLY | posix.O_CLOEXEC)
            self.plan.net_devices.move(self.network)

    def _return_network_devices(self) -> None:
        if self.plan.net_devices is not None and self.network >= 0:
            try:
                self.plan.net_devices.give_back(self.network)
            except OSError as error:
                report.warn(f"cannot move the network interfaces back: {words(error.errno or 0, error)}")

    def set_rdt(self, pids: list[int]) -> None:
        """Put the container's processes into the class of service of linux.intelRdt, if there is one."""
        linux: Any = self.spec.get("linux") or {}
        if linux.get("intelRdt") is not None:
            from pyruntime.container import resctrl

            assert self.record is not None
            self.record.data["intelRdt"] = saved = resctrl.plan(linux["intelRdt"], self.record.id)
            self.record.save()
            resctrl.apply(saved, pids)

    def save_config(self) -> None:
        """Keep the configuration as it is now: exec and start must not see what becomes of the bundle's file."""
        from pyruntime.spec import jsontext

        assert self.record is not None
        text = jsontext.dumps(self.spec).encode("utf-8", "surrogatepass")
        descriptor = posix.open(
            f"{self.record.directory}/{store.CONFIG}",
            posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC,
            0o600,
        )
        try:
            while text:
                text = text[posix.write(descriptor, text) :]
        except OSError as error:
            raise RuntimeFailure(
                f"cannot write {self.record.directory}/{store.CONFIG}: {words(error.errno or 0)}"
            ) from None
        finally:
            posix.close(descriptor)

    def _until_ready(self) -> None:
        """Serve the init until it says that everything but the program is there."""
        while True:
            message = self.receive()
            if message[:1] == life.MOUNTED:
                create_hooks.run(self)
                self.send(life.GO_HOOKS)
            elif message[:1] == life.READY:
                return
            else:
                raise self.failure(message)


def narrate() -> Any:
    """The words of `--debug`, which nobody else has to load."""
    from pyruntime.container import narrate as words

    return words


def notify_directory(container: str) -> str:
    """Where the notify socket of a container lies. The module itself is loaded only by those who listen."""
    return f"{container}/notify"


def _lexical(path: str) -> str:
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            if parts:
                parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)
