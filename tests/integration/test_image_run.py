"""From an image archive to a running container: flat and overlay, with this runtime and with others."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from support.container import new_id
from support.images import Layer, Layout
from support.runtime import Result, Runtime

PROGRAM = str(Path(__file__).parents[2] / "bin/pyruntime-image")


def pack(rootfs: Path) -> bytes:
    raw = BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        tar.add(rootfs, ".", recursive=True)
    return raw.getvalue()


@pytest.fixture(scope="session")
def busybox_layer(rootfs: Path) -> bytes:
    return pack(rootfs)


@pytest.fixture
def layout(tmp_path: Path, busybox_layer: bytes) -> Layout:
    """busybox, and a second layer that changes, adds and removes."""
    made = Layout(tmp_path / "layout")
    above = (
        Layer()
        .directory("srv", mode=0o700, uid=1000)
        .file("srv/motd", b"welcome\n", uid=1000)
        .directory("data", uid=1000)
        .file("data/seed", b"seed\n", uid=1000)
        .file("bin/.wh.yes")
    )
    made.image(
        busybox_layer,
        above.tar(),
        config={
            "User": "user",
            "Entrypoint": ["/bin/sh", "-c"],
            "Cmd": ["id; pwd; echo $COLOUR; cat motd; ls /bin/yes 2>/dev/null; true"],
            "Env": ["COLOUR=blue"],
            "WorkingDir": "/srv",
            "Volumes": {"/data": {}},
        },
        compress=bytes,
        suffix="",
    )
    return made


def unpack(layout: Path, bundle: Path, *options: str | Path) -> dict[str, Any]:
    split = options.index("--") if "--" in options else len(options)
    store: list[str | Path] = (
        ["--store", bundle.parent / "store"] if "overlay" in options and "--store" not in options else []
    )
    subprocess.run(
        [PROGRAM, "unpack", "--quiet", *store, *options[:split], layout, bundle, *options[split:]], check=True
    )
    config: dict[str, Any] = json.loads((bundle / "config.json").read_text())
    return config


def run(runtime: Runtime, bundle: Path) -> Result:
    return runtime("run", "--bundle", bundle, new_id())


def mounts_below(path: Path) -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {path}" in line]


EXPECTED = "uid=1000(user) gid=1000(user) groups=2000(extra)\n/srv\nblue\nwelcome\n"
MODES = pytest.mark.parametrize("mode", ["flat", "overlay"])


@MODES
def test_an_image_runs_as_it_says(runtime: Runtime, layout: Layout, tmp_path: Path, mode: str) -> None:
    unpack(layout.path, tmp_path / "bundle", "--mode", mode)
    assert run(runtime, tmp_path / "bundle").ok().stdout == EXPECTED
    assert mounts_below(tmp_path) == []


@MODES
def test_an_image_runs_as_it_is_told(runtime: Runtime, layout: Layout, tmp_path: Path, mode: str) -> None:
    (tmp_path / "given").write_text("from outside\n")
    unpack(
        layout.path, tmp_path / "bundle", "--mode", mode, "--user", "0:7", "--env", "COLOUR=red", "--workdir", "/tmp",
        "--mount", f"type=bind,source={tmp_path}/given,destination=/given,ro", "--entrypoint", "/bin/sh -c", "--",
        "id -u; id -g; echo $COLOUR; pwd; cat /given; echo x > /given",
    )  # fmt: skip
    done = run(runtime, tmp_path / "bundle")
    assert done.stdout == "0\n7\nred\n/tmp\nfrom outside\n"
    assert "Read-only" in done.stderr and done.status == 1


def test_bundles_of_one_image_share_layers_and_nothing_else(runtime: Runtime, layout: Layout, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        script = f"cat /mine; echo {name} > /mine; rm -f /bin/vi; ls /bin/vi"
        unpack(
            layout.path, tmp_path / name / "bundle", "--mode", "overlay", "--store", tmp_path / "store", "--user", "0",
            "--", script,
        )  # fmt: skip
    assert len(os.listdir(tmp_path / "store/layers")) + len(os.listdir(tmp_path / "store/chains")) == 2
    for expected in (["", ""], ["one\n", "two\n"]):
        assert [run(runtime, tmp_path / name / "bundle").stdout for name in ("one", "two")] == expected
    assert sorted(os.listdir(tmp_path / "one/bundle/upper")) == ["bin", "mine"]
    assert os.listdir(tmp_path / "one/bundle/rootfs") == []


def test_a_read_only_overlay_with_long_options(runtime: Runtime, layout: Layout, tmp_path: Path) -> None:
    """fsconfig(2) takes 255 bytes of a value; the list of layers is longer here, as with images of ten layers."""
    store = tmp_path / ("long" * 50)
    config = unpack(
        layout.path, tmp_path / "bundle", "--mode", "overlay", "--store", store, "--read-only", "--user", "0", "--",
        "cat motd; touch /x; touch /data/y && echo volume",
    )  # fmt: skip
    assert len(config["mounts"][0]["options"][0]) > 400
    done = run(runtime, tmp_path / "bundle")
    assert done.stdout == "welcome\nvolume\n"
    assert "Read-only file system" in done.stderr
    assert mounts_below(tmp_path) == []


def test_volumes_keep_what_is_written(runtime: Runtime, layout: Layout, tmp_path: Path) -> None:
    unpack(layout.path, tmp_path / "bundle", "--", "cat /data/*; echo more > /data/new")
    assert run(runtime, tmp_path / "bundle").ok().stdout == "seed\n"
    assert run(runtime, tmp_path / "bundle").ok().stdout == "more\nseed\n"
    assert not (tmp_path / "bundle/rootfs/data/new").exists()


@MODES
def test_a_container_in_a_user_namespace(runtime: Runtime, layout: Layout, tmp_path: Path, mode: str) -> None:
    for parent in (tmp_path, *tmp_path.parents):  # pytest's directories are closed, real ones are not
        if not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    maps = ("--uid-map", "0:250000:65536", "--gid-map", "0:250000:65536")
    unpack(layout.path, tmp_path / "bundle", "--mode", mode, *maps, "--", "id -u; cat motd; cat /proc/self/uid_map")
    lines = run(runtime, tmp_path / "bundle").ok().stdout.split()
    assert lines == ["1000", "welcome", "0", "250000", "65536"]


@pytest.mark.skipif(shutil.which("runc") is None, reason="runs the bundle with runc")
@pytest.mark.parametrize("options", [["flat"], ["overlay"], ["overlay", "--overlay-mount", "host"]], ids="-".join)
def test_another_runtime_runs_the_bundle(layout: Layout, tmp_path: Path, options: list[str]) -> None:
    unpack(layout.path, tmp_path / "bundle", "--mode", *options)
    runc = Runtime("runc", tmp_path / "state")
    try:
        assert run(runc, tmp_path / "bundle").ok().stdout == EXPECTED
        assert mounts_below(tmp_path) == []  # on the host too it is gone with the container
    finally:
        subprocess.run([PROGRAM, "umount", tmp_path / "bundle"], check=True)


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo writes the archives")
@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
def test_archives_of_other_tools(runtime: Runtime, layout: Layout, tmp_path: Path, kind: str) -> None:
    archive = tmp_path / "image.tar"
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "--quiet", f"oci:{layout.path}:latest", f"{kind}:{archive}:app:1.0"],
        check=True,
    )
    listed = json.loads(subprocess.run([PROGRAM, "list", "--json", archive], capture_output=True, check=True).stdout)
    assert [name for image in listed for name in image["names"]] in (["docker.io/library/app:1.0"], ["app:1.0"])
    subprocess.run([PROGRAM, "verify", "--quiet", "--tag", "app:1.0", archive], check=True, stdout=subprocess.DEVNULL)
    unpack(archive, tmp_path / "bundle", "--tag", "1.0")
    assert run(runtime, tmp_path / "bundle").ok().stdout == EXPECTED


def test_the_configuration_is_valid(layout: Layout, tmp_path: Path) -> None:
    for mode in ("flat", "overlay"):
        unpack(layout.path, tmp_path / mode, "--mode", mode)
        validate = Path(PROGRAM).parent / "pyruntime"
        subprocess.run([validate, "validate", tmp_path / mode], check=True, stdout=subprocess.DEVNULL)
