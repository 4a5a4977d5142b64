"""The features document: what this runtime understands (features.md and features-linux.md of the runtime spec).

Engines decide by it: dockerd and containerd look for the mount option `rro` before they use recursive read-only
mounts, and for `mountExtensions.idmap` before Kubernetes pods get user namespaces.
"""

from __future__ import annotations

from pyruntime import SPEC_VERSION, VERSION
from pyruntime.spec import names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyruntime.spec.types import Features

OCI_VERSION_MIN = "1.0.0"

# Annotations of a configuration that change what the runtime does; an engine that takes annotations from images or
# users filters these. A final dot makes a prefix.
UNSAFE_ANNOTATIONS = ("org.criu.config", "org.systemd.property.", "run.oci.")


def document(libseccomp: str | None = None, seccomp_flags: Sequence[str] = names.SECCOMP_FLAGS) -> Features:
    """The features of this runtime.

    The document does not depend on the host, but for what a caller knows about seccomp there: `libseccomp` is the
    library's version, `seccomp_flags` the filter flags that library and kernel have.
    """
    annotations = {
        # The names under which engines look for these facts, whatever the runtime.
        "org.opencontainers.runc.checkpoint.enabled": "true",
        "org.opencontainers.runc.version": VERSION,
    }
    if libseccomp is not None:
        annotations["io.github.seccomp.libseccomp.version"] = libseccomp
    return {
        "ociVersionMin": OCI_VERSION_MIN,
        "ociVersionMax": SPEC_VERSION,
        "hooks": list(names.HOOKS),
        "mountOptions": list(names.MOUNT_OPTIONS),
        "linux": {
            "namespaces": list(names.NAMESPACES),
            "capabilities": list(names.CAPABILITIES),
            "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": True, "rdma": True},
            "seccomp": {
                "enabled": True,
                "actions": list(names.SECCOMP_ACTIONS),
                "operators": list(names.SECCOMP_OPERATORS),
                "archs": list(names.SECCOMP_ARCHITECTURES),
                "knownFlags": list(names.SECCOMP_FLAGS),
                "supportedFlags": list(seccomp_flags),
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": True, "schemata": True, "monitoring": True},
            "memoryPolicy": {
                "modes": list(names.MEMORY_POLICY_MODES),
                "flags": list(names.MEMORY_POLICY_FLAGS),
            },
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": True},
        },
        "annotations": annotations,
        "potentiallyUnsafeConfigAnnotations": list(UNSAFE_ANNOTATIONS),
    }
