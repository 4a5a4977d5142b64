"""Image configuration to config.json: conversion.md of the image spec, overrides, users."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import pytest

from pyruntime.image import convert
from pyruntime.image.convert import Overrides
from pyruntime.image.documents import ImageError
from pyruntime.image.users import resolve
from pyruntime.spec import template

PASSWD = b"""root:x:0:0:root:/root:/bin/sh
# a comment
www:x:33:34::/var/www:/bin/sh
www:x:66:66:the second one loses::
broken:x:abc:1::
huge:x:4294967295:1::
alias:x:33:77::/:
bare:x:50:51
1000:x:7:7:a name that is a number::
+1:x:0:0::
caf\xc3\xa9:x:90:91::
"""
GROUP = b"root:x:0:\nwww:x:34:\nadm:x:4:root,www\nlog:x:5:www\nbad:x:zz:www\nagain:x:5:www\ncaf\xc3\xa9:x:92:\n"


def files(passwd: bytes = PASSWD, group: bytes = GROUP) -> Callable[[bytes], bytes]:
    return {b"etc/passwd": passwd, b"etc/group": group}.__getitem__


@pytest.mark.parametrize(
    ("spec", "uid", "gid", "additional"),
    [
        ("", 0, 0, [4]),
        ("root", 0, 0, [4]),
        ("www", 33, 34, [4, 5]),
        ("www:adm", 33, 4, []),
        ("www:99", 33, 99, []),
        ("33", 33, 34, []),
        ("0033", 33, 34, []),
        ("33:34", 33, 34, []),
        ("12345", 12345, 0, []),
        ("12345:log", 12345, 5, []),
        (":log", 0, 5, []),
        ("1000", 1000, 0, []),  # CVE-2016-3697: a number is a number, whatever the file calls 1000
        ("4294967294", 4294967294, 0, []),
        ("bare", 50, 51, []),
        ("café:café", 90, 92, []),
    ],
)
def test_users(spec: str, uid: int, gid: int, additional: list[int]) -> None:
    user = resolve(spec, files())
    assert (user.uid, user.gid, user.additional) == (uid, gid, additional)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("nobody", "not in the image's /etc/passwd"),
        ("broken", "not in the image's"),
        ("huge", "not in the image's"),
        ("www:nobody", "not in the image's /etc/group"),
        ("www:", "no group"),
        ("4294967295", "larger than any id"),
        ("4294967296", "larger than any id"),
        ("99999999999999999999999", "larger than any id"),
        ("www:4294967296", "larger than any id"),
        (" 1", "not in the image's"),
        ("1_0", "not in the image's"),
        ("\u0661", "not in the image's"),
        ("-1", "not in the image's"),
    ],
)
def test_users_that_are_not_there(spec: str, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        resolve(spec, files())


def test_a_plus_sign_is_part_of_a_name() -> None:
    assert resolve("+1", files()).uid == 0  # there is such a name in the file
    with pytest.raises(ImageError):
        resolve("+1", files(b""))


def test_an_image_without_users_runs_as_root() -> None:
    user = resolve("", files(b"", b""))
    assert (user.uid, user.gid, user.additional) == (0, 0, [])


IMAGE = {
    "architecture": "arm64",
    "os": "linux",
    "variant": "v8",
    "author": "A <a@example.org>",
    "created": "2026-01-01T00:00:00Z",
    "os.version": "7",
    "os.features": ["one", "two"],
    "config": {
        "User": "www",
        "Entrypoint": ["/entry"],
        "Cmd": ["a", "b"],
        "Env": ["A=1", "PATH=/bin", "B=2"],
        "WorkingDir": "/srv",
        "StopSignal": "SIGUSR1",
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        "Labels": {"x": "y", "org.opencontainers.image.author": "the label wins"},
        "Volumes": {"/data": {}, "/a//b/": {}},
    },
}


def converted(image: dict[str, Any] | None = None, overrides: Overrides | None = None) -> Any:
    return convert.convert(
        cast('dict[str, Any]', copy.deepcopy(template.config())), IMAGE if image is None else image,
        overrides or Overrides(), files(), {"HOME": "/home/me"},
    )  # fmt: skip


def test_conversion() -> None:
    config = converted()
    assert config["process"]["args"] == ["/entry", "a", "b"]
    assert config["process"]["env"] == ["A=1", "PATH=/bin", "B=2"]
    assert config["process"]["cwd"] == "/srv"
    assert config["process"]["user"] == {"uid": 33, "gid": 34, "additionalGids": [4, 5]}
    assert config["annotations"] == {
        "org.opencontainers.image.os": "linux",
        "org.opencontainers.image.architecture": "arm64",
        "org.opencontainers.image.variant": "v8",
        "org.opencontainers.image.os.version": "7",
        "org.opencontainers.image.os.features": "one,two",
        "org.opencontainers.image.author": "the label wins",
        "org.opencontainers.image.created": "2026-01-01T00:00:00Z",
        "org.opencontainers.image.stopSignal": "SIGUSR1",
        "org.opencontainers.image.exposedPorts": "80/tcp,53/udp",
        "x": "y",
    }
    assert convert.volumes(IMAGE["config"]) == ["/a/b", "/data"]  # type: ignore[arg-type]


def test_overrides() -> None:
    overrides = Overrides()
    overrides.args = ["x"]
    overrides.env = ["B=new", "C=3", "HOME"]
    overrides.user = "12:13"
    overrides.cwd = "/tmp"
    overrides.read_only = True
    overrides.hostname = "box"
    config = converted(overrides=overrides)
    assert config["process"]["args"] == ["/entry", "x"]
    assert config["process"]["env"] == ["A=1", "PATH=/bin", "B=new", "C=3", "HOME=/home/me"]
    assert config["process"]["user"] == {"uid": 12, "gid": 13}
    assert config["process"]["cwd"] == "/tmp"
    assert config["root"]["readonly"] is True
    assert config["hostname"] == "box"


def test_another_entry_point_drops_the_old_arguments() -> None:
    overrides = Overrides()
    overrides.entrypoint = ["/bin/sh", "-x"]
    assert converted(overrides=overrides)["process"]["args"] == ["/bin/sh", "-x"]
    overrides.args = ["y"]
    assert converted(overrides=overrides)["process"]["args"] == ["/bin/sh", "-x", "y"]


def test_an_image_that_says_next_to_nothing() -> None:
    config = converted({"config": {"Cmd": ["sh"]}})
    assert config["process"]["args"] == ["sh"]
    assert config["process"]["env"] == [convert.PATH]
    assert config["process"]["cwd"] == "/"
    assert converted({"config": {"Cmd": ["sh"], "Env": None, "Labels": None, "Volumes": None, "User": ""}})


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({}, "no command to run"),
        ({"Cmd": "sh"}, "config.Cmd"),
        ({"Cmd": ["a\0b"]}, "NUL"),
        ({"Cmd": ["a"], "Env": {"A": "1"}}, "config.Env"),
        ({"Cmd": ["a"], "User": 5}, "config.User"),
        ({"Cmd": ["a"], "WorkingDir": "relative"}, "config.WorkingDir"),
        ({"Cmd": ["a"], "WorkingDir": ["/"]}, "config.WorkingDir"),
        ({"Cmd": ["a"], "Labels": {"a": 1}}, "config.Labels"),
        ({"Cmd": ["a"], "ExposedPorts": {"80/tcp\n": {}}}, "not a port"),
    ],
)
def test_configurations_that_make_no_sense(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        converted({"config": config})


@pytest.mark.parametrize("path", ["data", "/", "/../etc", "/a/../../b", "", "/x\0y"])
def test_volumes_outside(path: str) -> None:
    with pytest.raises(ImageError, match=r"config\.Volumes"):
        convert.volumes({"Volumes": {path: {}}})


@pytest.mark.parametrize(
    ("value", "mount"),
    [
        (
            "type=bind,source=/a,destination=/b,ro",
            {"type": "bind", "source": "/a", "destination": "/b", "options": ["rbind", "ro"]},
        ),
        (
            "type=tmpfs,target=/t,options=size=1m:nodev",
            {"type": "tmpfs", "source": "tmpfs", "destination": "/t", "options": ["size=1m", "nodev"]},
        ),
        (
            "src=/a,dst=/b,options=bind:nosuid",
            {"type": "bind", "source": "/a", "destination": "/b", "options": ["bind", "nosuid"]},
        ),
    ],
)
def test_mounts(value: str, mount: dict[str, Any]) -> None:
    assert convert.parse_mount(value) == mount


@pytest.mark.parametrize("value", ["", "type=bind,source=/a", "destination=b,source=/a", "destination=/b", "what=5"])
def test_mounts_that_are_none(value: str) -> None:
    with pytest.raises(ImageError, match="--mount"):
        convert.parse_mount(value)


@pytest.mark.parametrize("item", ["=x", "", "NOT_SET_ANYWHERE"])
def test_environment_that_is_none(item: str) -> None:
    overrides = Overrides()
    overrides.env = [item]
    with pytest.raises(ImageError, match="--env"):
        converted(overrides=overrides)
