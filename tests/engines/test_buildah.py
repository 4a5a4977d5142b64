"""buildah: RUN steps and `buildah run` through the runtime, its isolation being "oci"."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engines.engine import ULIMITS, call, environment, lines, need, remove_cgroups, status_field, sweep
from support.runtime import Result
from support.terminal import Screen

pytestmark = pytest.mark.skipif(bool(need("buildah")), reason="buildah is not installed")


class Buildah:
    def __init__(self, directory: Path, program: str, archive: Path) -> None:
        (directory / "tmp").mkdir(parents=True)
        self.directory = directory
        self.program = program
        limits = ", ".join(f'"{one}"' for one in ULIMITS)
        (directory / "containers.conf").write_text(f"[containers]\ndefault_ulimits = [{limits}]\n")
        self.env = environment(CONTAINERS_CONF=str(directory / "containers.conf"), TMPDIR=str(directory / "tmp"))
        self.image = self("pull", "--quiet", f"docker-archive:{archive}").ok().stdout.split()[-1]

    def __call__(self, *arguments: str | Path, **options: Any) -> Result:
        fixed = ("buildah", "--root", self.directory / "root", "--runroot", self.directory / "runroot")
        return call(*fixed, *arguments, env=self.env, **options)

    def run(self, container: str, *command: str, flags: tuple[str, ...] = (), **options: Any) -> Result:
        fixed = ("run", "--runtime", self.program, "--isolation", "oci", "--network", "none")
        return self(*fixed, *flags, container, "--", *command, **options)

    def build(self, directory: Path, *flags: str) -> Result:
        limits = [word for one in ULIMITS for word in ("--ulimit", one)]
        fixed = ("build", "--runtime", self.program, "--isolation", "oci", "--network", "none", "--pull-never")
        return self(*fixed, *limits, *flags, directory)

    def close(self) -> list[str]:
        try:
            self("rm", "--all").ok()
            self("rmi", "--all", "--force")
        finally:
            left = sweep(self.directory) + remove_cgroups(self.directory.name)
        return [one for one in left if not one.endswith("/root/overlay")]


@pytest.fixture
def buildah(
    tmp_path_factory: pytest.TempPathFactory, engine_directory: Path, archive: Path, program: str
) -> Iterator[Buildah]:
    name = tmp_path_factory.mktemp("buildah").name
    buildah = Buildah(engine_directory / f"{name}-{Path(program).name}", program, archive)
    left = []
    try:
        yield buildah
    finally:
        left = buildah.close()
    assert not left, f"buildah left behind: {left}"


def test_builds_a_file_from_start_to_finish(buildah: Buildah, tmp_path: Path) -> None:
    (tmp_path / "Containerfile").write_text(
        lines(
            f"FROM {buildah.image}",
            "ENV WORD=hello",
            "COPY file /file",
            "WORKDIR /srv",
            "RUN cat /file >made && echo $WORD >>made && id -u >>made",
            "USER 1000",
            'RUN test "$(id -u)" = 1000',
            'CMD ["cat", "/srv/made"]',
        )
    )
    (tmp_path / "file").write_text("copied\n")
    buildah.build(tmp_path, "--tag", "localhost/built").ok()
    name = buildah("from", "--pull-never", "localhost/built").ok().stdout.strip()
    assert buildah.run(name, "cat", "/srv/made").ok().stdout == "copied\nhello\n0\n"
    document = json.loads(buildah("inspect", "--type", "image", "localhost/built").ok().stdout)
    assert document["OCIv1"]["config"]["Cmd"] == ["cat", "/srv/made"]


def test_a_step_that_fails_fails_the_build(buildah: Buildah, tmp_path: Path) -> None:
    (tmp_path / "Containerfile").write_text(lines(f"FROM {buildah.image}", "RUN echo said; exit 9"))
    told = buildah.build(tmp_path)
    assert told.status != 0
    assert "said" in told.output
    assert "exit status 9" in told.stderr


def test_runs_commands_in_a_working_container(buildah: Buildah) -> None:
    name = buildah("from", buildah.image).ok().stdout.strip()
    told = buildah.run(name, "sh", "-c", "echo out; echo complaint >&2; exit 7")
    assert told.status == 7
    assert "out\n" in told.stdout
    assert "complaint" in told.stderr
    assert buildah.run(name, "cat", stdin=b"all of it\n").ok().stdout == "all of it\n"
    buildah.run(name, "touch", "/kept").ok()
    buildah.run(name, "test", "-e", "/kept", flags=("--cap-drop", "CAP_CHOWN", "--user", "1000")).ok()


def test_gives_steps_mounts_and_secrets(buildah: Buildah, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("of the context\n")
    (tmp_path / "secret").write_text("hush\n")
    steps = [
        "RUN --mount=type=bind,target=/context cat /context/file >/made",
        "RUN --mount=type=tmpfs,target=/scratch mount | grep -q 'tmpfs on /scratch' && echo tmpfs >>/made",
        "RUN --mount=type=cache,target=/cache echo kept >/cache/file",
        "RUN --mount=type=cache,target=/cache cat /cache/file >>/made",
        "RUN --mount=type=secret,id=word cat /run/secrets/word >>/made",
    ]
    (tmp_path / "Containerfile").write_text(lines(f"FROM {buildah.image}", *steps))
    buildah.build(tmp_path, "--secret", f"id=word,src={tmp_path}/secret", "--tag", "localhost/mounted").ok()
    name = buildah("from", "--pull-never", "localhost/mounted").ok().stdout.strip()
    told = buildah.run(name, "sh", "-c", "cat /made; ! test -e /cache/file && ! test -e /run/secrets/word")
    assert told.ok().stdout == lines("of the context", "tmpfs", "kept", "hush")


def test_gives_a_terminal(buildah: Buildah) -> None:
    name = buildah("from", buildah.image).ok().stdout.strip()
    screen = Screen(30, 100)
    try:
        fixed = ("buildah", "--root", buildah.directory / "root", "--runroot", buildah.directory / "runroot", "run")
        flags = ("--runtime", buildah.program, "--isolation", "oci", "--network", "none", "--terminal", name)
        process = screen.spawn([str(word) for word in (*fixed, *flags, "--", "sh")], env=buildah.env)
        screen.until("# ")
        screen.type("tty; echo done-$((40+2))\n")
        assert "/dev/pts/" in screen.until("done-42")
        screen.type("exit 3\n")
        assert process.wait(20) == 3
    finally:
        screen.close()


def test_binds_limits_and_confines(buildah: Buildah, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    script = (
        "cat /host/file; touch /host/new; hostname; grep -E 'CapEff|Seccomp:' /proc/self/status; cat /proc/self/cgroup"
    )
    limited = ("from", "--memory", "64m", "--cgroup-parent", f"/{buildah.directory.name}", "--cap-drop", "all")
    name = buildah(*limited, buildah.image).ok().stdout.strip()
    told = buildah.run(name, "sh", "-c", script, flags=("--volume", f"{tmp_path}:/host:ro", "--hostname", "myself"))
    assert "Read-only file system" in told.stderr
    first, second, seccomp_and_caps = told.stdout.split("\n", 2)
    assert (first, second) == ("from the host", "myself")
    assert int(status_field(seccomp_and_caps, "CapEff"), 16) == 0
    assert status_field(seccomp_and_caps, "Seccomp") == "2"
    assert f":/{buildah.directory.name}\n" in told.stdout


def test_says_why_a_command_cannot_be_run_and_leaves_nothing(buildah: Buildah) -> None:
    name = buildah("from", buildah.image).ok().stdout.strip()
    told = buildah.run(name, "nothing-of-this-name")
    assert told.status != 0
    assert "nothing-of-this-name" in told.output
    assert buildah.run(name, "true").ok().status == 0
