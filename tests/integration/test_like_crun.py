"""What callers of crun rely on beyond the specification and beyond what runc does.

Each is something that a test, a script or a configuration somewhere expects.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.changes import hooks, linux, mount, process, top, user_namespace, without_namespace
from support.container import Container
from support.runtime import Result, Runtime

Make = Callable[..., Container]
INSTALLED = Path(__file__).parents[2] / "bin" / "pyruntime"
IDENTITY = [{"containerID": 0, "hostID": 0, "size": 4294967295}]


def new_user_namespace(config: dict[str, Any]) -> None:
    config["linux"]["namespaces"].append({"type": "user"})
    for entry in config["mounts"]:  # the group tty has no id in there
        entry["options"] = [option for option in entry.get("options", ()) if option != "gid=5"]


# Names.


def test_help_in_what_is_called_crun(runtime: Runtime, tmp_path: Path) -> None:
    (tmp_path / "crun").symlink_to(INSTALLED)
    for words, line in (
        (["delete"], "Usage: crun [OPTION...] delete CONTAINER"),
        (["exec"], "Usage: crun [OPTION...] exec CONTAINER cmd"),
        (["mounts"], "Usage: crun [OPTION...] mounts [add|remove] CONTAINER FILE"),
        (["list"], "Usage: crun [OPTION...] list"),
    ):
        help = Runtime([str(tmp_path / "crun")], runtime.root)(*words, "--help").ok().stdout
        assert help.splitlines()[0] == line
        assert "Usage:" not in runtime(*words, "--help").ok().stdout
    assert Runtime([str(tmp_path / "crun")], runtime.root)("--version").ok().stdout.startswith("crun version ")


def test_a_handler_is_not_passed_over_in_silence(container: Make) -> None:
    result = container(["echo", "here"], top(annotations={"run.oci.handler": "krun"})).run()
    assert (result.status, result.stdout) == (0, "here\n")
    assert "annotation run.oci.handler: this runtime has no handlers" in result.stderr


# User namespaces.


def test_a_user_namespace_without_mappings(container: Make) -> None:
    """It holds the caller, as root, and whatever /etc/subuid grants the caller."""
    one = container(["cat", "/proc/self/uid_map", "/proc/self/gid_map"], new_user_namespace)
    lines = [line.split() for line in one.run().ok().stdout.splitlines()]
    assert lines.count(["0", "0", "1"]) == 2
    assert all(line == ["0", "0", "1"] or line[0] == "1" for line in lines)


def test_exec_in_a_user_namespace_without_mappings(container: Make) -> None:
    one = container(["sleep", "60"], new_user_namespace)
    one.run("--detach").ok()
    mapped = "user:" + one.exec("cat", "/proc/self/uid_map").ok().stdout
    assert mapped == "user:" + one.proc("uid_map").read_text()
    assert one.exec("id", "-u").ok().stdout == "0\n"


def test_an_id_that_is_not_in_it(container: Make) -> None:
    if Path("/etc/subuid").exists() and "root:" in Path("/etc/subuid").read_text():
        pytest.skip("root has subordinate ids here")
    result = container(["true"], new_user_namespace, process(user={"uid": 1000, "gid": 1000})).run()
    assert result.status == 1 and "1000" in result.stderr


def test_mappings_that_map_nothing_need_no_user_namespace(container: Make) -> None:
    one = container(["cat", "/proc/self/uid_map"], linux(uidMappings=IDENTITY, gidMappings=IDENTITY))
    assert one.run().ok().stdout.split() == ["0", "0", "4294967295"]
    other = [{"containerID": 0, "hostID": 100000, "size": 1000}]
    result = container(["true"], linux(uidMappings=other, gidMappings=other)).run()
    assert result.status == 1 and "linux.uidMappings: needs a user namespace" in result.stderr


def test_sysfs_without_a_network_namespace_of_its_own(container: Make) -> None:
    """The kernel does not make a sysfs then: the host's is shown, and nothing in it can be written."""
    script = "cat /proc/self/mountinfo; [ -d /sys/class/net/lo ] && echo there; echo x >/sys/kernel/uevent_helper"
    one = container(["sh", "-c", script], user_namespace(), without_namespace("network"), mount("/sys", type="sysfs"))
    result = one.run()
    assert "there" in result.stdout.splitlines()
    assert "Read-only file system" in result.stderr
    lines = [line.split() for line in result.stdout.splitlines() if line.count(" ") > 6]
    shown = {fields[4]: fields[5].split(",") for fields in lines if (fields[4] + "/").startswith("/sys/")}
    assert shown and all("ro" in flags for path, flags in shown.items() if not path.startswith("/sys/fs/cgroup"))
    assert not any("shared:" in word for fields in lines for word in fields[6:9])


