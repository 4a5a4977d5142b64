"""Operations: runtime.md, sections Query State, Create, Start, Kill, Delete."""

from __future__ import annotations

import json
import signal
import time

from conformance import cgroups, process
from conformance.outcome import equal, fail, require
from conformance.registry import case, each
from conformance.runtime import read
from conformance.stage import Stage


@each(
    {f"ops.{verb}.no-id": (verb,) for verb in ("state", "start", "kill", "delete")}
    | {"ops.create.no-args": ("create",)}
)
def id_is_needed(stage: Stage, verb: str) -> None:
    """Without an id the operation is an error."""
    stage.write_config()
    arguments = ["--bundle", str(stage.bundle)] if verb == "create" else []
    require(not stage.runtime.call(verb, *arguments).ok, f"`{verb}` without an id succeeded")


@case("ops.create.no-args")
def bundle_must_be_usable(stage: Stage) -> None:
    """create with a bundle that does not exist is an error."""
    require(
        not stage.runtime.call("create", "--bundle", str(stage.dir / "no"), stage.id).ok,
        "create without a bundle succeeded",
    )
    require(not stage.known(), "the failed create left a container")


@case("ops.state.nonexistent")
def state_of_the_unknown(stage: Stage) -> None:
    """state of a container that does not exist is an error."""
    require(not stage.runtime.call("state", "conformance-unknown").ok, "state of an unknown container succeeded")


@case("ops.state.returns")
def state_prints_json(stage: Stage) -> None:
    """state prints the state as one JSON object on standard output."""
    stage.create()
    result = stage.runtime.call("state", stage.id)
    equal(json.loads(result.out)["id"], stage.id, "id in the printed state")


@case("ops.create.creates")
def create_makes_a_container(stage: Stage) -> None:
    """create makes a container that state knows, and a process that waits."""
    stage.create()
    equal((stage.state()["status"], process.alive(stage.pid)), ("created", True), "status and life of the process")


@each({f"ops.create.id-invalid@{number}": (bad,) for number, bad in enumerate(("", "..", "../evil", "a/b", "/abs"))})
def invalid_id_is_refused(stage: Stage, bad: str) -> None:
    """An id that is empty, or could leave the state directory, is an error and makes nothing."""
    stage.write_config()
    result = stage.runtime.call("create", "--bundle", str(stage.bundle), bad)
    require(not result.ok, f"create accepted the id {bad!r}")
    left = [str(path) for path in stage.runtime.root.glob("*/*")]
    equal(left, [], "state left by the failed create")


@case("ops.create.id-invalid", "ops.create.id-invalid.no-container")
def taken_id_makes_no_container(stage: Stage) -> None:
    """create with an id that is taken is an error, and the container there is not disturbed."""
    pid = stage.up()
    other = stage.companion()
    other.id = stage.id
    require(not other.create(ok=False).ok, "create accepted an id that is taken")
    equal(cgroups.existing(other.cgroup_path()), [], "cgroups made by the refused create")
    equal((stage.state()["pid"], process.alive(pid)), (pid, True), "the container that had the id")


@case("ops.create.args-not-applied")
def args_wait_for_start(stage: Stage) -> None:
    """Before start the container process does not run the program of args."""
    stage.process["args"] = ["/bin/sleep", "123"]
    stage.create()
    with open(f"/proc/{stage.pid}/cmdline", "rb") as file:
        require(b"123" not in file.read().split(b"\0"), "args were applied before start")
    stage.start()
    for _ in range(100):
        with open(f"/proc/{stage.pid}/cmdline", "rb") as file:
            if file.read() == b"/bin/sleep\x00123\x00":
                return
        time.sleep(0.01)
    fail("args were not applied by start")


@case("ops.create.process-rest")
def process_properties_hold_after_start(stage: Stage) -> None:
    """Whenever the other properties of process are applied, they hold once the program runs."""
    stage.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 321, "hard": 321}]
    stage.process["cwd"] = "/tmp"
    equal(stage.sh("ulimit -n; pwd"), "321\n/tmp\n", "limit and directory of the program")


@each(
    {f"ops.create.cannot-apply@{kind}": (kind,) for kind in ("pagesize", "device", "sysctl")},
    "ops.create.cannot-apply.no-container",
)
def what_cannot_be_applied_is_an_error(stage: Stage, kind: str) -> None:
    """A property that cannot be applied as written makes create fail, and no container comes into being."""
    if kind == "pagesize":
        stage.resources["hugepageLimits"] = [{"pageSize": "3MB", "limit": 0}]
    elif kind == "device":
        stage.linux["devices"] = [{"type": "x", "path": "/dev/x", "major": 1, "minor": 3}]
    else:
        stage.add_namespace("network")
        stage.linux["sysctl"] = {"net.nothing.like.this": "1"}
    stage.refused(f"the {kind} cannot be applied")
    require(not stage.known(), "the failed create left a container")


@case("ops.create.validate")
def refused_before_anything_is_made(stage: Stage) -> None:
    """A configuration that is plainly invalid makes create fail and leaves nothing behind."""
    stage.process["args"] = []
    require(not stage.create(ok=False).ok, "an empty args was accepted")
    equal(stage.leftovers(), [], "what is left")


@each({f"ops.start.not-created.error@{kind}": (kind,) for kind in ("running", "stopped", "unknown")})
def start_needs_a_created_container(stage: Stage, kind: str) -> None:
    """start of a container that runs, has stopped or never was is an error."""
    if kind == "running":
        stage.up()
    elif kind == "stopped":
        stage.run("/bin/true")
    require(not stage.start(ok=False).ok, f"start of a container that is {kind} succeeded")


