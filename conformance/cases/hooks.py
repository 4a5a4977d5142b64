"""Hooks: config.md, section POSIX-platform Hooks; the moments and namespaces of the six lists."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path
from typing import Any

from conformance import process
from conformance.cases.lifecycle import hook
from conformance.outcome import equal, require, skip
from conformance.registry import case, each
from conformance.runtime import read
from conformance.stage import Stage

MOMENTS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
BEFORE_PIVOT = MOMENTS[:3]
HOST_MOMENTS = ("prestart", "createRuntime", "poststart", "poststop")


def through(stage: Stage) -> None:
    """Take the container through its whole life."""
    stage.process["args"] = ["/bin/true"]
    stage.create()
    stage.start()
    stage.wait()
    stage.delete()


def place(stage: Stage, moment: str, name: str) -> tuple[str, Path]:
    """A file a hook can write: its path as the hook sees it, and as we do."""
    if moment == "startContainer":
        return f"/{name}", stage.rootfs / name
    return str(stage.dir / name), stage.dir / name


@each({f"hooks.{moment}": (moment,) for moment in MOMENTS}, "hooks")
def list_works_alone(stage: Stage, moment: str) -> None:
    """A configuration with this list only: its hook is run."""
    inner, outer = place(stage, moment, "marker")
    stage.config["hooks"] = {moment: [hook(f"echo ran >> {inner}")]}
    through(stage)
    require(outer.exists(), f"the {moment} hook did not run")
    equal(read(outer), "ran\n", "runs of the hook")


@case("hooks", "hooks.order", "hooks.prestart.before-createRuntime", "hooks.createContainer.after-createRuntime")
def lists_run_in_their_order(stage: Stage) -> None:
    """All lists together: their hooks run in the order of the lifecycle, within a list in the listed order."""
    log = stage.dir / "log"
    (stage.rootfs / "log").symlink_to("/shared/log")
    stage.config["mounts"].append(
        {"destination": "/shared", "type": "none", "source": str(stage.dir), "options": ["bind"]}
    )
    lists = {}
    for moment in MOMENTS:
        target = "/shared/log" if moment == "startContainer" else log
        lists[moment] = [hook(f"echo {moment}{number} >> {target}") for number in (1, 2)]
    stage.config["hooks"] = lists
    through(stage)
    equal(read(log).split(), [f"{moment}{number}" for moment in MOMENTS for number in (1, 2)], "order of the hooks")


@each({f"hooks.stdin-state@{moment}": (moment,) for moment in MOMENTS})
def state_arrives_on_stdin(stage: Stage, moment: str) -> None:
    """Every hook gets the state as one JSON object, then the end of the input."""
    inner, outer = place(stage, moment, "state.json")
    stage.config["annotations"] = {"org.example.key": "value"}
    stage.config["hooks"] = {moment: [hook(f"cat > {inner}")]}
    stage.process["args"] = ["/bin/sleep", "30"]
    stage.create()
    stage.start()
    stage.kill("KILL")
    stage.wait()
    stage.delete()
    state = json.loads(read(outer))
    equal((state.get("id"), state.get("annotations")), (stage.id, {"org.example.key": "value"}), "id and annotations")
    equal(os.path.realpath(state.get("bundle", "")), os.path.realpath(stage.bundle), "bundle")
    allowed = {
        "prestart": {"creating", "created"},
        "createRuntime": {"creating", "created"},
        "createContainer": {"creating", "created"},
        "startContainer": {"created"},
        "poststart": {"running"},
        "poststop": {"stopped"},
    }[moment]
    require(
        state.get("status") in allowed, f"status given to the hook is {state.get('status')!r}, not {sorted(allowed)}"
    )


@each({f"hooks.{moment}.timing": (moment,) for moment in BEFORE_PIVOT})
def create_hooks_come_before_the_pivot(stage: Stage, moment: str) -> None:
    """The hook runs during create: the container process exists, the mounts are made, the root is not yet switched."""
    log = stage.dir / "log"
    script = f"pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/' | tr -d '\\n'); readlink /proc/$pid/root > {log}"
    if moment == "createContainer":
        script = f"readlink /proc/self/root > {log}; test -d {stage.rootfs}/bin && echo rootfs >> {log}"
    stage.config["hooks"] = {moment: [hook(script)]}
    stage.process["args"] = ["/bin/true"]
    stage.create()
    require(log.exists(), f"the {moment} hook did not run during create")
    lines = read(log).splitlines()
    equal(lines[:1], ["/"], "root of the process, which is not the container's yet")
    if moment == "createContainer":
        equal(lines[1:], ["rootfs"], "the path of the root filesystem can still be reached")


@case("hooks.startContainer.timing")
def start_hook_comes_before_the_program(stage: Stage) -> None:
    """The startContainer hook runs during start, before the program."""
    stage.config["hooks"] = {"startContainer": [hook("echo hook >> /log")]}
    stage.script("echo program >> /log")
    stage.create()
    require(not (stage.rootfs / "log").exists(), "the hook ran during create")
    stage.start()
    stage.finish()
    equal(read(stage.rootfs / "log"), "hook\nprogram\n", "order of hook and program")


@case("hooks.poststart.timing")
def poststart_hook_comes_before_start_returns(stage: Stage) -> None:
    """The poststart hook has ended when start returns, and saw the program running."""
    log = stage.dir / "log"
    pid = "$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/' | tr -d '\\n')"
    script = f"pid={pid}; sleep 0.2; cat /proc/$pid/cmdline > {log}; echo >> {log}"
    stage.config["hooks"] = {"poststart": [hook(script)]}
    stage.process["args"] = ["/bin/sleep", "299"]
    stage.create()
    require(not log.exists(), "the hook ran during create")
    stage.start()
    require(log.exists(), "start returned before the hook had ended")
    equal(read(log).strip(), "/bin/sleep\x00299\x00", "what the container process ran during the hook")


@case("hooks.poststop.timing")
def poststop_hook_comes_after_the_container(stage: Stage) -> None:
    """The poststop hook runs during delete, when the cgroup is gone, and has ended when delete returns."""
    log = stage.dir / "log"
    cgroup = f"/sys/fs/cgroup/pids/{stage.id}"
    stage.config["hooks"] = {"poststop": [hook(f"sleep 0.2; test -e {cgroup}; echo $? > {log}")]}
    stage.run("/bin/true")
    require(not log.exists(), "the hook ran before delete")
    stage.delete()
    require(log.exists(), "delete returned before the hook had ended")
    equal(read(log), "1\n", "whether the cgroup was gone")


@each(
    {
        f"hooks.{moment}.path-namespace": (moment,)
        for moment in ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    }
)
def path_is_looked_up_on_the_host(stage: Stage, moment: str) -> None:
    """A program that exists only on the host is found."""
    log = stage.dir / "log"
    program = stage.dir / "only-on-the-host"
    program.write_text(f"#!/bin/sh\necho ran > {log}\n")
    program.chmod(0o755)
    stage.config["hooks"] = {moment: [{"path": str(program)}]}
    through(stage)
    require(log.exists(), f"the {moment} hook did not run")


@case("hooks.startContainer.path-namespace")
def path_is_looked_up_in_the_container(stage: Stage) -> None:
    """A program that exists only in the image is found, and the image's /bin/sh runs it."""
    program = stage.rootfs / "opt/only-in-the-image"
    program.write_text("#!/bin/sh\necho ran > /log\n")
    program.chmod(0o755)
    stage.config["hooks"] = {"startContainer": [{"path": "/opt/only-in-the-image"}]}
    through(stage)
    require((stage.rootfs / "log").exists(), "the startContainer hook did not run")


