"""pyruntime: an OCI container runtime in Python. Start reading at docs/architecture.md."""

VERSION = "0.1.0"
SPEC_VERSION = "1.3.0"
