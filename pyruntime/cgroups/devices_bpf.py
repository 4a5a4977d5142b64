"""Device rules on cgroup v2: a BPF program that the kernel asks before every open and mknod of a device.

The program is the device list of devices.py spelled out in instructions: each exception is a few comparisons, and the
end is the default. See bpf(2), BPF_PROG_TYPE_CGROUP_DEVICE, and the instruction set in the kernel's
Documentation/bpf/standardization/instruction-set.rst.
"""

from __future__ import annotations

import posix
from _struct import pack, unpack_from
from errno import EINVAL, ENOENT, EPERM

from pyruntime.cgroups.devices import ANY, DeviceList
from pyruntime.kernel.libc import NR, address, buffer, syscall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cgroups.devices import Rule

# bpf(2) commands and constants, include/uapi/linux/bpf.h
PROG_LOAD, PROG_ATTACH, PROG_DETACH, PROG_GET_FD_BY_ID, PROG_QUERY = 5, 8, 9, 13, 16
CGROUP_DEVICE_PROGRAM = 15
CGROUP_DEVICE = 6
ALLOW_MULTI, REPLACE = 0x2, 0x4

# The context of the program: struct bpf_cgroup_dev_ctx { u32 access_type; u32 major; u32 minor; }, where access_type
# has the type of the device in its lower half and the access in its upper half.
TYPES = {"b": 1, "c": 2}
ACCESS = {"m": 1, "r": 2, "w": 4}

R0, R1, R2, R3, R4, R5, R6 = range(7)
TYPE, WANTED, MAJOR, MINOR, SCRATCH = R2, R3, R4, R5, R6


def _instruction(code: int, to: int = 0, source: int = 0, jump: int = 0, value: int = 0) -> bytes:
    return pack("=BBhI", code, to | source << 4, jump, value & 0xFFFFFFFF)


def load_word(to: int, source: int, offset: int) -> bytes:
    """to = *(u32 *)(source + offset)"""
    return _instruction(0x61, to, source, offset)


def and_value(to: int, value: int) -> bytes:
    """to &= value, as 32 bits"""
    return _instruction(0x54, to, value=value)


def shift_right(to: int, value: int) -> bytes:
    """to >>= value, as 32 bits"""
    return _instruction(0x74, to, value=value)


def copy(to: int, source: int) -> bytes:
    """to = source, as 32 bits"""
    return _instruction(0xBC, to, source)


def set_value(to: int, value: int) -> bytes:
    """to = value"""
    return _instruction(0xB7, to, value=value)


def skip_unless_equal(register: int, value: int, skip: int) -> bytes:
    """if register != value, skip that many instructions (compared as 32 bits)"""
    return _instruction(0x56, register, jump=skip, value=value)


def skip_if_equal(register: int, value: int, skip: int) -> bytes:
    """if register == value, skip that many instructions (compared as 32 bits)"""
    return _instruction(0x16, register, jump=skip, value=value)


RETURN = _instruction(0x95)


def program(rules: list[Rule]) -> bytes:
    """The instructions that decide as cgroup v1 does after these rules were written to it one by one."""
    devices = DeviceList(rules)
    code = [
        load_word(TYPE, R1, 0),
        copy(WANTED, TYPE),
        and_value(TYPE, 0xFFFF),
        shift_right(WANTED, 16),
        load_word(MAJOR, R1, 4),
        load_word(MINOR, R1, 8),
    ]
    for (kind, major, minor), letters in devices.exceptions.items():
        code += _exception(devices.allow, TYPES[kind], major, minor, sum(ACCESS[letter] for letter in letters))
    code += [set_value(R0, int(devices.allow)), RETURN]
    return b"".join(code)


