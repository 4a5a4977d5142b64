"""config.json out of an image's configuration, as the image spec's conversion.md says, and what the user overrides."""

from __future__ import annotations

import re
from typing import Any

from pyruntime.image.documents import ImageError, string_list, strings, text
from pyruntime.image.users import ReadFile, resolve

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ANNOTATION = "org.opencontainers.image."
_PORT = re.compile(r"[0-9]{1,5}(-[0-9]{1,5})?(/(tcp|udp|sctp))?")
_FLAGS = frozenset(("ro", "readonly"))


class Overrides:
    """What the user asks for, over what the image says. None means: as the image says."""

    __slots__ = ("args", "cwd", "entrypoint", "env", "hostname", "mounts", "read_only", "terminal", "user")

    def __init__(self) -> None:
        self.args: list[str] | None = None
        self.cwd: str | None = None
        self.entrypoint: list[str] | None = None
        self.env: list[str] = []
        self.hostname: str | None = None
        self.mounts: list[dict[str, Any]] = []
        self.read_only = False
        self.terminal = False
        self.user: str | None = None


def process_args(image: dict[str, Any], overrides: Overrides) -> list[str]:
    """Entrypoint and Cmd. Another entry point drops the image's Cmd, which was written for the old one."""
    entrypoint = string_list(image.get("Entrypoint"), "config.Entrypoint")
    command = string_list(image.get("Cmd"), "config.Cmd")
    if overrides.entrypoint is not None:
        entrypoint, command = overrides.entrypoint, []
    if overrides.args is not None:
        command = overrides.args
    args = entrypoint + command
    if not args:
        raise ImageError("the image says no command to run; give one after `--`")
    return args


def process_env(image: dict[str, Any], overrides: Overrides, environ: dict[str, str]) -> list[str]:
    """Env of the image, then `--env`: `NAME=VALUE`, `NAME` (the value is ours), in place of a variable of that name."""
    env = string_list(image.get("Env"), "config.Env")
    for item in overrides.env:
        name, equals, _ = item.partition("=")
        if not name or "\0" in item:
            raise ImageError(f"--env {text(repr(item))}: expected NAME=VALUE or NAME")
        if not equals:
            if name not in environ:
                raise ImageError(f"--env {text(name)}: no such variable in the environment, and no value given")
            item = f"{name}={environ[name]}"  # noqa: PLW2901
        places = [i for i, have in enumerate(env) if have.partition("=")[0] == name]
        for place in reversed(places[1:]):
            del env[place]
        if places:
            env[places[0]] = item
        else:
            env.append(item)
    if not any(item.startswith("PATH=") for item in env):
        env.insert(0, PATH)
    return env


def implicit_annotations(config: dict[str, Any]) -> dict[str, str]:
    """The implicit annotations of conversion.md; labels win over them."""
    image = config.get("config") or {}
    result: dict[str, str] = {}
    for key in ("os", "architecture", "variant", "os.version", "author", "created"):
        value = config.get(key)
        if isinstance(value, str) and value:
            result[_ANNOTATION + key] = value
    features = string_list(config.get("os.features"), "os.features")
    if features:
        result[_ANNOTATION + "os.features"] = ",".join(features)
    stop = image.get("StopSignal")
    if isinstance(stop, str) and stop:
        result[_ANNOTATION + "stopSignal"] = stop
    ports = image.get("ExposedPorts")
    if ports:
        if not isinstance(ports, dict):
            raise ImageError("config.ExposedPorts: not an object")
        for port in ports:
            if not _PORT.fullmatch(port):
                raise ImageError(f"config.ExposedPorts: {text(repr(port))} is not a port")
        result[_ANNOTATION + "exposedPorts"] = ",".join(ports)
    result.update(strings(image.get("Labels"), "config.Labels"))
    return result


def volumes(image: dict[str, Any]) -> list[str]:
    """The paths in Config.Volumes, each an absolute one without `..` (CVE-2022-23648)."""
    found = image.get("Volumes")
    if not found:
        return []
    if not isinstance(found, dict):
        raise ImageError("config.Volumes: not an object")
    result = []
    for path in sorted(found):
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if not path.startswith("/") or not parts or ".." in parts or "\0" in path:
            raise ImageError(f"config.Volumes: {text(repr(path))} is not an absolute path inside the container")
        result.append("/" + "/".join(parts))
    return result


def parse_mount(value: str) -> dict[str, Any]:
    """`--mount type=bind,source=/a,destination=/b,ro,options=nosuid:nodev`. Raises ImageError."""
    mount: dict[str, Any] = {"type": "bind"}
    options: list[str] = []
    for field in value.split(","):
        key, equals, given = field.partition("=")
        if key == "type":
            mount["type"] = given
        elif key in ("source", "src"):
            mount["source"] = given
        elif key in ("destination", "dst", "target"):
            mount["destination"] = given
        elif key in ("option", "options"):
            options += [option for option in given.split(":") if option]
        elif key in _FLAGS and not equals:
            options.append("ro")
        elif key == "rw" and not equals:
            options.append("rw")
        else:
            raise ImageError(
                f"--mount {text(repr(value))}: {text(repr(field))} is unknown; the keys are type, source, destination, "
                "options, ro, rw"
            )
    if not str(mount.get("destination", "")).startswith("/"):
        raise ImageError(f"--mount {text(repr(value))}: an absolute destination is missing")
    if mount["type"] == "bind":
        if not mount.get("source"):
            raise ImageError(f"--mount {text(repr(value))}: a bind mount needs a source")
        if not {"bind", "rbind"} & set(options):
            options.insert(0, "rbind")
    mount.setdefault("source", mount["type"])
    mount["options"] = options
    return mount


def convert(
    template: dict[str, Any], config: dict[str, Any], overrides: Overrides, read: ReadFile, environ: dict[str, str]
) -> dict[str, Any]:
    """`template` (a complete config.json) with what the image's `config` and the user say. Raises ImageError."""
    image = config.get("config") or {}
    if not isinstance(image, dict):
        raise ImageError("config: not an object")
    user = overrides.user
    if user is None:
        user = image.get("User") or ""
        if not isinstance(user, str):
            raise ImageError("config.User: not a string")
    cwd = overrides.cwd or image.get("WorkingDir") or "/"
    if not isinstance(cwd, str) or not cwd.startswith("/") or "\0" in cwd:
        raise ImageError(f"config.WorkingDir: {text(repr(cwd))} is not an absolute path")
    process = template["process"]
    process["terminal"] = overrides.terminal
    process["user"] = resolve(user, read).config()
    process["args"] = process_args(image, overrides)
    process["env"] = process_env(image, overrides, environ)
    process["cwd"] = cwd
    template["root"]["readonly"] = overrides.read_only
    template["annotations"] = {**template.get("annotations", {}), **implicit_annotations(config)}
    if overrides.hostname is not None:
        template["hostname"] = overrides.hostname
    return template
