"""containerd's CRI plugin as a kubelet drives it: the life of pods and containers."""

from __future__ import annotations

import os
import re
import signal
import textwrap
import threading
import time
from pathlib import Path

import pytest
from engines.engine import call, cgroup_of, cpu_quota, memory_limit
from engines.kubelet import Container, Failure, Kubelet, handlers
from support.container import wait_for
from support.cri import CREATED, EXITED, NODE, NOTREADY, POD, READY, RUNNING, TARGET
from support.runtime import LAUNCHER, REPOSITORY

SLEEP = ("sleep", "1000")


def test_is_ready_for_pods(kubelet: Kubelet) -> None:
    conditions = kubelet.client("Status")["status"]["conditions"]
    assert {one["type"]: one["status"] for one in conditions} == {"RuntimeReady": True, "NetworkReady": True}


def test_the_documented_configuration_works(engine_directory: Path, archive: Path) -> None:
    """The lines of docs/engines.md, but for the path of pyruntime; and the handler of the RuntimeClass there."""
    text = (REPOSITORY / "docs" / "engines.md").read_text()
    (block,) = (one for one in text.split("\n\n") if "containerd.runtimes.pyruntime]" in one and one.startswith("    "))
    (handler,) = re.findall(r"^    handler: (\S+)$", text, re.MULTILINE)
    (version, rest) = textwrap.dedent(block).split("\n", 1)
    assert version == "version = 2"  # as the configuration begins to which the tables are added here
    kubelet = Kubelet(engine_directory / "documented", archive, rest.replace("/usr/local/bin/pyruntime", str(LAUNCHER)))
    try:
        for kubelet.handler in (handler, ""):
            pod = kubelet.pod()
            assert pod.info()["runtimeOptions"]["binary_name"] == str(LAUNCHER)
            assert pod.run("echo", "hello") == (0, "hello\n")
    finally:
        left = kubelet.close()
    assert not left, f"the CRI plugin left behind: {left}"


def test_runs_pods_in_slices_of_systemd(engine_directory: Path, archive: Path, program: str) -> None:
    """With `SystemdCgroup = true`, and the names that a kubelet gives whose driver is systemd."""
    if not Path("/run/systemd/system").is_dir():
        pytest.skip("systemd is not running here")
    text = handlers({"tested": program}) + "SystemdCgroup = true\n"
    kubelet = Kubelet(engine_directory / "systemd", archive, text)
    try:
        kubelet.handler = "tested"
        pod = kubelet.pod(cgroup_parent=f"/kubetest.slice/kubetest-pod{os.getpid()}.slice")
        container = pod.start(*SLEEP, resources={"memory_limit_in_bytes": 64 << 20})
        pid = container.pid
        scope = f"cri-containerd-{container.id}.scope"
        path = f"/kubetest.slice/kubetest-pod{os.getpid()}.slice/{scope}"
        assert path in Path(f"/proc/{pid}/cgroup").read_text()
        assert memory_limit(pid) == 64 << 20
        kubelet.client("UpdateContainerResources", container_id=container.id, linux={"memory_limit_in_bytes": 80 << 20})
        assert f"MemoryMax={80 << 20}" in call("systemctl", "show", scope).ok().stdout
        assert container.exec("echo", "up") == (0, "up\n", "")
        container.stop()
        container.remove()
        assert "ActiveState=inactive" in call("systemctl", "show", scope).ok().stdout
    finally:
        left = kubelet.close()
    assert not left, f"the CRI plugin left behind: {left}"


def test_takes_a_pod_from_its_start_to_its_end(kubelet: Kubelet) -> None:
    pod = kubelet.pod(labels={"app": "one"})
    assert (pod.status()["state"], pod.status()["runtime_handler"]) == (READY, kubelet.handler)
    assert pod.info()["runtimeSpec"]["annotations"]["io.kubernetes.cri.container-type"] == "sandbox"
    container = pod.create(*SLEEP, labels={"part": "main"})
    assert container.status()["state"] == CREATED
    container.start()
    assert container.status()["state"] == RUNNING
    cgroup = cgroup_of(container.pid, "memory")
    assert cgroup.parent.name == f"pod{pod.config['metadata']['uid']}"
    assert cgroup.name == container.id
    listed = kubelet.client("ListContainers", filter={"pod_sandbox_id": pod.id})["containers"]
    assert [(one["id"], one["labels"], one["state"]) for one in listed] == [(container.id, {"part": "main"}, RUNNING)]
    pod.stop()  # with all that runs in it
    assert pod.status()["state"] == NOTREADY
    assert container.status()["state"] == EXITED
    container.remove()
    pod.remove()
    assert kubelet.client("ListPodSandbox")["items"] == []
    assert kubelet.client("ListContainers")["containers"] == []
    assert not cgroup.exists()


