"""The validation programs of opencontainers/runtime-tools, run against a runtime and read with care.

    python -m conformance --runtime runc --upstream /path/to/runtime-tools --report report/

The checkout must be built (`make runtimetest validation-executables`). `programs.tsv` says of each program what the
best result is that a runtime following version 1.3.0 of the specification can reach, and why that is not always
everything.
"""
