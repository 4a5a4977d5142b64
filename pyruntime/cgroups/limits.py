"""What both versions share in turning `linux.resources` into writes to control files: the writes and the checks."""

from __future__ import annotations

from errno import EBUSY, EINVAL, ENOENT

from pyruntime.errors import SpecError
from pyruntime.kernel import cgroupfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyruntime.errors import RuntimeFailure

FIELD = "linux.resources."

MUST = 0
OPTIONAL = 1  # a missing file is fine
ADVICE = 2  # any refusal is only worth a warning


class Write:
    """One value for one control file."""

    __slots__ = ("controller", "field", "file", "need", "other", "value")

    def __init__(
        self,
        controller: str,
        file: str,
        value: bytes,
        field: str,
        *,
        need: int = MUST,
        other: tuple[str, bytes] | None = None,
    ) -> None:
        self.controller = controller
        self.file = file
        self.value = value
        self.field = field  # the property that asks for it
        self.need = need
        self.other = other  # the file and value for kernels that do not have `file`

    def describe(self) -> str:
        value = self.value.decode("utf-8", "replace")
        instead = f" or {self.other[1].decode()} to {self.other[0]}" if self.other else ""
        return f"write {value} to {self.file}{instead} ({self.field})"


# Values in one group depend on each other (a limit of memory plus swap is never below the one of memory): whichever
# the kernel refuses is tried again after the others, so raising and lowering both work.
Group = list[Write]


def settle(
    directory: int, group: Group, refused: Callable[[Write, OSError], RuntimeFailure | None], warnings: list[str]
) -> None:
    """Write a group into the cgroup open at `directory`. `refused` makes the failure for the one that stays refused,
    or None if it does not matter."""
    todo = group
    while todo:
        again: list[Write] = []
        first: OSError | None = None
        for write in todo:
            try:
                _write(directory, write, warnings)
            except OSError as error:
                if len(group) > 1 and error.errno in (EINVAL, EBUSY):
                    again.append(write)
                    first = first or error
                    continue
                failure = refused(write, error)
                if failure is not None:
                    raise failure from error
        if first is not None and len(again) == len(todo):
            failure = refused(again[0], first)
            if failure is not None:
                raise failure from first
            return
        todo = again


def _write(directory: int, write: Write, warnings: list[str]) -> None:
    try:
        try:
            cgroupfs.write(directory, write.file, write.value)
        except OSError as error:
            if error.errno != ENOENT or write.other is None:
                raise
            cgroupfs.write(directory, *write.other)
    except OSError as error:
        if write.need == ADVICE:
            value = write.value.decode()
            warnings.append(f"{write.field}: {value} has no effect on this kernel ({write.file}: {error.strerror})")
        elif write.need != OPTIONAL or error.errno != ENOENT:
            raise


def number(value: int) -> bytes:
    return b"%d" % value


def check_swappiness(memory: dict[str, Any]) -> int | None:
    """The swappiness to set; None and runc's old -1 are "leave it"."""
    swappiness: int | None = memory.get("swappiness")
    if swappiness is None or swappiness == -1:
        return None
    if not 0 <= swappiness <= 100:
        raise SpecError(FIELD + "memory.swappiness", f"must be from 0 to 100, got {swappiness}")
    return swappiness


def check_burst(cpu: dict[str, Any]) -> None:
    """A burst is time saved from the quota, so it cannot be more than that (runtime spec, linux.resources.cpu)."""
    quota, burst = cpu.get("quota") or 0, cpu.get("burst") or 0
    if quota > 0 and burst > quota:
        raise SpecError(FIELD + "cpu.burst", f"{burst} is above cpu.quota, which is {quota}")


def check_swap(memory: dict[str, Any]) -> None:
    """`swap` is memory plus swap."""
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    if limit > 0 and 0 < swap < limit:
        raise SpecError(
            FIELD + "memory.swap",
            f"{swap} counts memory plus swap, so it cannot be below memory.limit, which is {limit}",
        )


def check_weights(block: dict[str, Any]) -> None:
    """Weights are 10 to 1000 (0 stands for unset); a weightDevice has at least one."""
    field = FIELD + "blockIO."
    found = [(field + key, block.get(key)) for key in ("weight", "leafWeight")]
    for index, entry in enumerate(block.get("weightDevice") or ()):
        where = f"{field}weightDevice[{index}]"
        if entry.get("weight") is None and entry.get("leafWeight") is None:
            raise SpecError(where, "has neither weight nor leafWeight; give at least one")
        found += [(f"{where}.{key}", entry.get(key)) for key in ("weight", "leafWeight")]
    for where, value in found:
        if value and not 10 <= value <= 1000:
            raise SpecError(where, f"must be from 10 to 1000, got {value}")


def page_size(size: str, field: str) -> str:
    """`size` if it can be one of the kernel's names of huge page sizes: 64KB, 2MB, 1GB."""
    count = size[:-2]
    if size[-2:] not in ("KB", "MB", "GB") or not (count.isascii() and count.isdigit()) or count[0] == "0":
        raise SpecError(field + ".pageSize", f"must be a number and KB, MB or GB, such as 2MB, got {size!r}")
    if int(count) & (int(count) - 1):
        raise SpecError(field + ".pageSize", f"{size} is no page size of any machine: not a power of two")
    return size


def rdma(devices: dict[str, Any]) -> list[Write]:
    """linux.resources.rdma, the same in v1 and v2."""
    writes = []
    for name, limits in devices.items():
        field = f"{FIELD}rdma.{name}"
        value = name.encode("utf-8", "surrogateescape")
        if not value or b" " in value or b"\n" in value:
            raise SpecError(field, "is no name of an RDMA device")
        given = [
            b" %s=%d" % (word, limits[key])
            for key, word in (("hcaHandles", b"hca_handle"), ("hcaObjects", b"hca_object"))
            if limits.get(key) is not None
        ]
        if not given:
            raise SpecError(field, "has neither hcaHandles nor hcaObjects; give at least one")
        writes.append(Write("rdma", "rdma.max", value + b"".join(given), field))
    return writes