@each({f"hooks.{moment}.exec-namespace": (moment,) for moment in MOMENTS})
def hook_runs_in_its_namespaces(stage: Stage, moment: str) -> None:
    """Hooks run in the namespaces of the runtime, or in those of the container where the specification says so."""
    inner, outer = place(stage, moment, "spaces")
    listing = " ".join(f"/proc/self/ns/{kind}" for kind in ("mnt", "uts", "ipc", "net"))
    stage.add_namespace("network")
    stage.config["hooks"] = {moment: [hook(f"for n in {listing}; do readlink $n; done > {inner}")]}
    stage.process["args"] = ["/bin/sleep", "30"]
    stage.create()
    container = [process.namespace(stage.pid, kind) for kind in ("mnt", "uts", "ipc", "net")]
    own = [process.namespace("self", kind) for kind in ("mnt", "uts", "ipc", "net")]
    stage.start()
    stage.kill("KILL")
    stage.wait()
    stage.delete()
    wanted = own if moment in HOST_MOMENTS else container
    equal(read(outer).split(), wanted, f"namespaces of the {moment} hook (mnt, uts, ipc, net)")


@case("hooks.createRuntime.expect")
def mounts_are_there_for_runtime_hooks(stage: Stage) -> None:
    """A createRuntime hook can see the mounts of the configuration through the container process."""
    log = stage.dir / "log"
    stage.mounts.append({"destination": "/marked", "type": "tmpfs", "source": "marked", "options": []})
    script = (
        f"pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/' | tr -d '\\n'); grep -c marked /proc/$pid/mountinfo > {log}"
    )
    stage.config["hooks"] = {"createRuntime": [hook(script)]}
    stage.process["args"] = ["/bin/true"]
    stage.create()
    equal(read(log).strip(), "1", "mounts named `marked` of the container process")


