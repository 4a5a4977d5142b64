"""Bandwidth limits of a container's interface. See tc-tbf(8), tc-u32(8), tc-mirred(8).

Linux shapes what an interface sends. What the container receives is what the host's end of the veth sends, so a token
bucket there limits it. What the container sends arrives at the host's end, where packets could only be dropped; an
`ifb` interface takes them and sends them back into the stack, and that sending is shaped. Both ends of the limit are
on the host, where the container cannot change them.
"""

from __future__ import annotations

import errno
from typing import Any

from pyruntime.kernel.netlink import (
    IFF_UP,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    RTM_NEWLINK,
    RTM_NEWQDISC,
    RTM_NEWTFILTER,
    Request,
    RouteSocket,
    load,
)
from pyruntime.network.options import Rate

TC_H_ROOT = 0xFFFFFFFF
TC_H_INGRESS = 0xFFFFFFF1
INGRESS_HANDLE = 0xFFFF0000
ETH_P_ALL_BIG_ENDIAN = 0x0300
LATENCY = 0.1  # seconds that a packet may wait for tokens before later ones are dropped


def limit_sending(route: RouteSocket, name: str, index: int, rate: Rate) -> None:
    """Limit what the interface sends. Raises OSError."""
    tbf = load("netlink.rtnl.tcmsg.sched_tbf")
    bytes_per_second = rate.bits // 8
    options = tbf.get_parameters(
        {
            "rate": bytes_per_second,
            "burst": rate.burst,
            "limit": min(rate.burst + int(bytes_per_second * LATENCY), (1 << 32) - 1),
            "mtu": 0,
        }
    )
    route.send(
        Request(
            f"limit what {name} sends",
            RTM_NEWQDISC,
            {"family": 0, "index": index, "handle": 0x10000, "parent": TC_H_ROOT},
            [("TCA_KIND", "tbf"), ("TCA_OPTIONS", options)],
            flags=NLM_F_CREATE | NLM_F_REPLACE,
        )
    )


def limit_receiving(route: RouteSocket, name: str, index: int, ifb: str, rate: Rate) -> None:
    """Limit what the interface receives, by way of the interface `ifb` that is made for it. Raises OSError."""
    link: list[tuple[str, Any]] = [
        ("IFLA_IFNAME", ifb),
        ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "ifb")]}),
        ("IFLA_IFALIAS", f"what {name} receives"),
    ]
    up = {"flags": IFF_UP, "change": IFF_UP}
    route.send(Request(f"make {ifb}", RTM_NEWLINK, up, link, flags=NLM_F_CREATE | NLM_F_EXCL, unless=(errno.EEXIST,)))
    other = route.link(ifb)["index"]
    limit_sending(route, ifb, other, rate)
    u32 = load("netlink.rtnl.tcmsg.cls_u32")  # matchall would do, but not every kernel has it
    action = {"kind": "mirred", "direction": "egress", "action": "redirect", "ifindex": other}
    every_packet = u32.get_parameters({"keys": ["0x0/0x0+0"], "action": action, "target": 0x10000})
    route.send(
        Request(
            f"catch what {name} receives",
            RTM_NEWQDISC,
            {"family": 0, "index": index, "handle": INGRESS_HANDLE, "parent": TC_H_INGRESS},
            [("TCA_KIND", "ingress")],
            flags=NLM_F_CREATE | NLM_F_EXCL,
            unless=(errno.EEXIST,),
        ),
        Request(
            f"send what {name} receives through {ifb}",
            RTM_NEWTFILTER,
            {"family": 0, "index": index, "parent": INGRESS_HANDLE, "info": (1 << 16) | ETH_P_ALL_BIG_ENDIAN},
            [("TCA_KIND", "u32"), ("TCA_OPTIONS", every_packet)],
            flags=NLM_F_CREATE | NLM_F_EXCL,
            unless=(errno.EEXIST,),
        ),
    )
