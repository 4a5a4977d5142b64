"""Lifecycle: runtime.md, sections Lifecycle, Errors and Warnings."""

from __future__ import annotations

import os
import signal

from conformance import process
from conformance.bundle import bind, mount
from conformance.outcome import equal, require
from conformance.registry import case, each
from conformance.stage import Stage

RUNTIME_MOMENTS = ("prestart", "createRuntime", "createContainer")


def hook(script: str) -> dict[str, object]:
    """A hook that runs a shell script, with /bin/sh of wherever it runs."""
    return {"path": "/bin/sh", "args": ["sh", "-c", script]}


@case("lifecycle.same-entity", "ops.all-supported")
def one_caller_does_it_all(stage: Stage) -> None:
    """create, state, start, kill, state and delete work in a row for one caller."""
    stage.script("trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done")
    stage.create()
    equal(stage.state()["status"], "created", "status after create")
    stage.start()
    equal(stage.state()["status"], "running", "status after start")
    stage.kill("KILL")
    stage.wait()
    equal(stage.state()["status"], "stopped", "status after kill")
    stage.delete()
    require(not stage.known(), "state still knows the container after delete")


@each({"lifecycle.create-error@filesystem": ("filesystem",), "lifecycle.create-error@namespace": ("namespace",)})
def impossible_environment_is_an_error(stage: Stage, kind: str) -> None:
    """An unknown filesystem type, or a namespace path that leads nowhere, makes create fail."""
    if kind == "filesystem":
        stage.mounts.append(mount("/mnt", "nosuchfs", "nothing"))
    else:
        stage.add_namespace("ipc", path="/proc/self/ns/nothing")
    stage.refused(f"the {kind} does not exist")


@case("lifecycle.no-program-before-start", "ops.start.runs", "lifecycle.run-program")
def program_waits_for_start(stage: Stage) -> None:
    """The program runs after start and not before."""
    stage.script("echo ran > /marker")
    stage.create()
    require(process.wait(stage.pid, 0.3) is None, "the container process ended before start")
    require(not (stage.rootfs / "marker").exists(), "the program ran during create")
    stage.start()
    stage.finish()
    equal((stage.rootfs / "marker").read_text(), "ran\n", "marker written by the program")


@case("lifecycle.config-frozen")
def later_edits_have_no_effect(stage: Stage) -> None:
    """config.json replaced between create and start changes nothing, neither the program nor the poststop hooks."""
    old, new = stage.dir / "old", stage.dir / "new"
    stage.script("echo first")
    stage.config["hooks"] = {"poststop": [hook(f"echo > {old}")]}
    stage.create()
    stage.script("echo second")
    stage.config["hooks"] = {"poststop": [hook(f"echo > {new}")]}
    stage.write_config()
    stage.start()
    equal(stage.finish(), "first\n", "output of the program")
    stage.delete()
    require(old.exists() and not new.exists(), "the hooks of the edited config.json were used")


