"""Labels of security modules: what is written where, and which mounts get a context. No module is needed for this."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyruntime.errors import RuntimeFailure
from pyruntime.kernel import lsm
from pyruntime.kernel import mounts as m
from pyruntime.kernel.facts import Facts
from pyruntime.plan import build, process
from pyruntime.plan.cgroupfs import Hierarchy, MountCgroups
from pyruntime.plan.labels import label_steps
from pyruntime.plan.step import Place

LABEL = "system_u:system_r:container_t:s0:c1,c2"
CONTEXT = "system_u:object_r:container_file_t:s0:c1,c2"
WITH_BOTH = Facts(apparmor=True, selinux=True)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A directory in place of procfs, with the attributes of a thread in it."""
    attributes = tmp_path / "thread-self" / "attr"
    (attributes / "apparmor").mkdir(parents=True)
    for name in ("exec", "keycreate", "apparmor/exec"):
        (attributes / name).touch()
    one = Place()
    one.proc = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    return one


def attribute(place: Place, name: str) -> str:
    return Path(f"/proc/self/fd/{place.proc}/thread-self/attr/{name}").read_text()


def test_the_selinux_label_is_for_the_next_execve(place: Place) -> None:
    for step in label_steps("", LABEL, WITH_BOTH):
        step.apply(place)
    assert attribute(place, "exec") == LABEL
    assert attribute(place, "apparmor/exec") == ""


@pytest.mark.parametrize("old", [False, True])
def test_the_apparmor_profile_is_for_the_next_execve(place: Place, old: bool) -> None:
    """Before Linux 5.1 the modules share one directory."""
    if old:
        Path(f"/proc/self/fd/{place.proc}/thread-self/attr/apparmor/exec").unlink()
    for step in label_steps("box", "", WITH_BOTH):
        step.apply(place)
    assert attribute(place, "exec" if old else "apparmor/exec") == "exec box"


def test_both_modules_at_once(place: Place) -> None:
    for step in label_steps("box", LABEL, WITH_BOTH):
        step.apply(place)
    assert (attribute(place, "apparmor/exec"), attribute(place, "exec")) == ("exec box", LABEL)


def test_a_label_is_never_written_through_a_link(place: Place, tmp_path: Path) -> None:
    """CVE-2019-16884 and CVE-2025-52881: an attr directory that leads elsewhere."""
    file = tmp_path / "thread-self" / "attr" / "exec"
    file.unlink()
    file.symlink_to("/dev/null")
    (step,) = label_steps("", LABEL, WITH_BOTH)
    with pytest.raises(OSError, match=r"Too many levels|cross-device"):
        step.apply(place)


@pytest.mark.parametrize(("profile", "label"), [("box", ""), ("", LABEL)])
def test_a_module_that_is_not_there_is_an_error(profile: str, label: str) -> None:
    with pytest.raises(RuntimeFailure, match="not supported"):
        label_steps(profile, label, Facts())


def test_a_keyring_is_made_with_the_label_and_nothing_after_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """keycreate is set while the keyring is made, and taken back: otherwise the program's own keys would have it."""
    seen: list[str] = []

    def join(name: bytes) -> int:
        seen.append(f"{name.decode()} {attribute(place, 'keycreate')}")
        return 5

    monkeypatch.setattr(process, "join_session", join)
    monkeypatch.setattr(process, "set_permissions", lambda number, permissions: None)
    written: list[bytes] = []

    def write(proc: int, path: bytes, value: bytes) -> None:
        written.append(value)
        lsm.set_attribute(proc, path, value)

    step = process.JoinSessionKeyring("box", LABEL, 1)
    step._label_keys = write
    step.apply(place)
    assert seen == [f"_ses.box {LABEL}"]
    assert written == [LABEL.encode(), b""]


# linux.mountLabel


def mounts(facts: Facts, *entries: dict[str, Any], label: str = CONTEXT, **linux: Any) -> build.Plan:
    spec: Any = {
        "ociVersion": "1.3.0",
        "root": {"path": "rootfs"},
        "mounts": list(entries),
        "linux": {"namespaces": [{"type": "mount"}], "mountLabel": label, **linux},
    }
    settings = build.Settings("/bundle", "box", facts)
    settings.hierarchies = [Hierarchy("memory", ["memory"], "/sys/fs/cgroup/memory/box", "/", False)]
    return build.build(spec, settings)


