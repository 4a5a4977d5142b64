"""Compare `pyruntime-image unpack` with `umoci unpack` and with tar: `python3 bench/images.py`.

    --image LAYOUT  an OCI image layout with the tag `bench` (default: a Debian of three layers is made, needs
                    debootstrap and umoci)
    --work DIR      where to unpack (default: a temporary directory; needs 1 GB for each round)
    --rounds N      how often each is measured (default 5)
    --json FILE     every single measurement

Wall-clock and CPU seconds are medians; all contestants unpack the same layers in turn, each into a new directory.
Nothing is removed before the end: ext4 gives inodes freed within the last minutes only reluctantly, and the search
costs whoever unpacks next several seconds. The peak of memory is that of the first round.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TAG = "bench"


def run(*argv: str | Path) -> None:
    """Run a program quietly. Raises CalledProcessError."""
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def make_image(work: Path) -> Path:
    """A Debian in three layers: the base without documentation, then that and the locales, then a few removals."""
    layout, bundle, debian = work / "layout", work / "source", work / "debian"
    print("making a Debian image (about a minute)", file=sys.stderr)
    run("debootstrap", "--variant=minbase", "--include=perl,vim-tiny,curl", "bookworm", debian)
    shutil.rmtree(debian / "var/cache/apt")
    shutil.rmtree(debian / "var/lib/apt/lists")
    name = f"{layout}:{TAG}"
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", name)
    run("umoci", "unpack", "--image", name, bundle)
    root = bundle / "rootfs"
    for left_out in (["./usr/share", "./usr/lib/x86_64-linux-gnu/perl"], ["./usr/share/locale"], []):
        excludes = [f"--exclude={path}" for path in left_out]
        pack = subprocess.Popen(["tar", "--xattrs", "-C", debian, "-cf", "-", *excludes, "."], stdout=subprocess.PIPE)
        subprocess.run(["tar", "--xattrs", "-C", root, "-xpf", "-"], stdin=pack.stdout, check=True)
        if pack.wait():
            raise SystemExit("tar failed")
        if not left_out:
            shutil.rmtree(root / "usr/share/doc")
        run("umoci", "repack", "--refresh-bundle", "--image", name, bundle)
    run("umoci", "config", "--image", name, "--config.cmd", "/bin/bash")
    run("umoci", "gc", "--layout", layout)
    return layout


def layers(layout: Path) -> list[Path]:
    """The blobs of the image's layers, the lowest first."""

    def blob(descriptor: dict[str, str]) -> Path:
        return layout / "blobs" / descriptor["digest"].replace(":", "/")

    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(blob(index["manifests"][0]).read_text())
    return [blob(layer) for layer in manifest["layers"]]


def measure(argv: list[str]) -> tuple[float, float, float]:
    """Wall-clock seconds, CPU seconds, and KiB of memory at the peak, of a program with its children."""
    begin = time.perf_counter()
    # Between us and the program stands a small shell: the peak that the kernel reports begins with the parent's.
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", '"$@" >/dev/null 2>&1; exit $?', "sh", *argv], os.environ)
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"{' '.join(argv)}: exit status {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss


def main() -> int:
    """Measure and print. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--image", type=Path, metavar="LAYOUT")
    parser.add_argument("--work", type=Path, metavar="DIR")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pyruntime-bench", dir=options.work) as name:
        work = Path(name)
        layout = options.image or make_image(work)
        contestants = {"pyruntime-image": ["bin/pyruntime-image", "unpack", "--quiet", "--tag", TAG, str(layout)]}
        contestants["pyruntime-image"][0] = str(ROOT / contestants["pyruntime-image"][0])
        if shutil.which("umoci"):
            contestants["umoci"] = ["umoci", "unpack", "--image", f"{layout}:{TAG}"]
        extract = " && ".join(f"tar --xattrs -xzpf {blob} -C $0" for blob in layers(layout))
        contestants["tar -x"] = ["sh", "-c", f"mkdir $0 && {extract}"]
        results: dict[str, list[tuple[float, float, float]]] = {who: [] for who in contestants}
        for number in range(options.rounds):
            for who, argv in contestants.items():
                results[who].append(measure([*argv, str(work / f"{who.replace(' ', '')}{number}")]))
    if options.json:
        options.json.write_text(json.dumps(results))
    ours = [statistics.median(column) for column in zip(*results["pyruntime-image"], strict=True)]
    print(f"{'':16}{'wall':>9}{'CPU':>9}{'memory':>11}   we take, of theirs")
    for who, rows in results.items():
        wall, cpu, _ = (statistics.median(column) for column in zip(*rows, strict=True))
        memory = rows[0][2] / 1024
        ratio = "" if who == "pyruntime-image" else f"   wall {ours[0] / wall:.2f}, CPU {ours[1] / cpu:.2f}"
        print(f"{who:16}{wall:>7.2f} s{cpu:>7.2f} s{memory:>7.0f} MiB{ratio}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