# Configurations that contradict themselves.


def test_two_domain_names(container: Make) -> None:
    one = container(["cat", "/proc/sys/kernel/domainname"], top(domainname="one"))
    one.bundle.config["linux"]["sysctl"] = {"kernel.domainname": "two"}
    one.bundle.write()
    result = one.run()
    assert result.status == 1 and "domainname: linux.sysctl sets kernel.domainname to something else" in result.stderr
    one.bundle.config["linux"]["sysctl"] = {"kernel.domainname": "one"}
    one.bundle.write()
    assert one.run().ok().stdout == "one\n"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"deadline": 20000000}, "sched_setattr: `SCHED_DEADLINE` requires `runtime`"),
        ({"runtime": 10000000}, "sched_setattr: `SCHED_DEADLINE` requires `deadline`"),
        ({"runtime": 0, "deadline": 20000000}, "sched_setattr: `SCHED_DEADLINE` runtime must be greater than 0"),
        ({"runtime": 1023, "deadline": 20000000}, "sched_setattr: `SCHED_DEADLINE` runtime (1023) must be between "),
    ],
)
def test_deadlines_that_are_wrong(container: Make, values: dict[str, int], words: str) -> None:
    result = container(["true"], process(scheduler={"policy": "SCHED_DEADLINE", **values})).run()
    assert result.status == 1 and words in result.stderr


# Hooks, exec.


def test_the_words_about_a_poststop_hook(container: Make) -> None:
    result = container(["true"], hooks(poststop=[{"path": "/bin/false"}])).run()
    assert result.status == 0
    assert "error running poststop hook #0: /bin/false: poststop hook failed with exit code 1" in result.stderr


def test_exec_into_a_cgroup_that_one_controller_has(container: Make) -> None:
    one = container(["sleep", "60"])
    one.run("--detach").ok()
    try:
        own = one.cgroup("memory")
    except LookupError:
        pytest.skip("there are no cgroups of version 1 here")
    if not (own / "memory.limit_in_bytes").exists():
        pytest.skip("there are no cgroups of version 1 here")
    (own / "inner").mkdir()
    try:
        lines = one.exec("--cgroup=inner", "cat", "/proc/self/cgroup").ok().stdout.splitlines()
        assert [line.split(":")[1] for line in lines if line.endswith("/inner")] == ["memory"]
        missing = one.exec("--cgroup=missing", "true")
        assert missing.status == 255 and "missing" in missing.stderr
        for path in ("..", "inner/..", "inner/../../outside"):
            result = one.exec(f"--cgroup={path}", "true")
            assert result.status == 255
            assert "`..` components are not allowed" in result.stderr and path in result.stderr
    finally:
        os.rmdir(own / "inner")


# mounts add, mounts remove.


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "data"
    directory.mkdir()
    (directory / "file").write_text("from the host\n")
    yield directory


def mounts(one: Container, action: str, *entries: dict[str, Any]) -> Result:
    file = one.bundle.path / "mounts.json"
    file.write_text(json.dumps(entries))
    return one.runtime("mounts", action, one.id, file)


