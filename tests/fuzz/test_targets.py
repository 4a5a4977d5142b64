"""The fuzz targets, fed by hypothesis and with the seeds: what took a fuzzer once must not come back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz import __main__ as driver
from fuzz import targets
from fuzz.targets import TARGETS, run

SEEDS = Path(__file__).parent / "seeds"
FEW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

TOKENS: dict[str, list[str]] = {
    "config": ["{", "}", "[", "]", ",", '"a":', "NaN", "1e400", "9" * 4400, "null", '"\\udc80"', '"\\u0000"', "\ufeff"],
    "mount_options": ["ro", "rbind", "idmap=uids=0-1-2#3-4-5", "size=1", "tmpcopyup", "rprivate", "context=a", ","],
    "mountinfo": [
        "1 2 0:1 / /sys/fs/cgroup", " - cgroup cgroup rw,cpu,name=x\n", " - cgroup2 c rw\n", "\\040", "\r", "\x0b",
    ],
    "passwd": ["root:x:0:0:root:/root:/bin/sh\n", "\n\n", "1000", "4294967295", "a:b", "\uff11", "+5", ":", "\x85"],
    "cgroup_path": ["/", "..", ".", "a", ":", "-", "slice", ".slice", "system.slice:x:y", "\n", "\0", "x" * 300],
    "annotation": [
        "TimeoutStopUSec", "=", "uint64 5", "true", "'x'", "@as []", "[", "<", "{", "mtu", "publish", "80:80", "\n",
    ],
    "message": ["E", "R", "\0\0\0\0", "\xff\xff\xff\xff", "a{sv}\0", '{"id": "id", "pid": 1}', "\n", "\x1b[0m"],
}  # fmt: skip


def fed(tokens: list[str]) -> st.SearchStrategy[bytes]:
    """Bytes, and where there are tokens, rows of those."""
    anything = st.binary(max_size=600)
    if not tokens:
        return anything
    pieces = st.one_of(st.sampled_from(tokens), st.text(max_size=4))
    return anything | st.lists(pieces, max_size=12).map(lambda found: "".join(found).encode())


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_breaks_it(name: str) -> None:
    @FEW
    @given(fed(TOKENS.get(name, [])))
    def feed(data: bytes) -> None:
        run(TARGETS[name], data)

    feed()


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds(name: str) -> None:
    seeds = sorted((SEEDS / name).iterdir())
    assert seeds, f"no seeds for {name}"
    for seed in seeds:
        data = seed.read_bytes()
        run(TARGETS[name], data)
        for cut in range(0, len(data), max(1, len(data) // 20)):
            run(TARGETS[name], data[:cut])


LEAVES: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(-(1 << 65), 1 << 65), st.floats(), st.text(max_size=8)
) | st.sampled_from([[], {}])  # fmt: skip


@settings(FEW, max_examples=250)
@given(st.data())
def test_a_configuration_with_one_value_changed(data: st.DataObject) -> None:
    """Whatever stands in the place of a value of a good configuration: it is refused, or it can be planned."""
    document = json.loads((SEEDS / "config" / "full").read_text())
    places = list(_places(document))
    holder, key = data.draw(st.sampled_from(places))
    holder[key] = data.draw(LEAVES)
    run(TARGETS["config"], json.dumps(document).encode())


def _places(value: Any) -> Any:
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def test_a_parser_that_misbehaves_is_seen(tmp_path: Path) -> None:
    """Each of the properties, by a target that lacks it."""

    def crash(_: bytes) -> None:
        raise IndexError

    def touch(_: bytes) -> None:
        (tmp_path / "made").mkdir()

    def spin(_: bytes) -> None:
        until = time.process_time() + targets.SECONDS + 0.1
        while time.process_time() < until:
            pass

    def talk(_: bytes) -> None:
        targets.judge("")

    def boast(_: bytes) -> None:
        targets.judge("x" * 30_000)

    bad: list[tuple[Callable[[bytes], None], type[BaseException]]] = [
        (crash, IndexError),
        (touch, AssertionError),
        (spin, AssertionError),
        (talk, AssertionError),
        (boast, AssertionError),
    ]
    for target, expected in bad:
        with pytest.raises(expected):
            run(target, b"")
        targets._touched.clear()


def test_the_driver_knows_all_targets() -> None:
    assert list(TARGETS) == driver.NAMES and len(TARGETS) >= 10
