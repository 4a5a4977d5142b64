"""The wrapper: `python -m conformance.faults FAULT COMMAND -- ARGUMENTS` behaves like COMMAND, but for the fault."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from conformance.faults.behaviour import Call
from conformance.faults.table import FAULTS


def main() -> int:
    """Apply one fault to one call; returns the exit status of the real runtime unless the fault changes it."""
    fault = FAULTS[sys.argv[1]]
    split = sys.argv.index("--")
    call = Call(sys.argv[2:split], sys.argv[split + 1 :])
    if fault.behaviour:
        return fault.behaviour(call)
    path = Path(call.option("--bundle") or ".", "config.json")
    if fault.edit is None or call.verb != "create" or not path.exists():
        return call.run()
    before = path.read_bytes()
    config = json.loads(before)
    fault.edit(config)
    path.write_text(json.dumps(config))
    try:
        return call.run()
    finally:
        path.write_bytes(before)


if __name__ == "__main__":
    sys.exit(main())
