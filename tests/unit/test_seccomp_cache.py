"""The cache of compiled filters: what is taken from it, and what never is."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pyruntime.kernel.libseccomp
from pyruntime.plan import seccomp_cache
from pyruntime.plan.seccomp import compile_filter
from pyruntime.plan.seccomp_cache import MAX_ENTRIES, Cache

NAMES = [line.split()[1] for line in (Path(__file__).with_name("data") / "calls-x86_64").read_text().splitlines()]
SECTION: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "syscalls": [{"names": NAMES[:300], "action": "SCMP_ACT_ALLOW"}],
}


class Compiled:
    """Counts how often libseccomp is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        real = pyruntime.kernel.libseccomp.Library

        def counted() -> pyruntime.kernel.libseccomp.Library:
            self.times += 1
            return real()

        monkeypatch.setattr(pyruntime.kernel.libseccomp, "Library", counted)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Compiled:
    return Compiled(monkeypatch)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def program(directory: Path | None, section: dict[str, Any] | None = None, strict: bool = False) -> bytes:
    compiled = compile_filter(SECTION if section is None else section, str(directory) if directory else None, strict)
    assert compiled is not None
    return compiled.program


def entry(directory: Path) -> Path:
    (path,) = directory.iterdir()
    return path


def test_the_second_time_nothing_is_compiled(directory: Path, compiled: Compiled) -> None:
    first = program(directory)
    assert compiled.times == 1
    assert program(directory) == first
    assert compiled.times == 1
    assert directory.stat().st_mode & 0o7777 == 0o700
    assert entry(directory).stat().st_mode & 0o7777 == 0o600


def test_every_word_of_the_profile_counts(directory: Path, compiled: Compiled) -> None:
    variants = [
        SECTION,
        {**SECTION, "defaultErrnoRet": 1},
        {**SECTION, "defaultErrnoRet": 2},
        {**SECTION, "defaultAction": "SCMP_ACT_KILL"},
        {**SECTION, "architectures": ["SCMP_ARCH_X86_64"]},
        {**SECTION, "syscalls": [{"names": NAMES[:299], "action": "SCMP_ACT_ALLOW"}]},
        {**SECTION, "syscalls": [{"names": NAMES[:300], "action": "SCMP_ACT_LOG"}]},
        {**SECTION, "syscalls": [{"names": ["read"], "action": "SCMP_ACT_TRACE", "errnoRet": 7}]},
        {**SECTION, "syscalls": [{"names": ["read"], "action": "SCMP_ACT_TRACE", "errnoRet": 8}]},
    ]
    for value in (1, 2):
        args = [{"index": 0, "op": "SCMP_CMP_EQ", "value": value}]
        variants.append({**SECTION, "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": args}]})
    fresh = [program(None, section) for section in variants]
    compiled.times = 0
    for _ in range(2):
        assert [program(directory, section) for section in variants] == fresh
    assert compiled.times == len(variants)


def test_strict_compilation_is_kept_apart(directory: Path, compiled: Compiled) -> None:
    program(directory)
    program(directory, strict=True)
    assert compiled.times == 2


def test_the_kernel_counts(directory: Path, compiled: Compiled, monkeypatch: pytest.MonkeyPatch) -> None:
    program(directory)
    real = os.uname()
    for field in ("release", "version", "machine"):
        values = {name: getattr(real, name) for name in ("sysname", "nodename", "release", "version", "machine")}
        values[field] += "x"
        monkeypatch.setattr(
            "pyruntime.plan.seccomp.posix.uname", lambda values=values: os.uname_result(values.values())
        )
        before = compiled.times
        program(directory)
        assert compiled.times == before + 1, field


def test_another_libseccomp_counts(directory: Path, compiled: Compiled, monkeypatch: pytest.MonkeyPatch) -> None:
    program(directory)
    monkeypatch.setattr(seccomp_cache, "identity", lambda path: b"1:2:3:4")
    program(directory)
    assert compiled.times == 2


