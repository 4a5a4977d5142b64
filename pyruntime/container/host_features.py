"""The features document of this host: what the specification room knows, and what seccomp can do here."""

from __future__ import annotations

from pyruntime.errors import RuntimeFailure
from pyruntime.kernel import libseccomp, seccomp
from pyruntime.spec import features, names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.spec.types import Features

FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": seccomp.FLAG_TSYNC,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": seccomp.FLAG_SPEC_ALLOW,
    "SECCOMP_FILTER_FLAG_LOG": seccomp.FLAG_LOG,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": seccomp.FLAG_WAIT_KILLABLE_RECV,
}


def document() -> Features:
    """The document that `features` prints. It needs no privileges and says nothing about what is not installed."""
    try:
        version = ".".join(map(str, libseccomp.Library().version()))
    except RuntimeFailure:
        version = None
    supported = [name for name in names.SECCOMP_FLAGS if seccomp.flag_available(FLAGS[name])]
    return features.document(version, supported)