def test_a_container_that_ends_leaves_its_exit_code(kubelet: Kubelet) -> None:
    pod = kubelet.pod()
    for code, reason in ((0, "Completed"), (7, "Error")):
        status = pod.start("sh", "-c", f"exit {code}").wait()
        assert (status["exit_code"], status["reason"]) == (code, reason)
        assert 0 < status["created_at"] <= min(status["started_at"], status["finished_at"])


def test_init_containers_come_first_and_hand_on_files(kubelet: Kubelet, tmp_path: Path) -> None:
    pod = kubelet.pod()
    shared = [{"container_path": "/shared", "host_path": str(tmp_path)}]
    assert pod.run("sh", "-c", "echo made >/shared/file", mounts=shared) == (0, "")
    assert pod.run("cat", "/shared/file", mounts=shared) == (0, "made\n")


def test_a_container_that_crashes_is_tried_again_in_the_same_pod(kubelet: Kubelet) -> None:
    pod = kubelet.pod()
    for attempt in range(3):
        container = pod.start("sh", "-c", f"echo {attempt}; exit 1", name="crashing", attempt=attempt)
        assert container.wait()["exit_code"] == 1
        assert container.said() == [f"{attempt}\n"]
        container.remove()
    assert pod.status()["state"] == READY


def test_writes_the_log_in_the_format_of_the_interface(kubelet: Kubelet) -> None:
    container = kubelet.pod().start(
        "sh", "-c", "echo one; echo two >&2; sleep 0.1; head -c 20000 /dev/zero | tr '\\0' x; printf end"
    )
    container.wait()
    records = list(container.records())
    assert sorted(records[:2]) == [("stderr", "F", "two"), ("stdout", "F", "one")]
    long = [(tag, len(text)) for _, tag, text in records[2:]]
    assert long[0] == ("P", 16384)
    assert sum(length for _, length in long) == 20003
    assert records[-1][2].endswith("xend")


def test_begins_a_new_log_when_it_is_told(kubelet: Kubelet) -> None:
    container = kubelet.pod().start("sh", "-c", "n=0; while :; do n=$((n+1)); echo line $n; sleep 0.05; done")
    container.says("line 2")
    moved = container.log.with_suffix(".old")
    container.log.rename(moved)
    container.client("ReopenContainerLog", container_id=container.id)
    container.says("line")
    container.stop()
    numbers = [line.split()[-1] for path in (moved, container.log) for line in path.read_text().splitlines()]
    assert numbers == [str(number) for number in range(1, len(numbers) + 1)]


def test_execs_and_gives_output_and_exit_code(kubelet: Kubelet) -> None:
    container = kubelet.pod().start(*SLEEP, envs=[{"key": "ONE", "value": b"1"}], working_dir="/tmp")
    assert container.exec("sh", "-c", "echo $ONE $OF_IMAGE; pwd; echo no >&2; exit 5") == (5, "1 yes\n/tmp\n", "no\n")
    code, out, _ = container.exec("sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x")
    assert (code, len(out)) == (0, 3000000)
    with pytest.raises(Failure, match="executable file"):
        container.exec("nothing-of-this-name")


def test_probes_until_the_container_is_no_longer_alive(kubelet: Kubelet) -> None:
    container = kubelet.pod().start("sh", "-c", "touch /healthy; sleep 1000")
    wait_for(lambda: container.exec("cat", "/healthy")[0] == 0, "the first good probe")
    assert [container.exec("cat", "/healthy")[0] for _ in range(10)] == [0] * 10
    container.exec("rm", "/healthy")
    assert container.exec("cat", "/healthy")[0] == 1


