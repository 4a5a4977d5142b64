"""`exec`: one more process in a container, in its namespaces and cgroup and with attributes of its own."""

from __future__ import annotations

import _socket
import posix

from pyruntime.container import init, report, store
from pyruntime.container.child import Child
from pyruntime.container.exec_document import ExecOptions, process_document
from pyruntime.errors import RuntimeFailure
from pyruntime.kernel import processes as p
from pyruntime.kernel.facts import read_facts
from pyruntime.plan import lifecycle as life
from pyruntime.plan.command import Command
from pyruntime.plan.limits import has_little_memory, raise_hard_limits, write_oom_score
from pyruntime.plan.namespaces import KINDS
from pyruntime.plan.process import process_steps
from pyruntime.plan.step import Place, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.container.context import Context

# "mount" comes last: from then on paths are the container's.
_ORDER = ("cgroup", "ipc", "uts", "network", "time", "mount")


class EnterContainer(Step):
    """Join the namespaces of the container's init, all by one pidfd, so that they cannot be another process'."""

    __slots__ = ("kinds", "pidfd")

    def __init__(self, pidfd: int, kinds: int) -> None:
        self.pidfd = pidfd
        self.kinds = kinds

    def describe(self) -> str:
        return "join the container's namespaces"

    def apply(self, place: Place) -> None:
        if self.kinds:
            p.setns(self.pidfd, self.kinds)
        place.rootfs = posix.open(b"/", posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)


class EnterRoot(Step):
    """The root directory of a container that shares our mount namespace."""

    __slots__ = ("descriptor",)

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def describe(self) -> str:
        return "chroot into the container's root"

    def apply(self, place: Place) -> None:
        posix.fchdir(self.descriptor)
        posix.chroot(b".")
        place.rootfs = self.descriptor


def exec_process(context: Context, container_id: str, options: ExecOptions) -> int:
    """Run a process in a container. Returns the exit status to leave with. Raises RuntimeFailure."""
    from pyruntime.container.caller import check_console, close_unknown

    record = store.open_container(context.root, container_id)
    status, pid = record.status()
    if status == store.STOPPED:
        raise RuntimeFailure("cannot exec in a stopped container")
    if status == store.PAUSED and not options.ignore_paused:
        raise RuntimeFailure("cannot exec in a paused container (use --ignore-paused to override)")
    if status == store.CREATING:
        raise RuntimeFailure("cannot exec in a container that is still being created")
    if not options.args and options.process is None:
        raise RuntimeFailure("exec args cannot be empty: give a command, or a process document with --process")
    config = record.config()
    process = process_document(options, config)
    close_unknown(options.preserve_fds)  # the document may have come through one: --process <(...)
    check_console(bool(process.get("terminal")), options.console_socket, options.detach)
    pidfd = _open_init(record, pid)
    new = _Exec(record, config, process, pidfd, pid)
    terminal = signals = None
    try:
        new.plan(options, context)
        new.run(options)
        _hand_over(new, options)
        if not options.detach:
            from pyruntime.container import foreground

            terminal = foreground.Terminal(new.console) if new.console >= 0 else None
            signals = foreground.Signals()  # what comes from now on may be meant for the program
        new.release()
        new.await_program()
    except BaseException:
        if terminal is not None:
            terminal.restore()
        new.end()
        raise
    if options.detach:
        return 0
    try:
        return foreground.wait(new.pid, terminal, signals)
    except BaseException:
        new.end()  # nobody would be there to take its output, or its end
        raise


def _open_init(record: store.Record, pid: int) -> int:
    try:
        pidfd = p.pidfd_open(pid)
    except ProcessLookupError:
        raise RuntimeFailure("cannot exec in a stopped container") from None
    if p.start_time(pid) != record.data["started"]:
        raise RuntimeFailure("cannot exec in a stopped container")
    return pidfd


