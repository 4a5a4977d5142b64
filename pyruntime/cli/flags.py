"""The command line's grammar, and the tables that describe it.

Engines write flags the way Go programs read them: `-flag`, `--flag`, `--flag=v`, `--flag v`, `--bool=false`; a short
form is one letter, without a joined value (`-fjson`) and without bundling (`-qf`). `parse()` reads that. What a verb
accepts stands in its module as a `Verb` with `Flag`s, and the same table makes `--help`, the man page, the command
reference and the shell completions.

Every hot verb loads this module; `argparse` alone would cost more than the whole of a `kill`.
"""

from __future__ import annotations

from pyruntime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyruntime.cli.main import Settings

BOOL = "bool"
TEXT = "text"
NUMBER = "number"

# Go's strconv.ParseBool knows exactly these.
_BOOLEANS = {
    "1": True, "t": True, "T": True, "true": True, "True": True, "TRUE": True,
    "0": False, "f": False, "F": False, "false": False, "False": False, "FALSE": False,
}  # fmt: skip

ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+.-")
ID_LENGTH = 1024


class UsageError(RuntimeFailure):
    """The command line itself is wrong: the help of the verb is printed beside the message, and the status is 1.

    `complaint` is what the words `Incorrect Usage` are followed by on standard output.
    """

    def __init__(self, message: str, complaint: str = "") -> None:
        super().__init__(message)
        self.complaint = complaint or f": {message}"


class Flag:
    """One option.

    `short` is one letter or empty; `kind` BOOL, TEXT or NUMBER; `default` what it is when it is not given (a
    repeatable one is a list, empty by default); `value` the word that stands for the value in help texts; `choices`
    words offered by completions (they are not checked here); `hidden` keeps it out of everything that people read.
    """

    __slots__ = ("choices", "default", "help", "hidden", "kind", "name", "repeatable", "short", "value")

    def __init__(
        self,
        name: str,
        help: str,
        *,
        short: str = "",
        kind: str = TEXT,
        default: str | int | bool | None = None,
        value: str = "",
        choices: tuple[str, ...] = (),
        repeatable: bool = False,
        hidden: bool = False,
    ) -> None:
        self.name = name
        self.help = help
        self.short = short
        self.kind = kind
        self.value = value
        self.choices = choices
        self.repeatable = repeatable
        self.hidden = hidden
        if default is None:
            default = "" if kind is TEXT else 0 if kind is NUMBER else False
        self.default = default


HELP = Flag("help", "show this help", short="h", kind=BOOL)


class Options:
    """What a command line said: the values of the flags, and the `arguments` that are not flags, in order."""

    __slots__ = ("_given", "_table", "arguments")

    def __init__(self, table: dict[str, Flag]) -> None:
        self._table = table
        self._given: dict[str, str | int | bool | list[str | int]] = {}
        self.arguments: list[str] = []

    def given(self, name: str) -> bool:
        """Whether the flag stood on the command line, with whatever value."""
        return name in self._given

    def on(self, name: str) -> bool:
        """The value of a BOOL flag."""
        return bool(self._given.get(name, self._table[name].default))

    def text(self, name: str) -> str:
        """The value of a TEXT flag."""
        value = self._given.get(name, self._table[name].default)
        assert isinstance(value, str)
        return value

    def text_or_none(self, name: str) -> str | None:
        """The value of a TEXT flag; None when it is not given, or empty, which means the same to every engine."""
        return self.text(name) or None

    def number(self, name: str) -> int:
        """The value of a NUMBER flag."""
        value = self._given.get(name, self._table[name].default)
        assert isinstance(value, int)
        return value

    def texts(self, name: str) -> list[str]:
        """The values of a repeatable TEXT flag, in the order given."""
        return [str(value) for value in self._all(name)]

    def numbers(self, name: str) -> list[int]:
        """The values of a repeatable NUMBER flag, in the order given."""
        return [int(value) for value in self._all(name)]

    def _all(self, name: str) -> list[str | int]:
        value = self._given.get(name)
        return value if isinstance(value, list) else []

    def _put(self, flag: Flag, value: str | int | bool) -> None:
        if not flag.repeatable:
            self._given[flag.name] = value  # the last one wins, as in Go
            return
        values = self._given.setdefault(flag.name, [])
        assert isinstance(values, list)
        values.append(value)


