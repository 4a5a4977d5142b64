"""The hot modules in one file (tools/compile.py, `load_hot`): only a shortcut, whatever is wrong with the file."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.runtime import REPOSITORY

PYTHON = "/usr/bin/python3"

# Says for one module whether it came from the file, then goes on as always.
PROBE = """
import sys
sys.argv = ["main", "pyruntime", {verb!r}, "nothing-of-that-name"]
main = {{"__name__": "driver", "__file__": {main!r}}}
with open(main["__file__"]) as file:
    exec(compile(file.read(), main["__file__"], "exec"), main)
main["must_seal"] = lambda words: False
status = main["start"]()
import pyruntime.cli.main as probed
print("slow" if probed.__spec__ else "fast", status, getattr(probed, "EDITED", "original"), flush=True)
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    copy = tmp_path / "checkout" / "pyruntime"
    shutil.copytree(REPOSITORY / "pyruntime", copy, ignore=shutil.ignore_patterns("__pycache__", "hot.*"))
    compile_modules(copy)
    return copy


def compile_modules(package: Path, *flags: str) -> Path:
    subprocess.run([PYTHON, REPOSITORY / "tools" / "compile.py", *flags, package], check=True)
    return next(package.glob("hot.*"))


def probe(package: Path, verb: str = "state") -> list[str]:
    code = PROBE.format(verb=verb, main=str(package / "__main__.py"))
    command = [PYTHON, "-I", "-S", "-E", "-B", "-X", "utf8", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert "container does not exist" in result.stderr, result
    assert "Traceback" not in result.stderr
    return result.stdout.split()


def test_the_file_is_used(package: Path) -> None:
    assert probe(package) == ["fast", "1", "original"]


def test_with_debug_line_numbers_are_known(package: Path) -> None:
    """The file has none: nothing is loaded from it then."""
    path = package / "cli" / "state.py"
    path.write_text(path.read_text() + "\n\nVERB.run = lambda settings, options: 1 / 0\n")
    compile_modules(package)
    code = PROBE.format(verb="state", main=str(package / "__main__.py")).replace(
        '"pyruntime",', '"pyruntime", "--debug",'
    )
    command = [PYTHON, "-I", "-S", "-E", "-B", "-X", "utf8", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.stdout.startswith("slow"), result
    lines = len(path.read_text().splitlines())
    assert re.search(rf'cli/state\.py\\?", line {lines}\b', result.stderr), result


@pytest.mark.parametrize("flags", [[], ["--to-install"]], ids=["checkout", "installed"])
def test_an_edited_module_is_loaded_from_its_source(package: Path, flags: list[str]) -> None:
    compile_modules(package, *flags)
    assert probe(package)[0] == "fast"
    with (package / "cli" / "main.py").open("a") as file:
        file.write('\nEDITED = "edited"\n')
    assert probe(package) == ["slow", "1", "edited"]


def test_an_edit_of_the_same_length_is_seen_by_its_time(package: Path) -> None:
    path = package / "cli" / "main.py"
    path.write_text(path.read_text() + '\nEDITED = "before"\n')
    compile_modules(package)
    assert probe(package) == ["fast", "1", "before"]
    path.write_text(path.read_text().replace('EDITED = "before"', 'EDITED = "behind"'))
    os.utime(path, (1, 1))  # the .pyc beside it, to which this falls back, knows whole seconds only
    assert probe(package) == ["slow", "1", "behind"]


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda _data: None,
    "empty": lambda _data: b"",
    "another Python's": lambda data: b"\x00\x00\x0d\x0a" + data[4:],
    "cut in the head": lambda data: data[:10],
    "cut in the first section": lambda data: data[:1000],
    "cut at the end": lambda data: data[: len(data) // 2],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_as_good_as_none(package: Path, damage: str) -> None:
    file = next(package.glob("hot.*"))
    data = DAMAGES[damage](file.read_bytes())
    if data is None:
        file.unlink()
    else:
        file.write_bytes(data)
    assert probe(package)[1:] == ["1", "original"]


def test_a_removed_module_is_missed(package: Path) -> None:
    """What was deleted must not live on in the file."""
    (package / "cli" / "state.py").unlink()
    (package / "cli" / "output.py").unlink()
    code = PROBE.format(verb="state", main=str(package / "__main__.py"))
    command = [PYTHON, "-I", "-S", "-E", "-B", "-X", "utf8", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "No module named" in result.stderr or "cannot import name" in result.stderr


def test_no_descriptor_is_left_where_the_callers_are_expected(package: Path) -> None:
    code = (
        PROBE.format(verb="state", main=str(package / "__main__.py")) + "import os\nprint(os.listdir('/proc/self/fd'))"
    )
    command = [PYTHON, "-I", "-S", "-E", "-B", "-X", "utf8", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert sorted(eval(result.stdout.splitlines()[-1])) == ["0", "1", "2", "3"]  # 3 is the listing itself
