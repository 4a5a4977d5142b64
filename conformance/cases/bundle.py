"""Bundle and JSON: bundle.md, glossary.md, and the properties config.json must have."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from conformance.outcome import equal, fail, require, skip
from conformance.registry import case, each
from conformance.stage import Stage


@case("bundle.config-json")
def config_json_is_needed(stage: Stage) -> None:
    """A bundle without config.json is refused; so is one whose configuration has another name or lies deeper."""
    stage.script("true")
    stage.write_config()
    config = stage.bundle / "config.json"
    other = stage.bundle / "nested"
    other.mkdir()
    for place in (stage.bundle / "config.yaml", stage.bundle / "CONFIG.JSON", other / "config.json"):
        config.rename(place)
        require(not stage.create(ok=False, write=False).ok, f"create succeeded with only {place.name} in the bundle")
        place.rename(config)
    require(stage.create(write=False).ok, "create failed with config.json in place")


@case("bundle.single-dir")
def bundle_can_move(stage: Stage) -> None:
    """A bundle with a relative root.path works from wherever it is moved to."""
    moved = stage.dir / "moved bundle"
    stage.bundle.rename(moved)
    stage.bundle, stage.rootfs = moved, moved / "rootfs"
    equal(stage.sh("echo here"), "here\n", "output of the program")


@case("bundle.rootfs-dir", "root.path")
def root_is_the_named_directory(stage: Stage) -> None:
    """The directory root.path names is / of the container."""
    (stage.bundle / "rootfs").rename(stage.bundle / "other")
    (stage.bundle / "other/marker").write_text("it is me\n")
    stage.config["root"]["path"] = "other"
    equal(stage.sh("cat /marker"), "it is me\n", "/marker in the container")


@case("json.utf8")
def utf8_arrives_unchanged(stage: Stage) -> None:
    """Arguments and environment beyond ASCII arrive byte for byte."""
    word = "grüße-日本-\U0001f40b"
    stage.process["env"].append(f"WORD={word}")
    output = stage.run("/bin/sh", "-c", 'echo "$0"; echo "$WORD"', word)
    equal(output, f"{word}\n{word}\n", "argument and variable")


@case("json.utf8")
def invalid_utf8_is_refused(stage: Stage) -> None:
    """Bytes that are not UTF-8 make the configuration invalid."""
    stage.config["hostname"] = "MARK"
    stage.write_config()
    path = stage.bundle / "config.json"
    path.write_bytes(path.read_bytes().replace(b'"MARK"', b'"a\xff\xfe"'))
    require(not stage.create(ok=False, write=False).ok, "create accepted a config.json that is not UTF-8")


@case("json.no-duplicate-names")
def duplicate_name_is_no_mixture(stage: Stage) -> None:
    """A name that occurs twice is refused, or one of the two values holds completely."""
    stage.script('echo "$A-$B"')
    stage.config["hostname"] = "MARK"
    stage.write_config()
    path = stage.bundle / "config.json"
    doubled = json.dumps(["A=1", "B=1"])[1:-1], json.dumps(["A=2", "PATH=/bin"])[1:-1]
    text = path.read_text().replace('"cwd"', f'"env": [{doubled[0]}], "env": [{doubled[1]}], "cwd"', 1)
    path.write_text(text)
    if not stage.create(ok=False, write=False).ok:
        return
    stage.start()
    seen = stage.finish()
    require(seen in ("1-1\n", "2-\n", "-\n"), f"the two values were mixed: {seen!r}")


@case("root", "lifecycle.create-error")
def root_is_needed(stage: Stage) -> None:
    """A configuration without root is refused."""
    del stage.config["root"]
    stage.refused("the configuration has no root")


@case("root.path")
def root_path_is_needed(stage: Stage) -> None:
    """A root without path is refused."""
    stage.config["root"] = {"readonly": False}
    stage.refused("root has no path")


@case("root.path.abs-or-relative")
def root_path_may_be_absolute(stage: Stage) -> None:
    """An absolute root.path works, even outside the bundle."""
    outside = stage.dir / "elsewhere"
    shutil.move(stage.rootfs, outside)
    stage.config["root"]["path"] = str(outside)
    equal(stage.sh("echo absolute"), "absolute\n", "output of the program")


@case("root.path.abs-or-relative")
def root_path_is_relative_to_the_bundle(stage: Stage) -> None:
    """A relative root.path counts from the bundle, not from the caller's directory."""
    stage.script("echo relative")
    stage.create(cwd=Path("/"))
    stage.start()
    equal(stage.finish(), "relative\n", "output of the program")


@case("root.path.rootfs-name")
def spec_writes_rootfs(stage: Stage) -> None:
    """Where the runtime can write a template (`spec`), its root.path is the usual one, rootfs."""
    template = spec_template(stage)
    equal(template.get("root", {}).get("path"), "rootfs", "root.path of the template")


@each({"root.path.exists@missing": ("missing",), "root.path.exists@file": ("file",)})
def root_path_must_be_a_directory(stage: Stage, kind: str) -> None:
    """A root.path that is missing or names a file is an error."""
    stage.config["root"]["path"] = "nothing"
    if kind == "file":
        (stage.bundle / "nothing").write_text("")
    stage.refused(f"root.path is {kind}")


@case("root.readonly", "lifecycle.create-environment")
def readonly_root_cannot_be_written(stage: Stage) -> None:
    """With root.readonly nothing can be written below /, and the mount says ro."""
    stage.config["root"]["readonly"] = True
    output = stage.sh("touch /file 2>&1; grep ' / / \\| / ' /proc/self/mountinfo | head -1 | cut -d' ' -f6")
    require("Read-only file system" in output, f"touch /file did not fail with EROFS: {output!r}")
    require("ro" in output.splitlines()[-1].split(","), f"/ is not mounted ro: {output!r}")


@case("root.readonly")
def root_is_writable_by_default(stage: Stage) -> None:
    """Without root.readonly the root filesystem can be written."""
    del stage.config["root"]["readonly"]
    stage.sh("echo text > /file")
    equal((stage.rootfs / "file").read_text(), "text\n", "file seen from the host")


def spec_template(stage: Stage) -> dict[str, Any]:
    """The template the runtime writes for its users; the case is skipped if it writes none."""
    place = stage.scratch()
    if not stage.runtime.call("spec", cwd=place).ok or not (place / "config.json").exists():
        skip("this runtime has no `spec` verb that writes a template")
    template = json.loads((place / "config.json").read_text())
    if not isinstance(template, dict):
        fail("the template is no JSON object")
    return dict(template)
