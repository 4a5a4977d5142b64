"""An ordinary user: podman without root, and the runtime by hand with `spec --rootless`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engines.engine import IMAGE, call, lines, need
from engines.user import User
from support.bundles import copy_tree
from support.container import new_id, wait_for
from support.runtime import AUDITED

pytestmark = pytest.mark.skipif(
    bool(need("podman", "newuidmap", "useradd", "setpriv")), reason="podman, uidmap or passwd is not installed"
)


@pytest.fixture(scope="session")
def shared_user(engine_directory: Path, archive: Path) -> Iterator[User]:
    user = User(engine_directory / "user", archive)
    try:
        yield user
    finally:
        user.close()


@pytest.fixture
def user(shared_user: User) -> Iterator[User]:
    yield shared_user
    shared_user("podman", "rm", "--all", "--force", "--time", "0").ok()


@pytest.fixture
def own_program(user: User, program: str) -> str:
    """The runtime where the user can reach it."""
    return str(user.directory / "pyruntime" / "bin" / "pyruntime") if program == str(AUDITED) else program


def test_podman_runs_a_command(user: User, own_program: str) -> None:
    told = user(
        "podman", "--runtime", own_program, "run", "--rm", IMAGE, "sh", "-c", "id -u; cat /proc/self/uid_map; exit 7"
    )
    assert told.status == 7, told
    words = [line.split() for line in told.stdout.splitlines()]
    assert words[0] == ["0"]
    assert words[1] == ["0", str(user.ids[0]), "1"]
    assert words[2][0] == "1"


def test_podman_executes_stops_and_removes(user: User, own_program: str) -> None:
    podman = ("podman", "--runtime", own_program)
    user(*podman, "run", "--detach", "--name", "one", IMAGE, "sleep", "1000").ok()
    assert user(*podman, "exec", "--user", "1000", "one", "id", "-u").ok().stdout == "1000\n"
    assert user(*podman, "exec", "one", "nothing-of-this-name").status == 127
    assert "sleep 1000" in user(*podman, "top", "one", "args").ok().stdout
    user(*podman, "stop", "--time", "1", "one").ok()
    user(*podman, "start", "one").ok()
    user(*podman, "kill", "one").ok()
    user(*podman, "rm", "--force", "--time", "0", "one").ok()


def test_podman_says_why_a_command_cannot_be_run(user: User, own_program: str) -> None:
    assert user("podman", "--runtime", own_program, "run", "--rm", IMAGE, "nothing-of-this-name").status == 127
    assert user("podman", "--runtime", own_program, "run", "--rm", IMAGE, "/etc/passwd").status == 126


def test_podman_mounts_and_maps(user: User, own_program: str) -> None:
    (user.directory / "tmp" / "file").write_text("from the user\n")
    told = user("podman", "--runtime", own_program, "run", "--rm", "--read-only", "--cap-drop", "all",
                "--userns", "keep-id", "--volume", f"{user.directory}/tmp:/mine:ro", "--tmpfs", "/scratch", IMAGE,
                "sh", "-c", "id -u; cat /mine/file; touch /new; touch /scratch/new")  # fmt: skip
    assert told.stdout == lines(str(user.ids[0]), "from the user")
    assert "Read-only file system" in told.stderr


def test_podman_gives_a_network(user: User, own_program: str) -> None:
    """Through slirp4netns, with a published port; all of it inside a network namespace that the test made."""
    if need("slirp4netns", "ip", "nsenter"):
        pytest.skip("slirp4netns or iproute2 is not installed")
    name = f"rootless-test-{os.getpid()}"
    call("ip", "netns", "add", name).ok()
    inside = ("nsenter", f"--net=/run/netns/{name}")
    try:
        call(*inside, "ip", "link", "set", "lo", "up").ok()
        podman = (*inside, *user.become, "podman", "--runtime", own_program)
        options: dict[str, Any] = {"env": user.env, "cwd": user.directory}
        call(*podman, "run", "--detach", "--name", "web", "--network", "slirp4netns", "--publish", "127.0.0.1:8090:80",
             IMAGE, "httpd", "-f", "-p", "80", "-h", "/etc", **options).ok()  # fmt: skip
        assert "tap0" in call(*podman, "exec", "web", "ls", "/sys/class/net", **options).ok().stdout
        script = "import sys, urllib.request as r; sys.stdout.write(r.urlopen(sys.argv[1], timeout=2).read().decode())"
        page = (*inside, sys.executable, "-c", script, "http://127.0.0.1:8090/passwd")
        wait_for(lambda: "root:x:0:0" in call(*page).stdout, "the page", 20)
        call(*podman, "rm", "--force", "--time", "0", "web", **options).ok()
    finally:
        call("ip", "netns", "delete", name).ok()


def test_podman_shares_a_pod(user: User, own_program: str) -> None:
    (user.directory / "tmp" / "Containerfile").write_text(f'FROM {IMAGE}\nCMD ["sleep", "1000"]\n')
    podman = ("podman", "--runtime", own_program)
    build = ("build", "--isolation", "chroot", "--tag", "localhost/pause", "--file", "tmp/Containerfile", "run")
    user(*podman, *build).ok()
    user(*podman, "pod", "create", "--name", "pod", "--infra-image", "localhost/pause", "--network", "none",
         "--share", "net,ipc,uts,pid", "--hostname", "shared").ok()  # fmt: skip
    try:
        for one in ("one", "two"):
            user(*podman, "run", "--detach", "--pod", "pod", "--name", one, IMAGE, "sleep", "1000").ok()
        spaces = [
            user(*podman, "exec", one, "sh", "-c", "cd /proc/self/ns; readlink net ipc uts pid; hostname").ok().stdout
            for one in ("one", "two")
        ]
        assert spaces[0] == spaces[1] and spaces[0].endswith("shared\n")
    finally:
        user(*podman, "pod", "rm", "--force", "--time", "0", "pod")


@pytest.mark.parametrize("mode", ["keep-id", "nomap", "host"])
def test_podman_maps_users(user: User, own_program: str, mode: str) -> None:
    script = "id -u; cat /proc/self/uid_map"
    told = user("podman", "--runtime", own_program, "run", "--rm", "--userns", mode, IMAGE, "sh", "-c", script)
    lines_ = told.ok().stdout.splitlines()
    mine = [line.split() for line in lines_[1:]]
    assert lines_[0] == (str(user.ids[0]) if mode == "keep-id" else "0")
    if mode == "keep-id":
        assert [str(user.ids[0]), "0", "1"] in mine  # seen from podman's own namespace, in which the user is 0
    elif mode == "nomap":
        assert mine[0][:2] == ["0", "1"]


def test_podman_checks_health_and_copies(user: User, own_program: str) -> None:
    podman = ("podman", "--runtime", own_program)
    user(*podman, "run", "--detach", "--name", "one", "--health-cmd", "test -e /tmp/well", "--health-interval",
         "disable", IMAGE, "sleep", "1000").ok()  # fmt: skip
    assert user(*podman, "healthcheck", "run", "one").status == 1
    (user.directory / "tmp" / "well").touch()
    user(*podman, "cp", "tmp/well", "one:/tmp/well").ok()
    user(*podman, "healthcheck", "run", "one").ok()
    told = user(*podman, "run", "--rm", "--tty", "--volume", "some:/data:U", "--user", "1000", IMAGE,
                "sh", "-c", "test -t 1 && touch /data/x && stat -c %u /data/x")  # fmt: skip
    assert told.ok().stdout.strip() == "1000"


def test_runs_a_bundle_of_spec_rootless(user: User, own_program: str, rootfs: Path) -> None:
    bundle = user.directory / "tmp" / new_id()
    bundle.mkdir()
    copy_tree(rootfs, bundle / "rootfs")
    call("chown", "-R", f"{user.ids[0]}:{user.ids[1]}", bundle).ok()
    user(own_program, "spec", "--rootless", "--bundle", bundle).ok()
    config = json.loads((bundle / "config.json").read_text())
    config["process"]["terminal"] = False
    config["process"]["args"] = ["sh", "-c", "id -u; exec sleep 1000"]
    (bundle / "config.json").write_text(json.dumps(config))
    name = new_id()
    with (bundle / "out").open("wb"):
        pass
    (bundle / "out").chmod(0o666)
    start = 'out=$1; shift; exec "$@" >"$out" 2>&1'
    user("sh", "-c", start, "sh", bundle / "out", own_program, "run", "--detach", "--bundle", bundle, name).ok()
    try:
        wait_for(lambda: (bundle / "out").read_text() == "0\n", "the container's word")
        assert json.loads(user(own_program, "state", name).ok().stdout)["status"] == "running"
        assert user(own_program, "exec", name, "sh", "-c", "id -u; cat /proc/1/comm").ok().stdout == lines("0", "sleep")
        assert name in user(own_program, "list", "--quiet").ok().stdout.split()
        user(own_program, "kill", name, "KILL").ok()
        wait_for(lambda: '"stopped"' in user(own_program, "state", name).ok().stdout, "the end")
        user(own_program, "delete", name).ok()
        assert user(own_program, "state", name).status == 1
    finally:
        user(own_program, "delete", "--force", name)
