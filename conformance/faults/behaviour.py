"""Faults of a runtime that does or says the wrong thing: each is a function that stands in for the real runtime."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Global options that are followed by a value.
WITH_VALUE = {"--root", "--log", "--log-format", "--cgroup-manager", "--rootless", "--criu"}


class Call:
    """One call of the runtime: its command, the arguments, and what they mean."""

    def __init__(self, command: list[str], arguments: list[str]) -> None:
        self.command = command
        self.arguments = arguments
        place = 0
        while place < len(arguments) and arguments[place].startswith("-"):
            place += 2 if arguments[place] in WITH_VALUE else 1
        self.place = place
        self.verb = arguments[place] if place < len(arguments) else ""
        self.id = arguments[-1] if place + 1 < len(arguments) else ""
        if self.verb == "kill" and len(arguments) > place + 2:
            self.id = arguments[-2]

    def option(self, name: str) -> str:
        """Value of an option, or the empty string."""
        return self.arguments[self.arguments.index(name) + 1] if name in self.arguments else ""

    def run(self, *arguments: str, **more: Any) -> int:
        """Call the real runtime, with the same arguments unless others are given; returns the exit status."""
        return subprocess.run([*self.command, *(arguments or self.arguments)], check=False, **more).returncode

    def ask(self, *arguments: str) -> tuple[int, str]:
        """Call the real runtime and return exit status and output."""
        command = [*self.command, *(arguments or self.arguments)]
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
        return done.returncode, done.stdout


Behaviour = Callable[[Call], int]


def always_succeeds(verb: str) -> Behaviour:
    """An operation that never reports an error."""

    def behave(call: Call) -> int:
        status = call.run()
        return 0 if call.verb == verb else status

    return behave


def unsupported(verb: str) -> Behaviour:
    """An operation that does not exist."""

    def behave(call: Call) -> int:
        if call.verb == verb:
            print(f"no such command: {verb}", file=sys.stderr)
            return 1
        return call.run()

    return behave


def extra(verb: str, *words: str) -> Behaviour:
    """An operation that is always called with further arguments."""

    def behave(call: Call) -> int:
        if call.verb != verb:
            return call.run()
        return call.run(*call.arguments[: call.place + 1], *words, *call.arguments[call.place + 1 :])

    return behave


def changed(verb: str, name: str, value: Any) -> Behaviour:
    """An operation whose JSON output has another value."""

    def behave(call: Call) -> int:
        if call.verb != verb:
            return call.run()
        status, output = call.ask()
        if status == 0:
            print(json.dumps(json.loads(output) | {name: value}))
        return status

    return behave


def refuses(word: str) -> Behaviour:
    """A runtime that refuses every configuration in which a word occurs."""

    def behave(call: Call) -> int:
        bundle = call.option("--bundle")
        if call.verb == "create" and word in Path(bundle, "config.json").read_text():
            print(f"unknown property {word}", file=sys.stderr)
            return 1
        return call.run()

    return behave


def takes_another_file(call: Call) -> int:
    """Without config.json, take config.yaml."""
    bundle = Path(call.option("--bundle") or ".")
    config, other = bundle / "config.json", bundle / "config.yaml"
    if call.verb == "create" and not config.exists() and other.exists():
        other.rename(config)
        try:
            return call.run()
        finally:
            config.rename(other)
    return call.run()


def mangles_text(call: Call) -> int:
    """Read config.json as if it were ASCII."""
    bundle = Path(call.option("--bundle") or ".")
    if call.verb != "create":
        return call.run()
    config = bundle / "config.json"
    before = config.read_bytes()
    config.write_bytes(bytes(byte if byte < 128 else ord("?") for byte in before))
    try:
        return call.run()
    finally:
        config.write_bytes(before)


def starts_at_once(call: Call) -> int:
    """create starts the program too."""
    status = call.run()
    if call.verb == "create" and status == 0:
        call.run(*call.arguments[: call.place], "start", call.id)
    return status


def leaves_litter(call: Call) -> int:
    """A failed create leaves its state directory."""
    status = call.run()
    if call.verb == "create" and status != 0:
        Path(call.option("--root"), call.id).mkdir(parents=True, exist_ok=True)
    return status


def leaks_a_descriptor(call: Call) -> int:
    """The program gets a descriptor of the runtime."""
    if call.verb != "create":
        return call.run()
    if os.open("/dev/null", os.O_RDONLY) != 3:
        os.dup2(0, 3)
    os.set_inheritable(3, True)
    words = (*call.arguments[: call.place + 1], "--preserve-fds", "1", *call.arguments[call.place + 1 :])
    return call.run(*words, close_fds=False)


def sends_another_signal(call: Call) -> int:
    """kill always sends KILL."""
    if call.verb != "kill":
        return call.run()
    return call.run(*call.arguments[:-1], "KILL")


def knows_everybody(call: Call) -> int:
    """state of a container nobody knows is an empty one."""
    status = call.run()
    if call.verb == "state" and status != 0:
        print("{}")
        return 0
    return status


def hands_over_cgroups(call: Call) -> int:
    """The cgroup of the container is given to an unprivileged user."""
    status = call.run()
    if call.verb == "create" and status == 0:
        for folder in Path("/sys/fs/cgroup").glob(f"*/{call.id}"):
            os.chown(folder, 100000, 100000)
    return status


def forgets_to_delete(call: Call) -> int:
    """delete removes nothing and says that all is well."""
    return 0 if call.verb == "delete" and "--force" not in call.arguments else call.run()
