"""The attributes of the container's process → steps, for `create` and for `exec` alike.

The order is the point of this module:

* `before_start`: what needs privileges, or should fail at create and not at start: keyring, labels, scheduling,
  no_new_privs. Labels come before no_new_privs, which forbids AppArmor to switch to another profile.
* `after_start`: after the wait for start, because a process that still has its capabilities cannot be opened by the
  container's processes (ptrace(2), "Ptrace access mode checking"). Bounding set, groups, gid, uid, capabilities; then
  signals, umask and limits, which would disturb us if they came earlier.
* The seccomp filter sits inside `after_start`: first of all if no_new_privs is off, for then it needs CAP_SYS_ADMIN;
  otherwise last, directly before execve, so that a filter may forbid everything that the steps before it do.
"""

from __future__ import annotations

from errno import EINVAL, ENOSYS, EPERM

from pyruntime.errors import SpecError
from pyruntime.kernel.capabilities import set_no_new_privileges
from pyruntime.kernel.keyring import DEFAULT, OTHER_SEARCH, USER_SEARCH, join_session, set_permissions
from pyruntime.kernel.libc import NR, syscall
from pyruntime.kernel.libc import path as checked
from pyruntime.plan.capabilities import CapabilitySets, DropBounding, KeepCapabilities, SetCapabilities
from pyruntime.plan.identity import (
    DEFAULT_UMASK,
    MAX_GROUPS,
    OwnStandardStreams,
    SetGroup,
    SetGroups,
    SetUmask,
    SetUser,
    check_mapped,
    checked_id,
)
from pyruntime.plan.limits import SetLimit, limit_steps
from pyruntime.plan.step import Place, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.kernel.facts import Facts

KEEP_GROUPS = "run.oci.keep_original_groups"
"""Annotation: with the value 1 the caller's supplementary groups stay. Rootless engines use it for `keep-groups`."""


_KEY_LABEL = b"thread-self/attr/keycreate"
_SCHED_SETAFFINITY = NR["sched_setaffinity"]


class ProcessPlan:
    """The steps of one process; see the module for when each list is applied."""

    __slots__ = ("after_start", "before_start", "limits", "oom_score", "warnings")

    def __init__(self) -> None:
        self.before_start: list[Step] = []
        self.after_start: list[Step] = []
        self.limits: list[SetLimit] = []  # for plan.limits.raise_hard_limits in the runtime process
        self.oom_score: int | None = None  # for plan.limits.write_oom_score in the runtime process
        self.warnings: list[str] = []


class JoinSessionKeyring(Step):
    """A session keyring of the container's own, so that it cannot search the caller's. See session-keyring(7)."""

    __slots__ = ("_label", "_label_keys", "_name", "_permissions")

    def __init__(self, container_id: str, label: str, permissions: int) -> None:
        self._name = checked("_ses." + container_id)
        self._label = checked(label)
        self._permissions = permissions  # 0: the keyring is there already, as for exec
        if label:
            from pyruntime.kernel.lsm import set_attribute

            self._label_keys = set_attribute

    def describe(self) -> str:
        return f"join the session keyring {self._name.decode()}"

    def explain(self, errno: int) -> str:
        if self._label and errno == EINVAL:
            return f"the SELinux policy does not know the label {self._label.decode('utf-8', 'replace')}"
        return "unable to join session keyring" + ("; --no-new-keyring keeps the caller's" if errno == EPERM else "")

    def apply(self, place: Place) -> None:
        if self._label:
            self._label_keys(place.proc, _KEY_LABEL, self._label)
        try:
            keyring = join_session(self._name)
        except OSError as error:
            # A kernel without keyrings, or an outer container that hides them: nothing to protect from.
            if error.errno != ENOSYS:
                raise
        else:
            if self._permissions:
                set_permissions(keyring, self._permissions)
        if self._label:
            self._label_keys(place.proc, _KEY_LABEL, b"")


class ResetAffinity(Step):
    """Let the process run on every CPU of its cpuset, whatever the engine was pinned to.

    The mask names CPUs that are not there, offline, or outside the cpuset now; the kernel remembers them for later.
    """

    __slots__ = ("_mask",)

    def __init__(self) -> None:
        self._mask = b"\xff" * 8192

    def describe(self) -> str:
        return "run on every CPU that the cgroup allows"

    def apply(self, place: Place) -> None:
        try:
            syscall(_SCHED_SETAFFINITY, 0, len(self._mask), self._mask)
        except OSError:
            pass  # then the process keeps the engine's CPUs, which is no reason not to run


class NoNewPrivileges(Step):
    __slots__ = ()

    def describe(self) -> str:
        return "forbid to gain privileges (no_new_privs)"

    def apply(self, place: Place) -> None:
        set_no_new_privileges()


