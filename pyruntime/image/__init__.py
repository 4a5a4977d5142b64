"""pyruntime-image: from an OCI layout or a docker archive to a bundle."""
