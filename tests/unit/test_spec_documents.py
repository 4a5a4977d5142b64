"""The documents that the runtime writes itself: the starter configuration and the features."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pyruntime import SPEC_VERSION
from pyruntime.kernel import capabilities, limits
from pyruntime.plan import options, scheduling, seccomp_rules
from pyruntime.spec import features, load, names, template, validate


@pytest.mark.parametrize("rootless", [False, True])
def test_the_starter_configuration_is_valid(rootless: bool) -> None:
    document = template.config(rootless=rootless)
    assert load.problems(document) == []
    assert validate.schema_problems(document) == []


def test_the_starter_configuration() -> None:
    document: Any = template.config()
    assert list(document) == ["ociVersion", "process", "root", "hostname", "mounts", "linux"]
    process = document["process"]
    assert (process["terminal"], process["args"], process["cwd"]) == (True, ["sh"], "/")
    assert process["noNewPrivileges"] is True
    wanted = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
    assert process["capabilities"] == {"bounding": wanted, "effective": wanted, "permitted": wanted}
    assert document["root"] == {"path": "rootfs", "readonly": True}
    assert [mount["destination"] for mount in document["mounts"]] == [
        "/proc",
        "/dev",
        "/dev/pts",
        "/dev/shm",
        "/dev/mqueue",
        "/sys",
        "/sys/fs/cgroup",
    ]
    assert "gid=5" in document["mounts"][2]["options"]
    types = [entry["type"] for entry in document["linux"]["namespaces"]]
    assert types[:5] == ["pid", "network", "ipc", "uts", "mount"]
    assert ("cgroup" in types) == Path("/sys/fs/cgroup/cgroup.controllers").exists()


def test_what_a_container_must_not_see_is_masked() -> None:
    masked = template.config()["linux"]["maskedPaths"]
    assert [path for path in masked if "thermal_throttle" not in path] == [
        "/proc/acpi",
        "/proc/asound",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/sys/devices/virtual/powercap",
        "/sys/firmware",
    ]
    throttles = sorted(str(path) for path in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle"))
    assert sorted(path for path in masked if "thermal_throttle" in path) == throttles
    assert template.config()["linux"]["readonlyPaths"] == [
        "/proc/bus",
        "/proc/fs",
        "/proc/irq",
        "/proc/sys",
        "/proc/sysrq-trigger",
    ]


def test_the_thermal_counters_of_every_cpu_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = ["cpu10", "cpu2", "cpu0", "cpuidle", "cpufreq", "online"]
    monkeypatch.setattr(os, "listdir", lambda path: entries)
    monkeypatch.setattr(os.path, "exists", lambda path: "cpu0/" not in path)
    masked = template.config()["linux"]["maskedPaths"]
    assert [path for path in masked if "thermal" in path] == [
        "/sys/devices/system/cpu/cpu2/thermal_throttle",
        "/sys/devices/system/cpu/cpu10/thermal_throttle",
    ]


def test_the_rootless_configuration() -> None:
    document = template.config(rootless=True)
    linux = document["linux"]
    types = [entry["type"] for entry in linux["namespaces"]]
    assert "user" in types
    assert "network" not in types
    assert linux["uidMappings"] == [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
    assert linux["gidMappings"] == [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
    assert "resources" not in linux
    mounts = {mount["destination"]: mount for mount in document["mounts"]}
    assert mounts["/sys"]["source"] == "/sys"
    assert mounts["/sys"]["options"] == ["rbind", "nosuid", "noexec", "nodev", "ro"]
    assert not any(
        option.startswith(("uid=", "gid=")) for mount in mounts.values() for option in mount.get("options", ())
    )


def test_features_are_valid_and_understood() -> None:
    document: Any = features.document()
    assert validate.schema_problems(document, "features.json") == []
    assert document["ociVersionMax"] == SPEC_VERSION
    for version in (document["ociVersionMin"], document["ociVersionMax"]):
        assert load.problems({"ociVersion": version, "root": {"path": "r"}}) == []
    for kind in document["linux"]["namespaces"]:
        mapping = [{"containerID": 0, "hostID": 0, "size": 1}]
        linux = {"namespaces": [{"type": kind}]}
        if kind == "user":
            linux.update(uidMappings=mapping, gidMappings=mapping)
        assert load.problems({"ociVersion": "1.3.0", "root": {"path": "r"}, "linux": linux}) == []
    assert len(document["linux"]["capabilities"]) == 41
    assert {"rro", "idmap", "ridmap", "tmpcopyup", "bind", "rbind", "ro"} < set(document["mountOptions"])
    assert document["linux"]["mountExtensions"] == {"idmap": {"enabled": True}}
    assert document["annotations"]["org.opencontainers.runc.checkpoint.enabled"] == "true"
    assert "org.opencontainers.runc.commit" not in document["annotations"]


def test_features_carry_what_the_caller_knows_about_seccomp() -> None:
    document: Any = features.document("2.5.4", ["SECCOMP_FILTER_FLAG_LOG"])
    assert document["annotations"]["io.github.seccomp.libseccomp.version"] == "2.5.4"
    assert document["linux"]["seccomp"]["supportedFlags"] == ["SECCOMP_FILTER_FLAG_LOG"]
    assert document["linux"]["seccomp"]["knownFlags"] == list(names.SECCOMP_FLAGS)


def test_names_are_those_that_the_rooms_understand() -> None:
    assert {name: number for number, name in enumerate(names.CAPABILITIES)} == capabilities.NUMBERS
    assert {name: number for number, name in enumerate(names.RLIMITS)} == limits.NUMBERS
    assert list(names.MOUNT_OPTIONS) == options.WORDS
    assert set(names.SECCOMP_ACTIONS) == set(seccomp_rules.ACTIONS)
    assert set(names.SECCOMP_OPERATORS) == set(seccomp_rules.OPERATORS)
    assert set(names.SECCOMP_ARCHITECTURES) == set(seccomp_rules.ARCHITECTURES)
    assert set(names.MEMORY_POLICY_MODES) == set(scheduling.MEMORY_MODES)
    assert set(names.MEMORY_POLICY_FLAGS) == set(scheduling.MEMORY_FLAGS)
