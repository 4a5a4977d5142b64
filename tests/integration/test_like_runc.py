"""What callers of runc rely on beyond the specification: words of messages, names, small habits.

Each is something that a test or a script somewhere looks for.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.changes import hooks, linux, mount, process, resources, root, top, user_namespace, without_namespace
from support.container import Container
from support.runtime import Result, Runtime
from support.terminal import Screen

Make = Callable[..., Container]


def message(text: str) -> str:
    return text.replace('\\"', '"')


# Bundles and documents that are not there.


def test_a_bundle_that_is_not_there(runtime: Runtime, tmp_path: Path) -> None:
    for verb in ("create", "run"):
        result = runtime(verb, "--bundle", "/no/such", "x")
        assert (result.status, "chdir /no/such: no such file or directory" in result.stderr) == (1, True)
        assert "chdir /etc/passwd: not a directory" in runtime(verb, "--bundle", "/etc/passwd", "x").stderr
        assert "JSON specification file config.json not found" in runtime(verb, "--bundle", tmp_path, "x").stderr
    assert "chdir /no/such: no such file or directory" in runtime("spec", "--bundle", "/no/such").stderr


def test_which_error_comes_first(container: Make) -> None:
    """That there is no such container is what engines act upon: it must not be hidden by another mistake."""
    one = container(["sleep", "60"])
    for words in (("kill", "nope", "NOSIGNAL"), ("exec", "nope")):
        assert "container does not exist" in one.runtime(*words).stderr
    one.run("--detach").ok()
    assert 'unknown signal "NOSIGNAL"' in message(one.kill("NOSIGNAL").stderr)
    result = one.exec()
    assert result.status == 255 and "exec args cannot be empty" in result.stderr
    assert "open /no/p: no such file or directory" in one.exec("--process=/no/p").stderr
    for variable in ("NAME", "=value"):
        assert "invalid environment variable: " in one.exec("--env=" + variable, "true").stderr


def test_run_needs_a_process(container: Make) -> None:
    """`create` does not, by the specification: its container can be looked at, and deleted."""
    one = container(["true"], lambda config: config.pop("process"))
    result = one.run()
    assert result.status == 1 and "process property must not be empty" in result.stderr
    assert one.leaks() == []
    one.create().ok()
    assert one.status == "created"
    result = one.start()
    assert result.status == 1 and "without a process" in result.stderr


@pytest.mark.parametrize("env", [[], ["A=b"], ["PATH="], ["PATH=:/no"], ["PATH=/bin", "PATH=/no"]])
def test_a_program_is_looked_for_in_path_only(container: Make, env: list[str]) -> None:
    one = container(["true"], process(env=env))
    (one.bundle.rootfs / "true").symlink_to("no")
    result = one.run()
    assert result.status == 1 and 'exec: "true": executable file not found in $PATH' in message(result.stderr)
    one.bundle.config["process"]["args"] = ["/bin/sleep", "60"]
    one.bundle.write()
    one.run("--detach").ok()
    result = one.exec("true")
    assert result.status == 255 and 'exec: "true": executable file not found in $PATH' in message(result.stderr)
    one.exec("--env=PATH=/bin", "true").ok()


# The working directory.


@pytest.mark.parametrize("readonly", [True, False])
def test_a_missing_working_directory_is_made(container: Make, readonly: bool) -> None:
    one = container(["pwd"], process(cwd="/not/there"), root(readonly=readonly))
    assert one.run().ok().stdout == "/not/there\n"
    assert (one.bundle.rootfs / "not/there").stat().st_mode & 0o777 == 0o755


def test_no_working_directory_is_made_behind_a_dangling_link(container: Make) -> None:
    one = container(["pwd"], process(cwd="/link"))
    (one.bundle.rootfs / "link").symlink_to("/volume/of/somebody")
    result = one.run()
    assert result.status == 1 and "no such file or directory" in result.stderr
    assert not (one.bundle.rootfs / "volume").exists()


def test_exec_makes_no_working_directory(container: Make) -> None:
    one = container(["sleep", "60"])
    one.run("--detach").ok()
    result = one.exec("--cwd=/not/there", "true")
    assert result.status == 255
    assert 'chdir to cwd ("/not/there") set in config.json failed: no such file or directory' in message(result.stderr)
    assert not (one.bundle.rootfs / "not").exists()


# Mounts.


def test_a_tmpfs_on_a_directory_that_is_made_for_it(container: Make) -> None:
    one = container(["stat", "-c", "%a", "/new/dir"], mount("/new/dir", "tmpfs", ["nosuid"], "tmpfs"))
    assert one.run().ok().stdout == "1777\n"
    assert (one.bundle.rootfs / "new/dir").stat().st_mode & 0o7777 == 0o755
    (one.bundle.rootfs / "new/dir").chmod(0o710)
    assert one.run().ok().stdout == "710\n"


def test_a_file_is_mounted_where_a_dangling_link_points(container: Make, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("mine\n")
    one = container(["cat", "/real/baz/hosts"], mount("/etc/hosts", str(tmp_path / "hosts"), ["bind"]))
    (one.bundle.rootfs / "jump").symlink_to("/real")
    (one.bundle.rootfs / "etc/hosts").symlink_to("/jump/baz/hosts")
    assert one.run().ok().stdout == "mine\n"


def test_sources_and_destinations_inside_the_rootfs(container: Make, tmp_path: Path) -> None:
    """A destination may be given as the host sees it, and a source in the rootfs shows the mounts so far."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file").write_text("a\n")

    def change(config: dict[str, Any]) -> None:
        inside = tmp_path / "bundle1/rootfs"
        config["mounts"] += [
            {"destination": "/mnt", "source": str(tmp_path / "a"), "options": ["bind"]},
            {"destination": f"{inside}/final", "source": f"{inside}/mnt", "options": ["rbind"]},
        ]

    for more in ((), (user_namespace(),)):
        one = container(["cat", "/final/file"], change, *more)
        for name in ("mnt", "final"):
            (one.bundle.rootfs / name).mkdir()
        if one.bundle.path.name != "bundle1":
            for entry in one.bundle.config["mounts"]:
                for key in ("source", "destination"):
                    if key in entry:
                        entry[key] = entry[key].replace("/bundle1/", f"/{one.bundle.path.name}/")
            one.bundle.write()
        assert one.run().ok().stdout == "a\n"


