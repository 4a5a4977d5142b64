"""The features structure: features.md and features-linux.md. All of it is optional; what is there must be right."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from conformance.outcome import equal, require, skip
from conformance.registry import case, each
from conformance.stage import Stage


def features(stage: Stage) -> dict[str, Any]:
    """The features structure; the case is skipped if the runtime prints none."""
    result = stage.runtime.call("features")
    if not result.ok:
        skip("this runtime has no `features` verb")
    parsed = json.loads(result.out)
    require(isinstance(parsed, dict), "features printed no JSON object")
    return dict(parsed)


def part(stage: Stage, *path: str) -> Any:
    """A property of the structure; the case is skipped if it is absent or null, which the specification allows."""
    found: Any = features(stage)
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
        if found is None:
            skip(f"the features structure leaves {'.'.join(path)} out, which is allowed")
    return found


def numbers(version: str) -> list[int]:
    """The three numbers of a version, without what follows - or +."""
    return [int(word) for word in version.split("-", maxsplit=1)[0].split("+", maxsplit=1)[0].split(".")]


@case("features.provided")
def features_are_json(stage: Stage) -> None:
    """Where there is a features verb, it prints a JSON object."""
    features(stage)


@case("features.static")
def features_do_not_depend_on_the_host(stage: Stage) -> None:
    """The structure is the same for another user environment, apart from the annotations."""
    first = features(stage)
    second = json.loads(stage.runtime.call("features", env={"PATH": os.environ["PATH"]}, cwd=Path("/")).out)
    first.pop("annotations", None)
    second.pop("annotations", None)
    equal(second, first, "features in another environment")


@each({"features.ociVersionMin": ("ociVersionMin",), "features.ociVersionMax": ("ociVersionMax",)})
def versions_are_there(stage: Stage, name: str) -> None:
    """The two versions are required."""
    require(isinstance(features(stage).get(name), str), f"{name} is missing")


@each({"features.ociVersionMin.accepted": ("ociVersionMin",), "features.ociVersionMax.accepted": ("ociVersionMax",)})
def versions_are_accepted(stage: Stage, name: str) -> None:
    """A configuration with that version is accepted."""
    stage.config["ociVersion"] = features(stage)[name]
    equal(stage.sh("echo runs"), "runs\n", "output of the program")


@case("features.ociVersionMax.order", "features.absent-or-null")
def versions_are_in_order(stage: Stage) -> None:
    """ociVersionMax is not lower than ociVersionMin."""
    found = features(stage)
    require(
        numbers(found["ociVersionMax"]) >= numbers(found["ociVersionMin"]), "ociVersionMax is lower than ociVersionMin"
    )


NEWER = {"netDevices": (1, 3), "memoryPolicy": (1, 3), "mountExtensions": (1, 1)}


@case("features.ociVersionMax.no-newer")
def nothing_newer_than_the_version(stage: Stage) -> None:
    """No property is shown that ociVersionMax does not define."""
    found = features(stage)
    highest = tuple(numbers(found["ociVersionMax"])[:2])
    early = [name for name, since in NEWER.items() if name in (found.get("linux") or {}) and highest < since]
    equal(early, [], f"properties newer than {found['ociVersionMax']}")


@case("features.null-vs-empty", "features.linux")
def lists_are_lists(stage: Stage) -> None:
    """A list that is there is a list of words without repetition."""
    found = features(stage)
    lists = {"hooks": found.get("hooks"), "mountOptions": found.get("mountOptions")}
    lists["namespaces"] = (found.get("linux") or {}).get("namespaces")
    for name, value in lists.items():
        if value is not None:
            require(isinstance(value, list) and len(set(value)) == len(value), f"{name} is {value!r}")


@case("features.hooks")
def listed_hooks_work(stage: Stage) -> None:
    """A hook of every listed name is accepted and run."""
    names = part(stage, "hooks")
    log = stage.dir / "log"
    (stage.rootfs / "log").write_text("")
    entries = {name: [{"path": "/bin/sh", "args": ["sh", "-c", f"echo {name} >> {log}"]}] for name in names}
    if "startContainer" in entries:
        entries["startContainer"][0]["args"] = ["sh", "-c", "echo startContainer >> /log"]
    stage.config["hooks"] = entries
    stage.run("/bin/true")
    stage.delete()
    seen = set(log.read_text().split()) | set((stage.rootfs / "log").read_text().split())
    equal(seen, set(names), "hooks that ran")


@case("features.mountOptions")
def listed_mount_options_are_recognised(stage: Stage) -> None:
    """Each listed option is understood: none is handed to the filesystem as data."""
    special = {"bind", "rbind", "remount", "idmap", "ridmap", "tmpcopyup", "copy-symlink"}
    words = [word for word in part(stage, "mountOptions") if word not in special]
    plain = [word for word in words if not word.startswith(("src-", "dest-"))]
    # Options exclude each other, so every one gets a mount of its own, all in one container.
    for number, word in enumerate(plain):
        stage.mounts.append({"destination": f"/m/{number}", "type": "tmpfs", "source": "tmpfs", "options": [word]})
    stage.up()
    require(plain, "the list of mount options is empty")


@case("features.mountOptions.no-data")
def data_options_are_not_listed(stage: Stage) -> None:
    """Options of filesystems, such as size and mode, are not listed."""
    listed = set(part(stage, "mountOptions"))
    equal(
        sorted(listed & {"size", "mode", "uid", "gid", "nr_inodes", "lowerdir", "upperdir", "newinstance"}), [], "data"
    )


@case("features.annotations", "features.annotations.map")
def annotations_are_strings(stage: Stage) -> None:
    """Annotations map strings to strings."""
    found = part(stage, "annotations")
    require(
        isinstance(found, dict) and all(isinstance(value, str) for value in found.values()), f"annotations: {found!r}"
    )


@case("features.potentiallyUnsafe")
def unsafe_annotations_are_a_list(stage: Stage) -> None:
    """The annotations that change behaviour are listed as strings."""
    found = part(stage, "potentiallyUnsafeConfigAnnotations")
    require(isinstance(found, list) and all(isinstance(value, str) for value in found), f"the list is {found!r}")


@case("features.linux.namespaces")
def listed_namespaces_are_recognised(stage: Stage) -> None:
    """The listed namespaces are those of the specification, and each is recognised."""
    found = part(stage, "linux", "namespaces")
    known = {"pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"}
    equal(set(found) - known, set(), "names that are no namespaces")
    for kind in set(found) - {"user", "time"}:
        stage.add_namespace(kind)
    equal(stage.sh("echo runs"), "runs\n", "output of the program")


@case("features.linux.capabilities")
def listed_capabilities_are_recognised(stage: Stage) -> None:
    """Every listed capability can stand in the configuration without a warning about its name."""
    from conformance.cases.capabilities import NAMES, mask

    found = part(stage, "linux", "capabilities")
    equal({name for name in found if name.removeprefix("CAP_") not in NAMES}, set(), "names that are no capabilities")
    own = int(open("/proc/self/status").read().split("CapBnd:")[1].split()[0], 16)  # noqa: SIM115
    usable = [name for name in found if own & mask(name)]
    stage.process["capabilities"] = {one: list(usable) for one in ("bounding", "effective", "permitted")}
    seen = int(stage.sh("grep CapBnd /proc/self/status").split()[1], 16)
    equal(hex(seen), hex(mask(*usable)), "bounding set")


@each(
    {f"features.linux.cgroup.{name}": ("cgroup", name) for name in ("v1", "v2", "systemd", "systemdUser", "rdma")}
    | {
        "features.linux.seccomp.enabled": ("seccomp", "enabled"),
        "features.linux.apparmor.enabled": ("apparmor", "enabled"),
        "features.linux.selinux.enabled": ("selinux", "enabled"),
        "features.linux.intelRdt.enabled": ("intelRdt", "enabled"),
        "features.linux.intelRdt.schemata": ("intelRdt", "schemata"),
        "features.linux.intelRdt.monitoring": ("intelRdt", "monitoring"),
        "features.linux.netDevices.enabled": ("netDevices", "enabled"),
    }
)
def switch_is_a_boolean(stage: Stage, section: str, name: str) -> None:
    """The property is true or false."""
    require(isinstance(part(stage, "linux", section, name), bool), f"linux.{section}.{name} is no boolean")


@case("features.linux.mountExtensions.idmap")
def idmap_switch_is_true_to_life(stage: Stage) -> None:
    """If idmapped mounts are announced, they work."""
    if part(stage, "linux", "mountExtensions", "idmap", "enabled"):
        from conformance.cases.idmap import files_change_their_owner

        files_change_their_owner(stage)


@case("features.linux.netDevices.enabled")
def netdevices_switch_is_true_to_life(stage: Stage) -> None:
    """If moving interfaces is announced, it works."""
    if part(stage, "linux", "netDevices", "enabled"):
        from conformance.cases.netdevices import interface_is_moved

        interface_is_moved(stage)


@each(
    {
        f"features.linux.seccomp.{name}": (name,)
        for name in ("actions", "operators", "archs", "knownFlags", "supportedFlags")
    }
)
def listed_seccomp_words_are_recognised(stage: Stage, name: str) -> None:
    """Every listed word can stand in the configuration."""
    words = part(stage, "linux", "seccomp", name)
    seccomp: dict[str, Any] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}
    call = ["kcmp"]
    if name == "actions":
        seccomp["syscalls"] = [
            {"names": call, "action": word} for word in words if word not in ("SCMP_ACT_NOTIFY", "SCMP_ACT_ALLOW")
        ][:1]
        for word in words:
            if word not in ("SCMP_ACT_NOTIFY", "SCMP_ACT_ALLOW"):
                stage.linux["seccomp"] = seccomp | {"syscalls": [{"names": call, "action": word}]}
                equal(stage.sh("echo runs"), "runs\n", f"output with {word}")
                stage.delete("--force")
        return
    if name == "operators":
        conditions = [{"index": 1, "value": 5, "valueTwo": 5, "op": word} for word in words]
        seccomp["syscalls"] = [{"names": call, "action": "SCMP_ACT_ERRNO", "args": [one]} for one in conditions]
    elif name == "archs":
        # One filter cannot hold architectures of both byte orders, so those of the other order cannot be tried.
        big = {"MIPS", "MIPS64", "MIPS64N32", "PPC", "PPC64", "S390", "S390X", "PARISC", "PARISC64", "M68K", "SHEB"}
        little = [word for word in words if word.removeprefix("SCMP_ARCH_") not in big]
        seccomp["architectures"] = (
            little if sys.byteorder == "little" else [word for word in words if word not in little]
        )
        seccomp["syscalls"] = [{"names": call, "action": "SCMP_ACT_ERRNO"}]
    elif name == "supportedFlags":
        seccomp["flags"] = [word for word in words if not word.endswith("WAIT_KILLABLE_RECV")]
        seccomp["syscalls"] = [{"names": call, "action": "SCMP_ACT_ERRNO"}]
    else:
        equal({word for word in words if not word.startswith("SECCOMP_FILTER_FLAG_")}, set(), "words that are no flags")
    stage.linux["seccomp"] = seccomp
    equal(stage.sh("echo runs"), "runs\n", "output of the program")


@each(
    {f"features.linux.memoryPolicy.{name}": (name, start) for name, start in (("modes", "MPOL_"), ("flags", "MPOL_F_"))}
)
def listed_memory_policies_are_words_of_the_kernel(stage: Stage, name: str, start: str) -> None:
    """The listed words are those of set_mempolicy(2)."""
    words = part(stage, "linux", "memoryPolicy", name)
    require(words and all(word.startswith(start) for word in words), f"{name} are {words}")
