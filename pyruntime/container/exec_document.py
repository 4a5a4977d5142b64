"""What `exec` runs: the flags, and the process document that they make of the container's own."""

from __future__ import annotations

from pyruntime.errors import RuntimeFailure, SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class ExecOptions:
    """The flags of `exec`."""

    __slots__ = (
        "additional_gids", "apparmor", "args", "caps", "cgroups", "console_socket", "cwd", "detach", "env",
        "ignore_paused", "no_new_privs", "pid_file", "pidfd_socket", "preserve_fds", "process", "process_label",
        "tty", "user",
    )  # fmt: skip

    def __init__(self) -> None:
        self.process: str | None = None
        self.args: list[str] = []
        self.cwd: str | None = None
        self.env: list[str] = []
        self.tty = self.detach = self.ignore_paused = False
        self.user: str | None = None
        self.additional_gids: list[int] = []
        self.process_label: str | None = None
        self.apparmor: str | None = None
        self.no_new_privs: bool | None = None
        self.caps: list[str] = []
        self.cgroups: list[str] = []
        self.pid_file: str | None = None
        self.console_socket: str | None = None
        self.pidfd_socket: str | None = None
        self.preserve_fds = 0


def process_document(options: ExecOptions, config: dict[str, Any]) -> dict[str, Any]:
    """The process document: a file, or that of the container with the flags applied."""
    if options.process is not None:
        from pyruntime.spec import load

        process: dict[str, Any] = load.load_process(options.process)  # type: ignore[assignment]
        own = config.get("process") or {}
        for name in ("apparmorProfile", "selinuxLabel"):
            if not process.get(name) and own.get(name):
                process[name] = own[name]
        return process
    process = dict(config.get("process") or {})
    if not process:
        raise RuntimeFailure("the container has no process to take defaults from: use --process")
    process["args"] = options.args
    process["terminal"] = options.tty
    process.pop("consoleSize", None)
    if options.cwd is not None:
        if not options.cwd.startswith("/"):
            raise SpecError("--cwd", f"{options.cwd}: Cwd must be an absolute path")
        process["cwd"] = options.cwd
    process["env"] = [*(process.get("env") or []), *options.env]
    user = dict(process.get("user") or {})
    if options.user:
        uid, colon, gid = options.user.partition(":")
        user["uid"] = int(uid)
        if colon:
            user["gid"] = int(gid)
    if options.additional_gids:
        user["additionalGids"] = [*(user.get("additionalGids") or []), *options.additional_gids]
    process["user"] = user
    if options.apparmor is not None:
        process["apparmorProfile"] = options.apparmor
    if options.process_label is not None:
        process["selinuxLabel"] = options.process_label
    if options.no_new_privs is not None:
        process["noNewPrivileges"] = options.no_new_privs
    if options.caps:
        process["capabilities"] = _with_capabilities(process.get("capabilities") or {}, options.caps)
    return process


def _with_capabilities(sets: dict[str, list[str]], extra: list[str]) -> dict[str, list[str]]:
    """More capabilities in bounding, effective and permitted; in ambient too where the container uses ambient ones.

    Never in inheritable: a file with inheritable capabilities would gain them (CVE-2022-29162).
    """
    kinds = ("bounding", "effective", "permitted", "inheritable", "ambient")
    changed = {name: list(sets.get(name) or []) for name in kinds}
    for name in ("bounding", "effective", "permitted"):
        changed[name] += [one for one in extra if one not in changed[name]]
    inheritable = set(changed["inheritable"])
    if inheritable:
        changed["ambient"] += [one for one in extra if one in inheritable and one not in changed["ambient"]]
    return changed
