"""The flags of `checkpoint` and `restore`, as the command line fills them in."""

from __future__ import annotations


class CriuOptions:
    """What `checkpoint` and `restore` have in common."""

    def __init__(self) -> None:
        self.image_path = "checkpoint"
        self.work_path: str | None = None
        self.tcp_established = self.tcp_close = self.ext_unix_sk = self.shell_job = self.file_locks = False
        self.lazy_pages = self.auto_dedup = False
        self.manage_cgroups_mode = "soft"
        self.empty_ns: list[str] = []
        self.criu: str | None = None


class CheckpointOptions(CriuOptions):
    """The flags of `checkpoint`."""

    def __init__(self) -> None:
        super().__init__()
        self.parent_path: str | None = None
        self.leave_running = self.pre_dump = self.tcp_skip_in_flight = self.link_remap = False
        self.status_fd = -1
        self.page_server: tuple[str, int] | None = None


class RestoreOptions(CriuOptions):
    """The flags of `restore`."""

    def __init__(self) -> None:
        super().__init__()
        self.console_socket: str | None = None
        self.pid_file: str | None = None
        self.detach = self.no_subreaper = self.no_pivot = False
        self.preserve_fds = 0
        self.lsm_profile: str | None = None
        self.lsm_mount_context: str | None = None
