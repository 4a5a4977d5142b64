"""`update`: other limits for a running container."""

from __future__ import annotations

import os
import stat

from pyruntime.cli import log
from pyruntime.cli.flags import NUMBER, Flag, Options, Verb, container_id
from pyruntime.errors import RuntimeFailure
from pyruntime.spec import jsontext, load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.cli.main import Settings

Resources = dict[str, "Any"]

# Powers of 1024, each also written with `b` or `ib`: k, kb, KiB.
UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgtp", 1):
    UNITS[_letter] = UNITS[f"{_letter}b"] = UNITS[f"{_letter}ib"] = 1024**_power
INT64 = (-(1 << 63), (1 << 63) - 1)
UINT64 = (0, (1 << 64) - 1)

# flag -> place in the resources of the OCI configuration (config-linux.md), and what the number may be
NUMBERS: dict[str, tuple[str, str, tuple[int, int]]] = {
    "cpu-period": ("cpu", "period", UINT64),
    "cpu-quota": ("cpu", "quota", INT64),
    "cpu-burst": ("cpu", "burst", UINT64),
    "cpu-share": ("cpu", "shares", UINT64),
    "cpu-rt-period": ("cpu", "realtimePeriod", UINT64),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime", INT64),
    "cpu-idle": ("cpu", "idle", (0, 1)),
}
SIZES: dict[str, tuple[str, str]] = {
    "memory": ("memory", "limit"),
    "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"),
}
WORDS: dict[str, tuple[str, str]] = {
    "cpuset-cpus": ("cpu", "cpus"),
    "cpuset-mems": ("cpu", "mems"),
    "l3-cache-schema": ("intelRdt", "l3CacheSchema"),
    "mem-bw-schema": ("intelRdt", "memBwSchema"),
}
IGNORED = ("kernel-memory", "kernel-memory-tcp")


def size_in_bytes(text: str) -> int:
    """Bytes from a number with an optional unit (k, m, g, t, p: powers of 1024; also kb, KiB), -1 for no limit.

    Raises ValueError.
    """
    if text == "-1":
        return -1
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    unit = text[len(digits) :].lower()
    number = digits[:-1] if digits.endswith(" ") and unit else digits
    whole, _, fraction = number.partition(".")
    if unit not in UNITS or not whole.isascii() or not whole.isdigit() or len(number) > 25:
        raise ValueError(text)
    if fraction and not (fraction.isascii() and fraction.isdigit()):
        raise ValueError(text)
    # In whole numbers: a float would round 2^63 - 1 up to what no kernel file takes.
    size = UNITS[unit] * int(whole + fraction) // int("1" + "0" * len(fraction))
    if size > INT64[1]:
        raise ValueError(text)
    return size


def _number(flag: str, text: str, limits: tuple[int, int]) -> int:
    digits = text.removeprefix("-")
    if digits.isascii() and digits.isdigit() and len(digits) < 21 and limits[0] <= int(text) <= limits[1]:
        return int(text)
    raise RuntimeFailure(f'invalid value for {flag}: "{text}" is not a whole number from {limits[0]} to {limits[1]}')


def resources_of(options: Options) -> Resources:
    """The `resources` object that the flags describe: only what was given. An empty value counts as not given."""
    found: Resources = {}

    def put(section: str, key: str, value: int | str) -> None:
        found.setdefault(section, {})[key] = value

    for flag, (section, key, limits) in NUMBERS.items():
        if options.text(flag):
            put(section, key, _number(flag, options.text(flag), limits))
    for flag, (section, key) in SIZES.items():
        text = options.text(flag)
        if text:
            try:
                put(section, key, size_in_bytes(text))
            except ValueError:
                raise RuntimeFailure(
                    f"invalid value for {flag}: invalid size: '{text}': use bytes, or a unit such as 512m or 2g, or -1"
                ) from None
    for flag, (section, key) in WORDS.items():
        if options.text(flag):
            put(section, key, options.text(flag))
    weight = options.number("blkio-weight")
    if weight:
        if not 10 <= weight <= 1000:
            raise RuntimeFailure(f"invalid value for blkio-weight: {weight} is not in the range from 10 to 1000")
        put("blockIO", "weight", weight)
    if options.given("pids-limit"):
        put("pids", "limit", options.number("pids-limit"))
    return found