class Verb:
    """One verb: how it is called, what it says about itself, and `run`, which does it and returns the exit status.

    `minimum` and `maximum` count the arguments (maximum None: any number). With `options_first` everything after the
    first argument is passed through: `exec ID ls -l` must not take the `-l`.
    """

    __slots__ = ("about", "arguments", "examples", "flags", "hidden", "maximum", "minimum", "name", "options_first",
                 "run", "summary")  # fmt: skip

    def __init__(
        self,
        name: str,
        summary: str,
        run: Callable[[Settings, Options], int],
        *,
        arguments: str = "",
        about: str = "",
        examples: tuple[tuple[str, str], ...] = (),
        flags: tuple[Flag, ...] = (),
        minimum: int = 0,
        maximum: int | None = 0,
        options_first: bool = False,
        hidden: bool = False,
    ) -> None:
        self.name = name
        self.summary = summary
        self.run = run
        self.arguments = arguments
        self.about = about
        self.examples = examples
        self.flags = flags
        self.minimum = minimum
        self.maximum = maximum
        self.options_first = options_first
        self.hidden = hidden

    def check_arguments(self, program: str, count: int) -> None:
        """Raise UsageError when `count` arguments are too few or too many."""
        if self.minimum == self.maximum:
            wanted = f"exactly {self.minimum}" if count != self.minimum else ""
        elif count < self.minimum:
            wanted = f"a minimum of {self.minimum}"
        elif self.maximum is not None and count > self.maximum:
            wanted = f"a maximum of {self.maximum}"
        else:
            wanted = ""
        if wanted:
            raise UsageError(f'{program}: "{self.name}" requires {wanted} argument(s)', ".")


def parse(words: Sequence[str], flags: tuple[Flag, ...], options_first: bool = False) -> Options:
    """Read a command line. `--help` and `-h` are always understood: `options.on("help")`.

    Raises UsageError with the texts that engines and scripts look for.
    """
    table = {"help": HELP, "h": HELP}
    for flag in flags:
        table[flag.name] = flag
        if flag.short:
            table[flag.short] = flag
    options = Options(table)
    arguments = options.arguments
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if word == "--":
            arguments += words[index:]
            break
        if word[:1] != "-" or word == "-":
            arguments.append(word)
            if options_first:
                arguments += words[index:]
                break
            continue
        body = word[2:] if word[:2] == "--" else word[1:]
        if body[:1] in ("-", "="):
            raise UsageError(f"bad flag syntax: {word}")
        name, equals, value = body.partition("=")
        known = table.get(name)
        if known is None:
            raise UsageError(f"flag provided but not defined: -{name}")
        if known.kind is BOOL:
            if equals and value not in _BOOLEANS:
                raise UsageError(f'invalid boolean value "{value}" for -{name}: parse error')
            options._put(known, _BOOLEANS[value] if equals else True)
            continue
        if not equals:
            if index == len(words):
                raise UsageError(f"flag needs an argument: -{name}")
            value = words[index]
            index += 1
        options._put(known, value if known.kind is TEXT else _integer(name, value))
    return options


def _integer(name: str, text: str) -> int:
    """A number as Go's flag package reads it: decimal, 0x, 0o or 0b, of 64 bits. Python's int() would also take
    blanks and the digits of every script."""
    if text.isascii() and text.strip() == text:
        try:
            number = int(text, 0)
        except ValueError:
            pass
        else:
            if -(1 << 63) <= number < 1 << 63:
                return number
    raise UsageError(f'invalid value "{text}" for flag -{name}: parse error')


def boolean(text: str) -> bool | None:
    """Go's spellings of true and false; None for anything else."""
    return _BOOLEANS.get(text)


def container_id(text: str) -> str:
    """Return the id as it is, or raise RuntimeFailure: it becomes the name of a directory and of a cgroup.

    A comparison of characters and not a regular expression, whose `$` would let a final newline through.
    """
    if not text:
        raise RuntimeFailure("container id cannot be empty")
    if len(text) > ID_LENGTH:
        raise RuntimeFailure(
            f"invalid container ID format: {len(text)} characters are too many, the limit is {ID_LENGTH}"
        )
    if text[0] == "." or not ID_CHARACTERS.issuperset(text):
        # A name with a leading dot is one of our own files in the state directory, or `.` or `..`.
        raise RuntimeFailure(
            f"invalid container ID format: {text}: use letters, digits and the characters _+.-, no dot in front; there "
            "is an invalid character in the container ID"
        )
    return text
