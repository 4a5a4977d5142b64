"""The shape of config.json, of the state and of the features document, for the type checker only.

Hot modules import this under `TYPE_CHECKING`; at run time nothing reads it. Every key is optional here, also those
that the spec requires: after `load.check` the required ones are there, and `spec["linux"]` type-checks all the same.
Names and order follow runtime-spec 1.3.0 (config.md, config-linux.md, runtime.md, features.md).
"""

from __future__ import annotations

from typing import TypedDict


class Root(TypedDict, total=False):
    """config.md, "Root"."""

    path: str
    readonly: bool


class IdMapping(TypedDict, total=False):
    """config-linux.md, "User namespace mappings": `size` ids from `containerID` are ids from `hostID` outside."""

    containerID: int
    hostID: int
    size: int


class Mount(TypedDict, total=False):
    """config.md, "Mounts"."""

    destination: str
    type: str
    source: str
    options: list[str]
    uidMappings: list[IdMapping]
    gidMappings: list[IdMapping]


class ConsoleSize(TypedDict, total=False):
    """Size of the terminal in characters."""

    height: int
    width: int


class User(TypedDict, total=False):
    """config.md, "User": numbers in the container's user namespace."""

    uid: int
    gid: int
    umask: int
    additionalGids: list[int]
    username: str


class Capabilities(TypedDict, total=False):
    """Names as in capabilities(7), such as CAP_CHOWN; unknown ones are only worth a warning."""

    bounding: list[str]
    effective: list[str]
    inheritable: list[str]
    permitted: list[str]
    ambient: list[str]


class Rlimit(TypedDict, total=False):
    """One limit of getrlimit(2); 2**64-1 is infinity."""

    type: str
    soft: int
    hard: int


class Scheduler(TypedDict, total=False):
    """sched_setattr(2); the last three are nanoseconds of SCHED_DEADLINE."""

    policy: str
    nice: int
    priority: int
    flags: list[str]
    runtime: int
    deadline: int
    period: int


IoPriority = TypedDict("IoPriority", {"class": str, "priority": int}, total=False)
"""ioprio_set(2)."""


class CpuAffinity(TypedDict, total=False):
    """CPU lists such as `0-3,7` for processes that `exec` adds."""

    initial: str
    final: str


class Process(TypedDict, total=False):
    """config.md, "Process"."""

    terminal: bool
    consoleSize: ConsoleSize
    cwd: str
    env: list[str]
    args: list[str]
    user: User
    rlimits: list[Rlimit]
    apparmorProfile: str
    capabilities: Capabilities
    noNewPrivileges: bool
    oomScoreAdj: int
    scheduler: Scheduler
    selinuxLabel: str
    ioPriority: IoPriority
    execCPUAffinity: CpuAffinity


class Hook(TypedDict, total=False):
    """One program of a hook list; `timeout` in seconds."""

    path: str
    args: list[str]
    env: list[str]
    timeout: int


class Hooks(TypedDict, total=False):
    """config.md, "POSIX-platform Hooks"."""

    prestart: list[Hook]
    createRuntime: list[Hook]
    createContainer: list[Hook]
    startContainer: list[Hook]
    poststart: list[Hook]
    poststop: list[Hook]


class Namespace(TypedDict, total=False):
    """A namespace to make, or to join if `path` is there and not empty."""

    type: str
    path: str


class TimeOffset(TypedDict, total=False):
    """Offset of one clock of a new time namespace."""

    secs: int
    nanosecs: int


class Device(TypedDict, total=False):
    """A device node in the container. `fileMode` may carry the file type bits (podman writes them): mask with 07777."""

    type: str
    path: str
    major: int
    minor: int
    fileMode: int
    uid: int
    gid: int


class NetDevice(TypedDict, total=False):
    """Name inside the container of a host interface; unset or empty keeps the name."""

    name: str


class DeviceRule(TypedDict, total=False):
    """Access to devices. No `type` or an empty one is `a`; no number or -1 is any number; no `access` is all of it."""

    allow: bool
    type: str
    major: int
    minor: int
    access: str


class Memory(TypedDict, total=False):
    """Bytes, -1 for no limit. A `swappiness` of 2**64-1 (old podman for "unset") means unset."""

    limit: int
    reservation: int
    swap: int
    kernel: int
    kernelTCP: int
    swappiness: int
    disableOOMKiller: bool
    useHierarchy: bool
    checkBeforeUpdate: bool


class Cpu(TypedDict, total=False):
    """Times in microseconds; a negative `quota` is none."""

    shares: int
    quota: int
    burst: int
    period: int
    realtimeRuntime: int
    realtimePeriod: int
    cpus: str
    mems: str
    idle: int


class Pids(TypedDict, total=False):
    """Most tasks; -1 for no limit."""

    limit: int


class WeightDevice(TypedDict, total=False):
    """Weights of one block device."""

    major: int
    minor: int
    weight: int
    leafWeight: int


class ThrottleDevice(TypedDict, total=False):
    """Limit of one block device, in bytes or operations per second."""

    major: int
    minor: int
    rate: int


class BlockIo(TypedDict, total=False):
    """Weights are 10 to 1000; 0 (written by Docker) means unset."""

    weight: int
    leafWeight: int
    weightDevice: list[WeightDevice]
    throttleReadBpsDevice: list[ThrottleDevice]
    throttleWriteBpsDevice: list[ThrottleDevice]
    throttleReadIOPSDevice: list[ThrottleDevice]
    throttleWriteIOPSDevice: list[ThrottleDevice]


