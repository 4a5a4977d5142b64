"""The program of a container: its words, its environment, its directory, and what is said when it cannot be run."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from support.changes import bind, process, root
from support.container import Container

Make = Callable[..., Container]


# Words, environment, directory.


@pytest.mark.parametrize("words", [["a b", "", "*", "$HOME", "\u20ac", "-n", "'\"\\"], ["x" * 100_000]])
def test_args_arrive_as_they_are(container: Make, words: list[str]) -> None:
    result = container(["sh", "-c", 'for word in "$@"; do printf "%s\\n" "[$word]"; done', "sh", *words]).run().ok()
    assert result.stdout.splitlines() == [f"[{word}]" for word in words]


def test_the_first_word_is_argv0_and_the_name_to_look_up(container: Make) -> None:
    one = container(["echo", "hello"])
    assert one.run().ok().stdout == "hello\n"  # busybox goes by argv[0]


def test_env_is_the_whole_environment(container: Make) -> None:
    env = ["PATH=/bin", "EMPTY=", "TWO=a=b", "NAME=first", "SPACE= x ", "NAME=last", "HOME=/somewhere", "UMLAUT=\u00e4"]
    result = container(["env"], process(env=env)).run(env={"LEAK": "1", "LD_PRELOAD": "", "PATH": "/usr/bin"}).ok()
    expected = ["PATH=/bin", "EMPTY=", "TWO=a=b", "SPACE= x ", "NAME=last", "HOME=/somewhere", "UMLAUT=\u00e4"]
    assert sorted(result.stdout.splitlines()) == sorted(expected)


@pytest.mark.parametrize(("uid", "home"), [(0, "/root"), (1000, "/"), (4242, "/")])
def test_home_comes_from_the_containers_passwd(container: Make, uid: int, home: str) -> None:
    one = container(["sh", "-c", "echo $HOME"], process(user={"uid": uid, "gid": uid}))
    assert one.run().ok().stdout == f"{home}\n"


def test_the_search_path_is_the_containers(container: Make) -> None:
    one = container(["only-here"], process(env=["PATH=/nowhere:/opt:/bin"]))
    (one.bundle.rootfs / "opt").mkdir()
    (one.bundle.rootfs / "opt" / "only-here").write_text("#!/bin/sh\necho found\n")
    (one.bundle.rootfs / "opt" / "only-here").chmod(0o755)
    assert one.run(env={"PATH": "/usr/bin"}).ok().stdout == "found\n"


def test_cwd(container: Make) -> None:
    assert container(["pwd"], process(cwd="/usr")).run().ok().stdout == "/usr\n"


def test_cwd_that_is_missing_is_made(container: Make) -> None:
    one = container(["pwd"], process(cwd="/new/and/deep"))
    assert one.run().ok().stdout == "/new/and/deep\n"
    assert (one.bundle.rootfs / "new" / "and" / "deep").is_dir()


def test_cwd_through_a_link_stays_inside(container: Make, tmp_path: Path) -> None:
    one = container(["sh", "-c", "pwd -P"], process(cwd="/out/in"))
    (one.bundle.rootfs / "out").symlink_to(f"/../../../..{tmp_path}")
    (tmp_path / "in").mkdir()
    assert one.run().ok().stdout == f"{tmp_path}/in\n"
    assert (one.bundle.rootfs / str(tmp_path).lstrip("/") / "in").is_dir()  # made in the rootfs


def test_cwd_that_is_a_file(container: Make) -> None:
    one = container(["true"], process(cwd="/etc/passwd"))
    result = one.create()
    assert result.status == 1
    assert "/etc/passwd" in result.stderr and "cwd" in result.stderr
    assert one.leaks() == []


def test_cwd_that_only_the_user_may_enter(container: Make) -> None:
    one = container(["pwd"], process(cwd="/private", user={"uid": 1000, "gid": 1000}))
    (one.bundle.rootfs / "private").mkdir(mode=0o700)
    os.chown(one.bundle.rootfs / "private", 1000, 1000)
    assert one.run().ok().stdout == "/private\n"


# How it ends.


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 7", 7), ("exit 255", 255)])
def test_the_exit_status_is_the_programs(container: Make, script: str, status: int) -> None:
    assert container(["sh", "-c", script]).run().status == status


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGRTMIN])
def test_death_by_signal_is_128_and_its_number(container: Make, number: int) -> None:
    # The first process of a pid namespace is safe from itself: a child dies and its shell says how.
    assert container(["sh", "-c", f"sh -c 'kill -{number} $$'; exit $?"]).run().status == 128 + number
    other = container(["sleep", "60"])
    other.create().ok()
    other.start().ok()
    assert other.exec("sh", "-c", f"kill -{number} $$").status == 128 + number


def test_the_streams_are_the_callers(container: Make) -> None:
    result = container(["sh", "-c", "cat; echo bad >&2"]).run(stdin=b"a\0b\n").ok()
    assert (result.raw, result.stderr) == (b"a\0b\n", "bad\n")


# Programs that cannot be run. Engines turn the words into the statuses 126 and 127.

MISSING = "missing"
CASES = {
    "name": ([MISSING], 'exec: "missing": executable file not found in $PATH'),
    "path": (["/bin/missing"], 'exec: "/bin/missing": stat /bin/missing: no such file or directory'),
    "relative": (["./missing"], 'exec: "./missing": stat ./missing: no such file or directory'),
    "below a file": (["/etc/passwd/x"], 'exec: "/etc/passwd/x": '),
    "directory": (["/etc"], 'exec: "/etc": permission denied'),
    "not executable": (["/etc/passwd"], 'exec: "/etc/passwd": permission denied'),
    "script": (["/bin/script"], 'exec: "/bin/script": its interpreter /bin/gone: no such file or directory'),
    "dynamic": (["/bin/dynamic"], 'exec: "/bin/dynamic": its interpreter /lib64/ld-linux'),
    "empty name": ([""], 'exec: "": '),
}


# Found out by execve alone, and told in one plain line, but by `create`: it is the last chance to tell an engine.
LATE = ("script", "dynamic")


def prepare(one: Container) -> None:
    binaries = one.bundle.rootfs / "bin"
    (binaries / "script").write_text("#!/bin/gone -x\n")
    (binaries / "script").chmod(0o755)
    # A program of the host that wants a dynamic linker, which this rootfs does not have.
    (binaries / "dynamic").write_bytes(Path("/usr/bin/env").read_bytes())
    (binaries / "dynamic").chmod(0o755)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("verb", ["create", "run"])
def test_a_program_that_cannot_run_fails_at_create(container: Make, verb: str, case: str) -> None:
    args, text = CASES[case]
    one = container(args)
    prepare(one)
    if verb == "run" and case in LATE:
        result = one.run()
        assert (result.status, result.stderr) == (255, f"exec {args[0]}: no such file or directory\n")
        return
    pid_file = one.bundle.path / "pid"
    result = getattr(one, verb)("--pid-file", str(pid_file))
    assert result.status == 1
    assert f"{verb} failed: unable to start container process: " in result.stderr
    if one.runtime.name == "pyruntime":
        assert text in result.stderr.replace('\\"', '"')
    assert len(result.stderr.splitlines()) == 1
    assert not pid_file.exists()
    assert one.leaks() == []


@pytest.mark.parametrize("case", [case for case in CASES if case != "empty name"])
def test_a_program_that_cannot_run_fails_at_exec(container: Make, case: str) -> None:
    args, text = CASES[case]
    one = container(["sleep", "60"])
    prepare(one)
    one.run("--detach").ok()
    if case in LATE:
        result = one.exec(*args)
        assert (result.status, result.stderr) == (255, f"exec {args[0]}: no such file or directory\n")
        return
    pid_file = one.bundle.path / "exec-pid"
    result = one.runtime("exec", "--pid-file", pid_file, one.id, *args)
    assert result.status == 255
    assert "exec failed: unable to start container process: " in result.stderr
    assert text in result.stderr.replace('\\"', '"')
    assert not pid_file.exists()
    assert one.status == "running"


def test_a_program_that_the_user_may_not_run(container: Make) -> None:
    one = container(["/bin/secret"], process(user={"uid": 1000, "gid": 1000}))
    (one.bundle.rootfs / "bin" / "secret").write_text("#!/bin/sh\n")
    (one.bundle.rootfs / "bin" / "secret").chmod(0o700)
    result = one.create()
    assert result.status == 1
    assert 'exec: \\"/bin/secret\\": permission denied' in result.stderr


def test_permission_is_judged_with_the_additional_groups(container: Make) -> None:
    one = container(["/bin/secret"], process(user={"uid": 1000, "gid": 1000, "additionalGids": [4000]}))
    file = one.bundle.rootfs / "bin" / "secret"
    file.write_text("#!/bin/sh\necho yes\n")
    os.chown(file, 0, 4000)
    file.chmod(0o750)
    assert one.run().ok().stdout == "yes\n"


def test_a_damaged_program_fails_at_start(container: Make) -> None:
    """Only execve itself can tell: `start` succeeds, the container says why on its stderr and ends with 1."""
    one = container(["/bin/damaged"])
    (one.bundle.rootfs / "bin" / "damaged").write_bytes(b"\x7fELF" + b"\0" * 100)
    (one.bundle.rootfs / "bin" / "damaged").chmod(0o755)
    errors = one.bundle.path / "errors"
    with errors.open("wb") as file:
        one.runtime.popen("create", "--bundle", one.bundle.path, one.id, stderr=file, stdout=file).wait(20)
    assert one.status == "created"
    one.start().ok()
    one.wait("stopped")
    assert "exec /bin/damaged: exec format error" in errors.read_text()


def test_a_noexec_mount_denies(container: Make) -> None:
    result = container(["/mnt/env"], bind("/usr/bin", "/mnt", "noexec")).create()
    assert result.status == 1
    assert 'exec: \\"/mnt/env\\": permission denied' in result.stderr


def test_an_empty_rootfs_names_the_program(container: Make) -> None:
    one = container(["sh"], root(path="empty"))
    (one.bundle.path / "empty").mkdir()
    result = one.create()
    assert 'exec: \\"sh\\": executable file not found in $PATH' in result.stderr
    assert one.leaks() == []


def test_the_hosts_null_device_becomes_the_containers(container: Make) -> None:
    """Its mount must be one of the container's: nothing else of the host stays open, and CRIU can save the process."""
    one = container(["sleep", "1000"])
    one.create().ok()
    one.start().ok()
    mount = next(line for line in one.proc("fdinfo/0").read_text().splitlines() if line.startswith("mnt_id"))
    assert mount.split()[1] in [line.split()[0] for line in one.proc("mountinfo").read_text().splitlines()]