def test_a_library_that_is_gone_counts(tmp_path: Path, directory: Path) -> None:
    library = tmp_path / "libseccomp.so.2"
    library.write_bytes(b"one")
    cache = Cache(str(directory))
    cache.keep(b"key", bytes(library), b"12345678")
    assert cache.find(b"key") == b"12345678"
    assert cache.find(b"other key") is None
    library.unlink()
    assert cache.find(b"key") is None
    cache.close()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_seen(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    directory = tmp_path_factory.mktemp("damage") / "cache"
    cache = Cache(str(directory))
    key, content = b"a profile" * 50, bytes(range(256)) * 4
    cache.keep(key, b"/etc/hostname", content)
    path = entry(directory)
    whole = path.read_bytes()
    damage = data.draw(st.sampled_from(["flip", "cut", "append", "other"]))
    if damage == "flip":
        position, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
        damaged = bytearray(whole)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
    elif damage == "cut":
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    elif damage == "append":
        path.write_bytes(whole + data.draw(st.binary(min_size=1, max_size=16)))
    else:
        path.write_bytes(data.draw(st.binary(max_size=64)))
    assert cache.find(key) is None
    cache.keep(key, b"/etc/hostname", content)  # what a caller does then
    assert cache.find(key) == content
    cache.close()


def test_a_damaged_entry_is_compiled_again(directory: Path, compiled: Compiled) -> None:
    first = program(directory)
    path = entry(directory)
    damaged = bytearray(path.read_bytes())
    damaged[-4] ^= 0xFF
    path.write_bytes(damaged)
    assert program(directory) == first
    assert program(directory) == first
    assert compiled.times == 2


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_directory_that_others_can_write_is_not_used(directory: Path, compiled: Compiled, mode: int) -> None:
    program(directory)
    directory.chmod(mode)
    program(directory)
    program(directory)
    assert compiled.times == 3


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_can_write_is_not_used(directory: Path, compiled: Compiled, mode: int) -> None:
    first = program(directory)
    entry(directory).chmod(mode)
    assert program(directory) == first
    assert compiled.times == 2
    assert entry(directory).stat().st_mode & 0o7777 == 0o600  # replaced
    program(directory)
    assert compiled.times == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_others_own_is_not_used(directory: Path, compiled: Compiled) -> None:
    program(directory)
    os.chown(entry(directory), 1000, -1)
    program(directory)
    assert compiled.times == 2
    os.chown(directory, 1000, -1)
    program(directory)
    program(directory)
    assert compiled.times == 4


def test_links_are_not_followed(directory: Path, tmp_path: Path, compiled: Compiled) -> None:
    program(directory)
    path = entry(directory)
    target = tmp_path / "target"
    path.rename(target)
    path.symlink_to(target)
    program(directory)
    assert compiled.times == 2
    assert not path.is_symlink()
    real = tmp_path / "real"
    directory.rename(real)
    directory.symlink_to(real)
    program(directory)
    assert compiled.times == 3


def test_a_fifo_does_not_hang(directory: Path, compiled: Compiled) -> None:
    first = program(directory)
    path = entry(directory)
    path.unlink()
    os.mkfifo(path, 0o600)
    assert program(directory) == first
    assert path.is_file()


def test_no_directory_at_all(tmp_path: Path, compiled: Compiled) -> None:
    first = program(tmp_path / "missing" / "cache")
    assert first == program(None)
    file = tmp_path / "file"
    file.write_text("")
    assert program(file) == first
    assert compiled.times == 3


def test_it_does_not_grow_for_ever(directory: Path) -> None:
    cache = Cache(str(directory))
    for number in range(MAX_ENTRIES * 2 + 5):
        cache.keep(b"key %d" % number, b"/etc/hostname", b"12345678")
        assert len(list(directory.iterdir())) <= MAX_ENTRIES
    assert cache.find(b"key %d" % (MAX_ENTRIES * 2 + 4)) == b"12345678"
    cache.close()


def test_nothing_is_left_behind_by_a_failed_write(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(str(directory))
    monkeypatch.setattr("pyruntime.plan.seccomp_cache.posix.write", lambda descriptor, text: 3)
    cache.keep(b"key", b"/etc/hostname", b"12345678")
    assert list(directory.iterdir()) == []
    cache.close()


def test_a_hit_is_fast(directory: Path) -> None:
    """Half a millisecond for a profile of an engine's size; the best of many, because the machine may be busy."""
    program(directory)
    times = []
    for _ in range(50):
        start = time.perf_counter()
        program(directory)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.0005
