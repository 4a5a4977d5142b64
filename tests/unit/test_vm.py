"""The harness of the virtual machine, without one: what it packs, what it starts, what it leaves."""

from __future__ import annotations

import lzma
import struct
import subprocess
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
from vm import __main__ as harness
from vm import job, kernel, machine


def report(path: Path, *names: str) -> Path:
    cases = "".join(f'<testcase name="{name}"/>' for name in names)
    path.write_text(f'<testsuites><testsuite name="pytest" tests="{len(names)}">{cases}</testsuite></testsuites>')
    return path


def test_the_modes_become_one_report(tmp_path: Path) -> None:
    reports = {mode: report(tmp_path / mode, f"of-{mode}") for mode in ("plain", "systemd")}
    harness.merge(reports, tmp_path / "all.xml")
    suites = ElementTree.parse(tmp_path / "all.xml").getroot().findall("testsuite")
    assert [suite.get("name") for suite in suites] == ["plain", "systemd"]
    assert [case.get("name") for case in suites[1].findall("testcase")] == ["of-systemd"]


@pytest.mark.parametrize(
    ("rest", "end"),
    [
        ([], ["tests/integration"]),
        (["-k", "x"], ["-k", "x"]),
        (["-q"], ["tests/integration", "-q"]),
        (["t.py"], ["t.py"]),
    ],
)
def test_pytest_is_interrupted_before_the_guest_ends(rest: list[str], end: list[str]) -> None:
    command = harness.pytest_command(rest, 300)
    assert command[: command.index("-m")][:7] == ["busybox", "timeout", "-s", "INT", "-k", "30", "240"]
    assert command[-len(end) :] == end
    assert harness.pytest_command(rest, 40)[6] == "20"


def test_what_the_guest_gets(tmp_path: Path) -> None:
    job.pack(tmp_path / "tree.tar", ["echo", "two words"], tmp_path / "modules")
    with tarfile.open(tmp_path / "tree.tar") as tar:
        names = tar.getnames()
        command = tar.extractfile("job/command")
        assert command is not None and command.read().decode().endswith("&& echo 'two words'\n")
    here = str(job.REPOSITORY).lstrip("/")
    assert f"{here}/tests/vm/job.sh" in names and "job/units/job.service" in names
    assert not [name for name in names if name.startswith(f"{here}/.git/")]
    assert (tmp_path / "tree.tar").stat().st_size % 4096 == 0  # it is read as a disk


def test_a_kernel_is_taken_out_of_its_image() -> None:
    payload = lzma.compress(b"\x7fELF" + bytes(5000)) + b"size"
    header = bytearray(1024)
    header[0x1F1] = 1
    struct.pack_into("<II", header, 0x248, 0, len(payload))
    assert kernel.decompress(bytes(header) + payload) == b"\x7fELF" + bytes(5000)
    with pytest.raises(OSError, match="unknown compression"):
        kernel.decompress(bytes(header) + bytes(len(payload)))


def test_files_of_the_initramfs(tmp_path: Path) -> None:
    archive = kernel.entry("a/b", 0o100644, b"12345") + kernel.entry("TRAILER!!!", 0, b"")
    assert len(archive) % 4 == 0
    done = subprocess.run(["busybox", "cpio", "-t"], input=archive, capture_output=True, check=True)
    assert done.stdout == b"a/b\n"


def test_qemu_gets_what_the_mode_wants(tmp_path: Path) -> None:
    words = machine.arguments(kernel.Kernel(tmp_path), "systemd", "apparmor", tmp_path, 512, kvm=False)
    line = words[words.index("-append") + 1]
    assert "pyruntime.mode=systemd" in line and "security=apparmor" in line
    assert words[words.index("-accel") + 1].startswith("tcg")
    assert "kvm" in machine.arguments(kernel.Kernel(tmp_path), "plain", "apparmor", tmp_path, 512, kvm=True)
