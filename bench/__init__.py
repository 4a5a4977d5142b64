"""Side-by-side benchmarks of OCI runtimes."""
