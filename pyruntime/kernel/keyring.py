"""The session keyring of the calling process: keyctl(2), session-keyring(7)."""

from __future__ import annotations

from pyruntime.kernel.libc import NR, buffer, syscall

KEYCTL_JOIN_SESSION_KEYRING = 1
KEYCTL_SETPERM = 5
KEYCTL_DESCRIBE = 6

USER_SEARCH = 0x00080000
OTHER_SEARCH = 0x00000008

_KEYCTL = NR["keyctl"]


def join_session(name: bytes) -> int:
    """Join the session keyring called `name`, making it if it is not there, and return its serial number."""
    return syscall(_KEYCTL, KEYCTL_JOIN_SESSION_KEYRING, name)


def add_permissions(keyring: int, permissions: int) -> None:
    """Add bits such as USER_SEARCH to what the keyring allows."""
    text = buffer(512)
    syscall(_KEYCTL, KEYCTL_DESCRIBE, keyring, text, 512)
    # "keyring;uid;gid;permissions in hexadecimal;description"
    present = int(bytes(text).split(b";", 4)[3], 16)
    syscall(_KEYCTL, KEYCTL_SETPERM, keyring, present | permissions)
