"""bin/pyruntime: it finds its package wherever pip puts the two, and starts the interpreter isolated."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from support.bundles import Bundle
from support.container import wait_for
from support.runtime import LAUNCHER, REPOSITORY, compile_launcher

VERSION = "python3.11" if Path("/usr/bin/python3.11").exists() else Path(os.path.realpath("/usr/bin/python3")).name

# Stands where the package should: says who was started, and how.
PROBE = """
import sys, posix
print(__file__)
print(" ".join(sys.argv[1:]))
print(sys.flags.isolated, sys.flags.no_site, sys.flags.ignore_environment, sys.dont_write_bytecode, sys.flags.utf8_mode)
print([path for path in sys.path if not path.startswith((sys.base_prefix, "/usr/lib"))])
"""

LAYOUTS = {
    "checkout": ("bin", "pyruntime"),
    "virtual environment": ("venv/bin", f"venv/lib/{VERSION}/site-packages/pyruntime"),
    "Debian's pip": ("usr/local/bin", f"usr/local/lib/{VERSION}/dist-packages/pyruntime"),
    "pip --user": ("home/.local/bin", f"home/.local/lib/{VERSION}/site-packages/pyruntime"),
    "pip --target": ("target/bin", "target/pyruntime"),
    "a path with spaces": ("my programs/bin", f"my programs/lib/{VERSION}/site-packages/pyruntime"),
}

HOSTILE = {
    "PYTHONPATH": "/evil",
    "PYTHONHOME": "/evil",
    "PYTHONSTARTUP": "/evil/x.py",
    "PYTHONINSPECT": "1",
    "PYTHONDONTWRITEBYTECODE": "",
    "PYTHONUTF8": "0",
    "PYTHONPLATLIBDIR": "evil",
    "IFS": "/",
    "ENV": "/evil/env",
    "CDPATH": "/",
    "LC_ALL": "nonsense",
}


@pytest.fixture(scope="session", params=["script", "compiled"])
def launcher_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both launchers must do the same."""
    if request.param == "script":
        return LAUNCHER
    return compile_launcher(tmp_path_factory.mktemp("launcher") / "pyruntime")


def install(root: Path, layout: str, launcher: Path) -> tuple[Path, Path]:
    """Lay a launcher and a probe out; returns the launcher and the program it must start."""
    bin_directory, package = (root / part for part in LAYOUTS[layout])
    bin_directory.mkdir(parents=True)
    package.mkdir(parents=True)
    shutil.copy(launcher, bin_directory / "pyruntime")
    (package / "__main__.py").write_text(PROBE)
    return bin_directory / "pyruntime", package / "__main__.py"


