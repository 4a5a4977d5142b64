"""`bench/run.py` end to end, as short as it can be: it must not rot between two comparisons."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from support.runtime import LAUNCHER, REPOSITORY

LIFE = "create+start+kill+delete"


def test_a_comparison_measures_each_runtime_and_leaves_nothing(program: str, tmp_path: Path) -> None:
    if program != str(LAUNCHER):
        pytest.skip("compares pyruntime with whatever is there")
    (tmp_path / "other").symlink_to(LAUNCHER)
    before = set(Path("/var/tmp").glob("bench-*"))
    command = ["/usr/bin/python3", "bench/run.py", "--runtime", f"third={tmp_path / 'other'}", "--base", "third"]
    command += ["--only", "verbs", "--rounds", "1", "--json", str(tmp_path / "all.json")]
    told = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120)
    assert told.returncode == 0, told.stderr
    document = json.loads((tmp_path / "all.json").read_text())
    assert document["base"] == "third"
    assert {"third", "pyruntime", "pyruntime+seal"} <= set(document["runtimes"])
    for title in ("verbs, plain bundle", "verbs, podman's bundle", "verbs, containerd's bundle"):
        for name in document["runtimes"]:
            (create,), (life,) = (document["results"][title][f"{one} ms"][name] for one in ("create", LIFE))
            assert 0 < create < life
        assert f"\n{title}\n" in told.stdout
    assert set(Path("/var/tmp").glob("bench-*")) <= before
    assert "/bench-" not in Path("/proc/self/mountinfo").read_text()