@case("hooks.createContainer.expect")
def container_hooks_can_add_mounts(stage: Stage) -> None:
    """What a createContainer hook mounts on the root filesystem is there for the program."""
    if not Path("/bin/mount").exists():
        skip("needs mount(8) on the host")
    (stage.rootfs / "added").mkdir()
    stage.config["hooks"] = {"createContainer": [hook(f"mount -t tmpfs added {stage.rootfs}/added")]}
    stage.up()
    equal(stage.mount_at("/added").source, "added", "source of the mount the hook made")
    require(not any(one.point.endswith("/added") for one in process.mounts_of()), "the mount is visible on the host")


# -- the entries ------------------------------------------------------------------------------------------------------


def refused_hook(stage: Stage, entry: dict[str, Any], why: str) -> None:
    """A configuration with this hook must be refused by create."""
    stage.config["hooks"] = {"poststop": [entry]}
    stage.refused(why)


@case("hooks.entry.path")
def path_is_needed(stage: Stage) -> None:
    """A hook without path is an error."""
    refused_hook(stage, {"args": ["true"]}, "a hook has no path")


@case("hooks.entry.path.absolute")
def relative_path_is_refused(stage: Stage) -> None:
    """A hook with a relative path is an error before it would be run."""
    refused_hook(stage, {"path": "bin/true"}, "the path of a hook is relative")


@case("hooks.entry.args")
def args_are_the_hooks_argv(stage: Stage) -> None:
    """args is argv including argv[0]; without it argv[0] is the path."""
    log = stage.dir / "log"
    program = stage.dir / "hook"
    program.write_text(f"#!/bin/sh\ncat /proc/$$/cmdline >> {log}; echo >> {log}\n")
    program.chmod(0o755)
    stage.config["hooks"] = {
        "createRuntime": [{"path": str(program)}, {"path": str(program), "args": ["name", "one", "two words"]}]
    }
    stage.create()
    seen = [line.split("\0")[1:-1] for line in read(log).splitlines()]
    equal(seen, [[str(program)], [str(program), "one", "two words"]], "argv of the hooks after the interpreter")


@case("hooks.entry.args")
def first_argument_is_free(stage: Stage) -> None:
    """argv[0] of a hook is what args says, not the path."""
    log = stage.dir / "log"
    stage.config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["my-name", "-c", f'echo "$0" > {log}']}]}
    stage.create()
    equal(read(log), "my-name\n", "argv[0] of the hook")


@case("hooks.entry.env")
def env_is_the_hooks_environment(stage: Stage) -> None:
    """env is the whole environment of the hook."""
    log = stage.dir / "log"
    stage.config["hooks"] = {
        "createRuntime": [hook(f"cat /proc/$$/environ | tr '\\0' '\\n' > {log}") | {"env": ["A=1", "B=x=y"]}]
    }
    stage.create(env=dict(os.environ) | {"CONFORMANCE_SECRET": "leak"})
    equal(read(log).split(), ["A=1", "B=x=y"], "environment of the hook")


@each({"hooks.entry.timeout@slow": (1, "10", False), "hooks.entry.timeout@fast": (5, "0.1", True)})
def timeout_ends_a_hook(stage: Stage, seconds: int, nap: str, succeeds: bool) -> None:
    """A hook that takes longer than its timeout is aborted and counts as failed; a faster one is not disturbed."""
    stage.config["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", nap], "timeout": seconds}]}
    began = time.monotonic()
    result = stage.create(ok=False)
    equal(result.ok, succeeds, "success of create")
    require(time.monotonic() - began < 5, f"create took {time.monotonic() - began:.1f} s")


@each({"hooks.entry.timeout.positive@0": (0,), "hooks.entry.timeout.positive@-1": (-1,)})
def timeout_must_be_positive(stage: Stage, seconds: int) -> None:
    """A timeout of zero, or below, is an error."""
    refused_hook(stage, hook("true") | {"timeout": seconds}, f"the timeout of a hook is {seconds}")


@case("hooks.entry.path")
def missing_program_of_a_hook_is_an_error(stage: Stage) -> None:
    """A hook whose program does not exist makes create fail; a file that may not be executed too."""
    plain = stage.dir / "plain"
    plain.write_text("")
    plain.chmod(stat.S_IRUSR)
    for path in (stage.dir / "missing", plain):
        stage.config["hooks"] = {"createRuntime": [{"path": str(path)}]}
        require(not stage.create(ok=False).ok, f"create succeeded although the hook {path.name} cannot be run")
