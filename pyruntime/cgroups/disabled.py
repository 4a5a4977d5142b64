"""A container without a cgroup: `--cgroup-manager=disabled`, or rootless where there is none to be had."""

from __future__ import annotations

from pyruntime.cgroups.manager import Manager
from pyruntime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Disabled(Manager):
    """No cgroup of its own: the container stays where the runtime is (`--cgroup-manager=disabled`)."""

    __slots__ = ()

    driver = "disabled"

    def __init__(self, resources: dict[str, Any], warning: str = "") -> None:
        super().__init__({}, resources, False, False)
        self.made = []
        if warning:
            self.warnings.append(warning)

    def describe(self) -> list[str]:
        return ["make no cgroup: the container stays in the runtime's"]

    def create(self) -> None:
        pass

    def apply(self) -> None:
        pass

    def _none(self) -> RuntimeFailure:
        return RuntimeFailure("the container has no cgroup of its own (it was created with cgroups disabled)")

    def update(self, resources: dict[str, Any]) -> None:
        raise self._none()

    def freeze(self) -> None:
        raise self._none()

    def thaw(self) -> None:
        raise self._none()

    def frozen(self) -> bool:
        return False

    def kill(self, signal: int) -> None:
        raise self._none()

    def stats(self) -> dict[str, Any]:
        raise self._none()