class HugepageLimit(TypedDict, total=False):
    """`pageSize` as in the name of the control file, such as 2MB; `limit` in bytes."""

    pageSize: str
    limit: int


class InterfacePriority(TypedDict, total=False):
    """net_prio of one interface."""

    name: str
    priority: int


class Network(TypedDict, total=False):
    """net_cls and net_prio."""

    classID: int
    priorities: list[InterfacePriority]


class Rdma(TypedDict, total=False):
    """Limits of one RDMA device."""

    hcaHandles: int
    hcaObjects: int


class Resources(TypedDict, total=False):
    """config-linux.md, "Control groups"."""

    devices: list[DeviceRule]
    memory: Memory
    cpu: Cpu
    pids: Pids
    blockIO: BlockIo
    hugepageLimits: list[HugepageLimit]
    network: Network
    rdma: dict[str, Rdma]
    unified: dict[str, str]


class SeccompArgument(TypedDict, total=False):
    """A condition on argument `index` of a system call."""

    index: int
    value: int
    valueTwo: int
    op: str


class SeccompRule(TypedDict, total=False):
    """What happens on the named system calls."""

    names: list[str]
    action: str
    errnoRet: int
    args: list[SeccompArgument]


class Seccomp(TypedDict, total=False):
    """config-linux.md, "Seccomp"."""

    defaultAction: str
    defaultErrnoRet: int
    architectures: list[str]
    flags: list[str]
    listenerPath: str
    listenerMetadata: str
    syscalls: list[SeccompRule]


class IntelRdt(TypedDict, total=False):
    """config-linux.md, "IntelRdt"."""

    closID: str
    schemata: list[str]
    l3CacheSchema: str
    memBwSchema: str
    enableMonitoring: bool


class MemoryPolicy(TypedDict, total=False):
    """set_mempolicy(2)."""

    mode: str
    nodes: str
    flags: list[str]


class Personality(TypedDict, total=False):
    """personality(2); no flag is defined."""

    domain: str
    flags: list[str]


class Linux(TypedDict, total=False):
    """config-linux.md."""

    namespaces: list[Namespace]
    uidMappings: list[IdMapping]
    gidMappings: list[IdMapping]
    timeOffsets: dict[str, TimeOffset]
    devices: list[Device]
    netDevices: dict[str, NetDevice]
    cgroupsPath: str
    resources: Resources
    intelRdt: IntelRdt
    memoryPolicy: MemoryPolicy
    sysctl: dict[str, str]
    seccomp: Seccomp
    rootfsPropagation: str
    maskedPaths: list[str]
    readonlyPaths: list[str]
    mountLabel: str
    personality: Personality


class Spec(TypedDict, total=False):
    """config.json."""

    ociVersion: str
    root: Root
    mounts: list[Mount]
    process: Process
    hostname: str
    domainname: str
    hooks: Hooks
    annotations: dict[str, str]
    linux: Linux


class State(TypedDict, total=False):
    """runtime.md, "State"; `status` is creating, created, running, stopped or (ours) paused."""

    ociVersion: str
    id: str
    status: str
    pid: int
    bundle: str
    annotations: dict[str, str]


class ContainerProcessState(TypedDict, total=False):
    """What a seccomp listener gets together with the descriptors that `fds` names."""

    ociVersion: str
    fds: list[str]
    pid: int
    metadata: str
    state: State


class Enabled(TypedDict, total=False):
    """One feature that is compiled in or not."""

    enabled: bool


class CgroupFeatures(TypedDict, total=False):
    """features-linux.md, "Cgroup"."""

    v1: bool
    v2: bool
    systemd: bool
    systemdUser: bool
    rdma: bool


class SeccompFeatures(TypedDict, total=False):
    """features-linux.md, "Seccomp"."""

    enabled: bool
    actions: list[str]
    operators: list[str]
    archs: list[str]
    knownFlags: list[str]
    supportedFlags: list[str]


class IntelRdtFeatures(TypedDict, total=False):
    """features-linux.md, "Intel RDT"."""

    enabled: bool
    schemata: bool
    monitoring: bool


class MemoryPolicyFeatures(TypedDict, total=False):
    """features-linux.md, "Memory policy"."""

    modes: list[str]
    flags: list[str]


class MountExtensions(TypedDict, total=False):
    """features-linux.md, "MountExtensions"."""

    idmap: Enabled


class LinuxFeatures(TypedDict, total=False):
    """features-linux.md."""

    namespaces: list[str]
    capabilities: list[str]
    cgroup: CgroupFeatures
    seccomp: SeccompFeatures
    apparmor: Enabled
    selinux: Enabled
    intelRdt: IntelRdtFeatures
    memoryPolicy: MemoryPolicyFeatures
    mountExtensions: MountExtensions
    netDevices: Enabled


class Features(TypedDict, total=False):
    """features.md."""

    ociVersionMin: str
    ociVersionMax: str
    hooks: list[str]
    mountOptions: list[str]
    linux: LinuxFeatures
    annotations: dict[str, str]
    potentiallyUnsafeConfigAnnotations: list[str]
