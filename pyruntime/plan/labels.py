"""process.apparmorProfile and process.selinuxLabel → steps. See apparmor(7), selinux(8) and proc(5).

Both modules take the label that the *next* execve is to switch to, through the process' attr directory. A module that
is not there is an error before anything is touched: a container that should be confined must not run unconfined.
"""

from __future__ import annotations

from errno import ENOENT

from pyruntime.errors import RuntimeFailure
from pyruntime.kernel.libc import path as checked
from pyruntime.kernel.lsm import set_attribute
from pyruntime.plan.step import Place, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.kernel.facts import Facts


class SetApparmorProfile(Step):
    """The AppArmor profile from the next execve on."""

    __slots__ = ("_profile", "_value")

    def __init__(self, profile: str) -> None:
        self._profile = profile
        self._value = b"exec " + checked(profile)

    def describe(self) -> str:
        return f"apply the AppArmor profile {self._profile}"

    def explain(self, errno: int) -> str:
        why = "apparmor failed to apply profile"
        return f"{why}: {self._profile} is not loaded, see apparmor_parser(8)" if errno == ENOENT else why

    def apply(self, place: Place) -> None:
        try:
            set_attribute(place.proc, b"thread-self/attr/apparmor/exec", self._value)
        except FileNotFoundError as error:
            # Before Linux 5.1 there is only the shared directory. The kernel also says ENOENT for a profile that is
            # not loaded; then the second try says it again.
            if error.errno != ENOENT:
                raise
            set_attribute(place.proc, b"thread-self/attr/exec", self._value)


class SetSelinuxLabel(Step):
    """The SELinux context from the next execve on."""

    __slots__ = ("_label", "_value")

    def __init__(self, label: str) -> None:
        self._label = label
        self._value = checked(label)

    def describe(self) -> str:
        return f"set the SELinux label {self._label}"

    def explain(self, _errno: int) -> str:
        return f"can't set process label {self._label}"

    def apply(self, place: Place) -> None:
        set_attribute(place.proc, b"thread-self/attr/exec", self._value)


def label_steps(profile: str, label: str, facts: Facts) -> list[Step]:
    """Raises RuntimeFailure when the kernel lacks what is asked for."""
    steps: list[Step] = []
    if profile:
        if not facts.apparmor:
            raise RuntimeFailure(
                "process.apparmorProfile: apparmor: config provided but apparmor not supported: "
                "the kernel does not have it, or it is switched off"
            )
        steps.append(SetApparmorProfile(profile))
    if label:
        if not facts.selinux:
            raise RuntimeFailure(
                "process.selinuxLabel: selinux label is specified in config, but selinux is disabled or not supported"
            )
        steps.append(SetSelinuxLabel(label))
    return steps
