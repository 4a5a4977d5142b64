"""process.capabilities → steps. See "capabilities" in config.md of the runtime spec, and capabilities(7).

A set that is absent is empty, and so are all five when the whole object is absent: what nobody asked for is not
given. A name that this kernel does not have, or that our own process cannot pass on, is a warning and not a failure,
as the spec demands.
"""

from __future__ import annotations

from pyruntime.errors import SpecError
from pyruntime.kernel.capabilities import (
    NUMBERS,
    clear_ambient,
    drop_bounding,
    keep_capabilities,
    pack_sets,
    raise_ambient,
    set_capabilities,
)
from pyruntime.plan.step import Place, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.kernel.facts import Facts

SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")


def names_of(mask: int) -> str:
    """The names in a set, for people; numbers where this program is older than the kernel."""
    known = {number: name for name, number in NUMBERS.items()}
    return ", ".join(known.get(bit, f"CAP_{bit}") for bit in range(mask.bit_length()) if mask >> bit & 1)


class CapabilitySets:
    """The five sets as bit masks, cut down to what can be granted. `warnings` says what was cut."""

    __slots__ = ("ambient", "bounding", "effective", "inheritable", "permitted", "warnings")

    def __init__(self, wanted: dict[str, Any] | None, facts: Facts) -> None:
        self.warnings: list[str] = []
        unknown: set[str] = set()
        masks = {}
        for kind in SETS:
            mask = 0
            for name in (wanted or {}).get(kind) or ():
                number = NUMBERS.get(name)
                if number is None or number > facts.last_capability:
                    unknown.add(name)
                else:
                    mask |= 1 << number
            masks[kind] = mask
        if unknown:
            names = " ".join(sorted(unknown))
            self.warnings.append(f"process.capabilities: ignoring unknown or unavailable capabilities: [{names}]")
        # What capset(2) would refuse with EPERM as a whole is taken out bit by bit here, see cap_capset() in
        # security/commoncap.c.
        self.bounding = masks["bounding"] & facts.bounding
        self.permitted = masks["permitted"] & facts.permitted
        self.effective = masks["effective"] & self.permitted
        self.inheritable = masks["inheritable"] & facts.permitted & self.bounding
        self.ambient = masks["ambient"] & self.permitted & self.inheritable
        lost = masks["bounding"] & ~facts.bounding
        for kind in SETS[1:]:
            lost |= masks[kind] & ~facts.permitted
        if lost:
            self.warnings.append(
                f"process.capabilities: not granting {names_of(lost)}: the runtime does not have them itself"
            )
        for kind, granted, needs in (
            ("effective", self.effective, "permitted set"),
            ("inheritable", self.inheritable, "bounding set"),
        ):
            missing = masks[kind] & ~granted & ~lost
            if missing:
                self.warnings.append(
                    f"process.capabilities.{kind}: not granting {names_of(missing)}: it has to be in the {needs} too"
                )
        missing = masks["ambient"] & ~self.ambient & ~lost
        if missing:
            self.warnings.append(
                f"can't raise ambient capability {names_of(missing)}: it has to be in the permitted and the "
                "inheritable set too (process.capabilities)"
            )


class DropBounding(Step):
    """Take everything that is not wanted out of the bounding set, while CAP_SETPCAP is still there."""

    __slots__ = ("_drop", "_keep")

    def __init__(self, keep: int, facts: Facts) -> None:
        self._keep = keep
        # Also numbers above the bounding set we saw: dropping what is not there costs nothing and cannot fail.
        self._drop = [number for number in range(facts.last_capability + 1) if not keep >> number & 1]

    def describe(self) -> str:
        return f"limit the bounding set to {names_of(self._keep) or 'nothing'}"

    def explain(self, _errno: int) -> str:
        return "dropping from the bounding set needs CAP_SETPCAP"

    def apply(self, place: Place) -> None:
        for number in self._drop:
            drop_bounding(number)


class KeepCapabilities(Step):
    """Let the permitted set survive the change of user that follows, or stop doing so."""

    __slots__ = ("_keep",)

    def __init__(self, keep: bool) -> None:
        self._keep = int(keep)

    def describe(self) -> str:
        return "keep capabilities over the change of user" if self._keep else "stop keeping capabilities"

    def apply(self, place: Place) -> None:
        keep_capabilities(self._keep)


class SetCapabilities(Step):
    """The effective, permitted and inheritable sets, then the ambient set one by one."""

    __slots__ = ("_ambient", "_sets", "_text")

    def __init__(self, sets: CapabilitySets) -> None:
        self._sets = pack_sets(sets.effective, sets.permitted, sets.inheritable)
        self._ambient = [number for number in range(sets.ambient.bit_length()) if sets.ambient >> number & 1]
        self._text = (
            f"set capabilities: effective {names_of(sets.effective) or 'none'}; "
            f"permitted {names_of(sets.permitted) or 'none'}; inheritable {names_of(sets.inheritable) or 'none'}; "
            f"ambient {names_of(sets.ambient) or 'none'}"
        )

    def describe(self) -> str:
        return self._text

    def apply(self, place: Place) -> None:
        set_capabilities(self._sets)
        clear_ambient()
        for number in self._ambient:
            raise_ambient(number)


def number_of(name: str, path: str) -> int:
    """The number of a capability given on a command line. Raises SpecError for a name nobody knows."""
    number = NUMBERS.get(name)
    if number is None:
        raise SpecError(path, f"{name!r} is not a capability; names look like CAP_NET_ADMIN, see capabilities(7)")
    return number