def lines(program: Path | str, *words: str, cwd: Path | str = "/", env: dict[str, str] | None = None) -> list[str]:
    result = subprocess.run(
        [program, *words], cwd=cwd, env={} if env is None else env, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result
    return result.stdout.splitlines()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("env", [{}, HOSTILE], ids=["empty", "hostile"])
def test_finds_its_package_and_isolates(tmp_path: Path, launcher_file: Path, layout: str, env: dict[str, str]) -> None:
    launcher, main = install(tmp_path, layout, launcher_file)
    found, words, flags, path = lines(launcher, "state", "a b", "-x", env=env)
    assert os.path.samefile(found, main)
    assert words == f"{launcher} state a b -x"
    assert flags == "1 1 1 True 1"
    assert path == "[]"


# Loaded into a Python, it leaves a mark; the shell that the script is run by is the caller's.
PRELOADED = """
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
__attribute__((constructor)) static void loaded(void) {
    char exe[4096] = "";
    if (readlink("/proc/self/exe", exe, sizeof exe - 1) > 0 && strstr(exe, "/python"))
        close(open(MARK, O_CREAT | O_WRONLY, 0666));
}
"""

# Everything that could be changed about what runs.
STATE = """
import sys, posix
print(sys.flags, sys.path, sorted(sys.modules), sys.executable, sys._xoptions, sys.warnoptions, sys.pycache_prefix)
print(sys.stdout.encoding, sys.stdout.errors, sys.getfilesystemencoding())
import argparse, json, locale
print(sorted(sys.modules), json.__file__, locale.setlocale(locale.LC_MESSAGES))
"""


def test_nothing_in_the_environment_changes_what_runs(tmp_path: Path, launcher_file: Path) -> None:
    """Neither Python's variables nor the loader's, nor a home with a user site, nor the current directory."""
    launcher, main = install(tmp_path / "prefix", "virtual environment", launcher_file)
    main.write_text(STATE)
    mark, evil = tmp_path / "mark", tmp_path / "evil"
    for folder in (evil, evil / f".local/lib/{VERSION}/site-packages", evil / "lib" / VERSION):
        folder.mkdir(parents=True)
        for name in ("json", "argparse", "locale", "os", "sitecustomize", "usercustomize", "encodings", "site"):
            (folder / f"{name}.py").write_text(f"open({str(mark)!r}, 'w')")
        (folder / "evil.pth").write_text("import sitecustomize\n")
    (evil / "pyvenv.cfg").write_text(f"home = {evil}\n")
    library = evil / "evil.so"
    build = ["gcc", "-shared", "-fPIC", f'-DMARK="{mark}"', "-xc", "-o", str(library), "-"]
    subprocess.run(build, input=PRELOADED.encode(), check=True)
    everything = dict.fromkeys(
        "PYTHONPATH PYTHONHOME PYTHONUSERBASE PYTHONPYCACHEPREFIX PYTHONPLATLIBDIR HOME TMPDIR PATH"
        " LD_LIBRARY_PATH GCONV_PATH LOCPATH NLSPATH XDG_CONFIG_HOME VIRTUAL_ENV".split(),
        str(evil),
    )
    for (
        name
    ) in "PYTHONINSPECT PYTHONDEBUG PYTHONOPTIMIZE PYTHONVERBOSE PYTHONMALLOC PYTHONTRACEMALLOC PYTHONDEVMODE".split():
        everything[name] = "1"
    for name in "LC_ALL LC_CTYPE LANG LANGUAGE PYTHONIOENCODING PYTHONCOERCECLOCALE PYTHONWARNINGS".split():
        everything[name] = "error"
    everything["PYTHONSTARTUP"] = everything["PYTHONBREAKPOINT"] = str(evil / "os.py")
    # Python looks for pyvenv.cfg, and so for its library, where these say that it is, whatever the flags say.
    everything["PYTHONEXECUTABLE"] = everything["__PYVENV_LAUNCHER__"] = str(evil / "bin" / "python3")
    everything["LD_PRELOAD"] = everything["LD_AUDIT"] = str(library)
    everything["GLIBC_TUNABLES"] = "glibc.malloc.check=3"
    assert lines(launcher, "state", cwd=evil, env=everything) == lines(launcher, "state")
    assert not mark.exists()
    subprocess.run(["/usr/bin/python3", "-c", ""], env={"LD_PRELOAD": str(library)}, check=True)
    assert mark.exists(), "the trap does not work"


def test_works_through_links_and_under_other_names(tmp_path: Path, launcher_file: Path) -> None:
    launcher, main = install(tmp_path, "virtual environment", launcher_file)
    first, second = tmp_path / "runc", tmp_path / "links" / "crun"
    second.parent.mkdir()
    first.symlink_to(launcher)
    second.symlink_to("../runc")
    found, words, *_ = lines(second, "list")
    assert os.path.samefile(found, main)
    assert words == f"{second} list"


def test_works_through_a_linked_directory(tmp_path: Path, launcher_file: Path) -> None:
    launcher, main = install(tmp_path / "real", "virtual environment", launcher_file)
    (tmp_path / "bin").symlink_to(launcher.parent)
    assert os.path.samefile(lines(tmp_path / "bin" / "pyruntime")[0], main)


def test_works_by_a_relative_path(tmp_path: Path, launcher_file: Path) -> None:
    launcher, main = install(tmp_path, "virtual environment", launcher_file)
    found = lines("venv/bin/pyruntime", cwd=tmp_path)[0]
    assert found.startswith("/"), "the program changes directory: a relative path would be lost"
    assert os.path.samefile(found, main)
    assert launcher.exists()


def test_nothing_in_the_current_directory_is_started(tmp_path: Path, launcher_file: Path) -> None:
    launcher, _ = install(tmp_path / "installed", "virtual environment", launcher_file)
    hostile = tmp_path / "bundle"
    (hostile / "pyruntime").mkdir(parents=True)
    for name in ("json.py", "os.py", "sys.py", "posix.py", "sitecustomize.py", "pyruntime/__main__.py", "pyruntime.py"):
        (hostile / name).write_text("import posix; posix.write(1, b'EVIL')")
    assert "EVIL" not in "".join(lines(launcher, cwd=hostile))
    result = subprocess.run(
        [LAUNCHER, "--version"], cwd=hostile, env=HOSTILE, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result
    assert "EVIL" not in result.stdout + result.stderr


def test_of_several_versions_the_last_installed_is_started(tmp_path: Path, launcher_file: Path) -> None:
    launcher, main = install(tmp_path, "virtual environment", launcher_file)
    old = tmp_path / "venv" / "lib" / "python3.99" / "site-packages" / "pyruntime"
    old.mkdir(parents=True)
    (old / "__main__.py").write_text("raise SystemExit('the old one')")
    os.utime(old, (1, 1))
    assert os.path.samefile(lines(launcher)[0], main)


def test_says_what_is_missing(tmp_path: Path, launcher_file: Path) -> None:
    launcher, main = install(tmp_path, "virtual environment", launcher_file)
    shutil.rmtree(main.parent)
    result = subprocess.run([launcher], env={}, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.endswith("install it again\n")
    newer = tmp_path / "venv" / "lib" / "python3.99" / "site-packages" / "pyruntime"
    newer.mkdir(parents=True)
    (newer / "__main__.py").touch()
    result = subprocess.run([launcher], env={}, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "no python3.99" in result.stderr


def test_libraries_are_found_beside_the_package_and_never_before_the_standard_library(tmp_path: Path) -> None:
    """A site-packages full of modules named like those of the standard library, and one that nobody else has."""
    bin_directory, package = (tmp_path / part for part in LAYOUTS["virtual environment"])
    bin_directory.mkdir(parents=True)
    shutil.copy(LAUNCHER, bin_directory / "pyruntime")
    shutil.copytree(REPOSITORY / "pyruntime", package, symlinks=False)
    for name in ("json.py", "argparse.py", "platform.py", "typing.py", "string.py", "os.py", "posix.py"):
        (package.parent / name).write_text("raise SystemExit('EVIL')")
    (package.parent / "jsonschema.py").write_text(
        "from __future__ import division\nimport posix\nposix.write(2, b'FOUND')"
    )
    run = [str(bin_directory / "pyruntime"), "validate", str(REPOSITORY / "bundles" / "hello")]
    result = subprocess.run(run, env=HOSTILE, capture_output=True, text=True, check=False)
    assert "EVIL" not in result.stdout + result.stderr
    assert "FOUND" in result.stderr, result
    assert lines(bin_directory / "pyruntime", "--version", env=HOSTILE)


def test_pip_installs_a_working_command(tmp_path: Path) -> None:
    """`pip install .` in a fresh virtual environment; the modules are compiled, because a start never does it."""
    checkout = tmp_path / "checkout"
    shutil.copytree(
        REPOSITORY,
        checkout,
        symlinks=True,
        ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", "tests", "build"),
    )
    venv.create(tmp_path / "venv", with_pip=True, symlinks=True)
    subprocess.run(
        [tmp_path / "venv/bin/pip", "install", "--quiet", "--no-deps", checkout], check=True, capture_output=True
    )
    launcher = tmp_path / "venv" / "bin" / "pyruntime"
    assert lines(launcher, "--version")[0].startswith("pyruntime version ")
    for program in ("pyruntime-image", "pyruntime-bridge"):
        assert lines(launcher.with_name(program), "--version")[0].startswith(program)
    package = next(tmp_path.glob("venv/lib/python3*/site-packages/pyruntime"))
    assert package.parent.parent.name == f"python3.{sys.version_info.minor}"
    assert (package / f"hot.{sys.implementation.cache_tag}").stat().st_size > 10_000
    sources = {path.relative_to(package).with_suffix("") for path in package.rglob("*.py")}
    compiled = {path.parent.parent.relative_to(package) / path.name.split(".")[0] for path in package.rglob("*.pyc")}
    assert sources == compiled
    assert sources == {
        path.relative_to(REPOSITORY / "pyruntime").with_suffix("") for path in REPOSITORY.glob("pyruntime/**/*.py")
    }


@pytest.fixture(scope="session")
def compiled_runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled launcher beside this checkout's package."""
    directory = tmp_path_factory.mktemp("compiled")
    (directory / "bin").mkdir()
    (directory / "pyruntime").symlink_to(REPOSITORY / "pyruntime")
    for name in ("python3", VERSION):
        (directory / "bin" / name).symlink_to(os.path.realpath("/usr/bin/python3"))
    return compile_launcher(directory / "bin" / "pyruntime")


@pytest.mark.parametrize("verb", ["run", "create", "exec"])
def test_the_wait_for_cgroup_moves_begins_with_the_launcher(compiled_runtime: Path, tmp_path: Path, verb: str) -> None:
    """Before the interpreter exists, a helper that holds nothing of the caller's moves itself where it already is."""
    trace = tmp_path / "trace"
    words = ["strace", "-f", "-qq", "-o", str(trace), "-e", "trace=close_range,write,execveat,execve,openat,wait4"]
    subprocess.run([*words, compiled_runtime, verb, "no-such-container"], capture_output=True, check=False, cwd="/")
    calls = [line.split(None, 1) for line in trace.read_text().splitlines()]
    launcher = calls[0][0]
    helper = [call for pid, call in calls if pid != launcher]
    assert helper[0].startswith("close_range(0, 4294967295, 0)"), calls
    own = Path("/proc/self/cgroup").read_text()
    procs = [call.split('"')[1] for call in helper if "cgroup.procs" in call and not call.rstrip().endswith(")")]
    assert procs, helper
    assert any(procs[-1].endswith(f"{line.split(':', 2)[2].rstrip('/')}/cgroup.procs") for line in own.splitlines())
    assert any(re.match(r'write\(\d, "0", 1', call) for call in helper), helper


@pytest.mark.parametrize("change", ["none", "edited", "older compiler", "missing"])
def test_the_main_program_is_not_compiled_anew(tmp_path: Path, change: str) -> None:
    """Its .pyc is started in its place, if it was made from this very source."""
    root = tmp_path / "prefix"
    launcher, main = install(root, "virtual environment", compile_launcher(tmp_path / "launcher"))
    interpreter = f"/usr/bin/{VERSION}"
    subprocess.run([interpreter, "-m", "compileall", "-q", main.parent], check=True)
    compiled = next(main.parent.glob("__pycache__/__main__.*.pyc"))
    if change == "edited":
        main.write_text("print('edited')\n" + PROBE)
    elif change == "older compiler":  # unchecked, by hash: it says nothing of the source's time
        data = bytearray(compiled.read_bytes())
        data[4] = 1
        compiled.write_bytes(data)
    elif change == "missing":
        compiled.unlink()
    found = lines(launcher, "state")
    if change == "none":
        assert found[0].endswith(f"/pyruntime/__pycache__/{compiled.name}")
    else:
        assert found[1 if change == "edited" else 0].endswith("/pyruntime/__main__.py")


def test_other_verbs_start_no_helper(compiled_runtime: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    words = ["strace", "-f", "-qq", "-o", str(trace), "-e", "trace=process", str(compiled_runtime), "state", "nobody"]
    subprocess.run(words, capture_output=True, check=False)
    assert "clone" not in trace.read_text()


def test_the_helper_is_reaped_before_the_program_runs(
    compiled_runtime: Path, bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    runtime: list[str | Path] = [compiled_runtime, "--root", tmp_path / "root"]
    run: list[str | Path] = [*runtime, "run", "-b", bundle(["sleep", "100"]).path, "reaped"]
    process = subprocess.Popen(run, stdin=subprocess.DEVNULL)
    try:
        state: list[str | Path] = [*runtime, "state", "reaped"]
        wait_for(lambda: b'"running"' in subprocess.run(state, capture_output=True, check=False).stdout, "the program")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 1
        assert Path(f"/proc/{children[0]}/comm").read_text().strip() in ("sleep", "busybox")
    finally:
        kill: list[str | Path] = [*runtime, "kill", "reaped", "KILL"]
        subprocess.run(kill, check=False)
        assert process.wait(30) == 137


@pytest.mark.parametrize("damage", ["def main(:\n", "import no_such_module\n", "raise ValueError('broken')\n"])
def test_a_damaged_installation_says_so_in_one_line(tmp_path: Path, damage: str) -> None:
    bin_directory, package = (tmp_path / part for part in LAYOUTS["checkout"])
    bin_directory.mkdir(parents=True)
    shutil.copy(LAUNCHER, bin_directory / "pyruntime")
    shutil.copytree(REPOSITORY / "pyruntime", package, symlinks=False)
    (package / "cli" / "main.py").write_text(damage)
    result = subprocess.run([bin_directory / "pyruntime", "list"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert "the installation is damaged" in result.stderr
    debug = subprocess.run(
        [bin_directory / "pyruntime", "--debug", "list"], capture_output=True, text=True, check=False
    )
    assert "Traceback" in debug.stderr