def test_a_probe_that_hangs_is_ended(kubelet: Kubelet) -> None:
    container = kubelet.pod().start(*SLEEP)
    with pytest.raises(Failure) as refused:
        container.exec("sh", "-c", "exec sleep 999", timeout=1)
    assert refused.value.code == "DEADLINE_EXCEEDED"
    assert "sleep 999" not in container.exec("ps", "-o", "args")[1]
    assert container.status()["state"] == RUNNING


def test_passes_streams_through(kubelet: Kubelet) -> None:
    container = kubelet.pod().start(*SLEEP)
    command = ("sh", "-c", "read word; echo got $word; echo no >&2; exit 4")
    with container.streams(*command, stdin=True, stdout=True, stderr=True) as streams:
        streams.type("it\n")
        assert streams.finish() == 4
        assert streams.until("\n") == "got it\n"
        assert streams.until("\n", 2) == "no\n"


def test_gives_a_terminal_of_the_size_of_the_users(kubelet: Kubelet) -> None:
    container = kubelet.pod().start(*SLEEP)
    with container.streams("sh", stdin=True, stdout=True, tty=True) as streams:
        streams.until("# ")
        streams.resize(33, 101)
        streams.type("tty; stty size; echo done-$((40+2))\n")
        said = streams.until("done-42")
        assert "/dev/pts/" in said
        assert "33 101" in said
        streams.type("exit 3\n")
        assert streams.finish() == 3


def test_attaches_to_a_container_with_a_terminal(kubelet: Kubelet) -> None:
    container = kubelet.pod().start("sh", tty=True, stdin=True)
    with container.attach(stdin=True, stdout=True, tty=True) as streams:
        streams.type("echo said-$((40+2))\n")
        streams.until("said-42")
        streams.type("exit 6\n")
    assert container.wait()["exit_code"] == 6


def test_attaches_to_a_container_that_waits_for_input(kubelet: Kubelet) -> None:
    container = kubelet.pod().start("cat", stdin=True, stdin_once=True)
    with container.attach(stdin=True, stdout=True) as streams:
        streams.type("through\n")
        assert streams.until("\n") == "through\n"
    assert container.wait()["exit_code"] == 0  # the end of its input, once the first who attached has gone


@pytest.mark.usefixtures("all_hierarchies_mounted")
def test_shows_statistics(kubelet: Kubelet) -> None:
    pod = kubelet.pod()
    busy = pod.start("sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo counted; sleep 1000")
    busy.says("counted")
    stats = kubelet.client("ContainerStats", container_id=busy.id)["stats"]
    assert stats["attributes"]["id"] == busy.id
    assert stats["cpu"]["usage_core_nano_seconds"]["value"] > 10_000_000
    assert 0 < stats["memory"]["working_set_bytes"]["value"] < 64 << 20
    idle = pod.start(*SLEEP)
    found = kubelet.client("ListContainerStats", filter={"pod_sandbox_id": pod.id})["stats"]
    assert {one["attributes"]["id"] for one in found} == {busy.id, idle.id}


def test_limits_and_updates_the_limits(kubelet: Kubelet) -> None:
    given = {
        "memory_limit_in_bytes": 64 << 20,
        "cpu_quota": 50000,
        "cpu_period": 100000,
        "cpu_shares": 512,
        "cpuset_cpus": "0",
    }
    container = kubelet.pod().start(*SLEEP, resources=given)
    pid = container.pid
    assert (memory_limit(pid), cpu_quota(pid)) == (64 << 20, (50000, 100000))
    assert (cgroup_of(pid, "cpuset") / "cpuset.cpus").read_text() == "0\n"
    assert "Cpus_allowed_list:\t0\n" in container.exec("cat", "/proc/1/status")[1]
    wanted = {"memory_limit_in_bytes": 100 << 20, "cpu_quota": 25000, "cpu_period": 100000}
    kubelet.client("UpdateContainerResources", container_id=container.id, linux=wanted)
    assert (memory_limit(pid), cpu_quota(pid)) == (100 << 20, (25000, 100000))
    kubelet.client("UpdateContainerResources", container_id=container.id, linux={"cpuset_cpus": "0-1"})
    assert (cgroup_of(pid, "cpuset") / "cpuset.cpus").read_text() == "0-1\n"
    assert memory_limit(pid) == 100 << 20


