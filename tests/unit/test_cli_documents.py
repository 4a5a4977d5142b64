"""Help, manual pages, the command reference and shell completions: they agree with the tables, and they work."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import pyruntime
from pyruntime.cli import completions, help, manual, reference
from pyruntime.cli.main import GLOBAL_FLAGS, VERBS, load_verb, main
from pyruntime.errors import RuntimeFailure

TREE = Path(pyruntime.__file__).parent.parent
VISIBLE = [verb.name for verb in help.all_verbs()]


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not shutil.which(program), reason=f"{program} is not installed")


def test_every_verb_has_a_module_of_its_name() -> None:
    assert list(VERBS) == sorted(VERBS)
    for name in VERBS:
        assert load_verb(name).name == name
    assert set(VISIBLE) == set(VERBS) - {"init"}


@pytest.mark.parametrize("name", VERBS)
def test_help_fits_a_terminal_and_lists_every_flag(name: str) -> None:
    verb = load_verb(name)
    text = help.verb_help(verb)
    wide = [line for line in text.splitlines() if len(line) > 80]
    assert all(line.startswith("     # ") for line in wide), wide
    assert max(map(len, text.splitlines())) < 100
    for flag in verb.flags:
        assert (f"--{flag.name}" in text) is not flag.hidden
    assert "--help, -h" in text


def test_help_of_the_program_fits_a_terminal_and_lists_every_verb() -> None:
    text = help.program_help()
    assert max(map(len, text.splitlines())) <= 80
    for name in VISIBLE:
        assert f"\n   {name} " in text
    assert "\n   init " not in text
    assert all((f"--{flag.name}" in text) is not flag.hidden for flag in GLOBAL_FLAGS)


def test_the_command_reference_is_up_to_date() -> None:
    written = (TREE / "docs" / "commands.md").read_text(encoding="utf-8")
    assert written == reference.markdown(), "run: python3 -m pyruntime.cli.reference > docs/commands.md"


def test_the_command_reference_is_sound_markdown() -> None:
    for line in reference.markdown().splitlines():
        if line.startswith("| "):
            assert line.replace("\\|", "").count("|") == 3
            assert line.count("`") % 2 == 0


@needs("groff")
@pytest.mark.parametrize("name", ["", *VISIBLE])
def test_manual_pages_are_sound_roff(name: str) -> None:
    verb = load_verb(name) if name else None
    page = manual.page(verb)
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-P-c"], input=page, text=True, capture_output=True, check=True
    )
    assert done.stderr == ""
    text = re.sub(".\b", "", done.stdout)  # bold is written by printing letters over themselves
    title = f"pyruntime-{name}" if name else "pyruntime"
    assert f"{title} - " in " ".join(text.split())
    flags = verb.flags if verb else GLOBAL_FLAGS
    for flag in flags:
        assert (f"--{flag.name}" in text.replace("\u2010", "-")) is not flag.hidden
    for _, command in verb.examples if verb else help.EXAMPLES:
        assert " ".join(command.split()) in " ".join(text.split())


def test_man_writes_all_pages(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "man8"
    assert main(["pyruntime", "man", "--directory", str(directory)]) == 0
    assert sorted(os.listdir(directory)) == sorted(["pyruntime.8", *(f"pyruntime-{name}.8" for name in VISIBLE)])
    assert main(["pyruntime", "man", "kill"]) == 0
    assert capfd.readouterr().out == (directory / "pyruntime-kill.8").read_text(encoding="utf-8")
    assert main(["pyruntime", "man", "nope"]) == 1
    assert main(["pyruntime", "man", "--directory", "/dev/null/x"]) == 1
    assert "/dev/null" in capfd.readouterr().err


def test_completion_of_an_unknown_shell(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["pyruntime", "completion", "tcsh"]) == 1
    assert "there is one for bash, fish, zsh" in capfd.readouterr().err
    with pytest.raises(KeyError):
        completions.script("tcsh")
    with pytest.raises(RuntimeFailure):
        load_verb("completion").run(None, _options("tcsh"))  # type: ignore[arg-type]


def _options(shell: str) -> object:
    from pyruntime.cli.flags import parse

    return parse([shell], ())


@pytest.fixture
def fake(tmp_path: Path) -> dict[str, str]:
    """An environment whose pyruntime knows two containers, and says with which global flags it was called."""
    program = tmp_path / "bin" / "pyruntime"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\necho web\necho other\n')
    program.chmod(0o755)
    return {"PATH": f"{program.parent}:/usr/bin:/bin", "HOME": str(tmp_path), "TERM": "dumb"}


def bash(line: str, environment: dict[str, str]) -> list[str]:
    """What bash offers for the last word of the line."""
    words = line.split(" ")
    script = (
        f"{completions.script('bash')}\nCOMP_WORDS=({' '.join(words) if words[-1] else line + repr('')})\n"
        f"COMP_CWORD={len(words) - 1}\n_pyruntime\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"\n"
    )
    done = subprocess.run(["bash", "-u"], input=script, env=environment, text=True, capture_output=True, check=True)
    assert done.stderr == ""
    return sorted(done.stdout.split())


CASES = [
    ("pyruntime ki", ["kill"]),
    ("pyruntime --systemd-cgroup sta", ["start", "state"]),
    ("pyruntime --root /r st", ["start", "state"]),
    ("pyruntime kill --al", ["--all"]),
    ("pyruntime kill w", ["web"]),
    ("pyruntime --root /r kill w", ["web"]),
    ("pyruntime list --format j", ["json"]),
    ("pyruntime list -f t", ["table"]),
    ("pyruntime --log-format t", ["text"]),
    ("pyruntime completion f", ["fish"]),
    ("pyruntime run --dry", ["--dry-run"]),
    ("pyruntime update --memory-r", ["--memory-reservation"]),
]


@needs("bash")
@pytest.mark.parametrize(("line", "offered"), CASES)
def test_bash_completion(line: str, offered: list[str], fake: dict[str, str]) -> None:
    assert bash(line, fake) == offered


@needs("bash")
def test_bash_completion_of_everything(fake: dict[str, str], tmp_path: Path) -> None:
    assert set(VISIBLE) < set(bash("pyruntime ", fake))
    assert bash("pyruntime --root /r state ", fake) == ["other", "web"]
    assert (tmp_path / "calls").read_text() == "--root /r list --quiet\n"
    assert "web" not in bash("pyruntime run ", fake)
    for name in VISIBLE:
        flags = {f"--{flag.name}" for flag in load_verb(name).flags if not flag.hidden}
        assert flags | {"--help"} == {word for word in bash(f"pyruntime {name} --", fake) if word.startswith("--")}


@needs("fish")
@pytest.mark.parametrize(("line", "offered"), CASES)
def test_fish_completion(line: str, offered: list[str], fake: dict[str, str]) -> None:
    script = completions.script("fish") + f"complete -C '{line}'\n"
    done = subprocess.run(["fish", "--no-config"], input=script, env=fake, text=True, capture_output=True, check=True)
    assert done.stderr == ""
    assert sorted(entry.split("\t")[0] for entry in done.stdout.splitlines()) == offered


@needs("fish")
def test_fish_completion_passes_the_root_on(fake: dict[str, str], tmp_path: Path) -> None:
    script = completions.script("fish") + "complete -C 'pyruntime --debug --root /r state o'\n"
    done = subprocess.run(["fish", "--no-config"], input=script, env=fake, text=True, capture_output=True, check=True)
    assert done.stdout == "other\n"
    assert (tmp_path / "calls").read_text() == "--debug --root /r list --quiet\n"


@needs("zsh")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["kill"],
            ["1:container:_pyruntime_containers", "(--all -a)--all[send the signal to every process of the container]"],
        ),
        (["list"], ["(--format -f)-f[table or json]:format:(table json)"]),
        (["run"], ["--pid-file[write the process id of the container'\\''s init to FILE]:file:_files"]),
        (["exec"], ["*--env[set an environment variable]:name=value: "]),
    ],
)
def test_zsh_completion(words: list[str], expected: list[str], fake: dict[str, str]) -> None:
    """What the script hands to zsh's own _arguments, which does the rest."""
    script = (
        f"_arguments() {{ (( ${{+called}} )) || {{ called=1; state=arguments; line=({' '.join(words)}); return; }}; "
        'print -rl -- "$@"; }\n_describe() { :; }\n' + completions.script("zsh")
    )  # fmt: skip
    done = subprocess.run(["zsh", "-f"], input=script, env=fake, text=True, capture_output=True, check=True)
    assert done.stderr == ""
    for entry in expected:
        assert entry.replace("'\\''", "'") in done.stdout.splitlines()
