"""The grammar of the command line: what Go's flag package reads, we read, and nothing else gets through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyruntime.cli import flags
from pyruntime.cli.flags import BOOL, NUMBER, TEXT, Flag, Options, UsageError, Verb, parse
from pyruntime.cli.main import GLOBAL_FLAGS, VERBS, load_verb
from pyruntime.errors import RuntimeFailure

TABLE = (
    Flag("bundle", "", short="b"),
    Flag("detach", "", short="d", kind=BOOL),
    Flag("keep", "", kind=BOOL, default=True),
    Flag("preserve-fds", "", kind=NUMBER),
    Flag("status-fd", "", kind=NUMBER, default=-1),
    Flag("env", "", short="e", repeatable=True),
    Flag("additional-gids", "", short="g", kind=NUMBER, repeatable=True),
)
BY_NAME = {flag.name: flag for flag in TABLE}


@pytest.mark.parametrize(
    "words",
    [["-bundle", "/b"], ["--bundle", "/b"], ["--bundle=/b"], ["-bundle=/b"], ["-b", "/b"], ["--b=/b"], ["-b=/b"]],
)
def test_every_spelling_of_a_value(words: list[str]) -> None:
    assert parse([*words, "id"], TABLE).text("bundle") == "/b"


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("-d", True),
        ("--detach", True),
        ("--detach=1", True),
        ("-d=T", True),
        ("--detach=FALSE", False),
        ("-d=f", False),
    ],
)
def test_every_spelling_of_a_boolean(word: str, value: bool) -> None:
    options = parse([word, "id"], TABLE)
    assert options.on("detach") is value
    assert options.given("detach")
    assert options.arguments == ["id"]


def test_defaults() -> None:
    options = parse([], TABLE)
    assert (options.text("bundle"), options.text_or_none("bundle")) == ("", None)
    assert (options.on("detach"), options.on("keep")) == (False, True)
    assert (options.number("preserve-fds"), options.number("status-fd")) == (0, -1)
    assert (options.texts("env"), options.numbers("additional-gids")) == ([], [])
    assert not options.given("keep")


def test_a_boolean_takes_no_second_word() -> None:
    options = parse(["--detach", "false"], TABLE)
    assert options.on("detach")
    assert options.arguments == ["false"]


def test_a_value_may_begin_with_a_dash() -> None:
    assert parse(["--status-fd", "-1"], TABLE).number("status-fd") == -1
    assert parse(["--bundle", "--detach"], TABLE).text("bundle") == "--detach"
    assert not parse(["--bundle", "--detach"], TABLE).on("detach")


def test_values_keep_commas_and_equals_signs() -> None:
    options = parse(["-e", "A=1,2", "--env=B=x=y", "-e="], TABLE)
    assert options.texts("env") == ["A=1,2", "B=x=y", ""]


def test_the_last_one_wins_unless_repeatable() -> None:
    options = parse(["-b", "1", "-g", "1", "-b", "2", "-g", "0x10"], TABLE)
    assert options.text("bundle") == "2"
    assert options.numbers("additional-gids") == [1, 16]


def test_options_after_the_arguments() -> None:
    options = parse(["id", "-d", "9", "--bundle", "/b"], TABLE)
    assert options.on("detach")
    assert options.text("bundle") == "/b"
    assert options.arguments == ["id", "9"]


def test_options_first_passes_the_rest_through() -> None:
    options = parse(["-d", "id", "ls", "-b", "--", "--nothing"], TABLE, options_first=True)
    assert options.on("detach")
    assert options.arguments == ["id", "ls", "-b", "--", "--nothing"]


def test_options_first_keeps_two_dashes() -> None:
    assert parse(["state", "--", "-x"], TABLE, options_first=True).arguments == ["state", "--", "-x"]
    assert parse(["--", "-x"], TABLE, options_first=True).arguments == ["-x"]


def test_two_dashes_end_the_options() -> None:
    options = parse(["-d", "--", "-b", "--bundle=x", "--"], TABLE)
    assert options.arguments == ["-b", "--bundle=x", "--"]
    assert options.text("bundle") == ""


def test_one_dash_is_an_argument() -> None:
    assert parse(["-", "-d"], TABLE).arguments == ["-"]
    assert parse(["--bundle", "-"], TABLE).text("bundle") == "-"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nope"], "flag provided but not defined: -nope"),
        (["-nope=1"], "flag provided but not defined: -nope"),
        (["-bd"], "flag provided but not defined: -bd"),
        (["-b/bundle"], "flag provided but not defined: -b/bundle"),
        (["--bundle"], "flag needs an argument: -bundle"),
        (["-b"], "flag needs an argument: -b"),
        (["--detach=maybe"], 'invalid boolean value "maybe" for -detach: parse error'),
        (["-d="], 'invalid boolean value "" for -d: parse error'),
        (["--preserve-fds", "many"], 'invalid value "many" for flag -preserve-fds: parse error'),
        (["--preserve-fds="], 'invalid value "" for flag -preserve-fds: parse error'),
        (["--preserve-fds", " 1"], 'invalid value " 1" for flag -preserve-fds: parse error'),
        (["--preserve-fds", "\u0661"], 'invalid value "\u0661" for flag -preserve-fds: parse error'),
        (["--preserve-fds", str(1 << 63)], f'invalid value "{1 << 63}" for flag -preserve-fds: parse error'),
        (["---d"], "bad flag syntax: ---d"),
        (["--=x"], "bad flag syntax: --=x"),
        (["-=x"], "bad flag syntax: -=x"),
    ],
)
def test_refusals(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(words, TABLE)
    assert str(caught.value) == message
    assert caught.value.status == 1


def test_a_very_long_number_is_refused_quickly() -> None:
    with pytest.raises(UsageError, match="parse error"):
        parse(["--preserve-fds", "9" * 100_000], TABLE)


@pytest.mark.parametrize(
    ("minimum", "maximum", "count", "wanted"),
    [(1, 1, 0, "exactly 1"), (1, 1, 2, "exactly 1"), (0, 0, 1, "exactly 0"), (1, 2, 0, "a minimum of 1"),
     (1, 2, 3, "a maximum of 2"), (1, None, 0, "a minimum of 1")],
)  # fmt: skip
def test_the_number_of_arguments(minimum: int, maximum: int | None, count: int, wanted: str) -> None:
    verb = Verb("kill", "", lambda settings, options: 0, minimum=minimum, maximum=maximum)
    with pytest.raises(UsageError) as caught:
        verb.check_arguments("pyruntime", count)
    assert str(caught.value) == f'pyruntime: "kill" requires {wanted} argument(s)'
    assert caught.value.complaint == "."


def test_the_right_number_of_arguments() -> None:
    for minimum, maximum, count in ((1, 1, 1), (0, 0, 0), (1, 2, 1), (1, 2, 2), (1, None, 99)):
        verb = Verb("kill", "", lambda settings, options: 0, minimum=minimum, maximum=maximum)
        verb.check_arguments("pyruntime", count)


# What a person may mean: (flag name, value) pairs and arguments, written in any of Go's ways and in any order.
words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
numbers = st.integers(-(1 << 63), (1 << 63) - 1)
arguments = words.filter(lambda word: not word.startswith("-") or word == "-")


@st.composite
def meanings(draw: st.DrawFn) -> list[tuple[str, str | int | bool]]:
    meant: list[tuple[str, str | int | bool]] = []
    for name in draw(st.lists(st.sampled_from([*BY_NAME, ""]), max_size=8)):
        kind = BY_NAME[name].kind if name else ""
        values: dict[str, st.SearchStrategy[str | int | bool]]
        values = {BOOL: st.booleans(), TEXT: words, NUMBER: numbers, "": arguments}
        meant.append((name, draw(values[kind])))
    return meant


@given(meanings(), st.data())
def test_whatever_is_written_is_read_back(meant: list[tuple[str, str | int | bool]], data: st.DataObject) -> None:
    line: list[str] = []
    for name, value in meant:
        if not name:
            line.append(str(value))
            continue
        flag = BY_NAME[name]
        spelled = data.draw(st.sampled_from([name, flag.short] if flag.short else [name]))
        word = data.draw(st.sampled_from(["-", "--"])) + spelled
        if flag.kind is BOOL:
            long = f"{word}={str(value).lower()}"
            line.append(data.draw(st.sampled_from([long, word])) if value else long)
        else:
            line += data.draw(st.sampled_from([[word, str(value)], [f"{word}={value}"]]))
    options = parse(line, TABLE)
    assert options.arguments == [value for name, value in meant if not name]
    for name, flag in BY_NAME.items():
        values = [value for named, value in meant if named == name]
        assert options.given(name) == bool(values)
        if flag.repeatable:
            assert (options.texts(name) if flag.kind is TEXT else options.numbers(name)) == values
        elif values:
            assert _value(options, flag) == values[-1]


def _value(options: Options, flag: Flag) -> str | int | bool:
    if flag.kind is BOOL:
        return options.on(flag.name)
    return options.number(flag.name) if flag.kind is NUMBER else options.text(flag.name)


@given(
    st.lists(
        st.one_of(
            st.text(st.characters(exclude_categories=()), max_size=12),
            st.sampled_from(["-b", "--", "-", "--env", "-d=", "=", "--bundle="]),
        )
    )
)
def test_no_command_line_breaks_the_parser(line: list[str]) -> None:
    for options_first in (False, True):
        try:
            options = parse(line, TABLE, options_first)
        except UsageError as error:
            assert str(error)
        else:
            assert all(word in line for word in options.arguments)


@given(st.text())
def test_a_container_id_is_a_safe_name(text: str) -> None:
    try:
        assert flags.container_id(text) == text
    except RuntimeFailure as error:
        assert "invalid container ID format" in str(error) or "container id cannot be empty" in str(error)
    else:
        assert text.isascii()
        assert not set(text) & set("/\0\n \t\\")
        assert text and text[0] != "."


@pytest.mark.parametrize("text", ["a", "A.b_c+d-9", "-x", "x" * 1024])
def test_good_ids(text: str) -> None:
    assert flags.container_id(text) == text


@pytest.mark.parametrize(
    "text", ["", ".", "..", "...", ".hidden", "a/b", "../x", "a\n", "a b", "é", "a\0", "x" * 1025, "a:b", "\u0661"]
)
def test_bad_ids(text: str) -> None:
    with pytest.raises(RuntimeFailure):
        flags.container_id(text)


@pytest.mark.parametrize("name", [*VERBS, ""])
def test_the_tables_are_sound(name: str) -> None:
    """Every flag of a verb can be told apart, short forms are one letter, and the parser knows what --help lists."""
    table = load_verb(name).flags if name else GLOBAL_FLAGS
    spellings = ["help", "h"]
    for flag in table:
        assert len(flag.short) <= 1
        assert flag.kind in (BOOL, TEXT, NUMBER)
        assert flag.help
        assert flag.kind is BOOL or flag.value, f"--{flag.name} has no word for its value"
        assert isinstance(flag.default, {BOOL: bool, TEXT: str, NUMBER: int}[flag.kind])
        spellings += [flag.name, *([flag.short] if flag.short else [])]
    assert len(spellings) == len(set(spellings))


# Contract: what engines and people write, verb by verb (short forms included).
SENT = {
    "create": "--bundle B --pid-file P --no-pivot --no-new-keyring --preserve-fds 3 --console-socket S "
    "--pidfd-socket Q --no-subreaper --config F ID",
    "run": "-b B -d --keep --no-subreaper --pid-file P --no-pivot --no-new-keyring --preserve-fds=2 --console-socket S "
    "--pidfd-socket Q -f F ID",
    "start": "ID",
    "state": "ID",
    "exec": "--pid-file P --process F --detach --tty --preserve-fds 1 --console-socket S --pidfd-socket Q --cwd / "
    "-e A=B -u 1:2 -g 3 -g 4 --process-label L --apparmor A --no-new-privs -c CAP_KILL --cgroup cpu,cpuacct:x "
    "--ignore-paused ID ls -l",
    "kill": "--all ID 9",
    "delete": "--force ID",
    "list": "-f json -q",
    "ps": "--format json ID -o pid",
    "pause": "ID",
    "resume": "ID",
    "update": "--blkio-weight 10 --cpu-period 1 --cpu-quota 1 --cpu-burst 1 --cpu-share 1 --cpu-rt-period 1 "
    "--cpu-rt-runtime 1 --cpu-idle 1 --cpuset-cpus 0 --cpuset-mems 0 --memory 1 --memory-reservation 1 --memory-swap 1 "
    "--pids-limit 1 --l3-cache-schema x --mem-bw-schema x --kernel-memory 1 --kernel-memory-tcp 1 --resources=- ID",
    "events": "--interval=5s --stats ID",
    "checkpoint": "--image-path I --work-path W --leave-running --tcp-established --file-locks --pre-dump "
    "--parent-path ../D --ext-unix-sk --shell-job --empty-ns network --lazy-pages --status-fd 3 "
    "--page-server 1.2.3.4:5 --auto-dedup --manage-cgroups-mode full --tcp-skip-in-flight --link-remap ID",
    "restore": "--image-path I --work-path W --detach --pid-file P --console-socket S --no-pivot -no-subreaper "
    "--bundle B --no-new-keyring --tcp-established --tcp-close --lsm-profile selinux:x --lsm-mount-context c "
    "--auto-dedup --empty-ns network --ext-unix-sk --shell-job --file-locks --manage-cgroups-mode soft --lazy-pages ID",
    "spec": "--bundle B --rootless",
    "features": "",
}


@pytest.mark.parametrize("name", SENT)
def test_everything_that_engines_send_is_understood(name: str) -> None:
    verb = load_verb(name)
    options = parse(SENT[name].split(), verb.flags, verb.options_first)
    verb.check_arguments("pyruntime", len(options.arguments))
