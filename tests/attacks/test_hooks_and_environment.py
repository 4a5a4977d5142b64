"""G. Hooks, environment, annotations, descriptors that are passed on.

CVE-2025-23266 (an image's variables in a program of the host), CVE-2026-94603 and CVE-2024-3154 (annotations),
CVE-2024-9407 (options that split). Where each hook runs, time-outs, floods: integration/test_hooks.py; systemd
properties: unit/test_cgroups_systemd.py, unit/test_cgroups_gvariant.py; descriptors of an engine:
engines/test_fake_engine.py; variables of Python and of the loader: integration/test_launcher.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.bundles import Config
from support.canary import Canary
from support.container import Container
from support.runtime import Runtime
from support.weakened import without

Make = Callable[..., Container]
KINDS = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")


@without(
    "container/hooks.py",
    """
    _prepare = Hook.__init__
    def _with_environment(self, kind, number, entry, default_env=None):
        _prepare(self, kind, number, {**entry, "env": entry.get("env") or ["LD_PRELOAD=/proc/self/cwd/evil.so"]})
    Hook.__init__ = _with_environment
    """,
    "container/launch.py",
    """
    _data = Launch.new_data
    def _in_rootfs(self, container_id, bundle):
        data = _data(self, container_id, bundle)
        data["bundle"] = data["rootfs"]
        return data
    Launch.new_data = _in_rootfs
    """,
)
def test_library_of_the_image_in_hooks(container: Make, compiled: Callable[..., Path], protected: bool) -> None:
    """CVE-2025-23266: LD_PRELOAD of the image names a library by the working directory, which is the rootfs.

    Without an environment of their own (container/hooks.py: Hook) and the bundle as directory, here with the image's
    variable and the rootfs, the library is loaded into hooks, programs of the host, as root: it leaves a file.
    """

    def change(config: Config) -> None:
        config["process"]["env"] += ["LD_PRELOAD=/proc/self/cwd/evil.so", "BASH_ENV=/evil", "PYTHONSTARTUP=/evil"]
        config["hooks"] = {kind: [{"path": "/bin/true", "args": ["true", kind]}] for kind in KINDS}

    one = container(["true"], change)
    (one.bundle.rootfs / "evil.so").write_bytes(compiled("preload", "-shared", "-fPIC").read_bytes())
    one.run().ok()
    assert (one.bundle.rootfs / "loaded").exists() is not protected


@without(
    "container/hooks.py",
    """
    close_from = lambda first, last=0: None
    """,
)
def test_descriptors_of_the_runtime_in_hooks(container: Make, tmp_path: Path, protected: bool) -> None:
    """A hook of the container's namespaces has nothing of ours open: neither the rootfs nor the state nor the channel.

    Without closing them (container/hooks.py: _become) it inherits what is not closed on execve: the caller's.
    """
    out = tmp_path / "descriptors"
    entry = {"path": "/bin/sh", "args": ["sh", "-c", f"ls -l /proc/self/fd > {out}"]}
    one = container(["true"], lambda config: config.update(hooks={"createContainer": [entry]}))
    (tmp_path / "directory").mkdir()
    script = f"exec 9<{tmp_path}/directory; exec " + '"$@"'
    runtime = Runtime(["sh", "-c", script, "sh", *one.runtime.program], one.runtime.root)
    keep = ("--preserve-fds", "7")
    for number in range(3, 9):
        script = f"exec {number}</dev/null; " + script
    Runtime(["sh", "-c", script, "sh", *runtime.program[4:]], runtime.root)(
        "run", *keep, "--bundle", one.bundle.path, one.id
    ).ok()
    assert (str(tmp_path / "directory") in out.read_text()) is not protected


# Annotations by which some runtime, engine or hook of the market changes what it does, and we do not. Those that we
# obey are listed in docs/security.md and by `features`, for engines not to take them from images.
FOREIGN = {
    "run.oci.handler": "krun",
    "run.oci.mount_context_type": "rootcontext",
    "run.oci.delegate-cgroup": "../..",
    "run.oci.systemd.force_cgroup_v1": "/sys/fs/cgroup",
    "run.oci.timens_offset": "1000",
    "run.oci.intermediate_mounts_cleanup": "1",
    "module.wasm.image/variant": "compat",
    "io.podman.annotations.seccomp": "unconfined",
    "io.podman.annotations.label": "disable",
    "io.podman.annotations.privileged": "TRUE",
    "io.kubernetes.cri-o.Devices": "/dev/sda",
    "io.kubernetes.cri-o.userns-mode": "host",
    "io.container.seccomp": "unconfined",
    "org.systemd.property.DeviceAllow": "['/dev/sda rwm']",
    "org.systemd.property.ExecStart": "['/bin/sh']",
    "nvidia.cdi.k8s.io/x": "vendor.com/device=0",
    "cdi.k8s.io/x": "vendor.com/device=all",
    "no_new_privs": "false",
    "../../x": "../../x",
    "capabilities": "all",
}

CONFINEMENT = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; ls /dev; cat /proc/self/cgroup | wc -l; id"


@without(
    "plan/process.py",
    """
    _steps = process_steps
    def process_steps(process, *, annotations=None, **more):
        if annotations and annotations.get("no_new_privs") == "false":
            process = {**process, "noNewPrivileges": False}
        return _steps(process, annotations=annotations, **more)
    """,
)
def test_annotations_change_no_confinement(container: Make, canary: Canary, protected: bool) -> None:
    """CVE-2026-94603: annotations of an image that an engine hands on. Only those of docs/security.md mean something.

    Without that rule (here plan/process.py would obey one) the two outputs differ.
    """
    annotations = {name: value.format(canary=canary.path) for name, value in FOREIGN.items()}
    hook = {"path": "/bin/echo", "args": ["echo", "x"]}

    def confined(config: Config) -> None:
        config["hooks"] = {"createRuntime": [hook]}
        config["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["swapoff"], "action": "SCMP_ACT_ERRNO"}],
        }

    script = ["sh", "-c", CONFINEMENT]
    plain = container(script, confined).run().ok().stdout
    annotated = container(script, confined, lambda config: config.update(annotations=annotations)).run().ok().stdout
    assert "Seccomp:\t2" in plain and "NoNewPrivs:\t1" in plain
    assert (annotated == plain) is protected
    assert canary.touched() == set()


@without(
    "kernel/mounts.py",
    """
    def mount_over(target, kind, options, source, attributes=0):
        here = posix.open(b".", posix.O_PATH)
        posix.fchdir(target)
        mount(source, b".", kind, 0, b",".join(n if v is None else n + b"=" + v for n, v in options))
        posix.fchdir(here)
        return openat2(target, b"..", posix.O_PATH, RESOLVE_IN_ROOT)
    """,
)
def test_options_that_split(container: Make, tmp_path: Path, protected: bool) -> None:
    """CVE-2024-9407: a value with a comma in it becomes an option of its own, where options are one long text.

    Without refusing it (kernel/mounts.py: mount_over, for values of more than 255 bytes) an overlay of the host's
    directories gets an upper one of the attacker's choice, which the container writes to.
    """
    for name in ("lower", "upper", "work", "evil"):
        (tmp_path / name).mkdir()
    lower = f"{tmp_path}/lower" + "/." * 150
    smuggled = f"lowerdir={lower},upperdir={tmp_path}/evil,workdir={tmp_path}/work"
    one = container(
        ["touch", "/m/written"],
        lambda config: config["mounts"].append(
            {"destination": "/m", "type": "overlay", "source": "overlay", "options": [smuggled]}
        ),
    )
    one.run()
    assert (tmp_path / "evil" / "written").exists() is not protected


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_more_descriptors_than_there_are(container: Make, verb: str) -> None:
    """--preserve-fds 100000: an error. One that is not there: nothing, and not whatever is opened there later."""
    script = "for n in $(seq 3 200); do if test -e /proc/$$/fd/$n; then echo $n; fi; done"
    one = container(["sh", "-c", script] if verb == "run" else ["sleep", "1000"])
    if verb == "exec":
        one.run("--detach").ok()
    words = ("--bundle", one.bundle.path, one.id) if verb == "run" else (one.id, "sh", "-c", script)
    result = one.runtime(verb, "--preserve-fds", "100000", *words)
    assert result.status == (1 if verb == "run" else 255) and "preserved-fd" in result.stderr
    for count in ("1", "40"):
        assert one.runtime(verb, "--preserve-fds", count, *words).ok().stdout == ""


@without(
    "container/notify_socket.py",
    """
    _listen = Proxy.__init__
    def _slowly(self, container, host):
        _listen(self, container, host)
        path = f"{directory(container)}/{NAME}"
        os.rename(path, path + ".moved")  # what root of a user namespace could do meanwhile
        os.symlink(os.environ["CANARY"], path)
        os.chmod(path, 0o777)
    Proxy.__init__ = _slowly
    """,
    "kernel/seal.py",
    "ENVIRONMENT = (*ENVIRONMENT, b'CANARY')",
)
def test_the_notify_socket_is_open_to_all_without_chmod(
    container: Make, canary: Canary, tmp_path: Path, protected: bool
) -> None:
    """The directory of the notify socket is shown to the container, whose root may own it: no chmod by name there.

    Without the mode by umask (container/notify_socket.py: Proxy), here with the chmod of before and a link that came in
    between, a file of the host is open to everybody.
    """
    os.chmod(canary.file, 0o600)
    one = container(["sh", "-c", "ls -l /run/notify; sleep 0.1"])
    process = one.runtime.popen(
        "run", "--bundle", one.bundle.path, one.id,
        env={"PATH": os.environ["PATH"], "NOTIFY_SOCKET": str(tmp_path / "socket"), "CANARY": str(canary.file)},
    )  # fmt: skip
    output, error = process.communicate(timeout=20)
    assert process.returncode == 0, error
    assert (os.stat(canary.file).st_mode & 0o777 == 0o600) is protected
    if protected:
        assert b"srwxrwxrwx" in output
