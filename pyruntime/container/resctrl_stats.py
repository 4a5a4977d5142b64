"""What resctrl tells about a container: the part `intel_rdt` of `events --stats`, with the names that runc gave it."""

from __future__ import annotations

import os

from pyruntime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# (key in the output, resource, files of info/RESOURCE)
_LIMITS = (
    ("l3_cache", "L3", ("cbm_mask", "min_cbm_bits", "num_closids")),
    ("mem_bw", "MB", ("bandwidth_gran", "delay_linear", "min_bandwidth", "num_closids")),
)
# (key in the output, files of mon_data/DOMAIN)
_COUNTERS = (("mbm_stats", ("mbm_total_bytes", "mbm_local_bytes")), ("cmt_stats", ("llc_occupancy",)))


def read(saved: dict[str, Any]) -> dict[str, Any]:
    """Schemata and counters of the class of service in `saved`, what `resctrl.plan` returned. Raises RuntimeFailure.

    Without a monitoring group of its own the counters are those of everybody in the class.
    """
    root, group = saved["root"], saved["group"]
    try:
        ours, all_of_it = _lines(f"{group}/schemata"), _lines(f"{root}/schemata")
        found: dict[str, Any] = {"schemata": ours}
        for key, resource, files in _LIMITS:
            info = f"{root}/info/{resource}"
            if os.path.isdir(info):
                found[f"{key}_info"] = {name: _value(f"{info}/{name}") for name in files}
                found[f"{key}_schema_root"] = _line_of(resource, all_of_it)
                found[f"{key}_schema"] = _line_of(resource, ours)
        if os.path.exists(f"{root}/info/L3_MON/mon_features"):
            known = _lines(f"{root}/info/L3_MON/mon_features")
            domains = f"{saved['monitoring'] or group}/mon_data"
            for key, names in _COUNTERS:
                counters = [name for name in names if name in known]
                if counters:
                    found[key] = [
                        {name: value for name in counters if _is_number(value := _value(f"{domains}/{domain}/{name}"))}
                        for domain in sorted(os.listdir(domains))
                    ]
    except OSError as error:
        raise RuntimeFailure(f"cannot read {error.filename}: {error.strerror}") from error
    return found


def _lines(path: str) -> list[str]:
    with open(path, encoding="ascii", errors="replace") as file:
        return [line.strip() for line in file.read().split("\n") if line.strip()]


def _line_of(resource: str, lines: list[str]) -> str:
    """L3 also matches L3DATA and L3CODE, which take its place where code and data are told apart."""
    return next((line for line in lines if line.startswith(resource)), "")


def _is_number(value: int | str) -> bool:
    """The kernel says "Unavailable" or "Error" while it has no count."""
    return isinstance(value, int)


def _value(path: str) -> int | str:
    """A number; a mask is hexadecimal and stays text."""
    text = "".join(_lines(path)[:1])
    return int(text) if text.isdigit() and not path.endswith("/cbm_mask") else text
