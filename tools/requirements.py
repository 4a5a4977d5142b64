"""Print what pyproject.toml requires, one requirement a line: `requirements.py test lint` adds those extras.

pip can only install the extras of a project together with the project itself; a checkout is used in place.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def main() -> None:
    with (Path(__file__).parents[1] / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    wanted = list(project["dependencies"])
    for extra in sys.argv[1:]:
        wanted += project["optional-dependencies"][extra]
    print("\n".join(wanted))


main()
