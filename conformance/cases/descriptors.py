"""File descriptors and links below /dev: runtime-linux.md."""

from __future__ import annotations

import os
import subprocess

from conformance.outcome import equal, require, skip
from conformance.registry import case, each
from conformance.stage import Stage

LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}


@case("fds.stdio-only")
def only_stdio_is_open(stage: Stage) -> None:
    """The program starts with descriptors 0, 1 and 2, even if the caller of the runtime had more open."""
    reader, writer = os.pipe()
    try:
        stage.script("ls /proc/$$/fd; :")
        stage.create(pass_fds=(reader, writer))
    finally:
        os.close(reader)
        os.close(writer)
    stage.start()
    # The shell itself may hold a script descriptor (10 and up); a leak of the runtime has a low number.
    seen = sorted(int(word) for word in stage.finish().split() if int(word) < 10)
    equal(seen, [0, 1, 2], "open descriptors")


@case("fds.extra")
def more_descriptors_can_be_passed(stage: Stage) -> None:
    """--preserve-fds hands descriptor 3 to the program."""
    note = stage.dir / "note"
    note.write_text("from outside\n")
    stage.script("cat <&3")
    result = stage.create("--preserve-fds", "1", ok=False, shell=f"exec 3< {note}")
    if not result.ok:
        skip(f"this runtime passes no further descriptors: {result.message}")
    stage.start()
    equal(stage.finish(), "from outside\n", "what the program read from descriptor 3")


@case("fds.devnull")
def closed_stdin_is_no_problem(stage: Stage) -> None:
    """With standard input at /dev/null the program has all three descriptors open."""
    stage.script("for n in 0 1 2; do test -e /proc/self/fd/$n && echo $n; done; cat | wc -c")
    stage.create(stdin=subprocess.DEVNULL)
    stage.start()
    equal(stage.finish().split(), ["0", "1", "2", "0"], "open descriptors, and bytes read from standard input")


@each({f"dev.symlink.{name}": (name,) for name in LINKS})
def dev_links_are_there(stage: Stage, name: str) -> None:
    """/dev/NAME is a symbolic link to exactly the path the specification gives."""
    equal(stage.sh(f"readlink /dev/{name}"), LINKS[name] + "\n", f"/dev/{name}")


@case("dev.symlink.fd")
def links_work(stage: Stage) -> None:
    """The links lead to the descriptors of the program."""
    output = stage.sh("echo to stdout >> /dev/stdout; echo in | cat /dev/stdin; ls -d /dev/fd/0")
    require(output == "to stdout\nin\n/dev/fd/0\n", f"through the links came {output!r}")