class _Exec(Child):
    """The process that is being added."""

    __slots__ = (
        "cgroup", "config", "cpus", "init", "limits", "listener", "namespaces", "oom_score", "process", "record",
        "userns",
    )  # fmt: skip

    def __init__(
        self, record: store.Record, config: dict[str, Any], process: dict[str, Any], init_pidfd: int, init_pid: int
    ) -> None:
        super().__init__()
        self.record = record
        self.config = config
        self.process = process
        self.init = (init_pidfd, init_pid)
        linux = config.get("linux") or {}
        self.namespaces = [entry["type"] for entry in linux.get("namespaces") or []]
        self.userns = "user" in self.namespaces and not _same_user_namespace(init_pid)
        self.listener: Any = None
        self.cgroup: Any = None
        self.cpus: Step | None = None
        self.limits: Any = []
        self.oom_score: int | None = None

    def plan(self, options: ExecOptions, context: Context) -> None:
        """Compute the steps. Raises SpecError."""
        config, process = self.config, self.process
        linux = config.get("linux") or {}
        labels = bool(process.get("apparmorProfile") or process.get("selinuxLabel"))
        facts = read_facts(labels)
        if self.userns:
            facts = facts.in_user_namespace(_setgroups_allowed(self.init[1]))
        seccomp = self._seccomp(linux.get("seccomp"), context)
        attributes = process_steps(
            process,
            container_id=self.record.id,
            facts=facts,
            linux=linux,
            annotations=config.get("annotations"),
            seccomp=seccomp,
            new_keyring=bool(self.record.data.get("keyring", True)),
            joining=True,
        )
        for warning in attributes.warnings:
            report.warn(warning)
        self.limits, self.oom_score = attributes.limits, attributes.oom_score
        self.command = Command(process)
        kinds = 0
        for kind in _ORDER:
            if kind in self.namespaces:
                kinds |= KINDS[kind]
        steps = self.steps
        self.holds_memory = has_little_memory(linux)
        if self.holds_memory:
            from pyruntime.plan.memory import HoldMemory

            steps.append(HoldMemory())
        steps.append(life.WaitFor(life.GO_CGROUP, "the runtime has put us into the container's cgroup", self.listener))
        if "mount" in self.namespaces:
            steps.append(EnterContainer(self.init[0], kinds))
        else:
            root = posix.open(f"/proc/{self.init[1]}/root", posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
            steps += [EnterContainer(self.init[0], kinds), EnterRoot(root)]
        if self.userns:
            steps.append(life.BecomeRoot(facts.setgroups))
        if labels:
            steps.append(life.OpenProcfs(False))
        if process.get("terminal"):
            size = process.get("consoleSize")
            steps.append(life.OpenTerminal((size["height"], size["width"]) if size else None, False))
        else:
            steps += [life.NewSession(), life.ReopenNull()]
        affinity = process.get("execCPUAffinity") or {}
        if affinity.get("initial"):
            from pyruntime.plan.scheduling import SetAffinity

            self.cpus = SetAffinity(affinity["initial"], "process.execCPUAffinity.initial")
            if report.debugging:
                from pyruntime.container import narrate

                narrate.affinity(affinity["initial"])
        steps += attributes.before_start
        extra = self.listener.connection if self.listener else -1
        steps += [life.FindProgram(self.command), life.CloseDescriptors(options.preserve_fds, extra)]
        steps += [life.ReportReady(), life.WaitForStart()]
        steps += attributes.after_start
        steps.append(life.Execute(self.command))

    def _seccomp(self, section: Any, context: Context) -> Step | None:
        if not section:
            return None
        from pyruntime.plan.seccomp import STRICT, InstallSeccomp, compile_filter

        strict = (self.config.get("annotations") or {}).get(STRICT) == "1"
        compiled = compile_filter(section, f"{context.root}/{store.FILTERS}", strict)
        if compiled is None:
            return None
        if compiled.notify:
            from pyruntime.plan.seccomp_listener import Listener, listener_path

            self.listener = Listener(listener_path(section, self.config.get("annotations") or {}))
        return InstallSeccomp(compiled, self.listener)

    def run(self, options: ExecOptions) -> None:
        """Make the process and bring it to the door of its program."""
        self.cgroup = self.record.cgroup()
        where = self.cgroup
        for sub in options.cgroups:
            where = self.cgroup.join_path(sub) if where is self.cgroup else where.join(sub)
        if posix.geteuid() == 0:
            p.prctl(p.PR_SET_DUMPABLE, 0)
        if self.cpus is not None:
            self.cpus.apply(self.place)
        ours, theirs = self.pair()
        init.freeze_memory()
        pid = self._clone_inside(theirs, ours) if self.userns else self._clone(theirs, ours)
        self.adopt(pid, theirs, ours)
        if report.debugging:
            from pyruntime.container import narrate

            narrate.cloned(pid, "join the container's namespaces", self.steps)
        posix.close(self.init[0])
        if self.listener is not None:
            self.listener.close()
        if self.oom_score is not None:
            descriptor = posix.open(f"/proc/{pid}", posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
            write_oom_score(descriptor, self.oom_score)
            posix.close(descriptor)
        self.await_memory()
        if self.record.has_cgroup():
            where.add(pid, self.init[1])
            p.reap_launcher_helper()
        if self.record.data.get("intelRdt"):
            from pyruntime.container import resctrl

            resctrl.join(self.record.data["intelRdt"], pid)
        if self.limits:
            raise_hard_limits(pid, self.limits)
        self.send(life.GO_CGROUP + self._agent_state())
        message = self.receive()
        if message[:1] != life.READY:
            raise self.failure(message)
        if report.debugging:
            from pyruntime.container import narrate

            narrate.about_to_exec(self.command.name if self.command else b"")

    def _agent_state(self) -> bytes:
        if self.listener is None:
            return b""
        from pyruntime.plan.seccomp_listener import process_state

        section = self.config["linux"]["seccomp"]
        document = self.record.state_text(store.RUNNING, self.init[1]).decode("utf-8", "surrogatepass")
        return process_state(self.config["ociVersion"], self.pid, section.get("listenerMetadata") or "", document)

    def _clone(self, theirs: _socket.socket, ours: _socket.socket) -> int:
        if "pid" in self.namespaces:
            self._enter(p.CLONE_NEWPID)
        pid = p.clone(0)
        if pid == 0:
            self.begin(theirs, ours)
        return pid

    def _enter(self, kinds: int) -> None:
        try:
            p.setns(self.init[0], kinds)
        except ProcessLookupError:
            raise RuntimeFailure("cannot exec in a stopped container") from None
        except OSError as error:
            raise RuntimeFailure(f"cannot join the container's namespaces: {(error.strerror or '').lower()}") from None

    def _enter_early(self) -> None:
        """In the helper: join what the user namespace may have no rights over, such as a network that was joined by
        path. What only it has rights over, for a caller who is not root, is joined afterwards."""
        enter = next(step for step in self.steps if isinstance(step, EnterContainer))
        for kind in ("network", "ipc", "uts", "cgroup"):
            if enter.kinds & KINDS[kind]:
                try:
                    p.setns(self.init[0], KINDS[kind])
                except PermissionError:
                    continue
                enter.kinds &= ~KINDS[kind]

    def _clone_inside(self, theirs: _socket.socket, ours: _socket.socket) -> int:
        """Clone from a helper that is in the user namespace already: our own ids may mean nothing in it."""
        said, say = posix.pipe2(posix.O_CLOEXEC)
        helper = p.clone(0)
        if helper == 0:
            try:
                self._enter_early()
                p.setns(self.init[0], p.CLONE_NEWUSER | (p.CLONE_NEWPID if "pid" in self.namespaces else 0))
                pid = p.clone(p.CLONE_PARENT)
                if pid == 0:
                    posix.close(say)  # or the end of a helper that was killed would not be heard
                    self.begin(theirs, ours)
                posix.write(say, b"%d" % pid)
            except OSError as error:
                posix.write(say, b"E%d" % (error.errno or 0))
            finally:
                posix._exit(0)
        posix.close(say)
        try:
            answer = posix.read(said, 64)
        except OSError as error:
            raise RuntimeFailure(f"cannot hear from the helper: {(error.strerror or '').lower()}") from None
        posix.close(said)
        posix.waitpid(helper, 0)
        if not answer or answer[:1] == b"E":
            code = int(answer[1:] or b"0")
            reason = posix.strerror(code).lower() if code else "the helper died"
            raise RuntimeFailure(f"cannot join the container's user namespace: {reason}")
        return int(answer)


def _same_user_namespace(pid: int) -> bool:
    try:
        return posix.readlink(f"/proc/{pid}/ns/user") == posix.readlink("/proc/self/ns/user")
    except OSError:
        return False


def _setgroups_allowed(pid: int) -> bool:
    try:
        descriptor = posix.open(f"/proc/{pid}/setgroups", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return True
    try:
        return posix.read(descriptor, 16).strip() != b"deny"
    except OSError as error:
        error.filename = f"/proc/{pid}/setgroups"
        raise
    finally:
        posix.close(descriptor)


def _hand_over(new: _Exec, options: ExecOptions) -> None:
    if not (options.console_socket or options.pidfd_socket or options.pid_file):
        return
    from pyruntime.container import handover

    if options.console_socket and new.console >= 0:
        handover.send_console(options.console_socket, new.console)
        posix.close(new.console)
        new.console = -1
    if options.pidfd_socket:
        handover.send_descriptor(options.pidfd_socket, new.pidfd, b"setns")
    if options.pid_file:
        handover.write_pid(options.pid_file, new.pid)
