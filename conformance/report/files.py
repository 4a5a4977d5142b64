"""The report for programs: JSON, junit XML and TAP."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from conformance import requirements

# XML 1.0 knows no control characters, not even escaped; messages of runtimes may hold some.
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def write_json(data: dict[str, Any], path: Path) -> None:
    """All of it, as the page has it."""
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def clean(text: str) -> str:
    """Text that may stand in XML."""
    return FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)


def write_junit(data: dict[str, Any], path: Path) -> None:
    """One suite per runtime, one test case per case; the requirements stand in the properties of the test case."""
    known = requirements.load()
    top = ElementTree.Element("testsuites", name="OCI conformance")
    for runtime in data["runtimes"]:
        counts = runtime["case_totals"]
        programs = [program for program in data["upstream"] if program["runtime"] == runtime["name"]]
        unclean = sum(program["verdict"] not in ("clean", "silent") for program in programs)
        suite = ElementTree.SubElement(
            top,
            "testsuite",
            name=runtime["name"],
            tests=str(len(runtime["cases"]) + len(programs)),
            failures=str(counts.get("failed", 0) + unclean),
            skipped=str(counts.get("skipped", 0)),
            time=str(runtime["seconds"]),
        )
        for row in runtime["cases"]:
            module, _, name = row["case"].partition("::")
            element = ElementTree.SubElement(
                suite, "testcase", classname=f"{runtime['name']}.{module}", name=name, time=f"{row['seconds']:.3f}"
            )
            properties = ElementTree.SubElement(element, "properties")
            for one in row["ids"]:
                ElementTree.SubElement(properties, "property", name="requirement", value=one)
            if row["verdict"] != "passed":
                tag = "failure" if row["verdict"] == "failed" else "skipped"
                verdict = ElementTree.SubElement(element, tag, message=clean(row["reason"]))
                verdict.text = "\n".join(f"{known[one].text} ({known[one].link})" for one in row["ids"])
        for program in programs:
            element = ElementTree.SubElement(
                suite,
                "testcase",
                classname=f"{runtime['name']}.upstream",
                name=program["program"],
                time=f"{program['seconds']:.3f}",
            )
            if program["verdict"] not in ("clean", "silent"):
                ElementTree.SubElement(element, "failure", message=clean(program["reason"]))
    ElementTree.indent(top)
    ElementTree.ElementTree(top).write(path, encoding="utf-8", xml_declaration=True)


def write_tap(data: dict[str, Any], path: Path) -> None:
    """TAP version 13, one line per runtime and case, reasons as comments."""
    lines = ["TAP version 13"]
    number = 0
    for runtime in data["runtimes"]:
        for row in runtime["cases"]:
            number += 1
            word = "not ok" if row["verdict"] == "failed" else "ok"
            name = f"{runtime['name']} {row['case']}".replace("#", "\\#")
            reason = " ".join(row["reason"].split())
            lines.append(f"{word} {number} - {name}" + (f" # SKIP {reason}" if row["verdict"] == "skipped" else ""))
            if row["verdict"] == "failed":
                lines.append(f"# {reason}")
        for program in data["upstream"]:
            if program["runtime"] == runtime["name"]:
                number += 1
                word = "ok" if program["verdict"] in ("clean", "silent") else "not ok"
                counts = f"{program['ok']} ok, {program['not_ok']} not ok"
                lines.append(f"{word} {number} - {runtime['name']} upstream::{program['program']} {program['verdict']}")
                lines.append(f"# {counts}; {' '.join(program['reason'].split())}")
    lines.insert(1, f"1..{number}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="replace")