def _exception(default: bool, kind: int, major: int, minor: int, access: int) -> list[bytes]:
    """Return "not `default`" if the exception is about this device and access, else go on."""
    decide = [set_value(R0, int(not default)), RETURN]
    test: list[tuple[int, int]] = [(TYPE, kind)]
    if major != ANY:
        test.append((MAJOR, major))
    if minor != ANY:
        test.append((MINOR, minor))
    tail: list[bytes] = []
    everything = ACCESS["r"] | ACCESS["w"] | ACCESS["m"]
    if access != everything:
        # Allowing needs all of the wanted access to be in the exception, denying any of it.
        mask = access if default else everything & ~access
        skip = skip_if_equal if default else skip_unless_equal
        tail = [copy(SCRATCH, WANTED), and_value(SCRATCH, mask), skip(SCRATCH, 0, len(decide))]
    tail += decide
    head = []
    for index, (register, value) in enumerate(test):
        head.append(skip_unless_equal(register, value, len(test) - index - 1 + len(tail)))
    return head + tail


def load(instructions: bytes) -> int:
    """Have the kernel verify the program; a descriptor of it. Raises OSError."""
    code, license = buffer(len(instructions)), buffer(16)
    _fill(code, instructions)
    _fill(license, b"Apache-2.0\0")
    # prog_type insn_cnt insns license log_level log_size log_buf kern_version prog_flags prog_name
    attributes = pack(
        "=IIQQIIQII16s", CGROUP_DEVICE_PROGRAM, len(instructions) // 8, address(code), address(license), 0, 0, 0, 0, 0,
        b"devices",
    )  # fmt: skip
    try:
        return syscall(NR["bpf"], PROG_LOAD, attributes, len(attributes))
    except OSError as error:
        if error.errno != EPERM:
            raise
    # Before Linux 5.11 programs counted as locked memory, of which there is little by default.
    infinity = pack("=QQ", 0xFFFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
    syscall(NR["prlimit64"], 0, 8, infinity, 0)  # RLIMIT_MEMLOCK
    return syscall(NR["bpf"], PROG_LOAD, attributes, len(attributes))


def attached(directory: int) -> list[int]:
    """Ids of the device programs attached to the cgroup open at `directory`."""
    ids = buffer(4 * 64)
    # target_fd attach_type query_flags attach_flags prog_ids prog_cnt (written by the kernel)
    attributes = pack("=IIIIQIxxxxQQQ", directory, CGROUP_DEVICE, 0, 0, address(ids), 64, 0, 0, 0)
    answer = buffer(len(attributes))
    _fill(answer, attributes)
    syscall(NR["bpf"], PROG_QUERY, answer, len(attributes))
    (count,) = unpack_from("=I", bytes(answer), 24)
    return list(unpack_from(f"={count}I", bytes(ids)))


def attach(directory: int, instructions: bytes) -> None:
    """Make `instructions` the device program of the cgroup open at `directory`. Raises OSError.

    Programs that are there already (of an earlier update, or of systemd for the unit) go, and there is no moment
    without one: with several attached a device must pass all of them.
    """
    new = load(instructions)
    try:
        old = []
        for number in attached(directory):
            try:
                old.append(_open(number))
            except OSError as error:
                if error.errno != ENOENT:
                    raise
        try:
            if len(old) == 1:
                try:
                    return _attach(directory, new, ALLOW_MULTI | REPLACE, old[0])
                except OSError as error:
                    if error.errno != EINVAL:  # before Linux 5.6, or the other was attached without ALLOW_MULTI
                        raise
            _attach(directory, new, ALLOW_MULTI, 0)
            for other in old:
                syscall(NR["bpf"], PROG_DETACH, pack("=IIIII", directory, other, CGROUP_DEVICE, 0, 0), 20)
        finally:
            for other in old:
                posix.close(other)
    finally:
        posix.close(new)


def _attach(directory: int, program: int, flags: int, replaced: int) -> None:
    syscall(NR["bpf"], PROG_ATTACH, pack("=IIIII", directory, program, CGROUP_DEVICE, flags, replaced), 20)


def _open(number: int) -> int:
    return syscall(NR["bpf"], PROG_GET_FD_BY_ID, pack("=III", number, 0, 0), 12)


def _fill(array: object, data: bytes) -> None:
    array[: len(data)] = data  # type: ignore[index]
