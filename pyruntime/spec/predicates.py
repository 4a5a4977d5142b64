"""The regular expressions of `schemas/`, as functions.

`re` costs 6 ms to import, more than all the rest of checking a configuration. `PATTERNS` ties every expression that a
schema uses to the function that decides the same; a property test compares the two, and `compile` refuses a schema
with an expression that is not listed here.
"""

from __future__ import annotations

_DIGITS = frozenset("0123456789")
_CPU_LIST = _DIGITS | frozenset(", -")
_ACCESS = frozenset("rwma")
_IDENTIFIER = _DIGITS | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-")


def non_empty(text: str) -> bool:
    """At least one character."""
    return text != ""


def absolute_path(text: str) -> bool:
    """Begins with a slash."""
    return text[:1] == "/"


def absolute_path_or_empty(text: str) -> bool:
    """Begins with a slash, or is unset in the manner of Go."""
    return text == "" or text[0] == "/"


def one_line(text: str) -> bool:
    """No newline anywhere."""
    return "\n" not in text


def memory_bandwidth(text: str) -> bool:
    """Empty, or one line of a resctrl schemata file for memory bandwidth."""
    return text == "" or (text[:3] == "MB:" and "\n" not in text)


def page_size(text: str) -> bool:
    """A number and one of KB, MB, GB, as in the names of hugetlb control files."""
    number = text[:-2]
    return text[-2:] in ("KB", "MB", "GB") and number[:1] not in ("", "0") and _DIGITS.issuperset(number)


def access_letters(text: str) -> bool:
    """Only letters of rwm, or the a that other runtimes overlook."""
    return _ACCESS.issuperset(text)


def cpu_list_letters(text: str) -> bool:
    """Only characters of a CPU list; `rules.is_list` looks at its form."""
    return _CPU_LIST.issuperset(text)


def file_name(text: str) -> bool:
    """A name inside one directory."""
    return text not in ("", ".", "..") and "/" not in text


def oci_version(text: str) -> bool:
    """SemVer 2.0.0 (semver.org, clauses 2, 9, 10) with major number 1."""
    version, plus, build = text.partition("+")
    if plus and not all(part and _IDENTIFIER.issuperset(part) for part in build.split(".")):
        return False
    core, dash, label = version.partition("-")
    numbers = core.split(".")
    if len(numbers) != 3 or numbers[0] != "1" or not all(map(_number, numbers)):
        return False
    return not dash or all(
        _number(part) if _DIGITS.issuperset(part) else _IDENTIFIER.issuperset(part) for part in label.split(".")
    )


def _number(text: str) -> bool:
    return text != "" and _DIGITS.issuperset(text) and (text == "0" or text[0] != "0")


_END = r"(?![\s\S])"
_LABEL = "(0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_NUMBER = "(0|[1-9][0-9]*)"
_BUILD = "[0-9A-Za-z-]+"

PATTERNS = {
    "^/": absolute_path,
    f"^(/|{_END})": absolute_path_or_empty,
    rf"^[^\n]*{_END}": one_line,
    rf"^(MB:[^\n]*)?{_END}": memory_bandwidth,
    f"^[1-9][0-9]*[KMG]B{_END}": page_size,
    f"^[rwma]*{_END}": access_letters,
    f"^[0-9, -]*{_END}": cpu_list_letters,
    rf"^(?!\.{{1,2}}{_END})[^/]+{_END}": file_name,
    rf"^1\.{_NUMBER}\.{_NUMBER}(-{_LABEL}(\.{_LABEL})*)?(\+{_BUILD}(\.{_BUILD})*)?{_END}": oci_version,
}
