"""Id-mapped mounts: what belongs to whom, seen by the container and by the host, in and out of user namespaces."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.changes import mount, process, user_namespace
from support.container import Container
from support.mountinfo import HostMounts

Make = Callable[..., Container]

LIST = ["sh", "-c", "cd /mnt && stat -c '%n %u %g' file sub/file 2>/dev/null; true"]


def mapping(container_id: int, host_id: int, size: int = 1000) -> list[dict[str, int]]:
    return [{"containerID": container_id, "hostID": host_id, "size": size}]


@pytest.fixture
def source(tmp_path: Path, host_mounts: HostMounts) -> Path:
    """A file of root (its group is 5), and another on a file system that is mounted below."""
    top = tmp_path / "source"
    top.mkdir()
    host_mounts.tmpfs(top)
    (top / "sub").mkdir()
    host_mounts.tmpfs(top / "sub")
    for file in (top / "file", top / "sub" / "file"):
        file.touch()
        os.chown(file, 0, 5)
    return top


def run(container: Make, args: list[str], *changes: Any) -> str:
    """The output of a container. Its root may not make the mount point: the root file system is not its own."""
    one = container(args, *changes)
    (one.bundle.rootfs / "mnt").mkdir()
    return one.run().ok().stdout


def owners(text: str) -> dict[str, tuple[int, int]]:
    return {name: (int(uid), int(gid)) for name, uid, gid in (line.split() for line in text.splitlines())}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["bind", "idmap"], {"file": (7000, 8005)}),
        (["rbind", "idmap"], {"file": (7000, 8005), "sub/file": (0, 5)}),
        (["rbind", "ridmap"], {"file": (7000, 8005), "sub/file": (7000, 8005)}),
    ],
    ids=["bind", "rbind", "ridmap"],
)
def test_without_a_user_namespace(
    container: Make, source: Path, options: list[str], expected: dict[str, tuple[int, int]]
) -> None:
    entry = mount("/mnt", source, options, uidMappings=mapping(0, 7000), gidMappings=mapping(0, 8000))
    assert owners(run(container, LIST, entry)) == expected


def test_with_a_user_namespace_it_can_be_as_on_the_host(container: Make, source: Path) -> None:
    """What podman's `idmap` volume option is for: root's files on the host are root's in the container."""
    entry = mount("/mnt", source, ["rbind", "ridmap"])
    assert owners(run(container, LIST, user_namespace(), entry)) == {"file": (0, 5), "sub/file": (0, 5)}


def test_what_the_container_writes_is_its_users_on_the_host(container: Make, source: Path) -> None:
    source.chmod(0o777)
    somebody = process(user={"uid": 7, "gid": 9})
    run(container, ["touch", "/mnt/new"], user_namespace(), somebody, mount("/mnt", source, ["bind", "idmap"]))
    assert ((source / "new").stat().st_uid, (source / "new").stat().st_gid) == (7, 9)


def test_a_mapping_of_the_mounts_own_in_a_user_namespace(container: Make, source: Path) -> None:
    """Its host ids are the host's: 100000 is the container's root, 100003 its user 3."""
    entry = mount("/mnt", source, ["bind", "idmap"], uidMappings=mapping(0, 100003), gidMappings=mapping(5, 100000))
    assert owners(run(container, LIST, user_namespace(), entry))["file"] == (3, 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("idmap=uids=0-7000-10;gids=0-8000-10", (7000, 8005)),
        ("idmap=uids=5-1-10#0-7000-1;gids=5-9-1", (7000, 9)),
        ("ridmap=uids=0-7000-10;gids=0-8000-10", (7000, 8005)),
    ],
)
def test_a_mapping_among_the_options(container: Make, source: Path, text: str, expected: tuple[int, int]) -> None:
    """crun's notation."""
    found = owners(run(container, LIST, mount("/mnt", source, ["rbind", text])))
    assert found["file"] == expected
    assert found["sub/file"] == (expected if text.startswith("r") else (0, 5))


def test_a_mapping_that_counts_from_the_containers_ids(container: Make, source: Path) -> None:
    """Users from 0 on of the files are the container's users from 3 on, which the host has another number for."""
    entry = mount("/mnt", source, ["bind", "idmap=uids=@0-3-10;gids=@5-4-1"])
    assert owners(run(container, LIST, user_namespace(), entry))["file"] == (3, 4)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([mount("/mnt", "/tmp", ["bind", "idmap"])], "idmap needs uidMappings and gidMappings"),
        ([mount("/mnt", "/tmp", ["bind"], uidMappings=mapping(0, 1))], "gidMappings"),
        ([mount("/mnt", "/tmp", ["bind", "idmap=uids=0-1"])], "expected FROM-TO-LENGTH"),
        ([mount("/mnt", "/tmp", ["bind", "idmap=uids=@0-1-1;gids=@0-1-1"])], "not mapped in the container"),
        ([mount("/mnt", "/proc", ["bind", "idmap"], uidMappings=mapping(0, 1), gidMappings=mapping(0, 1))], "/proc"),
    ],
)
def test_what_cannot_be_mapped(container: Make, changes: list[Any], said: str) -> None:
    result = container(["true"], *changes).create()
    assert result.status == 1
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
