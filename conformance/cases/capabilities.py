"""Capabilities of the program: config.md, section Linux Process."""

from __future__ import annotations

from conformance import process
from conformance.outcome import equal, require, skip
from conformance.registry import case, each
from conformance.runtime import read
from conformance.stage import Stage

FIELDS = {
    "effective": "CapEff",
    "bounding": "CapBnd",
    "inheritable": "CapInh",
    "permitted": "CapPrm",
    "ambient": "CapAmb",
}
NAMES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
    "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE "
    "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
).split()


def mask(*names: str) -> int:
    """The capability names as the bit mask of /proc/PID/status."""
    return sum(1 << NAMES.index(name.removeprefix("CAP_")) for name in names)


def seen(stage: Stage, name: str) -> int:
    """A capability set of the running program."""
    return int(process.status(stage.pid, FIELDS[name]), 16)


@each({f"process.capabilities.{name}": (name,) for name in FIELDS}, "process.capabilities")
def set_is_exactly_as_configured(stage: Stage, name: str) -> None:
    """Each set of the program is what was configured: the set in question has one capability more than the others."""
    some = ["CAP_KILL", "CAP_CHOWN"]
    sets = {one: list(some) for one in FIELDS}
    # What a set may hold depends on others (capabilities(7)): give those the extra one too.
    needs = {
        "effective": ("bounding", "permitted", "effective"),
        "bounding": ("bounding",),
        "inheritable": ("bounding", "permitted", "inheritable"),
        "permitted": ("bounding", "permitted"),
        "ambient": ("bounding", "permitted", "inheritable", "ambient", "effective"),
    }
    for one in needs[name]:
        sets[one].append("CAP_AUDIT_WRITE")
    stage.process["capabilities"] = sets
    # A user other than root: for root execve(2) would recompute the sets from the bounding one.
    stage.process["user"] = {"uid": 1000, "gid": 1000}
    stage.up()
    if name in ("bounding", "inheritable", "ambient"):
        equal(hex(seen(stage, name)), hex(mask(*sets[name])), FIELDS[name])
    else:
        # Without file capabilities only the ambient set survives execve(2) of such a user.
        equal(hex(seen(stage, name)), hex(mask(*sets["ambient"])), FIELDS[name])


@each({f"process.capabilities.{name}@root": (name,) for name in ("effective", "permitted", "bounding")})
def sets_of_root(stage: Stage, name: str) -> None:
    """The program of root has exactly the capabilities of the configuration."""
    some = ["CAP_KILL", "CAP_CHOWN", "CAP_SYS_CHROOT"]
    stage.process["capabilities"] = {one: list(some) for one in ("effective", "permitted", "bounding")}
    stage.up()
    equal(hex(seen(stage, name)), hex(mask(*some)), FIELDS[name])


@case("process.capabilities.effective", "process.capabilities.bounding")
def dropped_capabilities_are_gone(stage: Stage) -> None:
    """What was not configured cannot be done: without CAP_CHOWN and CAP_SYS_CHROOT neither chown nor chroot works."""
    stage.process["capabilities"] = {one: ["CAP_KILL"] for one in ("effective", "permitted", "bounding")}
    output = stage.sh("touch /tmp/x; chown 5 /tmp/x 2>&1; chroot / /bin/true 2>&1", status=None)
    equal(output.count("Operation not permitted"), 2, f"refusals in {output!r}")


@case("process.capabilities.bounding")
def no_capabilities_at_all(stage: Stage) -> None:
    """Empty sets leave a program without any capability."""
    stage.process["capabilities"] = {one: [] for one in FIELDS}
    stage.up()
    equal([seen(stage, name) for name in FIELDS], [0] * 5, "the five sets")


@case("process.capabilities.ungrantable.no-fail", "process.capabilities.ungrantable.warn")
def unknown_capability_only_warns(stage: Stage) -> None:
    """A capability nobody knows is told as a warning, and the container runs."""
    log = stage.dir / "log"
    for members in stage.process["capabilities"].values():
        members.append("CAP_TEST")
    stage.script("echo runs")
    result = stage.create(ok=False, options=("--log", str(log)))
    require(result.ok, f"an unknown capability made create fail: {result.message}")
    told = result.err + (read(log) if log.exists() else "")
    stage.start()
    require("runs\n" in stage.finish(), "the program did not run")
    require("CAP_TEST" in told, "no warning names the unknown capability")


@case("process.capabilities.ungrantable.no-fail")
def missing_capability_does_not_fail(stage: Stage) -> None:
    """A capability the runtime itself lacks does not make the container fail."""
    own = int(process.status("self", "CapBnd"), 16)
    missing = [name for number, name in enumerate(NAMES) if not own >> number & 1]
    if not missing:
        skip("the runtime has every capability here")
    stage.add_capabilities(f"CAP_{missing[0]}")
    equal(stage.sh("echo runs"), "runs\n", "output of the program")
