"""Thin typed wrappers of system calls and kernel files. No policy; one module per subsystem."""
