"""Version, annotations, unknown properties and other platforms: config.md."""

from __future__ import annotations

from typing import Any

from conformance.outcome import equal, require
from conformance.registry import case, each
from conformance.runtime import read
from conformance.stage import Stage

IMAGE = {
    "os": "linux",
    "os.version": "12",
    "os.features": "feature",
    "architecture": "amd64",
    "variant": "v1",
    "author": "Somebody <somebody@example.org>",
    "created": "2020-01-02T03:04:05Z",
    "stopSignal": "SIGUSR1",
}


@case("ociVersion")
def version_is_needed(stage: Stage) -> None:
    """A configuration without ociVersion is refused."""
    del stage.config["ociVersion"]
    stage.refused("ociVersion is missing")


@each(
    {
        f"ociVersion.semver@{number}": (bad,)
        for number, bad in enumerate(("invalid", "1", "1.0", "", "v1.0.0", "01.0.0"))
    }
)
def version_must_be_semver(stage: Stage, bad: str) -> None:
    """An ociVersion that is not SemVer 2.0.0 is refused."""
    stage.config["ociVersion"] = bad
    stage.refused(f"ociVersion {bad!r} is not SemVer")


@each(
    {
        f"ociVersion.compat@{good}": (good,)
        for good in ("1.0.0", "1.0.0-rc5", "1.0.2-dev", "1.1.0+dev", "1.2.1", "1.3.0")
    }
)
def version_one_is_compatible(stage: Stage, good: str) -> None:
    """Every version 1 is accepted."""
    stage.config["ociVersion"] = good
    equal(stage.sh("echo runs"), "runs\n", "output of the program")


@each({f"annotations.image.{name}": (f"org.opencontainers.image.{name}", value) for name, value in IMAGE.items()})
def image_annotation_passes_through(stage: Stage, key: str, value: str) -> None:
    """An annotation made from the image is in the state, unchanged, and does not alter the container."""
    stage.config["annotations"] = {key: value}
    stage.create()
    equal((stage.state().get("annotations") or {}).get(key), value, key)


@each({f"annotations.map@{number}": (bad,) for number, bad in enumerate((["a"], "text", 5))})
def annotations_are_a_map(stage: Stage, bad: object) -> None:
    """Annotations that are no object are refused."""
    stage.config["annotations"] = bad
    stage.refused(f"annotations are {bad!r}")


@each({f"annotations.value.string@{number}": (bad,) for number, bad in enumerate((5, True, ["x"], {"a": "b"}))})
def values_are_strings(stage: Stage, bad: object) -> None:
    """A value that is no string is refused."""
    stage.config["annotations"] = {"org.example.key": bad}
    stage.refused(f"the value of an annotation is {bad!r}")


@case("annotations.value.empty", "annotations.empty")
def value_may_be_empty(stage: Stage) -> None:
    """An empty value, and an empty map, are accepted."""
    stage.config["annotations"] = {"org.example.key": ""}
    stage.create()
    equal((stage.state().get("annotations") or {}).get("org.example.key"), "", "the empty value")
    stage.delete("--force")
    stage.config["annotations"] = {}
    stage.create()


@case("annotations.key.non-empty")
def key_must_not_be_empty(stage: Stage) -> None:
    """The empty key is refused."""
    stage.config["annotations"] = {"": "value"}
    stage.refused("the key of an annotation is empty")


@case("annotations.key.string")
def keys_are_taken_literally(stage: Stage) -> None:
    """Keys are strings of any characters and come back as they are."""
    keys = {"org.example/with slash": "1", "größe": "2", "a.b.c-d_e": "3"}
    stage.config["annotations"] = dict(keys)
    stage.create()
    seen = stage.state().get("annotations") or {}
    equal({key: seen.get(key) for key in keys}, keys, "annotations of the state")


@case("annotations.unknown")
def unknown_keys_are_ignored(stage: Stage) -> None:
    """Keys nobody knows, in reverse domain notation or not, make no error."""
    stage.config["annotations"] = {"org.example.unknown": "1", "plain": "2", "run.something.else": "3"}
    equal(stage.sh("echo runs"), "runs\n", "output of the program")


@case("annotations.reserved")
def unlisted_reserved_keys_do_nothing(stage: Stage) -> None:
    """A reserved key the specification does not list changes nothing, and the runtime adds none to the state."""
    stage.config["annotations"] = {"org.opencontainers.nothing.like.this": "1"}
    stage.script("echo runs")
    stage.create()
    seen = {key for key in stage.state().get("annotations") or {} if key.startswith("org.opencontainers")}
    equal(seen, {"org.opencontainers.nothing.like.this"}, "reserved keys in the state")
    stage.start()
    equal(stage.finish(), "runs\n", "output of the program")


def with_unknown(value: Any) -> Any:
    """The configuration with one more property in every object of it, free maps aside."""
    if isinstance(value, dict):
        return {key: with_unknown(inner) for key, inner in value.items()} | {"conformanceUnknown": {"a": [1, None]}}
    if isinstance(value, list):
        return [with_unknown(inner) for inner in value]
    return value


