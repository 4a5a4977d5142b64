"""State: runtime.md, section State."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from conformance import process
from conformance.outcome import equal, require, skip
from conformance.registry import case
from conformance.runtime import read
from conformance.stage import NAP, Stage

STATUSES = {"creating", "created", "running", "stopped"}


@case("state.ociVersion")
def state_has_a_version(stage: Stage) -> None:
    """ociVersion of the state is a SemVer string of the specification."""
    stage.create()
    version = stage.state().get("ociVersion")
    require(isinstance(version, str) and version.count(".") >= 2 and version[0] == "1", f"ociVersion is {version!r}")


@case("state.id")
def state_has_the_id(stage: Stage) -> None:
    """The id of the state is the one given to create."""
    stage.create()
    equal(stage.state().get("id"), stage.id, "id")


@case("state.id.unique-host")
def id_is_taken_once(stage: Stage) -> None:
    """A second container with the same id is refused, and the first one is as before."""
    stage.up()
    before = stage.state()
    other = stage.companion()
    other.id = stage.id
    require(not other.create(ok=False).ok, "a second container with the same id was created")
    equal(stage.state(), before, "state of the first container")


@case("state.status")
def state_has_a_status(stage: Stage) -> None:
    """Every state carries a status."""
    stage.create()
    require(isinstance(stage.state().get("status"), str), "state has no status string")


@case("state.status.creating")
def status_while_creating(stage: Stage) -> None:
    """The state a createRuntime hook gets says creating (or created: runtimes read the specification both ways)."""
    seen = hook_state(stage, "createRuntime")
    require(seen.get("status") in ("creating", "created"), f"status in a createRuntime hook is {seen.get('status')!r}")


@case("state.status.created")
def status_after_create(stage: Stage) -> None:
    """After create the status is created, and stays so until start."""
    stage.create()
    equal(stage.state().get("status"), "created", "status after create")


@case("state.status.running")
def status_while_running(stage: Stage) -> None:
    """After start the status is running while the program runs."""
    stage.up()
    equal(stage.state().get("status"), "running", "status of a running container")


@case("state.status.stopped")
def status_after_the_end(stage: Stage) -> None:
    """When the program has ended and been reaped the status is stopped."""
    stage.run("/bin/true")
    equal(stage.state().get("status"), "stopped", "status after the end")


@case("state.status.stopped")
def status_of_a_zombie(stage: Stage) -> None:
    """A container process nobody has reaped counts as stopped."""
    stage.process["args"] = ["/bin/true"]
    stage.create()
    pid = stage.pid
    stage.start()
    for _ in range(200):
        if not process.alive(pid):
            break
        time.sleep(0.02)
    equal(stage.state().get("status"), "stopped", "status while the process is a zombie")


@case("state.status.extra")
def paused_is_said_only_while_paused(stage: Stage) -> None:
    """A status outside the four of the specification (paused) is shown only while it is true."""
    stage.up()
    if not stage.runtime.call("pause", stage.id).ok:
        skip("this runtime cannot pause here")
    paused = stage.state().get("status")
    require(paused not in STATUSES - {"running"}, f"status of a paused container is {paused!r}")
    require(stage.runtime.call("resume", stage.id).ok, "resume failed")
    equal(stage.state().get("status"), "running", "status after resume")


@case("state.pid")
def pid_is_that_of_the_container(stage: Stage) -> None:
    """pid is present when created and when running, and its process is in the container's namespaces."""
    stage.create()
    created = stage.state().get("pid")
    stage.process["args"] = NAP
    require(isinstance(created, int) and created > 0, f"pid of a created container is {created!r}")
    require(
        process.namespace(int(str(created)), "pid") != process.namespace("self", "pid"), "pid is not in the container"
    )


@case("state.pid")
def pid_while_running(stage: Stage) -> None:
    """pid of a running container is the process that runs the program."""
    stage.up()
    pid = stage.state().get("pid")
    equal(pid, stage.pid, "pid in the state and in the pid file")
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        equal(file.read(), b"/bin/sleep\x00300\x00", "command line of that process")