@case("ops.start.not-created.no-effect")
def second_start_does_nothing(stage: Stage) -> None:
    """A second start does nothing to the container: the program runs once and goes on."""
    stage.script("echo line; exec sleep 300")
    stage.create()
    stage.start()
    pid = stage.pid
    stage.start(ok=False)
    time.sleep(0.1)
    equal(
        (read(stage.out), process.alive(pid), stage.state()["status"]),
        ("line\n", True, "running"),
        "output, life, status",
    )


@case("ops.start.process-unset", "process")
def process_is_needed_at_start(stage: Stage) -> None:
    """Without process create succeeds and start is an error."""
    del stage.config["process"]
    result = stage.create(ok=False)
    require(result.ok, f"create refused a configuration without process: {result.message}")
    require(not stage.start(ok=False).ok, "start without process succeeded")


@each(
    {
        f"ops.kill.sends@{word}": (word, number)
        for word, number in (("TERM", 15), ("SIGUSR1", 10), ("12", 12), ("HUP", 1))
    }
)
def signal_arrives(stage: Stage, word: str, number: int) -> None:
    """kill sends the signal that was named, by name with and without SIG, and by number."""
    stage.script(f"trap 'exit 9' {number}; echo ready; while :; do sleep 0.05; done")
    stage.create()
    stage.start()
    for _ in range(200):
        if read(stage.out):
            break
        time.sleep(0.02)
    stage.kill(word)
    stage.finish(status=9)


@case("ops.kill.sends")
def created_container_can_be_killed(stage: Stage) -> None:
    """kill KILL ends a container that is created."""
    stage.create()
    stage.kill("KILL")
    require(process.wait(stage.pid, 5) is not None, "the created container survived SIGKILL")


@case("ops.kill.wrong-state.error")
def kill_of_the_stopped(stage: Stage) -> None:
    """kill of a stopped container is an error."""
    stage.run("/bin/true")
    require(not stage.kill("KILL", ok=False).ok, "kill of a stopped container succeeded")


@case("ops.kill.wrong-state.no-effect")
def kill_of_the_stopped_changes_nothing(stage: Stage) -> None:
    """kill of a stopped container leaves the state as it is."""
    stage.run("/bin/true")
    before = stage.state()
    stage.kill("KILL", ok=False)
    equal(stage.state(), before, "state after the kill")


@each({f"ops.delete.not-stopped.error@{kind}": (kind,) for kind in ("created", "running")})
def delete_needs_a_stopped_container(stage: Stage, kind: str) -> None:
    """delete of a container that is created or running is an error."""
    stage.up() if kind == "running" else stage.create()
    require(not stage.delete(ok=False).ok, f"delete of a container that is {kind} succeeded")


@each({f"ops.delete.not-stopped.no-effect@{kind}": (kind,) for kind in ("created", "running")})
def refused_delete_changes_nothing(stage: Stage, kind: str) -> None:
    """delete of a container that is created or running leaves it alone."""
    stage.up() if kind == "running" else stage.create()
    before = stage.state()
    stage.delete(ok=False)
    require(stage.known(), f"delete removed a container that was {kind}")
    equal(stage.state(), before, "state after the refused delete")


@case("ops.delete.resources")
def delete_removes_the_container(stage: Stage) -> None:
    """delete of a stopped container removes state, cgroups and mounts, and the id is unknown."""
    stage.run("/bin/true")
    stage.delete()
    equal((stage.leftovers(), stage.known()), ([], False), "what is left, and whether state knows the id")


@each({f"ops.delete.only-own@{kind}": (kind,) for kind in ("cgroup", "namespace", "bundle")})
def delete_leaves_what_was_there(stage: Stage, kind: str) -> None:
    """What the runtime did not make stays: the parent cgroup, a namespace it joined, the bundle, what was mounted."""
    if kind == "cgroup":
        parent = f"/{stage.id}"
        stage.undo.callback(cgroups.remove, parent)
        made = cgroups.make(parent)
        stage.linux["cgroupsPath"] = f"{parent}/container"
        stage.run("/bin/true")
        stage.delete()
        require(all(folder.is_dir() for folder in made), "a cgroup that was there before is gone")
    elif kind == "namespace":
        keeper = stage.companion()
        pid = keeper.up()
        stage.add_namespace("ipc", path=f"/proc/{pid}/ns/ipc")
        stage.run("/bin/true")
        stage.delete()
        equal(
            (process.alive(pid), keeper.state()["status"]),
            (True, "running"),
            "the container whose namespace was joined",
        )
    else:
        (stage.rootfs / "kept").write_text("kept")
        stage.run("/bin/true")
        stage.delete()
        require(
            (stage.rootfs / "kept").exists() and (stage.bundle / "config.json").exists(), "delete took from the bundle"
        )


@case("ops.delete.id-reuse")
def id_can_be_used_again(stage: Stage) -> None:
    """After delete the id can be given to a new container."""
    for word in ("one", "two"):
        equal(stage.sh(f"echo {word}"), f"{word}\n", "output of the program")
        stage.delete()


@case("ops.kill.sends")
def kill_does_not_hit_the_host(stage: Stage) -> None:
    """A container without a pid namespace of its own: only its process gets the signal."""
    stage.drop_namespace("pid")
    pid = stage.up()
    stage.kill("TERM")
    ended = process.wait(pid, 5)
    equal(ended is not None and ended & 0x7F, signal.SIGTERM, "signal that ended the program")
