"""Podman as root, each test as its user would: what works under runc and crun works the same."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest
from engines.engine import (
    IMAGE,
    call,
    cgroup_of,
    cpu_quota,
    lines,
    memory_limit,
    mounts_below,
    need,
    pids_limit,
    status_field,
)
from engines.podman import Podman
from support.container import wait_for
from support.terminal import Screen

pytestmark = pytest.mark.skipif(bool(need("podman", "conmon")), reason="podman is not installed")

SLEEP = ("--", "sleep", "1000")


def test_runs_a_command_and_passes_its_output_and_status(podman: Podman) -> None:
    result = podman.run("--env", "ONE=1", "--", "sh", "-c", "echo $ONE $OF_IMAGE; echo complaint >&2; exit 7")
    assert (result.status, result.stdout, result.stderr) == (7, "1 yes\n", "complaint\n")


def test_passes_standard_input(podman: Podman) -> None:
    assert podman.run("-i", "--", "cat", stdin=b"one\ntwo\n").ok().stdout == "one\ntwo\n"


def test_gives_a_terminal(podman: Podman) -> None:
    screen = Screen(30, 100)
    try:
        process = screen.spawn(podman.argv("run", "--rm", "-it", IMAGE, "sh"), env=podman.env)
        screen.until("# ")
        screen.type("tty; stty size; echo done-$((40+2))\n")
        text = screen.until("done-42")
        assert "/dev/pts/0" in text
        assert "30 100" in text
        screen.type("exit 3\n")
        assert process.wait(20) == 3
    finally:
        screen.close()


@pytest.mark.parametrize(
    ("command", "status"), [(["nothing-of-this-name"], 127), (["/no/such/file"], 127), (["/etc/passwd"], 126)]
)
def test_says_why_a_command_cannot_be_run(podman: Podman, command: list[str], status: int) -> None:
    result = podman.run("--", *command)
    assert result.status == status
    assert command[0] in result.stderr or "open executable" in result.stderr  # crun does not name it
    assert podman("ps", "--all", "--quiet").ok().stdout == ""


def test_executes_in_a_running_container(podman: Podman) -> None:
    podman.start("one", *SLEEP)
    inside = podman("exec", "--env", "TWO=2", "--workdir", "/tmp", "--user", "1000:2000", "one", "sh", "-c",
                    "echo $TWO; pwd; id -u; id -g; exit 5")  # fmt: skip
    assert (inside.status, inside.stdout) == (5, lines("2", "/tmp", "1000", "2000"))
    assert podman("exec", "-i", "one", "cat", stdin=b"in\n").ok().stdout == "in\n"
    assert podman("exec", "one", "nothing-of-this-name").status == 127
    assert podman("exec", "one", "/etc/passwd").status == 126


def test_executes_detached(podman: Podman) -> None:
    podman.start("one", *SLEEP)
    podman("exec", "--detach", "one", "sh", "-c", "echo yes >/tmp/seen; sleep 1000").ok()
    wait_for(lambda: podman("exec", "one", "cat", "/tmp/seen").stdout == "yes\n", "the detached command")


def test_executes_with_a_terminal(podman: Podman) -> None:
    podman.start("one", *SLEEP)
    screen = Screen(31, 101)
    try:
        process = screen.spawn(podman.argv("exec", "-it", "one", "sh"), env=podman.env)
        screen.until("# ")
        screen.type("tty; stty size; echo done-$((40+2))\n")
        text = screen.until("done-42")
        assert "/dev/pts/" in text
        assert "31 101" in text
        screen.type("exit 4\n")
        assert process.wait(20) == 4
    finally:
        screen.close()


def test_stops_politely(podman: Podman) -> None:
    podman.start("one", "--", "sh", "-c", "trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.1; done")
    wait_for(lambda: "up" in podman("logs", "one").stdout, "the trap")
    podman("stop", "--time", "20", "one").ok()
    assert podman.inspect("one")["State"]["ExitCode"] == 9
    assert podman("logs", "one").ok().stdout == "up\nbye\n"


def test_stops_by_force(podman: Podman) -> None:
    podman.start("one", *SLEEP)  # as process 1 it does not hear SIGTERM
    podman("stop", "--time", "1", "one").ok()
    assert podman.inspect("one")["State"]["ExitCode"] == 137


def test_sends_signals(podman: Podman) -> None:
    podman.start("one", "--", "sh", "-c", "trap 'echo usr1' USR1; echo up; while :; do sleep 0.1; done")
    wait_for(lambda: "up" in podman("logs", "one").stdout, "the trap")
    podman("kill", "--signal", "USR1", "one").ok()
    wait_for(lambda: "usr1" in podman("logs", "one").stdout, "the signal")
    podman("kill", "one").ok()
    wait_for(lambda: podman.status("one") == "exited", "the end")
    assert podman.inspect("one")["State"]["ExitCode"] == 137


def test_restarts(podman: Podman) -> None:
    podman.start("one", *SLEEP)
    first = podman.pid("one")
    podman("restart", "--time", "0", "one").ok()
    assert podman.status("one") == "running"
    assert podman.pid("one") != first
    podman("stop", "--time", "0", "one").ok()
    podman("start", "one").ok()
    assert podman("exec", "one", "echo", "again").ok().stdout == "again\n"


def test_restarts_what_failed(podman: Podman) -> None:
    podman.start("one", "--restart", "on-failure:2", "--", "sh", "-c", "echo try; exit 1")
    wait_for(lambda: podman("logs", "one").stdout.count("try") == 3, "two restarts", 20)


def test_pauses(podman: Podman) -> None:
    podman.start("one", "--", "sh", "-c", "while :; do echo tick; sleep 0.05; done")
    podman("pause", "one").ok()
    assert podman.status("one") == "paused"
    assert podman("exec", "one", "true").status != 0
    before = podman("logs", "one").stdout
    time.sleep(0.3)
    assert podman("logs", "one").stdout == before
    podman("unpause", "one").ok()
    wait_for(lambda: podman("logs", "one").stdout != before, "ticking to go on")
    podman("pause", "one").ok()
    podman("rm", "--force", "--time", "0", "one").ok()


def test_limits_and_updates_the_limits(podman: Podman) -> None:
    podman.start("one", "--memory", "64m", "--cpus", "0.5", "--pids-limit", "50", *SLEEP)
    pid = podman.pid("one")
    assert memory_limit(pid) == 64 << 20
    assert cpu_quota(pid) == (50000, 100000)
    assert pids_limit(pid) == 50
    podman("update", "--memory", "100m", "--cpus", "0.25", "one").ok()
    assert memory_limit(pid) == 100 << 20
    assert cpu_quota(pid) == (25000, 100000)
    assert pids_limit(pid) == 50


def test_ends_what_takes_too_much_memory(podman: Podman) -> None:
    """That podman 4.3 also says "OOMKilled" cannot be shown: on cgroup v1 it does not, under no runtime."""
    podman("run", "--name", "one", "--memory", "8m", "--memory-swap", "8m", IMAGE,
           "sh", "-c", "dd if=/dev/zero of=/dev/null bs=64M count=1")  # fmt: skip
    assert podman.inspect("one")["State"]["ExitCode"] == 137


def test_shows_statistics_and_processes(podman: Podman) -> None:
    podman.start("one", *SLEEP)
    stats = json.loads(podman("stats", "--no-stream", "--format", "json", "one").ok().stdout)[0]
    assert stats["name"] == "one"
    assert stats["pids"] == "1"
    assert "sleep 1000" in podman("top", "one", "pid", "args").ok().stdout
    assert "sleep 1000" in podman("ps").ok().stdout


def test_copies_in_and_out(podman: Podman, tmp_path: Path) -> None:
    podman.start("one", *SLEEP)
    (tmp_path / "in").write_text("content\n")
    podman("cp", tmp_path / "in", "one:/tmp/there").ok()
    assert podman("exec", "one", "cat", "/tmp/there").ok().stdout == "content\n"
    podman("cp", "one:/tmp/there", tmp_path / "out").ok()
    assert (tmp_path / "out").read_text() == "content\n"


def test_checks_health(podman: Podman) -> None:
    podman.start("one", "--health-cmd", "test -e /tmp/well", "--health-interval", "disable", *SLEEP)
    assert podman("healthcheck", "run", "one").status == 1
    podman("exec", "one", "touch", "/tmp/well").ok()
    podman("healthcheck", "run", "one").ok()


def test_shares_the_namespaces_of_a_pod(podman: Podman, tmp_path: Path) -> None:
    (tmp_path / "Containerfile").write_text(f'FROM {IMAGE}\nCMD ["sleep", "1000"]\n')
    podman("build", "--tag", "localhost/pause", "--isolation", "chroot", tmp_path).ok()
    podman("pod", "create", "--name", "pod", "--infra-image", "localhost/pause", "--infra-command", "sleep 1000",
           "--network", "none", "--share", "net,ipc,uts,pid", "--hostname", "shared").ok()  # fmt: skip
    podman.start("one", "--pod", "pod", *SLEEP)
    podman.start("two", "--pod", "pod", *SLEEP)
    assert podman("exec", "one", "hostname").ok().stdout == "shared\n"
    assert "sleep 1000" in podman("exec", "one", "ps").ok().stdout
    for kind in ("net", "ipc", "uts", "pid"):
        assert os.readlink(f"/proc/{podman.pid('one')}/ns/{kind}") == os.readlink(
            f"/proc/{podman.pid('two')}/ns/{kind}"
        )
    assert os.readlink(f"/proc/{podman.pid('one')}/ns/mnt") != os.readlink(f"/proc/{podman.pid('two')}/ns/mnt")
    podman("pod", "stop", "--time", "0", "pod").ok()
    podman("pod", "start", "pod").ok()
    assert podman.status("one") == podman.status("two") == "running"


def test_shares_the_namespaces_of_another_container_and_of_the_host(podman: Podman) -> None:
    podman.start("one", "--ipc", "shareable", *SLEEP)
    podman.start("two", "--network", "container:one", "--pid", "container:one", "--ipc", "container:one", *SLEEP)
    for kind in ("net", "ipc", "pid"):
        assert os.readlink(f"/proc/{podman.pid('one')}/ns/{kind}") == os.readlink(
            f"/proc/{podman.pid('two')}/ns/{kind}"
        )
    command = ("readlink", "/proc/self/ns/pid", "/proc/self/ns/uts", "/proc/self/ns/net", "/proc/self/ns/ipc")
    told = podman.run("--pid", "host", "--uts", "host", "--network", "host", "--ipc", "host", "--",
                      "sh", "-c", "; ".join(f"readlink {path}" for path in command[1:]))  # fmt: skip
    assert told.ok().stdout == lines(*(os.readlink(path) for path in command[1:]))


def test_ends_all_processes_of_a_container_in_the_host_pid_namespace(podman: Podman) -> None:
    podman.start("one", "--pid", "host", "--", "sh", "-c", "sleep 1001 & sleep 1002 & wait")
    children = f"/proc/{podman.pid('one')}/task/{podman.pid('one')}/children"
    wait_for(lambda: len(Path(children).read_text().split()) == 2, "the children")
    pids = Path(children).read_text().split()
    podman("stop", "--time", "0", "one").ok()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the children to end")


def test_keeps_the_root_read_only(podman: Podman) -> None:
    told = podman.run("--read-only", "--", "sh", "-c", "touch /new; touch /tmp/ok && touch /dev/shm/ok && echo fine")
    assert told.stdout == "fine\n"
    assert "Read-only file system" in told.stderr


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--cap-drop", "all"], 0),
        (["--cap-drop", "all", "--cap-add", "net_admin"], 1 << 12),
        (["--privileged"], None),
    ],
)
def test_sets_capabilities(podman: Podman, flags: list[str], expected: int | None) -> None:
    told = podman.run(*flags, "--", "cat", "/proc/self/status").ok().stdout
    if expected is None:
        expected = int(status_field(Path("/proc/self/status").read_text(), "CapBnd"), 16)
    assert int(status_field(told, "CapEff"), 16) == expected
    assert int(status_field(told, "CapBnd"), 16) == expected


def test_follows_security_options(podman: Podman, tmp_path: Path) -> None:
    told = podman.run("--", "cat", "/proc/self/status").ok().stdout
    assert status_field(told, "Seccomp") == "2"
    assert status_field(told, "NoNewPrivs") == "0"
    told = podman.run("--security-opt", "seccomp=unconfined", "--security-opt", "no-new-privileges", "--",
                      "cat", "/proc/self/status").ok().stdout  # fmt: skip
    assert status_field(told, "Seccomp") == "0"
    assert status_field(told, "NoNewPrivs") == "1"
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 52}],
    }
    (tmp_path / "profile").write_text(json.dumps(profile))
    refused = podman.run("--security-opt", f"seccomp={tmp_path / 'profile'}", "--", "mkdir", "/tmp/new")
    assert "Invalid exchange" in refused.stderr
    assert podman.run("--security-opt", "mask=/proc/uptime", "--", "cat", "/proc/uptime").ok().stdout == ""


def test_maps_ids(podman: Podman) -> None:
    script = "cat /proc/self/uid_map /proc/self/gid_map; stat -c %u:%g /bin; touch /new && id -u"
    mapped = podman.run("--uidmap", "0:100000:65536", "--gidmap", "0:200000:65536", "--", "sh", "-c", script)
    assert [line.split() for line in mapped.ok().stdout.splitlines()] == [
        ["0", "100000", "65536"],
        ["0", "200000", "65536"],
        ["0:0"],
        ["0"],
    ]


def test_runs_as_users_and_groups(podman: Podman) -> None:
    told = podman.run("--user", "user", "--group-add", "77", "--", "id").ok().stdout
    assert told.startswith("uid=1000(user) gid=1000(user) groups=")
    assert "77" in told
    assert "2000(extra)" in told


def test_mounts_volumes_and_tmpfs(podman: Podman, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    podman("volume", "create", "vol").ok()
    script = "cat /host/file; touch /host/new; echo kept >/vol/kept; df -k /scratch | tail -1"
    volumes = ["--volume", f"{tmp_path}:/host:ro", "--volume", "vol:/vol"]
    told = podman.run(*volumes, "--tmpfs", "/scratch:size=1m,mode=700", "--", "sh", "-c", script)
    assert told.stdout.startswith("from the host\ntmpfs")
    assert " 1024 " in told.stdout
    assert "Read-only file system" in told.stderr
    assert podman.run("--volume", "vol:/elsewhere", "--", "cat", "/elsewhere/kept").ok().stdout == "kept\n"
    assert podman.run("--mount", f"type=bind,src={tmp_path},dst=/b,bind-propagation=rslave", "--",
                      "grep", " /b ", "/proc/self/mountinfo").ok().stdout  # fmt: skip


def test_copies_up_into_a_new_volume(podman: Podman) -> None:
    assert "passwd" in podman.run("--volume", "fresh:/etc", "--", "ls", "/etc").ok().stdout
    assert "busybox" in podman.run("--tmpfs", "/bin:exec", "--", "ls", "/bin").ok().stdout


def test_gives_devices(podman: Podman) -> None:
    told = podman.run(
        "--device", "/dev/null:/dev/zilch:rw", "--", "sh", "-c", "stat -c '%F %t,%T' /dev/zilch; : >/dev/zilch"
    )
    assert told.ok().stdout == "character special file 1,3\n"
    told = podman.run("--cap-add", "mknod", "--", "sh", "-c", "mknod /tmp/mem c 1 1 && cat /tmp/mem")
    assert "Operation not permitted" in told.stderr


def test_sets_ulimits_sysctls_and_names(podman: Podman) -> None:
    told = podman.run("--ulimit", "nofile=333:444", "--ulimit", "nproc=1024:1024",
                      "--sysctl", "net.ipv4.ip_forward=1", "--sysctl", "kernel.msgmax=4321",
                      "--hostname", "myself", "--add-host", "friend:10.1.2.3",
                      "--oom-score-adj", "123", "--umask", "0027",
                      "--", "sh", "-c", "ulimit -n; ulimit -Hn; cat /proc/sys/net/ipv4/ip_forward"
                      " /proc/sys/kernel/msgmax; hostname; "
                      "grep -c friend /etc/hosts; cat /proc/self/oom_score_adj; umask")  # fmt: skip
    assert told.ok().stdout == lines("333", "444", "1", "4321", "myself", "1", "123", "0027")


def test_runs_an_init(podman: Podman) -> None:
    init = next(
        (
            path
            for path in ("/usr/bin/catatonit", "/usr/bin/tini-static", "/usr/bin/docker-init")
            if os.path.exists(path)
        ),
        None,
    )
    if init is None:
        pytest.skip("no catatonit, no tini")
    told = podman.run("--init", "--init-path", init, "--", "sh", "-c", "cat /proc/1/comm; echo $$")
    first, second = told.ok().stdout.split()
    assert (first, second != "1") == ("podman-init"[:15], True) or second == "2"


def test_goes_without_cgroups(podman: Podman) -> None:
    if podman.runtime is not None and podman.runtime.endswith("/runc"):
        pytest.skip("runc always makes a cgroup")
    told = podman.run("--cgroups", "disabled", "--", "cat", "/proc/self/cgroup").ok().stdout
    assert "libpod" not in told


def test_passes_descriptors(podman: Podman) -> None:
    read, write = os.pipe()
    try:
        argv = podman.argv("run", "--rm", "--preserve-fds", "1", IMAGE, "sh", "-c", "echo through >&3")
        shell = f"import os, sys; os.dup2({write}, 3); os.execvp(sys.argv[1], sys.argv[1:])"
        call(sys.executable, "-c", shell, *argv, env=podman.env, pass_fds=[write]).ok()
        assert os.read(read, 100) == b"through\n"
    finally:
        os.close(read)
        os.close(write)


def test_runs_hooks(podman: Podman, tmp_path: Path) -> None:
    hooks = tmp_path / "hooks.d"
    hooks.mkdir()
    script = f"cat >{tmp_path}/state"
    hook = {
        "version": "1.0.0",
        "hook": {"path": "/bin/sh", "args": ["sh", "-c", script]},
        "when": {"always": True},
        "stages": ["poststop"],
    }
    (hooks / "hook.json").write_text(json.dumps(hook))
    podman("--hooks-dir", hooks, "run", "--rm", "--annotation", "my.note=yes", IMAGE, "true").ok()
    wait_for((tmp_path / "state").exists, "the poststop hook")
    wait_for((tmp_path / "state").read_text, "the state")
    assert json.loads((tmp_path / "state").read_text())["annotations"]["my.note"] == "yes"


def test_leaves_no_mount_and_no_cgroup(podman: Podman) -> None:
    podman.start("one", *SLEEP)
    cgroup = cgroup_of(podman.pid("one"), "memory")
    assert cgroup.is_dir()
    podman("rm", "--force", "--time", "0", "one").ok()
    assert not cgroup.exists()
    assert not [point for point in mounts_below(podman.directory) if point.endswith(("merged", "shm"))]
