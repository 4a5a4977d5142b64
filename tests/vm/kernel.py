"""The guest's kernel: a package of Debian, unpacked once into the cache, and an initramfs with the modules to boot.

Nothing is installed: `apt-get download` and `dpkg -x` run no script of the package.
"""

from __future__ import annotations

import lzma
import os
import shutil
import stat
import struct
import subprocess
from pathlib import Path

META_PACKAGE = "linux-image-amd64"
# In this order. crc32c_generic is a soft dependency of ext4, which modules.dep does not tell.
MODULES = """virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci crc32c_generic virtio_blk
virtio_console virtio_rng overlay jbd2 mbcache crc16 ext4 netfs fscache 9pnet 9p 9pnet_virtio""".split()
HERE = Path(__file__).parent


class Kernel:
    """Where the parts of the guest are: `vmlinux`, `initrd`, and `modules`, the directory for /lib/modules."""

    def __init__(self, directory: Path) -> None:
        self.vmlinux = directory / "vmlinux"
        self.initrd = directory / "initrd"
        self.modules = directory / "root" / "lib" / "modules"


def prepare(cache: Path) -> Kernel:
    """The kernel in the cache, downloaded first where the cache has none. Raises CalledProcessError, OSError."""
    directory = cache / "kernel"
    if not (directory / "vmlinux").exists():
        fresh = cache / f"kernel.{os.getpid()}"
        try:
            download(fresh)
            shutil.rmtree(directory, ignore_errors=True)
            fresh.rename(directory)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    kernel = Kernel(directory)
    source = max(Path(__file__).stat().st_mtime, (HERE / "init.sh").stat().st_mtime)
    if not kernel.initrd.exists() or kernel.initrd.stat().st_mtime < source:
        fresh = directory / f"initrd.{os.getpid()}"
        fresh.write_bytes(initramfs(kernel.modules))
        fresh.rename(kernel.initrd)
    return kernel


def download(directory: Path) -> None:
    directory.mkdir(parents=True)
    # apt downloads as the user _apt, who cannot enter /root: as root then, with a warning that nobody needs.
    apt = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download"]
    subprocess.run([*apt, kernel_package()], cwd=directory, check=True)
    package = next(directory.glob("*.deb"))
    subprocess.run(["dpkg", "-x", package, directory / "root"], check=True)
    package.unlink()
    image = next((directory / "root" / "boot").glob("vmlinuz-*"))
    version = image.name.removeprefix("vmlinuz-")
    subprocess.run(["depmod", "-b", directory / "root", version], check=True)
    (directory / "vmlinux").write_bytes(decompress(image.read_bytes()))


def kernel_package() -> str:
    """The package that the metapackage of this release depends on."""
    show = ["apt-cache", "depends", "--important", META_PACKAGE]
    for line in subprocess.run(show, check=True, capture_output=True, text=True).stdout.split("\n"):
        relation, _, name = line.strip().partition(": ")
        if relation == "Depends" and name.startswith("linux-image-"):
            return name
    raise OSError(f"apt knows no kernel package behind {META_PACKAGE}: run apt-get update")


def decompress(image: bytes) -> bytes:
    """The ELF file in a bzImage: an emulated processor takes five seconds to decompress what we do in one.

    Offsets from Documentation/arch/x86/boot.rst: setup_sects, payload_offset, payload_length.
    """
    sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (sectors + 1) * 512 + offset
    payload = image[start : start + length]
    if payload.startswith(b"\xfd7zXZ"):
        return lzma.LZMADecompressor().decompress(payload)
    for magic, command in ((b"\x28\xb5\x2f\xfd", "zstd"), (b"\x02\x21\x4c\x18", "lz4")):
        if payload.startswith(magic):  # the last four bytes are the size
            return subprocess.run([command, "-dc"], input=payload[:-4], check=True, stdout=subprocess.PIPE).stdout
    raise OSError(f"unknown compression of the kernel: {payload[:6].hex()}")


def initramfs(modules: Path) -> bytes:
    """A cpio archive with busybox, init.sh and the modules of MODULES. Modules built into the kernel are left out."""
    files = {p.name.split(".")[0].replace("-", "_"): p for p in modules.rglob("*.ko*")}
    busybox = shutil.which("busybox")
    if busybox is None:
        raise OSError("no busybox: apt-get install busybox-static")
    archive = bytearray()
    for name in ("bin", "modules", "proc", "sys", "dev", "lower", "rw", "newroot"):
        archive += entry(name, stat.S_IFDIR | 0o755, b"")
    archive += entry("init", stat.S_IFREG | 0o755, (HERE / "init.sh").read_bytes())
    archive += entry("bin/busybox", stat.S_IFREG | 0o755, Path(busybox).read_bytes())
    order = [name for name in MODULES if name in files]
    for name in order:
        content = files[name].read_bytes()
        if files[name].suffix == ".xz":
            content = lzma.decompress(content)
        archive += entry(f"modules/{name}.ko", stat.S_IFREG | 0o644, content)
    archive += entry("modules/order", stat.S_IFREG | 0o644, "".join(f"{name}.ko\n" for name in order).encode())
    return bytes(archive + entry("TRAILER!!!", 0, b""))


def entry(name: str, mode: int, content: bytes) -> bytes:
    """One file of a cpio archive in the newc format: a header of hexadecimal fields; all parts padded to four bytes."""
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)