def test_one_mask_is_enough(container: Make) -> None:
    masked = linux(maskedPaths=["/dir", "/file", "/dir", "/file"])
    one = container(["sh", "-c", "grep -c '/dir ' /proc/mounts; grep -c /file /proc/mounts"], masked)
    (one.bundle.rootfs / "dir").mkdir()
    (one.bundle.rootfs / "file").touch()
    assert one.run().ok().stdout == "1\n1\n"


def test_a_read_only_root_in_the_mount_namespace_of_the_caller(container: Make) -> None:
    changes = (root(readonly=True), without_namespace("mount"), linux(maskedPaths=[], readonlyPaths=[]))
    one = container(["sh", "-c", "touch /x || echo refused"], *changes)
    try:
        assert one.run().ok().stdout == "refused\n"
    finally:
        subprocess.run(["umount", "--recursive", "--lazy", one.bundle.rootfs], check=False)


# Hooks.


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer", "startContainer", "poststart"])
def test_a_failed_hook_is_named(container: Make, kind: str) -> None:
    one = container(["true"], hooks(**{kind: [{"path": "/bin/true"}, {"path": "/bin/false"}]}))
    result = one.run()
    assert result.status == 1
    assert f"error running {kind} hook #1: " in result.stderr and "exit status 1" in result.stderr


def test_start_hooks_have_the_environment_of_the_program(container: Make) -> None:
    script = "#!/bin/sh -u\necho $ONE $HOME >/said\n"
    one = container(["cat", "/said"], hooks(startContainer=[{"path": "/hook"}]), process(env=["ONE=two", "PATH=/bin"]))
    (one.bundle.rootfs / "hook").write_text(script)
    (one.bundle.rootfs / "hook").chmod(0o755)
    assert one.run().ok().stdout == "two /root\n"