@case("state.pid.runtime-view", "hooks.stdin-state")
def runtime_hook_sees_the_host_pid(stage: Stage) -> None:
    """A hook in the runtime namespace gets the pid as the host sees it."""
    seen = hook_state(stage, "createRuntime")
    equal(seen.get("pid"), stage.pid, "pid given to a createRuntime hook")


@case("state.pid.container-view", "hooks.stdin-state")
def container_hook_sees_the_inner_pid(stage: Stage) -> None:
    """A hook in the container namespace gets the pid as the container sees it: 1 in a new pid namespace."""
    stage.config["hooks"] = {"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "cat > /state"]}]}
    stage.run("/bin/true")
    equal(json.loads((stage.rootfs / "state").read_text()).get("pid"), 1, "pid given to a startContainer hook")


@case("state.bundle")
def bundle_is_absolute(stage: Stage) -> None:
    """bundle is the absolute path even if --bundle was relative."""
    stage.script("true")
    stage.write_config()
    result = stage.runtime.call(
        "create", "--bundle", "bundle", "--pid-file", str(stage.pid_file), stage.id, cwd=stage.dir
    )
    require(result.ok, f"create with a relative --bundle failed: {result.message}")
    equal(os.path.realpath(stage.state().get("bundle", "")), os.path.realpath(stage.bundle), "bundle")
    require(os.path.isabs(stage.state()["bundle"]), "bundle is not absolute")


@case("state.annotations", "annotations")
def annotations_are_repeated(stage: Stage) -> None:
    """The annotations of the configuration are in the state."""
    stage.config["annotations"] = {"org.example.key": "value", "org.example.other": "größer"}
    stage.create()
    seen = stage.state().get("annotations") or {}
    equal({key: seen.get(key) for key in stage.config["annotations"]}, stage.config["annotations"], "annotations")


@case("state.annotations", "annotations.empty")
def no_annotations(stage: Stage) -> None:
    """Without annotations the map is absent or empty."""
    stage.create()
    require(not stage.state().get("annotations"), f"annotations are {stage.state().get('annotations')!r}")


@case("state.additional")
def more_properties_do_not_hurt(stage: Stage) -> None:
    """Whatever else the state holds, it is a JSON object with the required properties, the same at each call."""
    stage.create()
    first, second = stage.state(), stage.state()
    require({"ociVersion", "id", "status", "pid", "bundle"} <= set(first), f"state lacks a property: {sorted(first)}")
    equal(second, first, "state asked a second time")


@case("state.schema")
def state_fits_the_schema(stage: Stage) -> None:
    """The types of state-schema.json hold in every status."""
    stage.create()
    for step in ("create", "start", "kill"):
        if step == "start":
            stage.start()
        elif step == "kill":
            stage.wait()
        state = stage.state()
        for name, kind in (("ociVersion", str), ("id", str), ("status", str), ("bundle", str)):
            require(isinstance(state.get(name), kind), f"after {step}: {name} is {state.get(name)!r}")
        require(
            isinstance(state.get("pid", 0), int) and state.get("pid", 0) >= 0,
            f"after {step}: pid is {state.get('pid')!r}",
        )
        require(isinstance(state.get("annotations") or {}, dict), f"after {step}: annotations are no object")
        require(state["status"] in STATUSES, f"after {step}: status is {state['status']!r}")


def hook_state(stage: Stage, moment: str) -> dict[str, Any]:
    """Create a container with a hook that keeps its stdin, and return the parsed state it got."""
    kept = stage.dir / "hook.json"
    stage.config["hooks"] = {moment: [{"path": "/bin/sh", "args": ["sh", "-c", f"cat > {kept}"]}]}
    stage.create()
    parsed = json.loads(read(kept))
    require(isinstance(parsed, dict), "the hook did not get a JSON object")
    return dict(parsed)