@each(
    {f"lifecycle.{moment}.invoked": (moment, "create") for moment in RUNTIME_MOMENTS}
    | {
        "lifecycle.startContainer.invoked": ("startContainer", "start"),
        "lifecycle.poststart.invoked": ("poststart", "start"),
    }
    | {"lifecycle.poststop.invoked": ("poststop", "delete")}
)
def hooks_are_invoked_in_their_operation(stage: Stage, moment: str, operation: str) -> None:
    """A hook runs during its operation, neither earlier nor later, and once."""
    inside = moment == "startContainer"
    log = (stage.rootfs if inside else stage.dir) / "log"
    stage.config["hooks"] = {moment: [hook(f"echo x >> {'/log' if inside else log}")]}
    stage.process["args"] = ["/bin/true"]
    seen = []
    for step in ("create", "start", "delete"):
        if step == "create":
            stage.create()
        elif step == "start":
            stage.start()
            stage.wait()
        else:
            stage.delete()
        seen.append((step, len(log.read_text()) // 2 if log.exists() else 0))
    steps = ["create", "start", "delete"]
    wanted = [(step, int(steps.index(step) >= steps.index(operation))) for step in steps]
    equal(seen, wanted, f"runs of the {moment} hook after each operation")


@each({f"lifecycle.{moment}.failure": (moment,) for moment in RUNTIME_MOMENTS})
def failing_hook_stops_create(stage: Stage, moment: str) -> None:
    """A failing hook makes create fail, ends the container, skips the later hooks of the list and leads to poststop."""
    later, end = stage.dir / "later", stage.dir / "end"
    stage.config["hooks"] = {moment: [hook("exit 3"), hook(f"echo > {later}")], "poststop": [hook(f"echo > {end}")]}
    require(not stage.create(ok=False).ok, f"create succeeded although a {moment} hook failed")
    require(not later.exists(), "the next hook of the list ran after the failure")
    stage.runtime.call("delete", "--force", stage.id)
    equal(stage.leftovers(), [], "what is left")
    require(end.exists(), "the poststop hooks were not run")


@each({"lifecycle.startContainer.failure": ("startContainer",), "lifecycle.poststart.failure": ("poststart",)})
def failing_hook_stops_start(stage: Stage, moment: str) -> None:
    """A failing hook makes start fail, ends the container, skips the later hooks of the list and leads to poststop."""
    inside = moment == "startContainer"
    later, end = "/later" if inside else stage.dir / "later", stage.dir / "end"
    stage.config["hooks"] = {moment: [hook("exit 3"), hook(f"echo > {later}")], "poststop": [hook(f"echo > {end}")]}
    stage.process["args"] = ["/bin/sleep", "30"]
    stage.create()
    pid = stage.pid
    result = stage.start(ok=False)
    require(not result.ok, f"start succeeded although a {moment} hook failed")
    require(process.wait(pid, 3) is not None, "the container still runs after the failure")
    require(not ((stage.rootfs if inside else stage.dir) / "later").exists(), "the next hook of the list ran")
    stage.runtime.call("delete", "--force", stage.id)
    equal(stage.leftovers(), [], "what is left")
    require(end.exists(), "the poststop hooks were not run")


@case("lifecycle.poststop.failure")
def failing_poststop_only_warns(stage: Stage) -> None:
    """A failing poststop hook does not stop the following hooks nor the deletion."""
    later = stage.dir / "later"
    stage.config["hooks"] = {"poststop": [hook("exit 3"), hook(f"echo > {later}")]}
    stage.run("/bin/true")
    result = stage.delete(ok=False)
    require(later.exists(), "the hook after the failing one was not run")
    require(result.ok, f"delete failed: {result.message}")
    equal(stage.leftovers(), [], "what is left")


@each({f"lifecycle.exit-causes@{how}": (how,) for how in ("exit", "error", "signal", "crash")})
def every_end_is_a_stop(stage: Stage, how: str) -> None:
    """Whether the program exits, fails, is killed or crashes, the container is stopped and can be deleted."""
    script = {"exit": "exit 0", "error": "exit 42", "signal": "sleep 30", "crash": "sleep 30"}[how]
    stage.process["args"] = ["/bin/sh", "-c", script] if "exit" in script else ["/bin/sleep", "30"]
    # The first process of a pid namespace gets no signal it does not handle, except SIGKILL from outside.
    stage.drop_namespace("pid")
    stage.create()
    stage.start()
    if how == "signal":
        stage.kill("KILL")
    elif how == "crash":
        os.kill(stage.pid, signal.SIGSEGV)
    ended = stage.wait()
    wanted = {"exit": 0, "error": 42, "signal": -signal.SIGKILL, "crash": -signal.SIGSEGV}[how]
    equal(os.waitstatus_to_exitcode(ended), wanted, "how the program ended")
    equal(stage.state()["status"], "stopped", "status")
    stage.delete()


@case("lifecycle.destroy-undo", "ops.delete.resources")
def delete_undoes_create(stage: Stage) -> None:
    """After delete no state, cgroup, mount or process is left, even if children of the program were alive."""
    before = len(process.mounts_of())
    stage.resources["pids"] = {"limit": 100}
    stage.script("sleep 300 & sleep 301 & exit 0")
    stage.drop_namespace("pid")
    stage.create()
    stage.start()
    stage.wait()
    stage.delete("--force")
    equal(stage.leftovers(), [], "what is left after delete")
    equal(len(process.mounts_of()), before, "number of mounts on the host")


@each({f"errors.rollback@{kind}": (kind,) for kind in ("mount", "hook", "cgroup", "program", "device")})
def failed_create_leaves_nothing(stage: Stage, kind: str) -> None:
    """After a create that fails early, late or in between there is no state, cgroup, mount or process."""
    before = len(process.mounts_of())
    if kind == "mount":
        stage.mounts.append(mount("/mnt", "nosuchfs", "nothing"))
    elif kind == "hook":
        stage.config["hooks"] = {"createRuntime": [hook("exit 1")]}
    elif kind == "cgroup":
        stage.resources["hugepageLimits"] = [{"pageSize": "3MB", "limit": 0}]
    elif kind == "device":
        stage.linux["devices"] = [{"type": "c", "path": "/bin/busybox/null", "major": 1, "minor": 3}]
    else:
        stage.process["args"] = ["/does/not/exist"]
    result = stage.create(ok=False)
    if kind == "program" and result.ok:
        result = stage.start(ok=False)
        require(not result.ok, "a program that does not exist was started")
        stage.delete("--force", ok=False)
    require(not result.ok, f"create succeeded with an impossible {kind}")
    equal(stage.leftovers(), [], "what is left after the failure")
    equal(len(process.mounts_of()), before, "number of mounts on the host")


@case("errors.exposure")
def errors_are_told(stage: Stage) -> None:
    """An operation that fails has an exit status other than zero and says something on standard error or in the log."""
    log = stage.dir / "log"
    result = stage.runtime.call("state", "no-such-container", options=("--log", str(log)))
    require(not result.ok, "state of an unknown container succeeded")
    require(result.err.strip() or (log.exists() and log.read_text().strip()), "the failure was not explained anywhere")


@case("warnings.continue")
def a_warning_changes_nothing(stage: Stage) -> None:
    """What only deserves a warning (a capability nobody knows) does not change the operation."""
    stage.process["capabilities"]["bounding"].append("CAP_NOBODY_KNOWS")
    equal(stage.sh("echo went on"), "went on\n", "output of the program")


@case("lifecycle.create-environment", "ops.create.apply-all")
def environment_stands_after_create(stage: Stage) -> None:
    """Namespaces, mounts and cgroup limits are there after create, before start."""
    stage.mounts.append(mount("/mnt", "tmpfs", "conformance", "nosuid"))
    stage.resources["pids"] = {"limit": 77}
    stage.create()
    require(stage.mount_at("/mnt").type == "tmpfs", "the tmpfs on /mnt is missing")
    require(process.namespace(stage.pid, "uts") != process.namespace("self", "uts"), "no new uts namespace")
    equal((stage.cgroup("pids") / "pids.max").read_text().strip(), "77", "pids.max")


@case("lifecycle.create-environment")
def everything_together(stage: Stage) -> None:
    """A configuration that uses many properties at once works as a whole."""
    source = stage.scratch()
    (source / "file").write_text("bound\n")
    stage.config["root"]["readonly"] = True
    stage.config["annotations"] = {"org.example.a": "b"}
    stage.mounts.append(bind(source, "/mnt", "ro"))
    (stage.rootfs / "mnt").mkdir()
    stage.process["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [5]}
    stage.process["cwd"] = "/tmp"
    stage.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]
    stage.linux["maskedPaths"] = ["/proc/kcore"]
    stage.linux["readonlyPaths"] = ["/proc/sys"]
    output = stage.sh("id -u; pwd; cat /mnt/file; ulimit -n; hostname")
    equal(output.split(), ["1000", "/tmp", "bound", "100", "conformance"], "what the program saw")
