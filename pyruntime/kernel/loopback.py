"""The loopback interface of a new network namespace. See netdevice(7).

The kernel makes `lo` in every network namespace but leaves it down; the addresses 127.0.0.1 and ::1 appear when it is
set up. The init does this after `clone`, so nothing here imports, formats or encodes: one socket, one ioctl.
"""

from __future__ import annotations

import _socket
import fcntl
import sys

SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1

# struct ifreq: char ifr_name[16], then a union of 24 bytes whose first member here is short ifr_flags.
# A fresh `lo` has no other flag that this call could clear: IFF_LOOPBACK is not the caller's to change.
_LOOPBACK_UP = b"lo".ljust(16, b"\0") + IFF_UP.to_bytes(2, sys.byteorder) + bytes(22)
_KIND = _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC


def up() -> None:
    """Set `lo` of the caller's network namespace up. Raises OSError (EPERM without CAP_NET_ADMIN over the namespace).

    The ioctl belongs to the device layer, not to the socket's family: AF_UNIX also works where IPv4 is not built in.
    """
    sock = _socket.socket(_socket.AF_UNIX, _KIND, 0)
    try:
        fcntl.ioctl(sock.fileno(), SIOCSIFFLAGS, _LOOPBACK_UP)
    finally:
        sock.close()
