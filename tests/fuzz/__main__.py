"""python -m tests.fuzz [--seconds N] [--keep DIRECTORY] [TARGET...]: search for inputs that break a parser.

Each target gets a process of its own, coverage-guided by atheris (libFuzzer), for N seconds, beginning with its seeds.
An input that breaks it is printed, and kept in DIRECTORY if one is given: put it among the seeds once it is repaired.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

SEEDS = Path(__file__).parent / "seeds"
NAMES = "config mount_options id_map mountinfo seccomp passwd layer cgroup_path annotation message".split()
INSTRUMENTED = [
    "pyruntime.spec", "pyruntime.plan", "pyruntime.cgroups", "pyruntime.image", "pyruntime.network",
    "pyruntime.container", "pyruntime.cli",
]  # fmt: skip


def fuzz(name: str, arguments: list[str]) -> None:
    """In the process of one target. Does not return."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        from . import targets

    target = targets.TARGETS[name]
    atheris.Setup([sys.argv[0], *arguments], lambda data: targets.run(target, data))
    atheris.Fuzz()


def search(name: str, seconds: int, keep: Path | None) -> tuple[int, str]:
    """Fuzz one target for a while. Returns (executions, "" or what was found)."""
    with tempfile.TemporaryDirectory() as scratch:
        corpus = Path(scratch, "corpus")
        corpus.mkdir()
        seeds = SEEDS / name
        flags = [
            f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=1024", "-max_len=4096", "-verbosity=1",
            "-print_final_stats=1", f"-artifact_prefix={keep or scratch}/{name}-", str(corpus),
        ]  # fmt: skip
        if seeds.is_dir():
            flags.append(str(seeds))
        command = [sys.executable, "-m", "tests.fuzz", "--one", name, *flags]
        done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
        executions = re.search(r"stat::number_of_executed_units: (\d+)", done.stderr)
        count = int(executions[1]) if executions else 0
        if done.returncode == 0:
            return count, ""
        broken = [path.read_bytes() for path in (keep or Path(scratch)).glob(f"{name}-*")]
        said = done.stdout if "exception" in done.stdout else done.stderr
        lines = [line for line in said.split("\n") if line.strip() and not line.startswith(("#", "INFO", "WARNING"))]
        return count, "\n".join([*lines[-30:], *(f"input: {data[:4096]!r}" for data in broken)])


def main() -> int:
    if sys.argv[1:2] == ["--one"]:
        fuzz(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").partition("\n")[2])
    parser.add_argument("--seconds", type=int, default=10, help="for each target (default: 10)")
    parser.add_argument("--keep", type=Path, help="where inputs that break a parser are put")
    parser.add_argument("target", nargs="*", metavar="TARGET", help=f"some of: {', '.join(NAMES)} (default: all)")
    options = parser.parse_args()
    try:
        import atheris  # noqa: F401
    except ImportError:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        print(f"SKIPPED: atheris is not installed; there may be none for Python {version}, see pyproject.toml")
        return 0
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
    os.chdir(Path(__file__).parents[2])
    failed = 0
    for name in options.target or NAMES:
        count, found = search(name, options.seconds, options.keep)
        print(f"{name}: {count} inputs in {options.seconds} s: {'FAILED' if found or not count else 'none breaks it'}")
        if found or not count:
            print(found)
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
