"""The schemas of the configuration, compiled. Written by `python -m pyruntime.spec.compile`; do not edit.

`checker.py` says what the tuples mean.
"""

from __future__ import annotations

from pyruntime.spec import predicates
from pyruntime.spec.checker import ANY, ARRAY, BOOLEAN, ENUM, INTEGER, MAP, OBJECT, STRING

# fmt: off
OCI_VERSION = (STRING, predicates.oci_version, 'a SemVer 2.0.0 version with major number 1')
NON_EMPTY_STRING = (STRING, predicates.non_empty, 'a string that is not empty')
STRINGS = (ARRAY, (STRING, None, None), 0)
ID = (INTEGER, 0, 4294967294, None)
ID_MAPPING = (OBJECT, {
    'containerID': ID,
    'hostID': ID,
    'size': (INTEGER, 1, 4294967295, None),
}, ('containerID', 'hostID', 'size'))
ID_MAPPINGS = (ARRAY, ID_MAPPING, 0)
MOUNT = (OBJECT, {
    'destination': NON_EMPTY_STRING,
    'type': (STRING, None, None),
    'source': (STRING, None, None),
    'options': STRINGS,
    'uidMappings': ID_MAPPINGS,
    'gidMappings': ID_MAPPINGS,
}, ('destination',))
ABSOLUTE_PATH = (STRING, predicates.absolute_path, 'an absolute path')
UINT64 = (INTEGER, 0, 18446744073709551615, None)
RLIMIT = (OBJECT, {
    'type': (ENUM, (
        'RLIMIT_AS', 'RLIMIT_CORE', 'RLIMIT_CPU', 'RLIMIT_DATA', 'RLIMIT_FSIZE', 'RLIMIT_LOCKS', 'RLIMIT_MEMLOCK',
        'RLIMIT_MSGQUEUE', 'RLIMIT_NICE', 'RLIMIT_NOFILE', 'RLIMIT_NPROC', 'RLIMIT_RSS', 'RLIMIT_RTPRIO',
        'RLIMIT_RTTIME', 'RLIMIT_SIGPENDING', 'RLIMIT_STACK',
    )),
    'soft': UINT64,
    'hard': UINT64,
}, ('type', 'soft', 'hard'))
INT32 = (INTEGER, -2147483648, 2147483647, None)
CPU_LIST = (STRING, predicates.cpu_list_letters, 'a CPU list such as 0-3,7')
PROCESS = (OBJECT, {
    'terminal': (BOOLEAN,),
    'consoleSize': (ANY,),
    'cwd': ABSOLUTE_PATH,
    'env': STRINGS,
    'args': (ARRAY, (STRING, None, None), 1),
    'user': (OBJECT, {
        'uid': ID,
        'gid': ID,
        'umask': (INTEGER, 0, 511, None),
        'additionalGids': (ARRAY, ID, 0),
    }, ()),
    'rlimits': (ARRAY, RLIMIT, 0),
    'apparmorProfile': (STRING, None, None),
    'capabilities': (OBJECT, {
        'bounding': STRINGS,
        'effective': STRINGS,
        'inheritable': STRINGS,
        'permitted': STRINGS,
        'ambient': STRINGS,
    }, ()),
    'noNewPrivileges': (BOOLEAN,),
    'oomScoreAdj': (INTEGER, -1000, 1000, None),
    'scheduler': (OBJECT, {
        'policy': (ENUM, (
            'SCHED_OTHER', 'SCHED_FIFO', 'SCHED_RR', 'SCHED_BATCH', 'SCHED_ISO', 'SCHED_IDLE', 'SCHED_DEADLINE',
        )),
        'nice': INT32,
        'priority': INT32,
        'flags': (ARRAY, (ENUM, (
            'SCHED_FLAG_RESET_ON_FORK', 'SCHED_FLAG_RECLAIM', 'SCHED_FLAG_DL_OVERRUN', 'SCHED_FLAG_KEEP_POLICY',
            'SCHED_FLAG_KEEP_PARAMS', 'SCHED_FLAG_UTIL_CLAMP_MIN', 'SCHED_FLAG_UTIL_CLAMP_MAX',
        )), 0),
        'runtime': UINT64,
        'deadline': UINT64,
        'period': UINT64,
    }, ('policy',)),
    'selinuxLabel': (STRING, None, None),
    'ioPriority': (OBJECT, {
        'class': (ENUM, ('IOPRIO_CLASS_RT', 'IOPRIO_CLASS_BE', 'IOPRIO_CLASS_IDLE',)),
        'priority': (INTEGER, 0, 7, None),
    }, ('class',)),
    'execCPUAffinity': (OBJECT, {
        'initial': CPU_LIST,
        'final': CPU_LIST,
    }, ()),
}, ('cwd', 'args'))
HOOK = (OBJECT, {
    'path': ABSOLUTE_PATH,
    'args': STRINGS,
    'env': STRINGS,
    'timeout': (INTEGER, 1, 9223372036854775807, None),
}, ('path',))
HOOKS = (ARRAY, HOOK, 0)
ANNOTATIONS = (MAP, (STRING, None, None), NON_EMPTY_STRING)
ABSOLUTE_PATH_OR_EMPTY = (STRING, predicates.absolute_path_or_empty, 'an absolute path')
INT64 = (INTEGER, -9223372036854775808, 9223372036854775807, None)
UINT32 = (INTEGER, 0, 4294967295, None)
DEVICE = (OBJECT, {
    'type': (ENUM, ('c', 'b', 'u', 'p',)),
    'path': ABSOLUTE_PATH,
    'major': INT64,
    'minor': INT64,
    'fileMode': UINT32,
    'uid': ID,
    'gid': ID,
}, ('type', 'path'))
DEVICE_NUMBER_OR_ANY = (INTEGER, -1, 4294967295, None)
DEVICE_RULE = (OBJECT, {
    'allow': (BOOLEAN,),
    'type': (ENUM, ('a', 'b', 'c', '',)),
    'major': DEVICE_NUMBER_OR_ANY,
    'minor': DEVICE_NUMBER_OR_ANY,
    'access': (STRING, predicates.access_letters, 'letters of rwm'),
}, ('allow',))
BYTES = (INTEGER, -1, 9223372036854775807, None)
ONE_LINE = (STRING, predicates.one_line, 'a string without newline')
WEIGHT = (INTEGER, 10, 1000, 0)
DEVICE_NUMBER = (INTEGER, 0, 4294967295, None)
THROTTLES = (ARRAY, (OBJECT, {
    'major': DEVICE_NUMBER,
    'minor': DEVICE_NUMBER,
    'rate': UINT64,
}, ('major', 'minor', 'rate')), 0)
FILE_NAME = (STRING, predicates.file_name, 'the name of a cgroup file, without slash')
RESOURCES = (OBJECT, {
    'devices': (ARRAY, DEVICE_RULE, 0),
    'memory': (OBJECT, {
        'limit': BYTES,
        'reservation': BYTES,
        'swap': BYTES,
        'kernel': BYTES,
        'kernelTCP': BYTES,
        'swappiness': (INTEGER, 0, 100, 18446744073709551615),
        'disableOOMKiller': (BOOLEAN,),
        'useHierarchy': (BOOLEAN,),
        'checkBeforeUpdate': (BOOLEAN,),
    }, ()),
    'cpu': (OBJECT, {
        'shares': UINT64,
        'quota': INT64,
        'burst': UINT64,
        'period': UINT64,
        'realtimeRuntime': INT64,
        'realtimePeriod': UINT64,
        'cpus': ONE_LINE,
        'mems': ONE_LINE,
        'idle': (INTEGER, 0, 1, None),
    }, ()),
    'pids': (OBJECT, {
        'limit': INT64,
    }, ()),
    'blockIO': (OBJECT, {
        'weight': WEIGHT,
        'leafWeight': WEIGHT,
        'weightDevice': (ARRAY, (OBJECT, {
            'major': DEVICE_NUMBER,
            'minor': DEVICE_NUMBER,
            'weight': WEIGHT,
            'leafWeight': WEIGHT,
        }, ('major', 'minor')), 0),
        'throttleReadBpsDevice': THROTTLES,
        'throttleWriteBpsDevice': THROTTLES,
        'throttleReadIOPSDevice': THROTTLES,
        'throttleWriteIOPSDevice': THROTTLES,
    }, ()),
    'hugepageLimits': (ARRAY, (OBJECT, {
        'pageSize': (STRING, predicates.page_size, 'a page size such as 2MB'),
        'limit': UINT64,
    }, ('pageSize', 'limit')), 0),
    'network': (OBJECT, {
        'classID': UINT32,
        'priorities': (ARRAY, (OBJECT, {
            'name': NON_EMPTY_STRING,
            'priority': UINT32,
        }, ('name', 'priority')), 0),
    }, ()),
    'rdma': (MAP, (OBJECT, {
        'hcaHandles': UINT32,
        'hcaObjects': UINT32,
    }, ()), NON_EMPTY_STRING),
    'unified': (MAP, (STRING, None, None), FILE_NAME),
}, ())
ACTION = (ENUM, (
    'SCMP_ACT_KILL', 'SCMP_ACT_KILL_PROCESS', 'SCMP_ACT_KILL_THREAD', 'SCMP_ACT_TRAP', 'SCMP_ACT_ERRNO',
    'SCMP_ACT_TRACE', 'SCMP_ACT_ALLOW', 'SCMP_ACT_LOG', 'SCMP_ACT_NOTIFY',
))
RETURN_DATA = (INTEGER, 0, 65535, None)
ARCHITECTURE = (ENUM, (
    'SCMP_ARCH_X86', 'SCMP_ARCH_X86_64', 'SCMP_ARCH_X32', 'SCMP_ARCH_ARM', 'SCMP_ARCH_AARCH64',
    'SCMP_ARCH_LOONGARCH64', 'SCMP_ARCH_M68K', 'SCMP_ARCH_MIPS', 'SCMP_ARCH_MIPS64', 'SCMP_ARCH_MIPS64N32',
    'SCMP_ARCH_MIPSEL', 'SCMP_ARCH_MIPSEL64', 'SCMP_ARCH_MIPSEL64N32', 'SCMP_ARCH_PPC', 'SCMP_ARCH_PPC64',
    'SCMP_ARCH_PPC64LE', 'SCMP_ARCH_S390', 'SCMP_ARCH_S390X', 'SCMP_ARCH_SH', 'SCMP_ARCH_SHEB',
    'SCMP_ARCH_PARISC', 'SCMP_ARCH_PARISC64', 'SCMP_ARCH_RISCV64',
))
FLAG = (ENUM, (
    'SECCOMP_FILTER_FLAG_TSYNC', 'SECCOMP_FILTER_FLAG_LOG', 'SECCOMP_FILTER_FLAG_SPEC_ALLOW',
    'SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV',
))
OPERATOR = (ENUM, (
    'SCMP_CMP_NE', 'SCMP_CMP_LT', 'SCMP_CMP_LE', 'SCMP_CMP_EQ', 'SCMP_CMP_GE', 'SCMP_CMP_GT',
    'SCMP_CMP_MASKED_EQ',
))
CONDITION = (OBJECT, {
    'index': (INTEGER, 0, 5, None),
    'value': UINT64,
    'valueTwo': UINT64,
    'op': OPERATOR,
}, ('index', 'value', 'op'))
SECCOMP = (OBJECT, {
    'defaultAction': ACTION,
    'defaultErrnoRet': RETURN_DATA,
    'architectures': (ARRAY, ARCHITECTURE, 0),
    'flags': (ARRAY, FLAG, 0),
    'listenerPath': ABSOLUTE_PATH_OR_EMPTY,
    'listenerMetadata': (STRING, None, None),
    'syscalls': (ARRAY, (OBJECT, {
        'names': (ARRAY, (STRING, None, None), 1),
        'action': ACTION,
        'errnoRet': RETURN_DATA,
        'args': (ARRAY, CONDITION, 0),
    }, ('names', 'action')), 0),
}, ('defaultAction',))
LINUX = (OBJECT, {
    'namespaces': (ARRAY, (OBJECT, {
        'type': (ENUM, (
            'pid', 'network', 'mount', 'ipc', 'uts', 'user', 'cgroup', 'time',
        )),
        'path': ABSOLUTE_PATH_OR_EMPTY,
    }, ('type',)), 0),
    'uidMappings': ID_MAPPINGS,
    'gidMappings': ID_MAPPINGS,
    'timeOffsets': (MAP, (OBJECT, {
        'secs': INT64,
        'nanosecs': (INTEGER, 0, 999999999, None),
    }, ()), (ENUM, ('monotonic', 'boottime',))),
    'devices': (ARRAY, DEVICE, 0),
    'netDevices': (MAP, (OBJECT, {
        'name': (STRING, None, None),
    }, ()), NON_EMPTY_STRING),
    'cgroupsPath': (STRING, None, None),
    'resources': RESOURCES,
    'intelRdt': (OBJECT, {
        'closID': (STRING, None, None),
        'schemata': (ARRAY, ONE_LINE, 0),
        'l3CacheSchema': (STRING, None, None),
        'memBwSchema': (STRING, predicates.memory_bandwidth, 'one line that begins with MB:'),
        'enableMonitoring': (BOOLEAN,),
    }, ()),
    'memoryPolicy': (OBJECT, {
        'mode': (ENUM, (
            'MPOL_DEFAULT', 'MPOL_BIND', 'MPOL_INTERLEAVE', 'MPOL_WEIGHTED_INTERLEAVE', 'MPOL_PREFERRED',
            'MPOL_PREFERRED_MANY', 'MPOL_LOCAL',
        )),
        'nodes': (STRING, None, None),
        'flags': (ARRAY, (ENUM, (
            'MPOL_F_NUMA_BALANCING', 'MPOL_F_RELATIVE_NODES', 'MPOL_F_STATIC_NODES',
        )), 0),
    }, ('mode',)),
    'sysctl': (MAP, (STRING, None, None), NON_EMPTY_STRING),
    'seccomp': SECCOMP,
    'rootfsPropagation': (ENUM, (
        'private', 'shared', 'slave', 'unbindable', 'rprivate', 'rshared', 'rslave', 'runbindable', '',
    )),
    'maskedPaths': (ARRAY, ABSOLUTE_PATH, 0),
    'readonlyPaths': (ARRAY, ABSOLUTE_PATH, 0),
    'mountLabel': (STRING, None, None),
    'personality': (OBJECT, {
        'domain': (ENUM, ('LINUX', 'LINUX32',)),
        'flags': STRINGS,
    }, ('domain',)),
}, ())
CONFIG = (OBJECT, {
    'ociVersion': OCI_VERSION,
    'root': (OBJECT, {
        'path': NON_EMPTY_STRING,
        'readonly': (BOOLEAN,),
    }, ('path',)),
    'mounts': (ARRAY, MOUNT, 0),
    'process': PROCESS,
    'hostname': (STRING, None, None),
    'domainname': (STRING, None, None),
    'hooks': (OBJECT, {
        'prestart': HOOKS,
        'createRuntime': HOOKS,
        'createContainer': HOOKS,
        'startContainer': HOOKS,
        'poststart': HOOKS,
        'poststop': HOOKS,
    }, ()),
    'annotations': ANNOTATIONS,
    'linux': LINUX,
}, ('ociVersion', 'root'))
CONSOLE_SIZE = (OBJECT, {
    'height': (INTEGER, 0, 65535, None),
    'width': (INTEGER, 0, 65535, None),
}, ('height', 'width'))
