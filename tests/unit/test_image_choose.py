"""Finding an image in a source: tags, digests, platforms, nested and hostile indexes, docker-archives."""

from __future__ import annotations

import gzip
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.images import INDEX, MANIFEST, REF_NAME, Layer, Layout, docker_archive

from pyruntime.image import report
from pyruntime.image.choose import candidates, choose
from pyruntime.image.documents import ImageError
from pyruntime.image.limits import Limits
from pyruntime.image.progress import Progress
from pyruntime.image.source import open_source


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


TAR = Layer().file("hello", b"world").tar()


def pick(layout: Layout, tag: str | None = None, platform: str | None = None) -> str:
    image = choose(open_source(str(layout.path)), tag, platform)
    return str(image.config["config"].get("Cmd", ["-"])[0])


def test_one_image_needs_no_tag(layout: Layout) -> None:
    layout.image(TAR, config={"Cmd": ["only"]})
    assert pick(layout) == "only"


def test_tags_and_digests(layout: Layout) -> None:
    layout.image(TAR, tag="one", config={"Cmd": ["1"]})
    two = layout.image(TAR, tag="registry.example/space/app:2.0", config={"Cmd": ["2"]})
    assert pick(layout, "one") == "1"
    assert pick(layout, "2.0") == pick(layout, "app:2.0") == pick(layout, "registry.example/space/app") == "2"
    assert pick(layout, two["digest"]) == "2"
    with pytest.raises(ImageError, match=r"more than one image .*one, registry"):
        pick(layout)
    with pytest.raises(ImageError, match=r"no image three; there are: one, registry\.example"):
        pick(layout, "three")


def platforms(layout: Layout) -> list[dict[str, Any]]:
    found = []
    for architecture, variant in (("amd64", None), ("arm64", "v8"), ("arm", "v6"), ("arm", "v7")):
        name = architecture + (variant or "")
        platform = {"os": "linux", "architecture": architecture, **({"variant": variant} if variant else {})}
        found.append({**layout.image(TAR, tag=None, config={"Cmd": [name]}, **platform), "platform": platform})
    return found


def test_platforms_in_nested_indexes(layout: Layout) -> None:
    inner = layout.index(platforms(layout))
    outer = layout.index([inner])
    layout.manifests = [{**outer, "annotations": {REF_NAME: "multi"}}]
    layout.write()
    assert pick(layout, "multi", "linux/arm64") == "arm64v8"
    assert pick(layout, "multi", "linux/arm/v7") == "armv7"
    assert pick(layout, None, "linux/amd64") == "amd64"
    assert pick(layout, inner["digest"], "linux/arm/v6") == "armv6"
    with pytest.raises(ImageError, match=r"no image for linux/s390x; there are: linux/amd64, linux/arm/v6"):
        pick(layout, "multi", "linux/s390x")
    with pytest.raises(ImageError, match="more than one image"):
        pick(layout, "multi", "linux/arm")
    assert [c.names for c in candidates(open_source(str(layout.path)))] == [["multi"]] * 4


def test_the_platform_may_stand_in_the_configuration_only(layout: Layout) -> None:
    layout.image(TAR, tag="a", config={"Cmd": ["arm"]}, architecture="arm64")
    layout.image(TAR, tag="b", config={"Cmd": ["intel"]})
    assert pick(layout, None, "linux/arm64/v8") == "arm"


def test_an_index_that_contains_itself(layout: Layout) -> None:
    # No digest can be its own, so the blob is wrong; but a reader that follows before it checks never comes back.
    (layout.path / "blobs/sha256" / ("0" * 64)).write_bytes(
        raw := json.dumps(
            {
                "schemaVersion": 2,
                "manifests": [{"mediaType": INDEX, "digest": "sha256:" + "0" * 64, "size": 200}],
            }
        )
        .encode()
        .ljust(200)
    )
    assert len(raw) == 200
    layout.manifests = [{"mediaType": INDEX, "digest": "sha256:" + "0" * 64, "size": 200}]
    layout.write()
    with pytest.raises(ImageError, match="digest the manifest gives"):
        pick(layout)


