"""A root file system and a bundle in which everything that Python or libc may look up by name is a trap.

A trap that is executed leaves a file in the directory `hits`; one that is merely opened is seen by `support.watch`.
In the root file system the traps lie where the interpreter of the runtime and its C library would look, at the very
paths of the host; in the bundle, which is also the working directory, where a careless program would.
"""

from __future__ import annotations

import importlib.util
import marshal
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from support.runtime import REPOSITORY

HITS = "hits"
PROGRAMS = (
    "apparmor_parser cc clang conmon criu gcc getent iconv id ip ld ldconfig ldd locale modprobe mount newgidmap"
    " newuidmap nft nsenter objdump python python3 python3.11 python3.12 python3.13 runc crun systemctl tar umount"
    " uname unshare unsquashfs xz zstd"
).split()
LIBRARIES = (
    "libc.so.6 libm.so.6 libdl.so.2 libpthread.so.0 librt.so.1 libffi.so.8 libseccomp.so.2 libcap.so.2 libexpat.so.1"
    " libz.so.1 libpython3.11.so.1.0 libnss_evil.so.2 libnss_files.so.2 libnss_compat.so.2 libnss_dns.so.2"
    " libgcc_s.so.1 libapparmor.so.1 libselinux.so.1 libcrypto.so.3 libssl.so.3 ld-linux-x86-64.so.2"
    " gconv/UTF-16.so gconv/EVIL.so"
).split()
LIBRARY_DIRECTORIES = (
    "lib",
    "lib64",
    "lib/x86_64-linux-gnu",
    "usr/lib",
    "usr/lib64",
    "usr/lib/x86_64-linux-gnu",
    "evil",
)
# In the bundle: what would stand in for a module, were the current directory or the bundle on the path.
LOCAL_MODULES = (
    "__future__ __main__ _ctypes _json _struct abc argparse codecs ctypes encodings errno fcntl gc io json os posix"
    " pyruntime re select signal site sitecustomize socket stat string struct subprocess sys threading time types"
    " usercustomize zipimport"
).split()

# Static, so that it runs wherever it is; loaded as a library it does the same.
_C = """
#include <fcntl.h>
__attribute__((constructor)) static void hit(void) {
    open("/hits/" NAME, O_CREAT | O_WRONLY, 0666);
    open("@/hits/" NAME, O_CREAT | O_WRONLY, 0666);
}
int main(void) { return 0; }
"""


