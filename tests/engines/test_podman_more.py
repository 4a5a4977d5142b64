"""The rarer things that podman asks of a runtime, as root: what works under runc and crun works the same."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from engines.engine import IMAGE, call, lines, need, status_field
from engines.podman import Podman
from support.container import wait_for

pytestmark = pytest.mark.skipif(bool(need("podman", "conmon")), reason="podman is not installed")

SLEEP = ("--", "sleep", "1000")


def under(podman: Podman, name: str) -> bool:
    return podman.runtime is not None and Path(podman.runtime).name == name


def test_builds_with_the_runtime(podman: Podman, tmp_path: Path) -> None:
    (tmp_path / "here").write_text("copied\n")
    (tmp_path / "Containerfile").write_text(
        lines(
            f"FROM {IMAGE}",
            "ENV MADE=yes",
            "COPY here /there",
            "RUN cat /there >/made && echo $MADE >>/made && id -u >>/made",
            "USER 1000:1000",
            "RUN id -u >/tmp/user",
            'CMD ["cat", "/made", "/tmp/user"]',
        )
    )
    # In one layer: podman 4.3 miscounts those of an image that was loaded from an archive.
    podman(
        "build", "--layers=false", "--isolation", "oci", "--network", "none", "--tag", "localhost/built", tmp_path
    ).ok()
    assert podman("run", "--rm", "localhost/built").ok().stdout == lines("copied", "yes", "0", "1000")
    (tmp_path / "Containerfile").write_text(f"FROM {IMAGE}\nRUN exit 7\n")
    failed = podman("build", "--isolation", "oci", "--network", "none", tmp_path)
    assert failed.status != 0 and "exit status 7" in failed.stderr


def test_initializes_and_starts_apart(podman: Podman) -> None:
    podman("create", "--name", "one", IMAGE, "sleep", "1000").ok()
    podman("init", "one").ok()
    assert podman.status("one") in ("initialized", "created")
    pid = podman.pid("one")
    podman("start", "one").ok()
    assert podman.pid("one") == pid
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x001000\x00"


def test_attaches(podman: Podman) -> None:
    podman("create", "--interactive", "--name", "one", IMAGE, "sh", "-c", "read word; echo got $word; exit 4").ok()
    told = podman("start", "--attach", "--interactive", "one", stdin=b"hello\n")
    assert (told.status, told.stdout) == (4, "got hello\n")
    assert podman("wait", "one").ok().stdout == "4\n"
    podman.start("two", "--interactive", "--", "sh", "-c", "while read word; do echo got $word; done; exit 5")
    told = podman("attach", "two", stdin=b"again\n")
    assert told.stdout.strip() == "got again"
    assert podman("wait", "two").ok().stdout == "5\n"


def test_tells_events(podman: Podman) -> None:
    podman.run("--name", "eventful", "--", "true").ok()
    told = podman("events", "--stream=false", "--filter", "container=eventful", "--format", "{{.Status}}").ok().stdout
    assert [word for word in told.split() if word in ("create", "start", "died", "remove")] == [
        "create", "start", "died", "remove",
    ]  # fmt: skip


def test_keeps_and_follows_logs(podman: Podman) -> None:
    podman.start("one", "--", "sh", "-c", "for i in 1 2 3; do echo line $i; echo bad $i >&2; sleep 0.1; done")
    told = podman("logs", "--follow", "one").ok()
    assert told.stdout == lines("line 1", "line 2", "line 3")
    assert told.stderr == lines("bad 1", "bad 2", "bad 3")
    assert podman("logs", "--tail", "1", "one").ok().output.count("3") == 1


def test_gives_secrets(podman: Podman, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush")
    podman("secret", "create", "mine", tmp_path / "secret").ok()
    try:
        script = "cat /run/secrets/mine; echo; echo $VAR; stat -c %a /run/secrets/mine"
        told = podman.run(
            "--secret", "mine,mode=0400", "--secret", "mine,type=env,target=VAR", "--", "sh", "-c", script
        )
        assert told.ok().stdout == lines("hush", "hush", "400")
    finally:
        podman("secret", "rm", "mine")


def test_changes_owners_and_labels_of_volumes(podman: Podman, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told = podman.run("--user", "1000:1000", "--volume", f"{tmp_path}:/data:Z,U", "--",
                      "sh", "-c", "touch /data/new; stat -c %u:%g /data/file /data/new")  # fmt: skip
    assert told.ok().stdout == lines("1000:1000", "1000:1000")
    assert (tmp_path / "new").stat().st_uid == 1000


def test_maps_the_ids_of_a_volume(podman: Podman, tmp_path: Path) -> None:
    if not under(podman, "pyruntime"):
        pytest.skip("runc 1.1 has no id-mapped mounts, and crun 1.8 another notation")
    (tmp_path / "file").touch()
    mapping = ("--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536")
    told = podman.run(*mapping, "--volume", f"{tmp_path}:/data:idmap", "--",
                      "sh", "-c", "stat -c %u:%g /data/file; touch /data/new")  # fmt: skip
    assert told.ok().stdout == "0:0\n"
    assert (tmp_path / "new").stat().st_uid == 0


def test_mounts_of_every_type(podman: Podman, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("bound\n")
    told = podman.run(
        "--mount", f"type=bind,src={tmp_path},dst=/bind,ro=true",
        "--mount", "type=volume,src=some,dst=/volume",
        "--mount", "type=tmpfs,dst=/tmpfs,tmpfs-size=512k,tmpfs-mode=1700,noexec",
        "--mount", "type=devpts,dst=/pts",
        "--mount", f"type=image,src={IMAGE},dst=/image",
        "--",
        "sh", "-c", "cat /bind/file; touch /volume/x && stat -c %a /tmpfs; test -c /pts/ptmx && ls /image/bin/busybox",
    )  # fmt: skip
    assert told.ok().stdout == lines("bound", "1700", "/image/bin/busybox")


def test_unmasks_and_masks(podman: Podman) -> None:
    count = ("sh", "-c", "grep -c ' /proc/' /proc/self/mountinfo; true")
    assert int(podman.run("--", *count).ok().stdout) > 3
    assert podman.run("--security-opt", "unmask=ALL", "--", *count).ok().stdout == "0\n"
    assert podman.run("--security-opt", "label=disable", "--", "echo", "fine").ok().stdout == "fine\n"


def test_executes_with_privileges(podman: Podman) -> None:
    podman.start("one", "--cap-drop", "all", "--user", "1000", *SLEEP)
    plain = podman("exec", "one", "cat", "/proc/self/status").ok().stdout
    assert int(status_field(plain, "CapEff"), 16) == 0
    full = podman("exec", "--privileged", "--user", "0", "one", "cat", "/proc/self/status").ok().stdout
    assert int(status_field(full, "CapEff"), 16) == int(
        status_field(Path("/proc/self/status").read_text(), "CapBnd"), 16
    )


def test_passes_flags_to_the_runtime(podman: Podman) -> None:
    told = podman("--runtime-flag", "debug", "run", "--rm", IMAGE, "echo", "fine")
    assert told.ok().stdout == "fine\n"
    assert podman("--runtime-flag", "no-such-flag", "run", "--rm", IMAGE, "true").status != 0


def test_writes_ids_to_files(podman: Podman, tmp_path: Path) -> None:
    podman.start("one", "--pidfile", str(tmp_path / "pid"), "--cidfile", str(tmp_path / "cid"), *SLEEP)
    assert int((tmp_path / "pid").read_text()) == podman.pid("one")
    assert podman.inspect("one")["Id"] == (tmp_path / "cid").read_text()


def test_ends_by_a_signal_of_choice_or_in_time(podman: Podman) -> None:
    podman.start(
        "one", "--stop-signal", "INT", "--", "sh", "-c", "trap 'exit 12' INT; echo up; while :; do sleep 0.1; done"
    )
    wait_for(lambda: "up" in podman("logs", "one").stdout, "the trap")
    podman("stop", "--time", "20", "one").ok()
    assert podman.inspect("one")["State"]["ExitCode"] == 12
    assert podman.run("--timeout", "1", "--", "sleep", "1000").status in (137, 255)


def test_gives_devices_with_rules(podman: Podman) -> None:
    told = podman.run("--device-cgroup-rule", "c 1:1 r", "--cap-add", "mknod,sys_rawio", "--",
                      "sh", "-c", "mknod /tmp/mem c 1 1; head -c 1 /tmp/mem >/dev/null; echo x >/tmp/mem")  # fmt: skip
    assert told.stderr.count("Operation not permitted") == 1  # to write it, which the rule leaves out
    told = podman.run("--privileged", "--", "sh", "-c", "test -c /dev/kmsg && mount -t tmpfs none /tmp && echo fine")
    assert told.ok().stdout == "fine\n"


def test_commits_exports_and_compares(podman: Podman, tmp_path: Path) -> None:
    podman.start("one", *SLEEP)
    podman("exec", "one", "sh", "-c", "echo changed >/etc/changed").ok()
    assert "A /etc/changed" in podman("diff", "one").ok().stdout
    podman("export", "--output", tmp_path / "all.tar", "one").ok()
    assert "etc/changed" in call("tar", "-tf", tmp_path / "all.tar").ok().stdout
    podman("commit", "--pause", "--quiet", "one", "localhost/committed").ok()
    assert podman("run", "--rm", "localhost/committed", "cat", "/etc/changed").ok().stdout == "changed\n"
    assert podman.status("one") == "running"


def test_opens_a_terminal_without_one(podman: Podman) -> None:
    """`-t` from a script: conmon takes the terminal over the console socket."""
    told = podman.run("--tty", "--", "sh", "-c", "test -t 0 && test -t 1 && echo terminal")
    assert told.ok().stdout == "terminal\r\n"
    podman.start("one", "--tty", *SLEEP)
    assert podman("exec", "--tty", "one", "sh", "-c", "test -t 1 && tty").ok().stdout.startswith("/dev/pts/")
    assert stat.S_ISCHR(os.stat(f"/proc/{podman.pid('one')}/root/dev/console").st_mode)


def test_makes_a_working_directory(podman: Podman) -> None:
    assert podman.run("--workdir", "/not/there", "--", "pwd").status in (0, 126, 127)  # podman itself may refuse
    podman.start("one", *SLEEP)
    told = podman("exec", "--workdir", "/missing", "one", "pwd")
    assert told.status in (126, 127) and "chdir" in told.stderr


def test_writes_annotations_into_the_state(podman: Podman) -> None:
    podman.start("one", "--annotation", "my.note=yes", *SLEEP)
    assert podman.inspect("one")["Config"]["Annotations"]["my.note"] == "yes"
    document = json.loads(Path(podman.inspect("one")["OCIConfigPath"]).read_text())
    assert document["annotations"]["my.note"] == "yes"
