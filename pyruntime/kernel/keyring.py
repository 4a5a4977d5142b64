"""The session keyring of the calling process: keyctl(2), session-keyring(7), keyrings(7)."""

from __future__ import annotations

from pyruntime.kernel.libc import NR, syscall

KEYCTL_JOIN_SESSION_KEYRING = 1
KEYCTL_SETPERM = 5

# What the kernel gives a named session keyring: everything to those who possess it, and to its user the right to see,
# read and link it. See join_session_keyring() in security/keys/process_keys.c.
DEFAULT = 0x3F130000
USER_SEARCH = 0x00080000
OTHER_SEARCH = 0x00000008

_KEYCTL = NR["keyctl"]


def join_session(name: bytes) -> int:
    """Join the session keyring called `name`, making it if it is not there, and return its serial number."""
    return syscall(_KEYCTL, KEYCTL_JOIN_SESSION_KEYRING, name)


def set_permissions(keyring: int, permissions: int) -> None:
    """Replace what the keyring allows, and whom."""
    syscall(_KEYCTL, KEYCTL_SETPERM, keyring, permissions)
