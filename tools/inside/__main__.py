"""Print what breaks a rule, one line each."""

from __future__ import annotations

import sys
from pathlib import Path

from tools.inside import check, code, fixed

TOP = Path(__file__).resolve().parents[2]


def main() -> int:
    program = code.Program(code.read(TOP))
    complaints = [*check.complaints(program), *fixed.complaints(TOP, program)]
    for complaint in complaints:
        print(complaint)
    count = len(program.inside())
    print(f"{count} functions may run inside a container, {len(complaints)} complaints", file=sys.stderr)
    return 1 if complaints else 0


sys.exit(main())
