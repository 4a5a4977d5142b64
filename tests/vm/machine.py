"""Boot the guest once: start QEMU, pass on what the command writes, and be sure that QEMU has ended."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

from .kernel import Kernel

KVM_GET_API_VERSION = 0xAE00
# How long until the job begins, at most, without KVM and with it: KVM in a virtual machine may hang at the first page.
BOOT_SECONDS = (120, 20)

KERNEL_ARGUMENTS = """console=ttyS0 quiet loglevel=4 panic=-1 no_timer_check tsc=reliable mitigations=off
random.trust_cpu=on cryptomgr.notests lpj=4000000 rcupdate.rcu_expedited=1 audit=0 nokaslr
systemd.unit=vm.target systemd.unified_cgroup_hierarchy=1 systemd.show_status=0 swapaccount=1"""


def kvm_works() -> bool:
    """Whether the kernel lends us the processor: the device alone proves nothing."""
    try:
        device = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return fcntl.ioctl(device, KVM_GET_API_VERSION) == 12
    except OSError:
        return False
    finally:
        os.close(device)


def arguments(kernel: Kernel, mode: str, security: str, directory: Path, memory: int, kvm: bool) -> list[str]:
    # Emulated: without AVX there is less to emulate; the features listed are known to boot. q35, since the interrupts
    # of the default machine take 0.15 s to set up for each device.
    # KVM within a virtual machine may refuse the register behind arch-capabilities, and QEMU aborts.
    cpu = (["-accel", "kvm", "-cpu", "host,-arch-capabilities"] if kvm else
           ["-accel", "tcg,thread=multi", "-cpu", "qemu64,+rdrand,+ssse3,+sse4.1,+sse4.2,+popcnt"])  # fmt: skip
    return [
        "qemu-system-x86_64", "-M", "q35", *cpu, "-smp", "2", "-m", str(memory),
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-chardev", f"file,id=con,path={directory}/console", "-serial", "chardev:con",
        "-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap",
        "-device", "virtio-9p-pci,fsdev=root,mount_tag=root",
        "-fsdev", f"local,id=share,path={directory}/share,security_model=passthrough,multidevs=remap",
        "-device", "virtio-9p-pci,fsdev=share,mount_tag=share",
        "-device", "virtio-serial-pci", "-chardev", "file,id=out,path=/proc/self/fd/1",
        "-device", "virtserialport,chardev=out,name=out",
        "-drive", f"if=none,id=tree,file={directory}/tree.tar,format=raw,readonly=on",
        "-device", "virtio-blk-pci,drive=tree",
        "-drive", f"if=none,id=scratch,file={directory}/scratch,format=raw,cache=unsafe,discard=unmap",
        "-device", "virtio-blk-pci,drive=scratch",
        "-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
        "-kernel", str(kernel.vmlinux), "-initrd", str(kernel.initrd),
        "-append", " ".join(KERNEL_ARGUMENTS.split()) + f" security={security} pyruntime.mode={mode}",
    ]  # fmt: skip


def boot(
    kernel: Kernel, mode: str, security: str, directory: Path, timeout: float, memory: int, kvm: bool
) -> int | None:
    """The exit status of the guest's command; None where the guest left none, because it crashed or ran out of time."""
    (directory / "share").mkdir(exist_ok=True)
    status = directory / "share" / "status"
    for mark in (status, directory / "share" / "started"):
        mark.unlink(missing_ok=True)
    with (directory / "scratch").open("wb") as file:
        file.truncate(4 << 30)  # sparse
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", directory / "scratch"], check=True)
    qemu = subprocess.Popen(
        arguments(kernel, mode, security, directory, memory, kvm), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )

    def kill_unless_started() -> None:
        if not (directory / "share" / "started").exists():
            qemu.kill()

    # QEMU would outlive us, and its reader would never see the end of the output.
    timers = [threading.Timer(timeout, qemu.kill), threading.Timer(BOOT_SECONDS[kvm], kill_unless_started)]
    for timer in timers:
        timer.start()
    try:
        assert qemu.stdout is not None
        while data := os.read(qemu.stdout.fileno(), 65536):
            sys.stdout.write(data.decode("utf-8", "replace"))
            sys.stdout.flush()
        qemu.wait()
    finally:
        for timer in timers:
            timer.cancel()
        if qemu.poll() is None:
            qemu.kill()
            qemu.wait()
    text = status.read_text().strip() if status.exists() else ""
    return int(text) if text else None
