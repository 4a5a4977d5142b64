"""Run tests of this checkout in a virtual machine with cgroup v2: `python3 -m tests.vm --mode systemd tests/unit`.

What is not an option of ours is pytest's. `--command` runs something else. The exit status is that of the command;
125 means that the guest left none twice. Needs root, qemu-system-x86, busybox-static, kmod, e2fsprogs, and for the
first run access to the packages of Debian; KVM is used where it works.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from . import job, kernel, machine

PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "depmod": "kmod",
    "mke2fs": "e2fsprogs",
}
MODES = {"plain": ["plain"], "systemd": ["systemd"], "both": ["plain", "systemd"]}
SELECTION = ["tests/integration"]
NO_STATUS = 125
LAST_SECONDS = 60  # of the time of a boot, for the report of what there was no time for


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.vm", description=__doc__.split("\n")[0].split(":")[0])
    parser.add_argument(
        "--mode", choices=MODES, default="plain", help="the first process of the guest; one by one: both"
    )
    parser.add_argument("--security", choices=("apparmor", "selinux"), default="apparmor", help="its security module")
    parser.add_argument("--timeout", type=float, default=1500, metavar="SECONDS", help="for one boot")
    parser.add_argument("--memory", type=int, default=3072, metavar="MIB")
    parser.add_argument("--emulate", action="store_true", help="without KVM; so is the second attempt of every run")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="where to leave the report of pytest")
    parser.add_argument("--command", help="a line for the shell of the guest, instead of pytest")
    options, rest = parser.parse_known_args()
    if os.geteuid() != 0:
        parser.error("needs root: the guest reads the root file system of this machine")
    missing = [package for program, package in PROGRAMS.items() if not shutil.which(program, path=search_path())]
    if missing:
        parser.error("missing programs: apt-get install " + " ".join(missing))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(NO_STATUS))  # an exception, so that QEMU is ended and the files go

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyruntime" / "vm"
    cache.mkdir(parents=True, exist_ok=True)
    try:
        parts = kernel.prepare(cache)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"tests.vm: cannot prepare the kernel: {error}", file=sys.stderr)
        return NO_STATUS
    command = ["sh", "-c", options.command] if options.command else pytest_command(rest, options.timeout)
    compiled = job.REPOSITORY / "tools" / "compile.py"
    subprocess.run(["/usr/bin/python3", compiled], check=True)  # slow where the processor is emulated

    status = 0
    with tempfile.TemporaryDirectory(dir=cache, prefix="run.") as name:
        directory = Path(name)
        job.pack(directory / "tree.tar", command, parts.modules)
        reports = {}
        for mode in MODES[options.mode]:
            status = max(status, attempt(parts, mode, directory, cache, options))
            report = directory / "share" / "junit.xml"
            if report.exists():
                reports[mode] = report.rename(directory / f"{mode}.xml")
        if options.junit and reports:
            merge(reports, options.junit)
    return status


def pytest_command(rest: Sequence[str], timeout: float) -> list[str]:
    """pytest, interrupted before the guest is ended: then it reports what it has."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "tests.vm.at_once"]
    command += ["--junitxml=/run/vm/junit.xml"]
    command += rest if any(not word.startswith("-") for word in rest) else [*SELECTION, *rest]
    limit = max(timeout - LAST_SECONDS, timeout / 2)
    return ["busybox", "timeout", "-s", "INT", "-k", str(LAST_SECONDS // 2), str(int(limit)), *command]


def attempt(parts: kernel.Kernel, mode: str, directory: Path, cache: Path, options: argparse.Namespace) -> int:
    """Boot and run the command; once more, emulated, where the guest leaves no status."""
    for number in (1, 2):
        started = time.monotonic()
        kvm = number == 1 and not options.emulate and not kvm_failed(cache) and machine.kvm_works()
        status = machine.boot(parts, mode, options.security, directory, options.timeout, options.memory, kvm)
        took = time.monotonic() - started
        if status is not None:
            print(f"tests.vm: {mode}: exit status {status} after {took:.0f} s")
            return status
        if kvm and not (directory / "share" / "started").exists():
            (cache / "no-kvm").write_text(boot_id())
        print(f"tests.vm: {mode}: no exit status after {took:.0f} s; end of the console:", file=sys.stderr)
        console = directory / "console"
        print(console.read_text(errors="replace")[-3000:] if console.exists() else "(none)", file=sys.stderr)
        if number == 1 and took >= options.timeout:
            break  # the tests take longer than that; the second time as well
    return NO_STATUS


def merge(reports: dict[str, Path], target: Path) -> None:
    """One report of the modes' reports: a test suite for each, called after it."""
    root = ElementTree.Element("testsuites")
    for mode, path in reports.items():
        for suite in ElementTree.parse(path).getroot().iter("testsuite"):
            suite.set("name", mode)
            root.append(suite)
    ElementTree.ElementTree(root).write(target, encoding="utf-8", xml_declaration=True)


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text()


def kvm_failed(cache: Path) -> bool:
    """Whether a guest did not boot with KVM since this machine was started: it would not the next time either."""
    mark = cache / "no-kvm"
    return mark.exists() and mark.read_text() == boot_id()


def search_path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


if __name__ == "__main__":
    sys.exit(main())