def read_document(path: str) -> Resources:
    """The resources document in a file, or on standard input for `-`, checked."""
    if path != "-":
        try:
            return dict(load.parse_resources(jsontext.read_file(path, pipe=True), path))
        except OSError as error:
            raise RuntimeFailure(f"open {path}: {log.reason(error)}") from None
    if stat.S_ISDIR(os.fstat(0).st_mode):
        raise RuntimeFailure("read standard input: is a directory")
    data = b""
    while part := os.read(0, 1 << 16):
        data += part
        if len(data) > jsontext.LIMIT:
            break  # the parser says why
    return dict(load.parse_resources(data, "standard input"))


def run(settings: Settings, options: Options) -> int:
    identifier = container_id(options.arguments[0])
    document = options.text("resources")
    resources = read_document(document) if document else resources_of(options)
    memory = resources.get("memory") or {}
    if "kernel" in memory or "kernelTCP" in memory or any(options.text(flag) for flag in IGNORED):
        log.warning("Kernel memory settings are ignored and will be removed")
    from pyruntime.container import update

    update.update(settings.context(), identifier, resources)
    return 0


VERB = Verb(
    "update",
    "change the limits of a container",
    run,
    arguments="<container-id>",
    about="""\
Only what is given changes. Sizes are bytes or have a unit (512m, 2g: powers of 1024), -1 means no limit.

With --resources the values come from a file, or from standard input for `-`: a JSON document like linux.resources of
config.json, with any of memory, cpu, pids, blockIO and unified; the other options are then ignored.""",
    examples=(
        ("Half a processor and 256 MiB of memory for web:",
         "pyruntime update --cpu-quota 50000 --cpu-period 100000 --memory 256m web"),
        ("The same from standard input:",
         """echo '{"memory": {"limit": 268435456}}' | pyruntime update --resources - web"""),
    ),
    flags=(
        Flag("resources", "take the limits from a JSON file, `-` means standard input", short="r", value="FILE"),
        Flag("blkio-weight", "share of the block devices' time, from 10 to 1000", kind=NUMBER, value="N"),
        Flag("cpu-period", "length of the period that --cpu-quota is about, in microseconds", value="USEC"),
        Flag("cpu-quota", "processor time in each period, in microseconds; -1 means no limit", value="USEC"),
        Flag("cpu-burst", "unused processor time that may be saved for later periods, in microseconds", value="USEC"),
        Flag("cpu-share", "share of the processors' time, relative to other containers", value="N"),
        Flag("cpu-rt-period", "length of the period that --cpu-rt-runtime is about, in microseconds", value="USEC"),
        Flag("cpu-rt-runtime", "real-time processor time in each period, in microseconds", value="USEC"),
        Flag("cpu-idle", "1 gives the container only what others leave of the processors, 0 is the usual",
             value="0|1", choices=("0", "1")),
        Flag("cpuset-cpus", "processors that may be used, such as 0-3,7", value="LIST"),
        Flag("cpuset-mems", "memory nodes that may be used", value="LIST"),
        Flag("kernel-memory", "ignored", value="SIZE", hidden=True),
        Flag("kernel-memory-tcp", "ignored", value="SIZE", hidden=True),
        Flag("memory", "limit of the memory", value="SIZE"),
        Flag("memory-reservation", "memory that is kept for the container when the host runs short", value="SIZE"),
        Flag("memory-swap", "limit of memory and swap together", value="SIZE"),
        Flag("pids-limit", "limit of the number of processes and threads", kind=NUMBER, value="N"),
        Flag("l3-cache-schema", "schema of the Intel RDT level 3 cache allocation", value="SCHEMA"),
        Flag("mem-bw-schema", "schema of the Intel RDT memory bandwidth allocation", value="SCHEMA"),
    ),
    minimum=1,
    maximum=1,
)  # fmt: skip
