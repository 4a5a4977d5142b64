"""The same command lines to this runtime and to a real runc, side by side: status, message, and what kind of help.

Only command lines that end before there is a container, so it needs no root. Skipped where no runc is installed.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import pyruntime

LAUNCHER = Path(pyruntime.__file__).parent.parent / "bin" / "pyruntime"
RUNC = shutil.which("runc") or ""

pytestmark = pytest.mark.skipif(not RUNC, reason="there is no runc to compare with")

LINE = re.compile(r'time="[^"]+" level=error msg=(?:"((?:[^"\\]|\\.)*)"|(\S+))\n')


def call(program: str, words: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin"}
    return subprocess.run(
        [program, *words], cwd=directory, env=environment, text=True, capture_output=True, check=False, timeout=60
    )


def message(text: str) -> str:
    """The message of the one log line on standard error, without the things that may differ."""
    found = LINE.fullmatch(text)
    assert found, f"not one log line: {text!r}"
    return neutral((found[1] or found[2] or "").replace("\\n", "").replace('\\"', '"'))


def neutral(text: str) -> str:
    """The program is named as it was started."""
    return text.replace(RUNC + ":", "RT:").replace("pyruntime:", "RT:")


def heading(text: str) -> str:
    """How standard output begins: the complaint, or what the help is about."""
    first = text.partition("\n")[0]
    if first == "NAME:":
        return re.sub("runc|pyruntime", "RT", text.split("\n")[1].partition(" - ")[0])
    return first.replace("Incorrect Usage. ", "Incorrect Usage: ")  # runc has both forms


# One command line per line; the first is empty.
LINES = """
help
-h
--help
-help
h
help kill
h kill
-h kill
kill -h
kill --help
checkpoint --help
restore -help
update --help
kill --help nope
nope
help nope
nope --help
--nope
--nope state x
--root
-x
--root=R --debug=maybe state x
--debug=x list
--root R state
--root R state a b
--root R state a
--root R state -- a
--root R state -- -x
--root R state --nope a
--root R state -
--root R state a -- b
--root R start a
--root R pause a
--root R resume a
--root R delete a
--root R delete -f a
--root R delete a --force
--root R delete --force=0 a
--root R delete --force=maybe a
--root R delete
--root R kill
--root R kill a
--root R kill a KILL
--root R kill --all a 9
--root R kill a 9 --all
--root R kill a b c
--root R ps
--root R ps a -ef
--root R ps a --format json
--root R ps -f json a
--root R exec
--root R exec a ls
--root R exec -t -e A=B a ls -l
--root R exec --process
--root R exec --nope a
--root R exec a --nope
--root R list extra
--root R list -qf
--root R list -fjson
--root R list -f
run
run ---x
run --=x
run -=x
run --bundle
run -b
run --preserve-fds many a
run a b
create
create --pid-file
create --preserve-fds= a
create --no-pivot=perhaps a
--root R run -b . a
--root R create a
--root R run --detach a
--root R run a --detach -b=.
events --interval 5 a
events --interval x a
events
update --pids-limit x a
update
update --resources
checkpoint --status-fd x a
restore --lsm-mount-context
restore
spec extra
features extra
--log-format xml state a
--log-format= --root R state a
--log-format text --root R state a
--log /nonexistent/log --root R state a
--log= --root R state a
--root R --systemd-cgroup state a
--root R -systemd-cgroup=false --rootless=true --criu /x state a
--log-format json --root R state
--root R --log L state a
"""


# These reach a part of the container room of their own.
ROOMS = {
    "events": ("--root R events --stats a",),
    "update": ("--root R update a", "--root R update --memory 1m a"),
    "checkpoint": ("--root R checkpoint a",),
}


@pytest.mark.parametrize(("room", "line"), [(room, line) for room, lines in ROOMS.items() for line in lines])
def test_like_runc_in_the_room(room: str, line: str, tmp_path: Path) -> None:
    pytest.importorskip(f"pyruntime.container.{room}")
    test_like_runc(line, tmp_path)


@pytest.mark.parametrize("line", LINES.rstrip().split("\n"))
def test_like_runc(line: str, tmp_path: Path) -> None:
    theirs = call(RUNC, line.split(), tmp_path)
    ours = call(str(LAUNCHER), line.split(), tmp_path)
    assert ours.returncode == theirs.returncode
    assert heading(ours.stdout) == heading(theirs.stdout)
    assert bool(ours.stderr) == bool(theirs.stderr)
    if theirs.stderr.startswith("{"):
        mine, other = json.loads(ours.stderr), json.loads(theirs.stderr)
        assert mine.keys() == other.keys()
        assert mine["level"] == other["level"]
        assert neutral(mine["msg"]) == neutral(other["msg"])
    elif "--log L" in line:
        assert ours.stderr == theirs.stderr
        written = (tmp_path / "L").read_text().splitlines(keepends=True)
        assert message(written[0]) == message(written[1])
    elif theirs.stderr:
        assert message(ours.stderr) == message(theirs.stderr)


def test_version_has_the_lines_of_runc(tmp_path: Path) -> None:
    theirs = call(RUNC, ["--version"], tmp_path).stdout.splitlines()
    ours = call(str(LAUNCHER), ["-v"], tmp_path).stdout.splitlines()
    assert ours == call(str(LAUNCHER), ["-V"], tmp_path).stdout.splitlines()
    assert theirs[0].split()[1] == ours[0].split()[1] == "version"
    keys = {line.split(":")[0] for line in ours[1:]}
    assert "spec" in keys
    assert "spec" in {line.split(":")[0] for line in theirs[1:]}
