"""What the hook remembers between its calls, in files that a crash at any moment leaves usable.

    /run/pyruntime-bridge/net-4026531840/     one directory per network namespace that the hook was called in
        lock                                  held during every change
        containers/pb3f2a91c0d4e7b            one record per interface, named like the veth at the host's end
        networks/pyruntime0/network           what the bridge was made with
        networks/pyruntime0/leases/10.87.0.2  who has this address: the name of the record
        files/pb3f2a91c0d4e7b.hosts           what the container sees as its /etc/hosts
        networks/pyruntime0/last4             the last address given out, so that the next one is another

A record is written before the first lease and the first interface are made, and removed after the last one. So
whatever exists is in some record, and a record whose veth is gone belongs to a container that is gone: the kernel
removes the veth with the container's network namespace. That is why no process has to be watched, why a reboot needs
no special care, and why removing what a record names is all that healing takes.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from _blake2 import blake2s
from collections.abc import Iterator
from typing import Any

from pyruntime.errors import RuntimeFailure

Record = dict[str, Any]
"""What is known of one interface, or of one network, as JSON has it. attach.py makes them."""


class State:
    """The state directory of the network namespace that the caller is in, locked. `with State(directory) as state:`"""

    def __init__(self, directory: str) -> None:
        own = os.stat("/proc/self/ns/net")
        self._directory = directory
        self.path = f"{directory}/net-{own.st_ino}"
        self._lock = -1

    def __enter__(self) -> State:
        for path in (
            self._directory,
            self.path,
            *(f"{self.path}/{name}" for name in ("containers", "networks", "files")),
        ):
            _make_private(path)
        self._lock = os.open(f"{self.path}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)  # let go by the kernel when the hook dies
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def names(self) -> list[str]:
        """The names of all records."""
        return [name for name in os.listdir(f"{self.path}/containers") if not name.startswith(".")]

    def record(self, name: str) -> Record | None:
        """A record, or None if there is none or if it is damaged (half a file after a power cut)."""
        return _read(f"{self.path}/containers/{name}")

    def records(self) -> Iterator[Record]:
        """All records that can be read."""
        for name in self.names():
            found = self.record(name)
            if found is not None:
                yield found

    def save(self, record: Record) -> None:
        """Write or replace a record, whole or not at all."""
        _write(f"{self.path}/containers/{record['veth']}", record)

    def forget(self, name: str) -> None:
        """Remove a record, and the leases it holds (all are looked at if the record is damaged)."""
        record = self.record(name)
        for bridge in [record["bridge"]] if record else self.bridges():
            for address in record["addresses"] if record else self.leases(bridge):
                if self.holder(bridge, address) == name:
                    _unlink(f"{self.path}/networks/{bridge}/leases/{address}")
        for file in ("resolv.conf", "hosts"):
            _unlink(self.file(name, file))
        _unlink(f"{self.path}/containers/{name}")

    def file(self, name: str, file: str) -> str:
        """Where the file `file` of the record `name` lies."""
        return f"{self.path}/files/{name}.{file}"

    def save_file(self, name: str, file: str, content: str) -> str:
        """Write a file that the container shall see, readable by all its users. Returns its path."""
        path = self.file(name, file)
        _put(path, content.encode(), 0o644)
        return path

    def network(self, bridge: str) -> Record | None:
        """What the bridge was made with, or None if the hook does not know it."""
        return _read(f"{self.path}/networks/{bridge}/network")

    def bridges(self) -> list[str]:
        """The names of all bridges that the hook knows."""
        return os.listdir(f"{self.path}/networks")

    def networks(self) -> dict[str, Record]:
        """All networks that the hook knows, by the name of their bridge."""
        found = {bridge: self.network(bridge) for bridge in self.bridges()}
        return {bridge: network for bridge, network in found.items() if network is not None}

    def save_network(self, bridge: str, network: Record) -> None:
        """Write what the bridge is made with, whole or not at all."""
        for path in (f"{self.path}/networks/{bridge}", f"{self.path}/networks/{bridge}/leases"):
            _make_private(path)
        _write(f"{self.path}/networks/{bridge}/network", network)

    def forget_network(self, bridge: str) -> None:
        """Remove what is known of the bridge, with every lease."""
        path = f"{self.path}/networks/{bridge}"
        for directory in (f"{path}/leases", path):
            try:
                names = os.listdir(directory)
            except FileNotFoundError:
                continue
            for name in names:
                if name != "leases":
                    _unlink(f"{directory}/{name}")
            os.rmdir(directory)

    def leases(self, bridge: str) -> set[str]:
        """All addresses of the bridge's subnets that someone has."""
        try:
            names = os.listdir(f"{self.path}/networks/{bridge}/leases")
        except FileNotFoundError:
            return set()
        return {name for name in names if not name.startswith(".")}

    def lease(self, bridge: str, address: str, name: str) -> None:
        """Give `address` to the record `name`."""
        _put(f"{self.path}/networks/{bridge}/leases/{address}", name.encode())

    def holder(self, bridge: str, address: str) -> str | None:
        """The name of the record that has `address`."""
        return _text(f"{self.path}/networks/{bridge}/leases/{address}")

    def last(self, bridge: str, version: int) -> str | None:
        """The address given out last from the bridge's subnet of this IP version."""
        return _text(f"{self.path}/networks/{bridge}/last{version}")

    def set_last(self, bridge: str, version: int, address: str) -> None:
        """Remember the address given out last."""
        _put(f"{self.path}/networks/{bridge}/last{version}", address.encode())


def veth_name(container: str, ifname: str) -> str:
    """The name of the veth at the host's end, and of the record: at most 15 bytes, told by container and interface."""
    return prefix(container) + blake2s(ifname.encode(), digest_size=2).hexdigest()[:3]


def prefix(container: str) -> str:
    """What the names of all veths of a container begin with."""
    return "pb" + blake2s(container.encode(), digest_size=5).hexdigest()


def ifb_name(veth: str) -> str:
    """The name of the interface that a bandwidth limit of this veth needs."""
    return "pi" + veth.removeprefix("pb")


def exists(interface: str) -> bool:
    """Is there an interface of this name in the caller's network namespace? One ioctl; netlink is not loaded for it."""
    try:
        socket.if_nametoindex(interface)
    except OSError:
        return False
    return True


def _make_private(path: str) -> None:
    """Make the directory, for us alone whatever the umask. Raises RuntimeFailure if others could change it."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    status = os.stat(path)
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise RuntimeFailure(f"{path} belongs to another user or others may write to it: choose another --state-dir")


def _read(path: str) -> Record | None:
    try:
        with open(path, "rb") as file:
            found = json.load(file)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _write(path: str, record: Record) -> None:
    _put(path, json.dumps(record, indent=1).encode() + b"\n")


def _put(path: str, content: bytes, mode: int = 0o600) -> None:
    directory, _, name = path.rpartition("/")
    temporary = f"{directory}/.{name}.new"  # one writer at a time: the lock is held
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        os.fchmod(descriptor, mode)  # whatever the umask
        while content:  # of a file system that is nearly full, a first write takes a part
            content = content[os.write(descriptor, content) :]
    finally:
        os.close(descriptor)
    os.replace(temporary, path)


def _text(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except FileNotFoundError:
        return None


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
