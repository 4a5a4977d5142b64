"""The report for people: one HTML file that needs nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def write(data: dict[str, Any], path: Path) -> None:
    """Put the data into the page. `<` is escaped so that no message can end the script element."""
    text = json.dumps(data).replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    page = (HERE / "page.html").read_text(encoding="utf-8")
    style, script = (HERE / "page.css").read_text(encoding="utf-8"), (HERE / "page.js").read_text(encoding="utf-8")
    page = page.replace("/*STYLE*/", style).replace("/*SCRIPT*/", script).replace("/*DATA*/", text)
    path.write_text(page, encoding="utf-8", errors="replace")
