"""Device rules as a process in the cgroup meets them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.cgroups import Place, on_v1, opens, read

from pyruntime.cgroups import devices_bpf

# Devices

DENY = {"allow": False, "access": "rwm"}


def test_device_rules(place: Place) -> None:
    if not Path("/dev/kmsg").exists():
        pytest.skip("no /dev/kmsg here")
    one = place.made({"devices": [DENY]})
    assert opens(one, place, "/dev/null", os.O_RDWR)
    assert opens(one, place, "/dev/zero", os.O_RDONLY)
    assert not opens(one, place, "/dev/kmsg", os.O_RDONLY)
    one.destroy()
    one = place.made({"devices": [DENY, {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}]})
    assert opens(one, place, "/dev/kmsg", os.O_RDONLY)
    assert not opens(one, place, "/dev/kmsg", os.O_WRONLY)
    one.destroy()
    one = place.made({"devices": [{"allow": True, "access": "rwm"}, {**DENY, "type": "c", "major": 1, "minor": 11}]})
    assert not opens(one, place, "/dev/kmsg", os.O_RDONLY)
    assert opens(one, place, "/dev/full", os.O_RDONLY)


def test_making_a_node_is_allowed_and_opening_it_is_not(place: Place, tmp_path: Path) -> None:
    one = place.made({"devices": [DENY]})
    node = tmp_path / "node"

    def attempt() -> None:
        one.add(os.getpid())
        os.mknod(node, 0o020600, os.makedev(1, 11))

    assert place.wait(place.run(attempt)) == 0
    assert not opens(one, place, str(node), os.O_RDONLY)


@on_v1
def test_the_device_list_of_v1_begins_with_the_rules(native: Place) -> None:
    mine = [{"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rwm"},
            {"allow": True, "type": "b", "major": 7, "access": "rw"}]  # fmt: skip
    one = native.made({"devices": [DENY, *mine]})
    lines = read(one, "devices", "devices.list").split("\n")
    assert lines[:2] == ["c 10:229 rwm", "b 7:* rw"]
    assert "c 1:3 rwm" in lines[2:]
    one.update({"pids": {"limit": 5}, "devices": [{"allow": True, "access": "rwm"}]})
    assert read(one, "devices", "devices.list").split("\n") == lines, "update never touches device rules"


def test_a_device_program_is_replaced_not_added(place: Place) -> None:
    one = place.made({"devices": [DENY]})
    if one.version != 2:
        pytest.skip("about cgroup v2")
    directory = os.open(one.paths[""], os.O_DIRECTORY)
    before = devices_bpf.attached(directory)
    one.apply()
    after = devices_bpf.attached(directory)
    os.close(directory)
    assert len(before) == len(after) == 1
    assert before != after