@pytest.mark.usefixtures("all_hierarchies_mounted")
def test_says_that_memory_ran_out(kubelet: Kubelet) -> None:
    resources = {"memory_limit_in_bytes": 32 << 20, "memory_swap_limit_in_bytes": 32 << 20}
    status = kubelet.pod().start("tail", "/dev/zero", resources=resources).wait()
    assert (status["exit_code"], status["reason"]) == (137, "OOMKilled")


def test_stops_with_grace_and_without(kubelet: Kubelet) -> None:
    pod = kubelet.pod()
    polite = pod.start("sh", "-c", "trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.05; done")
    polite.says("up")
    started = time.monotonic()
    assert polite.stop(timeout=30)["exit_code"] == 9
    assert time.monotonic() - started < 15
    assert polite.said() == ["up\n", "bye\n"]
    stubborn = pod.start("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done")
    stubborn.says("up")
    started = time.monotonic()
    assert stubborn.stop(timeout=1)["exit_code"] == 137
    assert time.monotonic() - started >= 1
    stubborn.stop(timeout=1)  # once more does no harm
    stubborn.remove()
    with pytest.raises(Failure) as refused:
        stubborn.status()
    assert refused.value.code == "NOT_FOUND"


def test_removes_a_container_that_runs(kubelet: Kubelet) -> None:
    container = kubelet.pod().start(*SLEEP)
    pid = container.pid
    container.remove()
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("nothing-of-this-name", "executable file"),
        ("/no/such/file", "o such file"),
        ("/etc/passwd", "ermission denied"),
    ],
)
def test_says_why_a_command_cannot_be_run(kubelet: Kubelet, command: str, words: str) -> None:
    container = kubelet.pod().create(command)
    with pytest.raises(Failure, match=words):
        container.start()
    status = container.status()
    assert (status["state"], status["exit_code"], status["reason"]) == (EXITED, 128, "StartError")
    assert words in status["message"]


def test_refuses_a_handler_that_nobody_configured(kubelet: Kubelet) -> None:
    usual, kubelet.handler = kubelet.handler, "nonsense"
    try:
        with pytest.raises(Failure, match="nonsense"):
            kubelet.pod()
    finally:
        kubelet.handler = usual


def test_containers_of_a_pod_share_its_namespaces(kubelet: Kubelet) -> None:
    pod = kubelet.pod(network=POD, pid=POD, ipc=POD)
    one, two = pod.start(*SLEEP), pod.start("sleep", "1001")
    for kind in ("pid", "net", "ipc", "uts"):
        spaces = {os.readlink(f"/proc/{pid}/ns/{kind}") for pid in (pod.pid, one.pid, two.pid)}
        assert len(spaces) == 1, kind
        assert os.readlink(f"/proc/self/ns/{kind}") not in spaces, kind
    assert os.readlink(f"/proc/{one.pid}/ns/mnt") != os.readlink(f"/proc/{two.pid}/ns/mnt")
    seen = one.exec("ps", "-o", "args")[1]
    assert "sleep 1000" in seen
    assert "sleep 1001" in seen
    assert one.exec("hostname")[1] == two.exec("hostname")[1] == pod.config["hostname"] + "\n"
    assert one.exec("sh", "-c", "echo shared >/dev/shm/file")[0] == 0
    assert two.exec("cat", "/dev/shm/file")[1] == "shared\n"
    # Without a pid namespace of its own, a container takes its children with it only because they are killed.
    one.exec("sh", "-c", "sleep 1002 >/dev/null 2>&1 &")
    assert "sleep 1002" in two.exec("ps", "-o", "args")[1]
    one.stop()
    wait_for(lambda: "sleep 1002" not in two.exec("ps", "-o", "args")[1], "the children to go")
    assert two.status()["state"] == RUNNING


def test_a_container_joins_the_processes_of_another(kubelet: Kubelet) -> None:
    """As `kubectl debug --target` asks for."""
    pod = kubelet.pod()
    target = pod.start(*SLEEP)
    spaces = {"network": NODE, "pid": TARGET, "target_id": target.id}
    debugger = pod.start("sh", "-c", "ps -o args; sleep 1000", security={"namespace_options": spaces})
    debugger.says("sleep 1000")
    assert os.readlink(f"/proc/{debugger.pid}/ns/pid") == os.readlink(f"/proc/{target.pid}/ns/pid")
    debugger.stop()
    assert target.status()["state"] == RUNNING