def test_indexes_nested_without_end(layout: Layout) -> None:
    inner = layout.image(TAR, tag=None)
    for _ in range(20):
        inner = layout.index([inner])
    layout.manifests = [inner]
    layout.write()
    with pytest.raises(ImageError, match="nested more than"):
        pick(layout)


def test_an_exploding_graph_of_indexes(layout: Layout) -> None:
    inner = layout.image(TAR, tag=None, config={"Cmd": ["x"]})
    for level in range(7):
        inner = layout.index([{**inner, "annotations": {"n": str(i + level)}} for i in range(50)])
    layout.manifests = [inner]
    layout.write()
    assert pick(layout) == "x"  # 50 to the 7th ways lead to it; each index is read once


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"manifests": []}, "index and a manifest"),
        ({"schemaVersion": 1}, "schemaVersion"),
        ({"mediaType": INDEX}, "says it is"),
        ({"layers": 5}, "no list"),
        ({"layers": []}, "0 layers, but the configuration has 1"),
        ({"config": None}, "config"),
        ({"layers": [{"mediaType": "x/y", "digest": "sha256:" + "1" * 64, "size": 5}]}, "unknown type, x/y"),
        (
            {"layers": [{"mediaType": "a+encrypted", "digest": "sha256:" + "1" * 64, "size": 5}]},
            "encrypted",
        ),
        ({"layers": [{"mediaType": "x/y", "digest": "sha256:../../../etc/passwd", "size": 5}]}, "not a sha256"),
        ({"layers": [{"mediaType": "x/y", "digest": "md5:" + "1" * 32, "size": 5}]}, "not a sha256"),
        ({"layers": [{"mediaType": "x/y", "digest": "sha256:" + "A" * 64, "size": 5}]}, "not a sha256"),
        ({"layers": [{"mediaType": "x/y", "digest": "sha256:" + "1" * 64, "size": True}]}, "not a size"),
        ({"layers": [{"mediaType": "x/y", "digest": "sha256:" + "1" * 64, "size": -1}]}, "not a size"),
    ],
)
def test_manifests_that_are_refused(layout: Layout, change: dict[str, Any], reason: str) -> None:
    good = layout.image(TAR)
    manifest = json.loads((layout.path / "blobs" / good["digest"].replace(":", "/")).read_bytes())
    layout.manifests = [layout.document({**manifest, **change}, MANIFEST)]
    layout.write()
    with pytest.raises(ImageError, match=reason):
        pick(layout)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"[]", "not a JSON object"),
        (b'{"schemaVersion": 2, "manifests": [], "manifests": []}', "manifests"),
        (b'{"schemaVersion": 2, "manifests": ' + b"[" * 1000 + b"]" * 1000 + b"}", "nested"),
        (b'{"schemaVersion": 2, "manifests": [NaN]}', "NaN"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ("{}".encode("utf-16"), "UTF-8"),
        (b'{"schemaVersion": 2, "manifests": []}', "contains no image"),
        (b'{"schemaVersion": 2}', "no list 'manifests'"),
        (b" " * (9 << 20), "larger than 8 MiB"),
    ],
)
def test_indexes_that_are_refused(layout: Layout, raw: bytes, reason: str) -> None:
    (layout.path / "index.json").write_bytes(raw)
    with pytest.raises(ImageError, match=reason):
        pick(layout)


def test_artifacts_are_no_images(layout: Layout) -> None:
    config = layout.blob(b"{}", "application/vnd.cncf.helm.config.v1+json")
    layout.manifests = [layout.document({"schemaVersion": 2, "config": config, "layers": []}, MANIFEST)]
    layout.write()
    with pytest.raises(ImageError, match=r"an artifact of type application/vnd\.cncf\.helm"):
        pick(layout)


def test_a_missing_and_a_shortened_blob(layout: Layout) -> None:
    image = layout.image(TAR)
    path = layout.path / "blobs" / image["digest"].replace(":", "/")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ImageError, match="bytes long, not the promised"):
        pick(layout)
    path.unlink()
    with pytest.raises(ImageError, match="there is no blob sha256:"):
        pick(layout)


def archive_of(path: Path, layout: Layout) -> Path:
    subprocess.run(["tar", "-C", layout.path, "-cf", path, "."], check=True)
    return path


