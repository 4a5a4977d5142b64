"""Every claim of `features` is put to the test on this host: what it lists is not only understood, it works."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.bundles import Config
from support.changes import linux, mount, namespace, user_namespace
from support.container import Container
from support.runtime import REPOSITORY, Runtime

from pyruntime.spec import validate

Make = Callable[..., Container]


@pytest.fixture
def features(runtime: Runtime) -> dict[str, Any]:
    found: dict[str, Any] = runtime("features").ok().json()
    return found


def test_it_is_what_the_schema_says(features: dict[str, Any]) -> None:
    assert validate.schema_problems(features, "features.json") == []


def test_it_is_the_same_from_everywhere(runtime: Runtime, features: dict[str, Any], tmp_path: Path) -> None:
    """Neither the place nor the environment, nor whether there are cgroups, changes what the program understands."""
    hidden = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /sys/fs/cgroup && exec "$@"', "sh"]
    other = Runtime([*hidden, *runtime.program], runtime.root)
    assert other("features", cwd=tmp_path, env={"PATH": os.environ["PATH"]}).ok().json() == features


def test_every_namespace_can_be_made(container: Make, features: dict[str, Any]) -> None:
    kinds = features["linux"]["namespaces"]
    files = {"mount": "mnt", "network": "net"}
    one = container(["sleep", "60"], user_namespace(), *(namespace(kind) for kind in kinds if kind != "user"))
    one.run("--detach").ok()
    for kind in kinds:
        name = files.get(kind, kind)
        assert os.readlink(f"/proc/{one.pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}"), kind
    assert len(kinds) == len(os.listdir("/proc/self/ns")) - 2, "pid_for_children and time_for_children are no kinds"


def test_the_capabilities_are_those_of_the_kernels_header(features: dict[str, Any]) -> None:
    header = Path("/usr/include/linux/capability.h")
    if not header.exists():
        pytest.skip("needs linux-libc-dev")
    names = re.findall(r"^#define (CAP_[A-Z_0-9]+)\s+\d+$", header.read_text(), re.MULTILINE)
    assert set(names) == set(features["linux"]["capabilities"])


def test_every_memory_policy_is_taken(container: Make, features: dict[str, Any]) -> None:
    """Alone and, where the kernel lets them go together, with every flag."""
    listed = features["linux"]["memoryPolicy"]
    shown = {
        "MPOL_DEFAULT": "default", "MPOL_BIND": "bind", "MPOL_INTERLEAVE": "interleave", "MPOL_PREFERRED": "prefer",
        "MPOL_LOCAL": "local", "MPOL_PREFERRED_MANY": "prefer (many)",
        "MPOL_WEIGHTED_INTERLEAVE": "weighted interleave",
    }  # fmt: skip
    assert set(listed["modes"]) == set(shown)
    for mode in listed["modes"]:
        policy = {"mode": mode} if mode in ("MPOL_DEFAULT", "MPOL_LOCAL") else {"mode": mode, "nodes": "0"}
        result = container(["cat", "/proc/self/numa_maps"], linux(memoryPolicy=policy)).run()
        if mode == "MPOL_WEIGHTED_INTERLEAVE" and kernel() < (6, 9):
            assert "the kernel does not have this mode" in result.stderr
            continue
        assert f" {shown[mode]}" in result.ok().stdout.splitlines()[0]
    words = {"MPOL_F_STATIC_NODES": "static", "MPOL_F_RELATIVE_NODES": "relative", "MPOL_F_NUMA_BALANCING": "balancing"}
    assert set(listed["flags"]) == set(words)
    for flag in listed["flags"]:
        policy = {"mode": "MPOL_BIND", "nodes": "0", "flags": [flag]}
        first = container(["cat", "/proc/self/numa_maps"], linux(memoryPolicy=policy)).run().ok().stdout.splitlines()[0]
        # numa_maps has a word for balancing since Linux 6.11.
        assert f"={words[flag]}" in first or (flag == "MPOL_F_NUMA_BALANCING" and " bind" in first)


def kernel() -> tuple[int, ...]:
    return tuple(int(word) for word in os.uname().release.split(".")[:2])


def test_every_action_operator_and_flag_of_seccomp_works(container: Make, features: dict[str, Any]) -> None:
    listed = features["linux"]["seccomp"]
    assert listed["enabled"] and set(listed["supportedFlags"]) <= set(listed["knownFlags"])
    rules = [
        {"names": ["kcmp"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 1, "valueTwo": 1, "op": word}]}
        for word in listed["operators"]
    ]
    for number, action in enumerate(word for word in listed["actions"] if "NOTIFY" not in word):
        name = ["acct", "bpf", "uselib", "ustat", "syslog", "sysfs", "lookup_dcookie", "nfsservctl", "vhangup"][number]
        rules.append({"names": [name], "action": action})
    little = [word for word in listed["archs"] if word in ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_AARCH64")]
    section = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": little, "syscalls": rules}
    section["flags"] = [flag for flag in listed["supportedFlags"] if "WAIT_KILLABLE" not in flag]
    status = container(["cat", "/proc/self/status"], linux(seccomp=section)).run().ok().stdout
    assert "Seccomp:\t2" in status


def test_cgroups_are_managed(container: Make, features: dict[str, Any]) -> None:
    """Of the kind that this host has."""
    listed = features["linux"]["cgroup"]
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    assert listed["v2" if unified else "v1"]
    limit = linux(resources={"pids": {"limit": 77}})
    one = container(["sleep", "60"], limit)
    one.run("--detach").ok()
    assert (one.cgroup("pids") / "pids.max").read_text() == "77\n"


def test_every_annotation_that_changes_something_is_listed(features: dict[str, Any]) -> None:
    """Engines that take annotations from images filter by this list."""
    keys: set[str] = set()
    for path in sorted((REPOSITORY / "pyruntime").rglob("*.py")):
        if not {"image", "network", "cli"} & set(path.parts) and path.name != "features.py":
            keys |= set(re.findall(r'"((?:run\.oci|org\.(?:criu|systemd))\.[a-z_.]+)"', path.read_text()))
    listed = tuple(features["potentiallyUnsafeConfigAnnotations"])
    assert len(keys) >= 4, "the search found what there is"
    for key in keys:
        assert any(key == one or (one.endswith(".") and key.startswith(one)) for one in listed), key


def test_every_mount_option_is_taken_by_the_mount_not_by_the_filesystem(
    container: Make, features: dict[str, Any], tmp_path: Path
) -> None:
    """tmpfs refuses data that it does not know, so a word that reached it would fail."""
    special = {"bind", "rbind", "remount", "idmap", "ridmap", "copy-symlink"}
    words = [
        word for word in features["mountOptions"] if word not in special and not word.startswith(("src-", "dest-"))
    ]
    assert len(words) > 40
    entries = [mount(f"/m/{number}", "tmpfs", [word], type="tmpfs") for number, word in enumerate(words)]
    container(["true"], *entries).run().ok()
    result = container(["true"], mount("/m", "tmpfs", ["no-such-option"], type="tmpfs")).run()
    assert result.status == 1 and "no-such-option" in result.stderr


def test_hooks_of_every_kind_run(container: Make, features: dict[str, Any], tmp_path: Path) -> None:
    log = tmp_path / "log"

    def change(config: Config) -> None:
        say = {kind: ["sh", "-c", f"echo {kind} >> {log}"] for kind in features["hooks"]}
        say["startContainer"] = ["sh", "-c", "echo startContainer >> /log"]
        config["hooks"] = {kind: [{"path": "/bin/sh", "args": args}] for kind, args in say.items()}

    one = container(["true"], change)
    one.run().ok()
    seen = log.read_text().split() + (one.bundle.rootfs / "log").read_text().split()
    assert sorted(seen) == sorted(features["hooks"])


def test_both_versions_are_accepted(container: Make, features: dict[str, Any]) -> None:
    for version in (features["ociVersionMin"], features["ociVersionMax"]):
        one = container(["true"], lambda config, version=version: config.update(ociVersion=version))
        one.run().ok()


def test_annotations_are_strings(features: dict[str, Any]) -> None:
    assert features["annotations"] and json.loads(json.dumps(features["annotations"])) == features["annotations"]
    assert all(isinstance(value, str) for value in features["annotations"].values())
