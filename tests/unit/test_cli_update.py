"""`update`: what its flags and documents mean."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.room import Room, call, fake_room

from pyruntime.cli import update


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Room:
    return fake_room(monkeypatch)


def test_update_from_flags(room: Room) -> None:
    line = (
        "--memory 256m --memory-swap -1 --memory-reservation 1.5k --cpu-quota -1 --cpu-period 100000 --cpu-share 512 "
    )
    line += "--cpuset-cpus 0-1 --cpuset-mems 0 --pids-limit -1 --blkio-weight 500 --cpu-idle 1 --cpu-burst 10 "
    line += "--cpu-rt-period 5 --cpu-rt-runtime 4 --l3-cache-schema L3:0=f --mem-bw-schema MB:0=10"
    assert call("update", *line.split(), "web") == 0
    assert room[0][2:] == (
        "web",
        {
            "memory": {"limit": 256 << 20, "swap": -1, "reservation": 1536},
            "cpu": {"quota": -1, "period": 100000, "shares": 512, "cpus": "0-1", "mems": "0", "idle": 1, "burst": 10,
                    "realtimePeriod": 5, "realtimeRuntime": 4},
            "pids": {"limit": -1},
            "blockIO": {"weight": 500},
            "intelRdt": {"l3CacheSchema": "L3:0=f", "memBwSchema": "MB:0=10"},
        },
    )  # fmt: skip
    assert call("update", "web") == 0
    assert room[1][2:] == ("web", {})


def test_update_from_a_document(room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "resources.json"
    document = {"memory": {"limit": 104857600, "swap": 209715200}, "cpu": {"quota": 50000, "period": 100000}}
    file.write_text(json.dumps(document))
    assert call("update", f"--resources={file}", "--memory", "1", "web") == 0
    assert room[0][2:] == ("web", document)
    read, write = os.pipe()
    monkeypatch.setattr(os, "read", lambda descriptor, size, real=os.read: real(read, size))
    os.write(write, json.dumps(document).encode())
    os.close(write)
    assert call("update", "-r", "-", "web") == 0
    os.close(read)
    assert room[1][2:] == ("web", document)


@pytest.mark.parametrize(
    ("line", "message"),
    [("--memory 1x", "invalid value for memory: invalid size: '1x'"), ("--memory-swap -2", "invalid size: '-2'"),
     ("--cpu-quota 1.5", "invalid value for cpu-quota"), ("--cpu-period -1", "invalid value for cpu-period"),
     ("--cpu-share 18446744073709551616", "invalid value for cpu-share"),
     ("--cpu-idle 2", "invalid value for cpu-idle"),
     ("--blkio-weight 5", "range from 10 to 1000"), ("--resources /nonexistent", "open /nonexistent: no such file"),
     ("--resources /", "/: "), ("--resources /etc/passwd", "/etc/passwd")],
)  # fmt: skip
def test_update_refuses(line: str, message: str, room: Room, capfd: pytest.CaptureFixture[str]) -> None:
    assert call("update", *line.split(), "web") == 1
    assert message in capfd.readouterr().err
    assert not room


def test_kernel_memory_is_ignored_with_a_warning(room: Room, capfd: pytest.CaptureFixture[str]) -> None:
    assert call("update", "--kernel-memory", "1m", "web") == 0
    assert room[0][2:] == ("web", {})
    assert "level=warning" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1", 1), ("1b", 1), ("1k", 1024), ("1K", 1024), ("1kb", 1024), ("1KiB", 1024), ("2 m", 2 << 20),
     ("1.5g", 3 << 29), ("1t", 1 << 40), ("1PB", 1 << 50), ("-1", -1), ("9223372036854775807", (1 << 63) - 1),
     ("1.", 1), ("0.5k", 512)],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert update.size_in_bytes(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "k", "-5", "1x", "1kk", "1bb", "1ib", "1 ", "1  k", " 1", "1e3", "0x10", "1_000", "\u0661", "1.5.5", ".5",
     "9223372036854775808", "9000p", "1" * 5000, "--1", "+1"],
)  # fmt: skip
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match=r"^"):
        update.size_in_bytes(text)


@given(st.integers(0, (1 << 63) - 1), st.sampled_from("kmgtp"), st.integers(0, 3))
def test_sizes_are_exact(number: int, unit: str, form: int) -> None:
    factor = 1 << (10 * (1 + "kmgtp".index(unit)))
    text = f"{number}{(unit, unit.upper(), unit + 'b', unit + 'iB')[form]}"
    if number * factor < 1 << 63:
        assert update.size_in_bytes(text) == number * factor
    else:
        with pytest.raises(ValueError, match=r"^"):
            update.size_in_bytes(text)
