"""`pyruntime-image`: turn an image archive into a bundle, look into it, check it."""

from __future__ import annotations

import signal


def main(argv: list[str]) -> int:
    """Run the program with the arguments `argv` (without its name). Returns the exit status."""
    # Interrupted while it loads, the program ends as any other does, and not with a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from pyruntime.image import commands

    return commands.main(argv)