class Traps:
    """Traps below `top`, which has the directory `hits` for marks."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.laid: set[str] = set()
        (top / HITS).mkdir(parents=True)
        (top / HITS).chmod(0o777)

    def hits(self) -> list[str]:
        """What was executed."""
        return sorted(os.listdir(self.top / HITS))

    def file(self, path: str, content: bytes | str, mode: int = 0o755) -> None:
        target = self.top / path
        if os.path.lexists(target):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())
        target.chmod(mode)
        self.laid.add(path)

    def source(self, name: str) -> str:
        """Python that leaves the mark `name`, in the container and outside, with nothing but a built-in module."""
        places = (f"/{HITS}/{name}", f"{self.top}/{HITS}/{name}")
        # The cookie names a codec that is a trap as well: whoever only shows a line of this has to import it.
        return (
            f"# -*- coding: evil -*-\nimport posix\nfor place in {places!r}:\n    try:\n"
            "        posix.close(posix.open(place, posix.O_CREAT | posix.O_WRONLY))\n"
            "    except OSError:\n        pass\n"
        )

    def module(self, path: str) -> None:
        """`path` is a .py file: it and the .pyc that is valid whatever the .py says."""
        name = path.replace("/", "-")
        self.file(path, self.source(name))
        code = compile(self.source(name + "c").partition("\n")[2], f"/{path}", "exec")
        # Hash-based and not to be checked (PEP 552): flags 1.
        data = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8) + marshal.dumps(code)
        folder, _, file = path.rpartition("/")
        self.file(f"{folder}/__pycache__/{file[:-3]}.{sys.implementation.cache_tag}.pyc".lstrip("/"), data)


def _built(traps: Traps, name: str, *flags: str) -> bytes:
    """An ELF file that leaves the mark `name` when it is executed or loaded."""
    with tempfile.NamedTemporaryFile() as target:
        command = ["gcc", *flags, f'-DNAME="{name}"', "-xc", "-o", target.name, "-"]
        subprocess.run(command, input=_C.replace("@", str(traps.top)).encode(), check=True)
        return Path(target.name).read_bytes()


def interpreter_paths(python: str = "/usr/bin/python3") -> list[str]:
    """Where the interpreter of the runtime looks for modules."""
    code = "import sys; print('\\n'.join(sys.path))"
    done = subprocess.run([python, "-I", "-S", "-E", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def poison_root(top: Path) -> Traps:
    """Lay traps in a root file system, beside the programs that it has."""
    traps = Traps(top)
    library = _built(traps, "library", "-shared", "-fPIC")
    program = _built(traps, "program", "-static")
    for path in interpreter_paths():
        inside = path.lstrip("/")
        if path.endswith(".zip"):
            _archive(traps, inside)
        elif path.endswith("lib-dynload"):
            for extension in Path(path).glob("*.so"):
                traps.file(f"{inside}/{extension.name}", library)
        else:
            for name in sorted(sys.stdlib_module_names - set(sys.builtin_module_names)):
                package = Path(path, name).is_dir()
                traps.module(f"{inside}/{name}/__init__.py" if package else f"{inside}/{name}.py")
            for codec in (*Path(path, "encodings").glob("*.py"), Path("evil.py")):
                traps.module(f"{inside}/encodings/{codec.name}")
    for module in (REPOSITORY / "pyruntime").rglob("*.py"):
        traps.module(str(module).lstrip("/"))
    for tag in ("cpython-311", "cpython-312", "cpython-313"):
        traps.file(f"{REPOSITORY}/pyruntime/hot.{tag}".lstrip("/"), b"evil")
    traps.file(f"{REPOSITORY}/bin/pyruntime".lstrip("/"), program)  # its directory is on the way to the package
    traps.module(f"{REPOSITORY}/tests/support/audited/audit.py".lstrip("/"))
    site = f"usr/lib/python3/dist-packages {REPOSITORY}/.venv/lib/python3.11/site-packages usr/local/lib/python3.11"
    for directory in site.split():
        for name in ("sitecustomize", "usercustomize", "pyroute2", "isal", "jsonschema"):
            traps.module(f"{directory}/{name}.py".lstrip("/"))
        traps.file(f"{directory}/evil.pth".lstrip("/"), "import sitecustomize\n")
    _libc_files(traps, library, program)
    for name in ("pyvenv.cfg", "bin/pyvenv.cfg", "usr/bin/pyvenv.cfg", "usr/pyvenv.cfg"):
        traps.file(name, "home = /evil\n")
    return traps


def _archive(traps: Traps, inside: str) -> None:
    (traps.top / inside).parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(traps.top / inside, "w") as archive:
        for name in sys.stdlib_module_names:
            archive.writestr(f"{name}.py", traps.source(f"zip-{name}"))
    traps.laid.add(inside)


def _libc_files(traps: Traps, library: bytes, program: bytes) -> None:
    """What the dynamic loader, NSS, iconv and the locales read, and programs that somebody may start by name."""
    for directory in LIBRARY_DIRECTORIES:
        for name in LIBRARIES:
            traps.file(f"{directory}/{name}", library)
    for directory in ("bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin", "usr/local/sbin", "opt"):
        for name in PROGRAMS:
            traps.file(f"{directory}/{name}", program)
    for name, text in {
        "etc/ld.so.preload": "/evil/libc.so.6\n",
        "etc/ld.so.conf": "/evil\n",
        "etc/ld.so.cache": "ld.so-1.7.0 evil",
        "etc/nsswitch.conf": "passwd: evil\ngroup: evil\nhosts: evil\n",
        "etc/localtime": "evil",
        "etc/locale.alias": "evil evil\n",
        "etc/resolv.conf": "nameserver 127.0.0.1\n",
        "etc/hosts": "127.0.0.1 localhost\n",
        "etc/host.conf": "evil\n",
        "etc/subuid": "0:0:1\n",
        "etc/subgid": "0:0:1\n",
        "etc/python3/sitecustomize.py": traps.source("etc-python3"),
        "usr/lib/x86_64-linux-gnu/gconv/gconv-modules": "module EVIL// INTERNAL EVIL 1\n",
        "usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache": "evil",
        "usr/lib/locale/locale-archive": "evil",
        "usr/lib/locale/C.utf8/LC_CTYPE": "evil",
        "usr/share/locale/locale.alias": "evil evil\n",
        "usr/share/locale/en/LC_MESSAGES/libc.mo": "evil",
        "usr/share/zoneinfo/UTC": "evil",
    }.items():
        traps.file(name, text, 0o644)


def poison_bundle(top: Path) -> Traps:
    """Lay traps in a bundle directory, to be the current directory of the runtime as well."""
    traps = Traps(top)
    for name in LOCAL_MODULES:
        traps.module(f"{name}.py")
    traps.module("encodings/evil.py")
    traps.module("pyruntime/__init__.py")
    traps.module("pyruntime/__main__.py")
    library = _built(traps, "library", "-shared", "-fPIC")
    program = _built(traps, "program", "-static")
    for name in ("libc.so.6", "libseccomp.so.2", "libnss_evil.so.2", "gconv/EVIL.so"):
        traps.file(name, library)
    for name in PROGRAMS:
        traps.file(name, program)
    for name, text in {
        "pyvenv.cfg": "home = /evil\n",
        "evil.pth": "import sitecustomize\n",
        "python311._pth": ".\n",
        "gconv/gconv-modules": "module EVIL// INTERNAL EVIL 1\n",
        "hot.cpython-311": "evil",
        "locales/C.UTF-8/LC_CTYPE": "evil",
    }.items():
        traps.file(name, text)
    return traps
