"""`pyruntime seal`: the interpreter on a read-only mount, for the whole machine.

Each test works in a mount namespace of its own, where /run is an empty directory: the machine's own mount, if there
is one, is neither seen nor changed.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.runtime import LAUNCHER


@pytest.fixture(autouse=True)
def _only_ours(program: str) -> None:
    if program != str(LAUNCHER):
        pytest.skip("a verb of pyruntime alone")


def in_namespace(script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script with an empty /run. `$0` is the launcher."""
    script = f"mount -t tmpfs tmpfs /run; {script}"
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, str(LAUNCHER)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_starts_from_the_mount_and_does_not_seal_again() -> None:
    traced = in_namespace(
        "$0 seal; strace -f -qq -e trace=execve,execveat -o /run/log $0 run -b /none x || true; cat /run/log"
    )
    execs = [line for line in traced.stdout.splitlines() if "exec" in line]
    assert len(execs) == 2, traced  # the launcher, the interpreter
    assert "/run/pyruntime-interpreter/bin/python3" in execs[1]


def test_without_it_the_interpreter_is_started_twice() -> None:
    traced = in_namespace("strace -f -qq -e trace=execve,execveat -o /run/log $0 run -b /none x || true; cat /run/log")
    assert len([line for line in traced.stdout.splitlines() if "exec" in line]) == 3, traced


def test_the_mount_is_read_only_for_good() -> None:
    """Neither writing nor remounting nor a bind mount of it gets at the file below."""
    result = in_namespace(
        """
        $0 seal >/dev/null
        file=/run/pyruntime-interpreter/bin/python3
        for attempt in "true" "mount -o remount,rw /run/pyruntime-interpreter/bin" \
            "mount -o remount,bind,rw /run/pyruntime-interpreter/bin" "mount --bind $file /run/copy"; do
            touch /run/copy
            $attempt 2>/dev/null || true
            for target in "$file" /run/pyruntime-interpreter/bin/new; do
                if (echo x >> "$target") 2>/dev/null; then echo "written after: $attempt"; fi
            done
        done
        """
    )
    assert result.stdout == "", result
    assert result.returncode == 0, result


def test_repeats_and_undoes() -> None:
    result = in_namespace(
        "$0 seal; $0 seal; grep -c pyruntime-interpreter /proc/self/mountinfo; $0 seal --remove; $0 seal --remove"
    )
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["mounted", "already mounted", "1", "unmounted", "not mounted"], (
        result
    )


def test_an_upgraded_interpreter_is_mounted_anew(tmp_path: Path) -> None:
    """The overlay keeps showing a file that was replaced below it; `seal` notices."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in ("python3", "pyvenv.cfg"):
        (directory / name).touch()
    result = in_namespace(
        f"""
        cp --remove-destination /usr/bin/python3 {directory}/python3
        echo 'home = /usr/bin' > {directory}/pyvenv.cfg
        main={LAUNCHER.parent.parent}/pyruntime/__main__.py
        {directory}/python3 -I -S -B $main pyruntime seal
        cp {directory}/python3 {directory}/new; echo >> {directory}/new; mv {directory}/new {directory}/python3
        {directory}/python3 -I -S -B $main pyruntime seal
        cmp {directory}/python3 /run/pyruntime-interpreter/bin/python3
        """
    )
    assert result.returncode == 0, result
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == ["mounted", "mounted"], result


def test_needs_root_and_says_so() -> None:
    """From a copy that everybody may read: the checkout may lie in root's home."""
    result = in_namespace(
        f"""
        chmod 755 /run; mkdir /run/copy; cp -rL {LAUNCHER.parent} {LAUNCHER.parent.parent}/pyruntime /run/copy
        setpriv --reuid 65534 --regid 65534 --clear-groups /run/copy/bin/pyruntime seal
        """
    )
    assert result.returncode == 1, result
    assert "it needs root" in result.stderr
