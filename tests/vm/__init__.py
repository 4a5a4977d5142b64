"""A virtual machine with cgroup v2, every capability and AppArmor, in which tests of this checkout run as root."""