class ResetSignals(Step):
    """Default action for every signal, none blocked. CPython ignores SIGPIPE and SIGXFSZ, and execve would keep that.

    By system call, because libc hides signals 32 and 33 from its callers.
    """

    __slots__ = ("_default", "_sigaction", "_signals", "_sigprocmask")

    def __init__(self) -> None:
        self._sigaction = NR["rt_sigaction"]
        self._sigprocmask = NR["rt_sigprocmask"]
        self._default = bytes(32)  # struct kernel_sigaction: SIG_DFL, no flags, an empty mask; also an empty sigset_t
        self._signals = [number for number in range(1, 65) if number not in (9, 19)]  # SIGKILL, SIGSTOP cannot change

    def describe(self) -> str:
        return "reset all signals"

    def apply(self, place: Place) -> None:
        for number in self._signals:
            syscall(self._sigaction, number, self._default, None, 8)
        syscall(self._sigprocmask, 2, self._default, None, 8)  # SIG_SETMASK


def process_steps(
    process: dict[str, Any],
    *,
    container_id: str,
    facts: Facts,
    linux: dict[str, Any] | None = None,
    annotations: dict[str, str] | None = None,
    seccomp: Step | None = None,
    new_keyring: bool = True,
    joining: bool = False,
) -> ProcessPlan:
    """Plan the attributes of `process`, a checked process section.

    `linux` gives personality and memoryPolicy; `seccomp` is a plan.seccomp.InstallSeccomp; `new_keyring` is false for
    --no-new-keyring; `joining` is true for exec, where process.execCPUAffinity.initial is left to the caller
    (plan.scheduling.SetAffinity, in the runtime process before the process is made). Raises SpecError and
    RuntimeFailure.
    """
    linux = linux or {}
    plan = ProcessPlan()
    label = process.get("selinuxLabel") or ""
    profile = process.get("apparmorProfile") or ""
    no_new_privileges = bool(process.get("noNewPrivileges"))

    if new_keyring:
        permissions = DEFAULT | (OTHER_SEARCH if facts.user_namespace else USER_SEARCH)
        plan.before_start.append(JoinSessionKeyring(container_id, label, 0 if joining else permissions))
    affinity = process.get("execCPUAffinity") if joining else None
    if not affinity:
        plan.before_start.append(ResetAffinity())
    elif affinity.get("final"):
        from pyruntime.plan.scheduling import SetAffinity

        plan.before_start.append(SetAffinity(affinity["final"], "process.execCPUAffinity.final"))
    if process.get("scheduler") or process.get("ioPriority") or linux.get("personality") or linux.get("memoryPolicy"):
        from pyruntime.plan.scheduling import scheduling_steps

        plan.before_start += scheduling_steps(process, linux)
    if profile or label:
        from pyruntime.plan.labels import label_steps

        plan.before_start += label_steps(profile, label, facts)
    if no_new_privileges:
        plan.before_start.append(NoNewPrivileges())
    elif seccomp is not None:
        plan.after_start.append(seccomp)

    sets = CapabilitySets(process.get("capabilities"), facts)
    plan.warnings += sets.warnings
    plan.after_start += [DropBounding(sets.bounding, facts), KeepCapabilities(True)]
    user = process.get("user") or {}
    if facts.user_namespace:
        # The kernel would only say so when the user is set, which is after create has succeeded.
        check_mapped(user, linux.get("uidMappings") or [], linux.get("gidMappings") or [], facts.setgroups)
    plan.after_start += _user_steps(user, facts, annotations or {}, plan.warnings)
    plan.after_start += [KeepCapabilities(False), SetCapabilities(sets)]

    plan.limits = limit_steps(process.get("rlimits") or [])
    plan.oom_score = process.get("oomScoreAdj")
    umask = user.get("umask")
    plan.after_start += [ResetSignals(), SetUmask(DEFAULT_UMASK if umask is None else umask & 0o7777)]
    plan.after_start += plan.limits
    if no_new_privileges and seccomp is not None:
        plan.after_start.append(seccomp)
    return plan


def _user_steps(user: dict[str, Any], facts: Facts, annotations: dict[str, str], warnings: list[str]) -> list[Step]:
    uid = checked_id(user.get("uid", 0), "process.user.uid")
    gid = checked_id(user.get("gid", 0), "process.user.gid")
    groups = [
        checked_id(group, f"process.user.additionalGids[{index}]")
        for index, group in enumerate(user.get("additionalGids") or ())
    ]
    if len(groups) > MAX_GROUPS:
        raise SpecError("process.user.additionalGids", f"{len(groups)} groups are more than the kernel's {MAX_GROUPS}")
    steps: list[Step] = [OwnStandardStreams(uid)]
    if annotations.get(KEEP_GROUPS) != "1":
        if facts.setgroups:
            steps.append(SetGroups(groups))
        elif groups:
            warnings.append(
                "process.user.additionalGids: left out: the user namespace does not allow setgroups, so the groups "
                "of the caller stay"
            )
    return [*steps, SetGroup(gid), SetUser(uid)]