@pytest.mark.parametrize("changes", [(), (user_namespace(),)], ids=["host ids", "user namespace"])
def test_mounts_come_and_go(container: Make, data: Path, changes: tuple[Any, ...]) -> None:
    one = container(["sleep", "60"], *changes)
    one.run("--detach").ok()
    before = one.exec("cat", "/proc/self/mountinfo").ok().stdout
    entries: list[dict[str, Any]] = [
        {"destination": "/dev/shm/data", "type": "bind", "source": str(data), "options": ["bind", "ro", "nosuid"]},
        {"destination": "/dev/shm/file", "type": "bind", "source": str(data / "file"), "options": ["bind"]},
        {"destination": "/dev/shm/memory", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k"]},
    ]
    assert mounts(one, "add", *entries).ok().stdout == ""
    assert one.exec("cat", "/dev/shm/data/file", "/dev/shm/file").ok().stdout == "from the host\n" * 2
    assert "Read-only file system" in one.exec("touch", "/dev/shm/data/new").stderr
    inside = one.exec("cat", "/proc/self/mountinfo").ok().stdout
    flags = {line.split()[4]: line for line in inside.splitlines() if " /dev/shm/" in line}
    assert sorted(flags) == ["/dev/shm/data", "/dev/shm/file", "/dev/shm/memory"]
    assert "ro,nosuid" in flags["/dev/shm/data"] and "size=64k" in flags["/dev/shm/memory"]
    assert not any("shared:" in line for line in flags.values())
    assert str(data) not in Path("/proc/self/mountinfo").read_text()

    mounts(one, "remove", *entries).ok()
    assert one.exec("cat", "/proc/self/mountinfo").ok().stdout == before
    again = mounts(one, "remove", entries[0])
    assert again.status == 1
    assert "unmount /dev/shm/data: invalid argument: nothing is mounted there" in again.stderr


def test_the_container_cannot_lead_a_mount_astray(container: Make, data: Path) -> None:
    """A link in the container means what it means in there, and a mount on /proc is refused as at create."""
    one = container(["sleep", "60"])
    one.run("--detach").ok()
    one.exec("ln", "-s", "../../../../../../tmp", "/dev/shm/link").ok()
    mounts(one, "add", {"destination": "/dev/shm/link/x", "source": str(data), "options": ["bind"]})
    assert not Path("/tmp/x").exists()
    refused = mounts(one, "add", {"destination": "/proc/sys", "source": str(data), "options": ["bind"]})
    assert refused.status == 1 and "inside /proc" in refused.stderr


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([{"type": "tmpfs"}], "mounts[0].destination"),
        ([{"destination": "/dev/shm/x"}], "mounts[0].type: missing"),
        ([{"destination": "/dev/shm/x", "type": "bind", "source": "/no/such", "options": ["bind"]}], "no such file"),
        ([{"destination": "/dev/shm/x", "type": "cgroup"}], "mounting cgroups at /dev/shm/x"),
        ([{"destination": "/dev/shm", "options": ["remount", "ro"]}], "mounts[0].options: remount"),
        ("text", "mounts: expected"),
    ],
)
def test_mounts_that_cannot_be_added(container: Make, document: Any, words: str) -> None:
    one = container(["sleep", "60"])
    one.run("--detach").ok()
    file = one.bundle.path / "mounts.json"
    file.write_text(json.dumps(document))
    result = one.runtime("mounts", "add", one.id, file)
    assert result.status == 1 and words in result.stderr, result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_whose_mounts_cannot_be_changed(container: Make) -> None:
    one = container(["sleep", "60"])
    one.run("--detach").ok()
    assert "the root of the container" in mounts(one, "remove", {"destination": "/"}).stderr
    assert "unknown command move" in mounts(one, "move").stderr
    assert "does not exist" in one.runtime("mounts", "add", "nobody", "/dev/null").stderr
    one.kill()
    one.wait("stopped")
    assert "container not running" in mounts(one, "add").stderr
