"""Become a validation program in a mount namespace of its own: `launch LAYOUT PROGRAM [ARGUMENT...]`."""

from __future__ import annotations

import os
import sys

from conformance import layout, process


def main() -> None:
    """Isolate this process, then execute the program in its place.

    Some programs (linux_ns_itype) let the container mount into the namespace they run in and never clean up. The
    program does not become a subreaper: it would not reap what it adopts. It keeps the network of the host, because the
    kernel looks up the interfaces of net_prio.ifpriomap there, whoever writes.
    """
    process.isolate(adopt=False, network=False)
    layout.apply(sys.argv[1])
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