def test_shares_the_namespaces_of_the_node(kubelet: Kubelet) -> None:
    container = kubelet.pod(network=NODE, pid=NODE, ipc=NODE).start(*SLEEP)
    for kind in ("pid", "ipc", "uts"):
        assert os.readlink(f"/proc/{container.pid}/ns/{kind}") == os.readlink(f"/proc/self/ns/{kind}")
    pid = container.pid
    container.exec("sh", "-c", "sleep 1003 >/dev/null 2>&1 &")
    cgroup = cgroup_of(pid, "memory")
    container.stop()
    wait_for(lambda: not cgroup.exists() or not (cgroup / "cgroup.procs").read_text(), "the children to go")


def test_pods_have_a_network(kubelet: Kubelet) -> None:
    one, two = kubelet.pod(network=POD), kubelet.pod(network=POD)
    address = one.status()["network"]["ip"]
    assert address.startswith("10.244.7.")
    server = one.start("sh", "-c", "while :; do echo hello | nc -l -p 8080; done")
    client = two.start(*SLEEP)
    wait_for(lambda: client.exec("nc", "-w", "2", address, "8080")[1] == "hello\n", "the other pod")
    assert "hello" in server.exec("nc", "-w", "2", "127.0.0.1", "8080")[1]

    def readable() -> bool:
        try:
            with kubelet.connect(address, 8080) as connection:
                return connection.recv(100) == b"hello\n"
        except OSError:
            return False

    wait_for(readable, "an answer to the node")


def test_containers_outlive_a_restart_of_the_daemon(kubelet: Kubelet) -> None:
    pod = kubelet.pod(network=POD)
    staying, leaving = (
        pod.start(*SLEEP),
        pod.start("sh", "-c", "trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done"),
    )
    leaving.says("up")
    pids = staying.pid, leaving.pid
    kubelet.daemon.kill()
    os.kill(pids[1], signal.SIGTERM)  # nobody is there to be told
    wait_for(lambda: not Path(f"/proc/{pids[1]}").exists(), "the end of the other")
    kubelet.start()
    assert staying.status()["state"] == RUNNING
    assert staying.pid == pids[0]
    assert leaving.wait()["exit_code"] == 9
    assert pod.status()["state"] == READY
    assert staying.exec("echo", "up") == (0, "up\n", "")
    kubelet.client("UpdateContainerResources", container_id=staying.id, linux={"memory_limit_in_bytes": 64 << 20})
    assert memory_limit(pids[0]) == 64 << 20
    again = pod.start(*SLEEP)
    assert again.exec("true")[0] == 0
    assert staying.stop()["exit_code"] == 137
    staying.remove()
    pod.stop()
    pod.remove()


def test_a_sandbox_that_dies_makes_the_pod_not_ready(kubelet: Kubelet) -> None:
    pod = kubelet.pod()
    container = pod.start(*SLEEP)
    os.kill(pod.pid, signal.SIGKILL)
    wait_for(lambda: pod.status()["state"] == NOTREADY, "the pod not to be ready")
    assert container.stop()["exit_code"] == 137


def test_a_pod_whose_shim_was_killed_can_be_removed(kubelet: Kubelet) -> None:
    pod = kubelet.pod()
    container = pod.start(*SLEEP)
    pid = container.pid
    cgroup = cgroup_of(pid, "memory")
    shim = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert "containerd-shim" in Path(f"/proc/{shim}/cmdline").read_text()
    os.kill(shim, signal.SIGKILL)
    container.wait()
    wait_for(lambda: pod.status()["state"] == NOTREADY, "the pod not to be ready")
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the container to be killed")
    container.remove()
    pod.stop()
    pod.remove()
    assert not cgroup.exists()


def test_starts_many_at_a_time(kubelet: Kubelet) -> None:
    said: list[str] = []

    def one(number: int) -> None:
        pod = kubelet.pod()
        containers: list[Container] = [pod.start("sh", "-c", f"echo {number}; sleep 1000") for _ in range(2)]
        for container in containers:
            container.says("F")
            said.extend(container.said())
            assert container.exec("true")[0] == 0
        pod.stop()
        pod.remove()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) == [f"{number}\n" for number in range(4) for _ in range(2)]
    assert kubelet.client("ListPodSandbox")["items"] == []