def entry(kind: str, destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": kind, "options": list(options)}


def data(plan: build.Plan, destination: str) -> list[tuple[bytes, bytes | None]]:
    (found,) = [step for step in plan.init if getattr(step, "destination", b"") == destination.encode()]
    options: Any = getattr(found, "options")  # noqa: B009
    return list(options.data)


@pytest.mark.parametrize("kind", ["tmpfs", "devpts", "overlay", "nfs"])
def test_new_filesystems_get_the_context(kind: str) -> None:
    plan = mounts(WITH_BOTH, entry(kind, "/a", "nosuid"))
    assert (b"context", CONTEXT.encode()) in data(plan, "/a")


@pytest.mark.parametrize(("kind", "destination"), [("proc", "/proc"), ("sysfs", "/sys"), ("mqueue", "/dev/mqueue")])
def test_the_kernels_own_filesystems_take_none(kind: str, destination: str) -> None:
    assert data(mounts(WITH_BOTH, entry(kind, destination)), destination) == []


def test_binds_keep_the_labels_of_their_source() -> None:
    plan = mounts(WITH_BOTH, {"destination": "/a", "type": "bind", "source": "/etc", "options": ["rbind"]})
    steps = [step for step in plan.init + plan.host if getattr(step, "destination", b"") == b"/a"]
    assert steps and all(step.options.data == [] for step in steps)  # type: ignore[attr-defined]


def test_a_message_queue_is_labelled_afterwards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plan = mounts(WITH_BOTH, entry("mqueue", "/dev/mqueue"))
    (step,) = [step for step in plan.init if getattr(step, "destination", b"") == b"/dev/mqueue"]
    set_on: list[tuple[str, bytes, bytes]] = []

    class Posix:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        @staticmethod
        def setxattr(fd: int, name: bytes, value: bytes) -> None:
            set_on.append((os.readlink(f"/proc/self/fd/{fd}"), name, value))

    monkeypatch.setattr(lsm, "posix", Posix())
    tree = os.open(tmp_path, os.O_PATH)
    step.label_root(tree)  # type: ignore[attr-defined]
    os.close(tree)
    assert set_on == [(str(tmp_path), b"security.selinux", CONTEXT.encode())]


def test_cgroups_have_the_context_of_the_host() -> None:
    """Another one is an error of the kernel: "mount invalid. Same superblock, different security settings"."""
    plan = mounts(WITH_BOTH, entry("cgroup", "/sys/fs/cgroup", "ro"))
    assert data(plan, "/sys/fs/cgroup") == []
    (step,) = [step for step in plan.init if isinstance(step, MountCgroups)]
    assert step.context == CONTEXT.encode(), "for the tmpfs that holds the hierarchies of v1"


def test_masked_directories_get_the_context() -> None:
    plan = mounts(WITH_BOTH, maskedPaths=["/proc/acpi"])
    (step,) = [step for step in plan.init if hasattr(step, "tmpfs_options")]
    assert (b"context", CONTEXT.encode()) in step.tmpfs_options


def test_without_selinux_it_is_left_out_with_a_warning() -> None:
    plan = mounts(Facts(), entry("tmpfs", "/a"))
    assert data(plan, "/a") == []
    assert plan.warnings == ["linux.mountLabel: left out: SELinux is not active on this host"]


@given(st.lists(st.sampled_from(["lowerdir=/a:/b", "ro", "userxattr"]), max_size=3))
def test_the_commas_of_a_context_do_not_end_it(words: list[str]) -> None:
    """mount(2), which long options need, takes one string; see "Mount options" in selinux(8)."""
    options = [(name.encode(), value.encode() if equals else None) for name, equals, value in
               (word.partition("=") for word in words)]  # fmt: skip
    seen: list[bytes] = []
    patch = pytest.MonkeyPatch()
    with patch.context() as change:
        change.setattr(m, "mount", lambda source, target, kind, flags, text: seen.append(text))
        change.setattr(m, "openat2", lambda *arguments: -1)
        target = os.open("/", os.O_PATH)
        m.mount_over(target, b"overlay", [*options, (b"context", CONTEXT.encode())], b"overlay")
        os.close(target)
    assert seen[0].endswith(f'context="{CONTEXT}"'.encode())
    assert seen[0].replace(f'context="{CONTEXT}"'.encode(), b"").decode().split(",")[:-1] == [
        word for word in words if word != "ro"
    ]