def test_start_hooks_are_under_the_filter(container: Make) -> None:
    filtered = linux(
        seccomp={
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}],
        }
    )
    hook = {"path": "/bin/mkdir", "args": ["mkdir", "/x"]}
    result = container(["true"], filtered, hooks(startContainer=[hook])).run()
    assert result.status == 1
    assert "error running startContainer hook #0: " in result.stderr and "bad system call" in result.stderr


# Cgroups.


def test_one_process_is_the_least_limit(container: Make) -> None:
    one = container(["sleep", "60"], resources(pids={"limit": 0}))
    one.run("--detach").ok()
    assert (one.cgroup("pids") / "pids.max").read_text() == "1\n"


def test_places_for_exec(container: Make) -> None:
    one = container(["sleep", "60"])
    one.run("--detach").ok()
    assert "bad sub cgroup path" in one.exec("--cgroup=..", "true").stderr
    assert re.search(" adding pid .*no such file or directory", one.exec("--cgroup=nope", "true").stderr)
    assert "unknown controller " in one.exec("--cgroup=whaaat:/", "true").stderr


def test_names_in_other_capitals(container: Make) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["Resources"] = {"CPU": {"Cpus": "0"}, "devices": [{"allow": False, "access": "rwm"}]}
        del config["linux"]["resources"]

    one = container(["grep", "Cpus_allowed_list:", "/proc/self/status"], change)
    assert one.run().ok().stdout.split() == ["Cpus_allowed_list:", "0"]


# Joined namespaces.


def test_exec_where_the_user_namespace_does_not_own_the_network(container: Make, tmp_path: Path) -> None:
    holder = container(["sleep", "60"], user_namespace())
    holder.run("--detach").ok()
    names = {"user": tmp_path / "user", "network": tmp_path / "net"}
    for path in names.values():
        path.touch()
    subprocess.run(["mount", "--bind", f"/proc/{holder.pid}/ns/user", names["user"]], check=True)
    subprocess.run(["unshare", "--net", "mount", "--bind", "/proc/self/ns/net", names["network"]], check=True)
    subprocess.run(["mount", "--bind", "/proc/self/ns/net", names["network"]], check=False)
    try:

        def change(config: dict[str, Any]) -> None:
            spaces = [one for one in config["linux"]["namespaces"] if one["type"] != "network"]
            config["linux"]["namespaces"] = spaces + [{"type": kind, "path": str(path)} for kind, path in names.items()]
            for entry in config["mounts"]:
                if entry.get("type") == "sysfs":  # takes rights over the network namespace
                    entry.update(type="bind", source="/sys", options=["rbind"])

        one = container(["sleep", "60"], change)
        one.run("--detach").ok()
        for kind, link in (("user", "user"), ("network", "net")):
            shown = one.exec("readlink", f"/proc/self/ns/{link}").ok().stdout.strip()
            assert shown == f"{link}:[{names[kind].stat().st_ino}]"
        one.kill("KILL").ok()
        one.wait("stopped")
    finally:
        for path in names.values():
            while subprocess.run(["umount", "--lazy", path], stderr=subprocess.DEVNULL, check=False).returncode == 0:
                pass


# Terminals, logs, names.


def test_output_of_a_terminal_goes_to_standard_output(container: Make, tmp_path: Path) -> None:
    """Also when there is a controlling terminal, and as lines: whoever reads a pipe wants no carriage returns."""
    one = container(["sh", "-c", "echo one; echo two"], process(terminal=True))
    assert one.run().ok().stdout == "one\ntwo\n"
    screen = Screen()
    try:
        with open(tmp_path / "out", "w+") as out:
            words = one.runtime.argv("run", "--bundle", str(one.bundle.path), one.id)
            assert screen.spawn(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out).wait(30) == 0
            out.seek(0)
            assert out.read() == "one\ntwo\n"
    finally:
        screen.close()


