"""pyruntime-bridge: an OCI hook that gives a container a network."""