@case("extensibility.ignore")
def unknown_properties_are_ignored(stage: Stage) -> None:
    """Unknown properties at every level make no error."""
    stage.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 100}]
    stage.config["hooks"] = {"createRuntime": [{"path": "/bin/true"}]}
    stage.resources["pids"] = {"limit": 50}
    stage.script("echo runs")
    stage.config = with_unknown(stage.config)
    stage.create()
    stage.start()
    equal(stage.finish(), "runs\n", "output of the program")


@case("extensibility.log")
def unknown_properties_are_at_most_logged(stage: Stage) -> None:
    """A log of unknown properties goes to the log, not into the output of the program."""
    log = stage.dir / "log"
    stage.config["conformanceUnknown"] = True
    stage.script("echo runs")
    stage.create(options=("--log", str(log)))
    stage.start()
    equal(stage.finish(), "runs\n", "output of the program")
    require("error" not in (read(log).lower() if log.exists() else ""), "the log calls it an error")


WRONG: dict[str, tuple[tuple[str, ...], object]] = {
    "root": (("root",), "rootfs"),
    "root.readonly": (("root", "readonly"), "yes"),
    "mounts": (("mounts",), {"destination": "/x"}),
    "mounts.options": (("mounts",), [{"destination": "/x", "type": "tmpfs", "source": "x", "options": "ro"}]),
    "process.args": (("process", "args"), "/bin/true"),
    "process.env": (("process", "env"), {"A": "B"}),
    "process.cwd": (("process", "cwd"), 5),
    "process.terminal": (("process", "terminal"), "true"),
    "process.user.uid": (("process", "user"), {"uid": -1, "gid": 0}),
    "process.user.uid-word": (("process", "user"), {"uid": "root", "gid": 0}),
    "hostname": (("hostname",), ["box"]),
    "linux": (("linux",), []),
    "linux.namespaces": (("linux", "namespaces"), [{"type": "nothing"}]),
    "linux.devices": (("linux", "devices"), [{"type": "c", "path": "/dev/x", "major": "one", "minor": 1}]),
    "linux.resources": (("linux", "resources"), {"memory": {"limit": "much"}}),
    "linux.resources.shares": (("linux", "resources"), {"cpu": {"shares": -1}}),
    "hooks": (("hooks",), {"prestart": {"path": "/bin/true"}}),
    "rootfsPropagation": (("linux", "rootfsPropagation"), "bogus"),
    "maskedPaths": (("linux", "maskedPaths"), "/proc/kcore"),
}


@each({f"values.invalid@{name}": (name,) for name in WRONG})
def invalid_values_are_errors(stage: Stage, name: str) -> None:
    """A value of the wrong type, an unknown word or a number out of range is an error."""
    path, value = WRONG[name]
    stage.process["args"] = ["/bin/true"]
    inner = stage.config
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    result = stage.create(ok=False)
    result = stage.start(ok=False) if result.ok else result
    require(not result.ok, f"{'.'.join(path)} = {value!r} was accepted")


@case("values.subset")
def unsupported_values_fail_with_a_message(stage: Stage) -> None:
    """A valid value the host cannot support fails with a message that says something about it."""
    stage.linux["intelRdt"] = {"closID": "conformance", "l3CacheSchema": "L3:0=f"}
    stage.process["args"] = ["/bin/true"]
    result = stage.create(ok=False)
    require(result.ok or result.err.strip(), "the refusal was not explained")


@each({f"platform.{name}": (name,) for name in ("solaris", "windows", "vm", "zos", "freebsd")})
def other_platforms_are_ignored(stage: Stage, name: str) -> None:
    """The section of another platform is an unknown property: ignored."""
    section: dict[str, object] = {
        "solaris": {"milestone": "svc:/milestone/container:default"},
        "windows": {"layerFolders": ["C:\\x"]},
        "vm": {"kernel": {"path": "/vmlinuz"}, "hypervisor": {"path": "/bin/qemu"}},
        "zos": {"namespaces": [{"type": "mount"}]},
        "freebsd": {"devices": []},
    }
    stage.config[name] = section[name]
    equal(stage.sh("echo runs"), "runs\n", "output of the program")


@case("platform.linux")
def linux_may_be_absent(stage: Stage) -> None:
    """A configuration without linux makes a container without new namespaces, or is refused with a message."""
    del stage.config["linux"]
    del stage.config["hostname"]
    stage.process["args"] = ["/bin/true"]
    result = stage.create(ok=False)
    require(result.ok or result.err.strip(), "the refusal was not explained")


@case("process.user.username")
def username_alone_changes_nothing(stage: Stage) -> None:
    """username belongs to Windows: the user stays the one of uid."""
    stage.process["user"] = {"uid": 1000, "gid": 1000, "username": "root"}
    equal(stage.sh("id -u"), "1000\n", "user of the program")