@pytest.mark.parametrize("form", ["text", "json"])
def test_debug_explains(container: Make, tmp_path: Path, form: str) -> None:
    one = container(["echo", "Hello"], linux(seccomp={"defaultAction": "SCMP_ACT_ALLOW"}))
    log = tmp_path / "log"
    flags = ["--debug", "--log", str(log), "--log-format", form]
    one.runtime.flags += flags
    assert one.run().ok().output == "Hello\n"
    text = log.read_text()
    for words in (
        "nsexec container setup", "child process in init()", "init: closing the pipe to signal completion",
        "seccomp filter flags: 4", "runc exeseal: using /proc/self/exe clone", "pivot_root into the root filesystem",
    ):  # fmt: skip
        assert words in text
    assert ('"level":"debug"' if form == "json" else "level=debug") in text
    one.bundle.config["process"]["args"] = ["sleep", "60"]
    one.bundle.write()
    one.run("--detach").ok()
    document = {"args": ["/bin/true"], "cwd": "/", "execCPUAffinity": {"initial": "0"}}
    (tmp_path / "p.json").write_text(json.dumps(document))
    one.runtime("exec", "--process", tmp_path / "p.json", one.id).ok()
    assert re.search(r"nsexec[^\n]*: affinity: 0x1", log.read_text())
    assert "setns_init: about to exec" in log.read_text()


def test_a_created_container_holds_nothing_open(container: Make) -> None:
    one = container(["true"])
    one.create().ok()
    targets = [os.readlink(path) for path in one.proc("fd").iterdir()]
    allowed = r"/dev/null|/dev/pts/\d+|anon_inode:.+|socket:.+|pipe:.+|.*/exec\.fifo|/tmp/.*"
    assert [target for target in targets if not re.fullmatch(allowed, target)] == []
    assert any(target.endswith("/exec.fifo") for target in targets)


def test_it_goes_by_the_name_it_is_called(tmp_path: Path, program: str) -> None:
    if Path(program).name != "pyruntime":
        pytest.skip("about this runtime")
    (tmp_path / "runc").symlink_to(program)

    def lines(*words: str) -> list[str]:
        done = subprocess.run([tmp_path / "runc", *words], stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout.split("\n")

    version = lines("--version")
    assert re.match(r"runc version \d+\.\d+\.\d+$", version[0])
    assert re.match(r"commit: [0-9a-f]{40}$|commit: v\d", version[1])
    assert re.match(r"spec: \d+\.\d+\.\d+", version[2])
    assert lines("--help")[:2] == ["NAME:", "   runc - Open Container Initiative runtime"]
    assert lines("kill", "-h")[1].startswith("   runc kill - ")


# Small documents.


def test_documents_through_a_pipe(container: Make) -> None:
    """What a shell makes of `--process <(...)`, though every other descriptor of the caller is closed."""
    one = container(["sleep", "60"])

    def piped(document: object, *words: str) -> Result:
        reading, writing = os.pipe()
        os.write(writing, json.dumps(document).encode())
        os.close(writing)
        try:
            return one.runtime(*(word.replace("PIPE", f"/dev/fd/{reading}") for word in words), pass_fds=(reading,))
        finally:
            os.close(reading)

    config = {**one.bundle.config, "root": {"path": str(one.bundle.rootfs)}}
    config["process"] = {**config["process"], "args": ["sh", "-c", "echo /proc/self/fd/*"]}
    only_three = "/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2"
    bundle = ("--bundle", str(one.bundle.path))
    if one.runtime.name == "pyruntime":  # runc has no --config
        assert piped(config, "run", *bundle, "--config", "PIPE", one.id).ok().stdout.startswith(only_three)
    one.run("--detach").ok()
    document = {"args": config["process"]["args"], "cwd": "/", "env": config["process"]["env"]}
    assert piped(document, "exec", "--process", "PIPE", one.id).ok().stdout.startswith(only_three)
    piped({"pids": {"limit": 77}}, "update", "--resources", "PIPE", one.id).ok()
    assert (one.cgroup("pids") / "pids.max").read_text() == "77\n"


def test_a_user_of_whom_only_the_uid_is_given(container: Make) -> None:
    one = container(["sh", "-c", "id -u; id -g"], process(user={"uid": 0}))
    assert one.run().ok().stdout == "0\n0\n"
    one.bundle.config["process"]["user"] = {"gid": 8}
    one.bundle.write()
    assert one.run().ok().stdout == "0\n8\n"


def test_an_io_class_without_a_level(container: Make) -> None:
    one = container(["true"], process(ioPriority={"class": "IOPRIO_CLASS_IDLE"}))
    one.run().ok()


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({}, "invalid memory policy"),
        ({"mode": "INTERLEAVE", "nodes": "0"}, "invalid memory policy mode"),
        ({"mode": "MPOL_PREFERRED", "nodes": "0", "flags": ["badflag"]}, "invalid memory policy flag"),
        ({"nodes": "0-7"}, "invalid memory policy mode"),
        ({"mode": "MPOL_DEFAULT", "nodes": "0-7"}, "mode requires 0 nodes but got 8"),
        ({"mode": "MPOL_BIND", "nodes": "0-9876543210", "flags": []}, "invalid memory policy node"),
    ],
)
def test_memory_policies_that_are_wrong(container: Make, policy: dict[str, Any], words: str) -> None:
    result = container(["true"], linux(memoryPolicy=policy)).run()
    assert result.status == 1 and words in result.stderr


