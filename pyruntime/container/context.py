"""Where and how the verbs work: the global flags."""

from __future__ import annotations


class Context:
    """Where and how the verbs work: the global flags."""

    __slots__ = ("cgroup_manager", "debug", "root", "rootless", "systemd_cgroup")

    def __init__(
        self, root: str, systemd_cgroup: bool = False, rootless: str = "auto", cgroup_manager: str | None = None,
        debug: bool = False,
    ) -> None:  # fmt: skip
        self.root = root
        self.systemd_cgroup = systemd_cgroup
        self.rootless = rootless  # "auto", "true" or "false"
        self.cgroup_manager = cgroup_manager
        self.debug = debug