@pytest.mark.parametrize("pack", ["plain", "gzip", "zstd"])
def test_a_layout_in_an_archive(layout: Layout, tmp_path: Path, pack: str) -> None:
    layout.image(TAR, config={"Cmd": ["packed"]})
    path = archive_of(tmp_path / "image.tar", layout)
    if pack == "gzip":
        path.write_bytes(gzip.compress(path.read_bytes()))
    elif pack == "zstd":
        path.write_bytes(pytest.importorskip("zstandard").compress(path.read_bytes()))
    image = choose(open_source(str(path)), None, None)
    assert image.config["config"]["Cmd"] == ["packed"]
    result = report.verify(image, Limits(), Progress(0, 1, quiet=True))
    assert "1 layers with 1 entries" in result


@pytest.mark.parametrize("cut", [100, 600, 3000, 9000])
def test_a_shortened_archive(layout: Layout, tmp_path: Path, cut: int) -> None:
    layout.image(TAR)
    path = archive_of(tmp_path / "image.tar", layout)
    raw = path.read_bytes().rstrip(b"\0")
    path.write_bytes(raw[:cut] if cut < len(raw) else raw[:-700])
    with pytest.raises(ImageError):
        choose(open_source(str(path)), None, None)


def test_docker_archives(tmp_path: Path) -> None:
    other = Layer().file("other").tar()
    image_id = docker_archive(
        tmp_path / "d.tar", TAR, other, TAR, tags=["app:1", "example.org/app:2"], config={"Cmd": ["d"]}
    )
    source = open_source(str(tmp_path / "d.tar"))
    for tag in (None, "app:1", "2", "example.org/app:2", image_id, image_id[:12], f"sha256:{image_id}"):
        image = choose(source, tag, None)
        assert image.config_digest == f"sha256:{image_id}"
        assert report.verify(image, Limits(), Progress(0, 3, quiet=True))
    with pytest.raises(ImageError, match="no image 3"):
        choose(source, "3", None)


def test_a_docker_archive_whose_configuration_was_changed(tmp_path: Path) -> None:
    docker_archive(tmp_path / "d.tar", TAR, tags=["a:1"], config={"Cmd": ["good"]})
    raw = (tmp_path / "d.tar").read_bytes()
    (tmp_path / "d.tar").write_bytes(raw.replace(b'"good"', b'"evil"'))
    with pytest.raises(ImageError, match="its digest is"):
        choose(open_source(str(tmp_path / "d.tar")), None, None)


def test_a_docker_archive_whose_layer_was_changed(tmp_path: Path) -> None:
    docker_archive(tmp_path / "d.tar", TAR, tags=["a:1"])
    raw = (tmp_path / "d.tar").read_bytes()
    (tmp_path / "d.tar").write_bytes(raw.replace(b"world", b"wOrld"))
    image = choose(open_source(str(tmp_path / "d.tar")), None, None)
    with pytest.raises(ImageError, match="configuration says"):
        report.verify(image, Limits(), Progress(0, 1, quiet=True))


def test_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("hello\n" * 200)
    for name in ("empty", "text", "missing"):
        with pytest.raises(ImageError, match=name):
            open_source(str(tmp_path / name))


def test_a_fifo_in_a_layout_does_not_hang(layout: Layout) -> None:
    import os

    (layout.path / "index.json").unlink(missing_ok=True)
    os.mkfifo(layout.path / "index.json")
    with pytest.raises(ImageError, match="not a regular file"):
        open_source(str(layout.path))


def test_listing_and_inspecting(layout: Layout) -> None:
    layout.image(TAR, tag="a\x1b[31m", config={"Cmd": ["x"], "Env": ["A=1"], "Labels": {"k": "v\x07"}})
    source = open_source(str(layout.path))
    listing = report.listing(source, as_json=False)
    assert "\x1b" not in listing and "linux/amd64" in listing
    assert json.loads(report.listing(source, as_json=True))[0]["layers"] == 1
    image = choose(source, None, None)
    text = report.inspect(image, as_json=False)
    assert "\x07" not in text and "A=1" in text and image.layers[0].digest in text
    assert json.loads(report.inspect(image, as_json=True))["config"]["config"]["Cmd"] == ["x"]