def test_a_sysctl_of_the_host(container: Make) -> None:
    result = container(["true"], linux(sysctl={"kernel.foo": "1"})).run()
    assert 'sysctl "kernel.foo" is not in a separate kernel namespace' in message(result.stderr)


def test_a_parent_image_that_is_not_there(container: Make, tmp_path: Path) -> None:
    one = container(["sleep", "60"], top(hostname="x"))
    one.run("--detach").ok()
    result = one.runtime("checkpoint", "--image-path", tmp_path, "--parent-path", "./no", one.id)
    assert result.status == 1 and "invalid --parent-path: stat " in result.stderr
    assert one.status == "running"


# What crun adds.


def test_annotations_about_hooks(container: Make, tmp_path: Path) -> None:
    script = {"path": "/bin/sh", "args": ["sh", "-c", "echo said; echo complained >&2"]}
    files = {"run.oci.hooks.stdout": str(tmp_path / "out"), "run.oci.hooks.stderr": str(tmp_path / "err")}
    one = container(
        ["true"], hooks(createRuntime=[script], poststart=[script], poststop=[script]), top(annotations=files)
    )
    one.run().ok()
    assert (tmp_path / "out").read_text() == "said\n" * 3
    assert (tmp_path / "err").read_text() == "complained\n" * 3
    files["run.oci.hooks.stdout"] = "/no/such/file"
    one.bundle.write()
    assert "annotation run.oci.hooks.stdout: open /no/such/file: no such file" in one.run().stderr


def test_annotation_that_asks_for_a_pidfd(container: Make, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        server.listen()
        server.settimeout(10)
        one = container(["sleep", "60"], top(annotations={"run.oci.pidfd_receiver": str(tmp_path / "socket")}))
        one.run("--detach").ok()
        connection, _ = server.accept()
        with connection:
            _, descriptors, _, _ = socket.recv_fds(connection, 100, 4)
        assert len(descriptors) == 1
        signal.pidfd_send_signal(descriptors[0], signal.SIGKILL)
        os.close(descriptors[0])
        one.wait("stopped")


def test_log_targets_of_crun(runtime: Runtime, tmp_path: Path) -> None:
    result = runtime("state", "x")
    runtime.flags += [f"--log=file:{tmp_path}/log", "--log-format=json"]
    runtime("state", "x")
    assert result.status == 1 and '"msg":"container does not exist"' in (tmp_path / "log").read_text()
    assert "invalid character" in message(runtime("create", "this/is/invalid").stderr)
