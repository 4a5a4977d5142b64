"""`kill`: send a signal."""

from __future__ import annotations

import _signal

from pyruntime.cli.flags import BOOL, Flag, Options, Verb, container_id
from pyruntime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.main import Settings

# Names that signal(7) lists and CPython does not have on every machine.
_OTHER_NAMES = {"SIGCLD": "SIGCHLD", "SIGIOT": "SIGABRT", "SIGPOLL": "SIGIO", "SIGUNUSED": "SIGSYS"}
_STKFLT = 16

REGEX_FLAG = Flag("regex", "treat the id as a regular expression and do it to every container whose id matches",
                  short="r", kind=BOOL)  # fmt: skip


def signal_number(text: str) -> int:
    """The number of a signal given as a number, or by name with or without SIG, in any case, also SIGRTMIN+3.

    Raises RuntimeFailure with the words `unknown signal`.
    """
    if text.isascii() and text.isdigit():
        number = int(text) if len(text) < 4 else -1
        return number if 0 <= number <= _signal.SIGRTMAX else _unknown(text)
    name = text.upper()
    if not name.startswith("SIG"):
        name = "SIG" + name
    for base, sign in (("SIGRTMIN", "+"), ("SIGRTMAX", "-")):
        if name.startswith(base + sign):
            distance = name[len(base) + 1 :]
            if not (distance.isascii() and distance.isdigit() and len(distance) < 4):
                return _unknown(text)
            number = getattr(_signal, base) + int(sign + distance)
            return number if _signal.SIGRTMIN <= number <= _signal.SIGRTMAX else _unknown(text)
    if name == "SIGSTKFLT":
        return _STKFLT
    known = getattr(_signal, _OTHER_NAMES.get(name, name), None)
    # `SIG_DFL` and the like are in that module too.
    return known if isinstance(known, int) and name.isalnum() else _unknown(text)


def _unknown(text: str) -> int:
    raise RuntimeFailure(
        f'unknown signal "{text}": use a number up to {_signal.SIGRTMAX} or a name such as TERM or SIGKILL'
    )


def run(settings: Settings, options: Options) -> int:
    words = options.arguments
    identifier = "" if options.on("regex") else container_id(words[0])
    from pyruntime.container import kill, store

    context = settings.context()
    try:
        signal = signal_number(words[1] if len(words) > 1 and words[1] else "TERM")
    except RuntimeFailure:
        if identifier:
            store.open_container(context.root, identifier)  # that there is no such container is what callers act upon
        raise
    if options.on("regex"):
        from pyruntime.cli import matching

        for matched in matching.containers(context, words[0]):
            kill.kill(context, matched, signal, options.on("all"))
        return 0
    kill.kill(context, identifier, signal, options.on("all"))
    return 0


VERB = Verb(
    "kill",
    "send a signal to a container's init process (default: SIGTERM)",
    run,
    arguments="<container-id> [signal]",
    about="The signal is a number or a name, with or without SIG, in any case: 9, KILL, sigkill, SIGRTMIN+3.",
    examples=(("Send SIGKILL to the container web:", "pyruntime kill web KILL"),),
    flags=(
        Flag("all", "send the signal to every process of the container", short="a", kind=BOOL),
        REGEX_FLAG,
    ),
    minimum=1,
    maximum=2,
)
