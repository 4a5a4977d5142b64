"""What goes into the guest with one run: the archive of checkout and virtual environment, the command, the units."""

from __future__ import annotations

import io
import shlex
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
UNITS = Path("/lib/systemd/system")

# The guest does not need them.
LEFT_OUT = {".git", ".venv", "build", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}
LEFT_OUT_OF_VENV = {"mypy", "mypyc", "ruff", "pip", "ast_serialize"}

# All that systemd reads in the guest: enough for scopes, slices, D-Bus, users and their own systemd.
SYSTEM_UNITS = """sysinit.target basic.target sockets.target paths.target timers.target slices.target local-fs.target
local-fs-pre.target swap.target shutdown.target umount.target final.target poweroff.target multi-user.target
network.target time-set.target dbus.socket dbus.service systemd-journald.service systemd-journald.socket
systemd-journald-dev-log.socket systemd-logind.service systemd-user-sessions.service systemd-poweroff.service
user@.service user-runtime-dir@.service user.slice machine.slice""".split()
ALIASES = {"dbus-org.freedesktop.login1.service": "systemd-logind.service"}  # what D-Bus asks for when it is needed
TARGET = """[Unit]
Requires=basic.target dbus.socket job.service
After=basic.target
AllowIsolate=yes
"""
# Type=exec: with oneshot the boot would not be over before the job is, and `systemctl is-system-running` say so.
SERVICE = """[Unit]
DefaultDependencies=no
After=basic.target dbus.socket
[Service]
Type=exec
Delegate=yes
TasksMax=infinity
LimitNOFILE=1048576
ExecStart=/usr/bin/busybox sh /run/job/job.sh
StandardOutput=null
StandardError=null
"""


def pack(archive: Path, command: Sequence[str], modules: Path) -> None:
    """Write the archive: `job/` and, at their own paths, the checkout and the virtual environment we run in."""
    venv = Path(sys.prefix)
    binds = [REPOSITORY]
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as tar:
        tar.add(REPOSITORY, filter=lambda item: None if LEFT_OUT & {Path(item.name).name} else item)
        if sys.prefix != sys.base_prefix:
            tar.add(venv, filter=_environment)
            if not venv.is_relative_to(REPOSITORY):
                binds.append(venv)
        texts = {
            "command": f"cd {shlex.quote(str(REPOSITORY))} && {shlex.join(command)}\n",
            "binds": "".join(f"{path}\n" for path in binds),
            "modules": f"{modules}\n",
            "units/vm.target": TARGET,
            "units/job.service": SERVICE,
            **{name: (HERE / name).read_text() for name in ("plain.sh", "job.sh")},
            **{f"units/{name}": (UNITS / name).read_text() for name in SYSTEM_UNITS if (UNITS / name).exists()},
        }
        for name, text in texts.items():
            item = tarfile.TarInfo(f"job/{name}")
            item.size = len(text.encode())
            item.mode = 0o644
            tar.addfile(item, io.BytesIO(text.encode()))
        for name, target in ALIASES.items():
            item = tarfile.TarInfo(f"job/units/{name}")
            item.type, item.linkname = tarfile.SYMTYPE, target
            tar.addfile(item)
    with archive.open("r+b") as file:  # whole sectors, or the last one is cut off
        file.truncate(-(-archive.stat().st_size // 4096) * 4096)


def _environment(item: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Without type checker and linter, two thirds of its size."""
    name = Path(item.name).name
    needless = name in LEFT_OUT_OF_VENV or "__mypyc." in name or name.split("-")[0] in LEFT_OUT_OF_VENV
    return None if needless else item
