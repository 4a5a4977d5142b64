"""Fixtures of all tests.

runtime          the runtime under test, with a state directory of its own; `--runtime runc` tests another one,
                 `--systemd-cgroup` hands it that flag: systemd makes the cgroups.
                 Ours is watched by an audit hook (support/audited)
rootfs           a root file system made of busybox: read it, do not write to it (`copy_tree` makes a copy)
debian_rootfs    a minimal Debian, made once and kept in ~/.cache/pyruntime; likewise not to be written to
bundle           makes a bundle: bundle(["sh", "-c", "..."], lambda config: config.update(...))
container        makes a container of such a bundle; afterwards it is deleted, and a leak fails the test
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.bundles import (
    Bundle,
    Change,
    copy_tree,
    default_config,
    find_busybox,
    make_busybox_rootfs,
    make_debian_rootfs,
)
from support.container import Container
from support.runtime import AUDITED, LAUNCHER, REPOSITORY, Runtime, find


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--runtime",
        action="append",
        default=[],
        metavar="PROGRAM",
        help="the runtime to test, a name or a path; may be repeated (default: this checkout's bin/pyruntime)",
    )
    parser.addoption(
        "--systemd-cgroup",
        action="store_true",
        help="hand this flag to the runtime in every test that leaves the cgroup manager open; needs systemd as init",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cgroupfs: about a cgroup that systemd names otherwise, or removes when empty")


STATE_ROOT = Path("/run/pyruntime")
"""The default one, for engines that give no --root."""
HAD_CONTAINERS = pytest.StashKey[bool]()


def containers_there() -> bool:
    return STATE_ROOT.is_dir() and any(not entry.name.startswith(".") for entry in STATE_ROOT.iterdir())


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Leave no state root with nothing but cached filters behind, unless there were containers in it before."""
    if session.config.stash.get(HAD_CONTAINERS, True) or hasattr(session.config, "workerinput"):
        return
    if STATE_ROOT.is_dir() and not containers_there():
        shutil.rmtree(STATE_ROOT)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile the modules, as an installation does: the runtime never writes a .pyc, it would compile at each start."""
    # A shell starts what it puts into the background with these ignored, and what we start would ignore them too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    session.config.stash[HAD_CONTAINERS] = containers_there()
    for python in (REPOSITORY / ".venv" / "bin" / "python3", Path("/usr/bin/python3")):
        if python.exists():
            subprocess.run([python, REPOSITORY / "tools" / "compile.py"], check=False)
            return


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "program" in metafunc.fixturenames:
        # Engines start what they are told; a fixture chooses the audited one for everybody else.
        audited = {"attacks", "engines"} & set(Path(metafunc.module.__file__).parts)
        ours = AUDITED if audited else LAUNCHER
        programs = [find(name) for name in metafunc.config.getoption("--runtime")] or [str(ours)]
        metafunc.parametrize("program", programs, ids=[Path(program).name for program in programs])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items if config.getoption("--systemd-cgroup") else []:
        if item.get_closest_marker("cgroupfs"):
            item.add_marker(pytest.mark.skip(reason="systemd names this cgroup otherwise, or removes it when empty"))
    if os.geteuid() == 0:
        return
    for item in items:
        if "unit" not in Path(item.path).parts:
            item.add_marker(pytest.mark.skip(reason="needs root: it makes containers and cgroups"))


@pytest.fixture
def runtime(request: pytest.FixtureRequest, program: str, tmp_path: Path) -> Runtime:
    flags = ["--systemd-cgroup"] if request.config.getoption("--systemd-cgroup") else []
    return Runtime(AUDITED if program == str(LAUNCHER) else program, tmp_path / "state", flags)


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    busybox = find_busybox()
    if busybox is None:
        pytest.fail("these tests need a static busybox: apt-get install busybox-static")
    return make_busybox_rootfs(tmp_path_factory.mktemp("busybox") / "rootfs", busybox)


@pytest.fixture(scope="session")
def debian_rootfs() -> Path:
    return make_debian_rootfs(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyruntime")


BundleFactory = Callable[..., Bundle]
ContainerFactory = Callable[..., Container]


@pytest.fixture
def bundle(tmp_path: Path, rootfs: Path) -> BundleFactory:
    """make(args, *changes, root=None): the default configuration with `args`, each change applied to it in turn.

    The bundle gets its own copy of the busybox file system; `root` names another one, which is used in place.
    """
    numbers = itertools.count(1)

    def make(args: Sequence[str] = ("true",), *changes: Change, root: Path | None = None) -> Bundle:
        path = tmp_path / f"bundle{next(numbers)}"
        path.mkdir()
        config = default_config(args)
        if root is None:
            copy_tree(rootfs, path / "rootfs")
        else:
            config["root"]["path"] = str(root)
        for change in changes:
            change(config)
        return Bundle(path, config)

    return make


@pytest.fixture
def container(runtime: Runtime, bundle: BundleFactory) -> Iterator[ContainerFactory]:
    """make(args, *changes, root=None, id=None): a container, not yet created, of a new bundle (or of `bundle=`)."""
    made: list[Container] = []

    def make(
        args: Sequence[str] = ("true",),
        *changes: Change,
        root: Path | None = None,
        id: str | None = None,
        of: Bundle | None = None,
        **options: Any,
    ) -> Container:
        new = Container(options.get("runtime", runtime), of or bundle(args, *changes, root=root), id)
        made.append(new)
        return new

    yield make
    left = [thing for one in made for thing in one.remove()]
    assert not left, "left behind after delete --force: " + ", ".join(left)
