"""The checker of the hot path against jsonschema, on the same schemas: they accept and refuse the same documents."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support import configs

from pyruntime.errors import SpecError
from pyruntime.spec import checker, compile, load, names, predicates, table, validate

# Through JSON, so that no two places are one object.
CORPUS = [json.loads(json.dumps(make())) for make in configs.ALL]

# What a mutation puts somewhere: wrong types, edges of ranges, words of enumerations, almost-matches of patterns.
EDGES = [0, 1, -1, -2, 5, 6, 7, 8, 9, 10, 100, 101, 511, 512, 1000, 1001, 65535, 65536, 4294967294, 4294967295, 2**32]
EDGES += [-1000, -1001, 999999999, 10**9, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**30]
STRINGS = [
    "",
    "/",
    "/x",
    "x",
    "/x\n",
    "\n",
    "r",
    "rwm",
    "rwmx",
    "mm\n",
    "0-3,7",
    "0-3,7\n",
    "MB:0=1",
    "MB:0=1\n",
    "MB:",
]
STRINGS += ["2MB", "02MB", "MB", "2TB", "2MB\n", "٣MB", ".", "..", "...", "a/b", "a", "c", "p", "linux", "user", "time"]
STRINGS += ["1.0.0", "1.3.0+dev", "1.0.2-dev", "1.0.0-rc.1", "1.0.0-01", "2.0.0", "1.0", "1.0.0\n", "01.0.0", "1.0.0+"]
OTHERS: list[Any] = [None, True, False, 1.0, 0.0, 1e2, -1.5, [], {}, [None], [1], [""], ["/x", 1], {"": ""}, {"x": 1}]
OTHERS += [{"x": "y"}, {"monotonic": {}}, {"realtime": {}}, [[]], [{}]]

VALUES = st.sampled_from(EDGES) | st.sampled_from(STRINGS) | st.sampled_from(OTHERS).map(copy.deepcopy)


@functools.cache
def validator(schema: str = "config.json") -> Any:
    return validate.validator(schema)


def check(document: object, node: checker.Node = table.CONFIG) -> list[SpecError]:
    found: list[SpecError] = []
    checker.check(node, document, "", found)
    return found


def agree(document: object, node: checker.Node = table.CONFIG, schema: str = "config.json") -> bool:
    """Whether the document is valid, by both."""
    expected = validate.schema_problems(document, schema, validator(schema))
    found = check(document, node)
    assert sorted({_place(problem) for problem in found}) == sorted({_place(problem) for problem in expected})
    for problem in (*found, *expected):
        assert str(problem).isprintable() or "\\u" in str(problem)
    return not found


def _place(problem: SpecError) -> str:
    # jsonschema reports a wrong name at its object, the checker at the member.
    return re.sub(r'(\.[^.\[\]]+|\["[^\]]*\]) \(the name\)$', "", problem.path)


def places(value: object, first: int = 4, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The paths of everything in a document, but of the `first` entries only of every array: the rest is alike."""
    found = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value[:first]) if isinstance(value, list) else ()
    for key, item in items:
        found += places(item, first, (*path, key))
    return found


PLACES = [places(document) for document in CORPUS]


def holder(document: Any, path: tuple[str | int, ...]) -> Any:
    for step in path[:-1]:
        document = document[step]
    return document


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """A configuration with one to three places changed, removed or added."""
    index = draw(st.integers(0, len(CORPUS) - 1))
    document: Any = copy.deepcopy(CORPUS[index])
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(PLACES[index]))
        try:
            parent = holder(document, path)
            if not path:
                return draw(VALUES)
            what = draw(st.sampled_from(["change", "change", "change", "remove", "add"]))
            if what == "change":
                parent[path[-1]] = draw(VALUES)
            elif what == "remove":
                del parent[path[-1]]
            elif isinstance(parent, list):
                parent.append(draw(VALUES))
            else:
                parent[draw(st.sampled_from(["", "x", "realtime", "a b", "path", "type"]))] = draw(VALUES)
        except (KeyError, IndexError, TypeError):  # an earlier change took the place away
            pass
    return document


@pytest.mark.parametrize("make", configs.ALL, ids=lambda make: make.__name__)
def test_valid_configurations_are_valid(make: Any) -> None:
    assert agree(make())
    assert load.problems(make()) == []


@settings(max_examples=600, deadline=None)
@given(mutated())
def test_the_checker_and_jsonschema_agree(document: Any) -> None:
    agree(document)


@settings(max_examples=2000, deadline=None)
@given(mutated())
def test_no_document_makes_a_rule_fail(document: Any) -> None:
    found = load.problems(document)
    assert [str(problem) for problem in found[: len(check(document))]] == [str(problem) for problem in check(document)]


def test_no_missing_or_odd_property_makes_a_rule_fail() -> None:
    for original in CORPUS:
        document = copy.deepcopy(original)
        for path in places(document, first=2)[1:]:
            parent = holder(document, path)
            before = copy.copy(parent)
            for value in (None, "", "x", 7, True, [], {}, [None], {"": None}, 2**70):
                parent[path[-1]] = value
                load.problems(document)
            del parent[path[-1]]
            load.problems(document)
            if isinstance(parent, list):
                parent[:] = before
            else:
                parent.clear()
                parent.update(before)
        assert document == original


def test_every_single_change_is_judged_alike() -> None:
    """Each place of the configuration with everything, with values of other types, in turn."""
    document = copy.deepcopy(CORPUS[-1])
    values: Iterator[Any] = itertools.cycle((None, "x", 7, 1.0, True, [], "", -1, {}, 2**64, "/x\n"))
    refused = 0
    for path in places(document, first=1)[1:]:
        parent = holder(document, path)
        before = parent[path[-1]]
        for value in itertools.islice(values, 4):
            parent[path[-1]] = value
            refused += not agree(document)
        parent[path[-1]] = before
    assert refused > 300


def test_every_missing_property_is_judged_alike() -> None:
    complete = CORPUS[-1]
    refused = set()
    for path in places(complete, first=1)[1:]:
        document = copy.deepcopy(complete)
        del holder(document, path)[path[-1]]
        if not agree(document):
            refused.add(path[-1])
    assert {"ociVersion", "root", "path", "destination", "cwd", "args", "type", "soft", "hard"} < refused
    assert {"policy", "class", "priority", "containerID", "hostID", "size", "allow", "major", "rate"} < refused
    assert {"pageSize", "limit", "defaultAction", "names", "action", "index", "value", "op", "mode", "domain"} < refused
    assert (
        not {"process", "linux", "mounts", "env", "user", "uid", "gid", "options", "errnoRet", "valueTwo", "source"}
        & refused
    )


@settings(max_examples=100, deadline=None)
@given(mutated())
def test_sections_by_themselves_are_judged_alike(document: Any) -> None:
    assume(isinstance(document, dict))
    agree(document.get("process"), table.PROCESS, "process.json")
    linux = document.get("linux")
    agree(linux.get("resources") if isinstance(linux, dict) else None, table.RESOURCES, "resources.json")


def test_the_table_is_up_to_date() -> None:
    assert compile.TABLE.read_text(encoding="utf-8") == compile.compile_schemas(), (
        "run python -m pyruntime.spec.compile"
    )


def test_the_compiler_refuses_what_it_does_not_know() -> None:
    schema: dict[str, Any]
    for schema in ({"type": "string", "maxLength": 5}, {"enum": ["a"], "pattern": "a"}, {"oneOf": []}):
        with pytest.raises(SystemExit, match="does not know"):
            compile._Compiler().node(schema, "test.json")
    with pytest.raises(SystemExit, match="title"):
        compile._Compiler().node({"type": "string", "minLength": 1}, "test.json")


@pytest.mark.parametrize("pattern", predicates.PATTERNS)
@settings(max_examples=300)
@given(data=st.data())
def test_predicates_decide_as_their_pattern(pattern: str, data: st.DataObject) -> None:
    alphabet = st.sampled_from("/.\n0123456789KMGTB:rwm-, +aZ٣\\") | st.characters(exclude_categories=["Cs"])
    texts = st.from_regex(pattern) | st.text(alphabet, max_size=12) | st.sampled_from(STRINGS)
    text = data.draw(texts)
    assert predicates.PATTERNS[pattern](text) == (re.search(pattern, text) is not None), repr(text)


def test_integers_are_integers() -> None:
    for value in (1.0, True, "1", 1e2, None, [1]):
        document = {**configs.minimal(), "linux": {"uidMappings": [{"containerID": 0, "hostID": value, "size": 1}]}}
        assert [problem.path for problem in check(document)] == ["linux.uidMappings[0].hostID"], value
        assert not agree(document)


def test_true_and_false_are_no_numbers() -> None:
    for value in (0, 1, 1.0, "true", None):
        document = {**configs.minimal(), "linux": {"resources": {"memory": {"useHierarchy": value}}}}
        assert [problem.path for problem in check(document)] == ["linux.resources.memory.useHierarchy"], value
        assert not agree(document)


def test_a_million_problems_do_not_fill_the_memory() -> None:
    for section in ({"mounts": [5] * 1_000_000}, {"linux": {"maskedPaths": [""] * 1_000_000}}):
        assert len(load.problems({"ociVersion": "1.0.0", "root": {"path": "r"}, **section})) == checker.LIMIT
    annotations = {f"{number}": number for number in range(1_000_000)}
    assert len(check({"annotations": annotations})) == checker.LIMIT


def test_nulls_of_go_are_unset_properties() -> None:
    document = configs.complete()
    nulled: Any = copy.deepcopy(document)
    nulled["process"]["env"] = None
    nulled["linux"]["seccomp"]["syscalls"][0]["args"] = None
    nulled["linux"]["resources"]["memory"] = None
    nulled["hooks"]["prestart"] = None
    checker.drop_nulls(table.CONFIG, nulled)
    for parent, name in (
        (document["process"], "env"),
        (document["linux"]["seccomp"]["syscalls"][0], "args"),
        (document["linux"]["resources"], "memory"),
        (document["hooks"], "prestart"),
    ):
        del parent[name]
    assert nulled == document


def test_nulls_that_stand_for_a_value_stay() -> None:
    document: Any = {"annotations": {"a": None}, "mounts": [None], "linux": {"netDevices": {"eth0": None}}, "x": None}
    expected = copy.deepcopy(document)
    checker.drop_nulls(table.CONFIG, document)
    assert document == expected


def test_names_in_other_capitals() -> None:
    """As encoding/json of Go reads them, which other runtimes are written with."""
    document: Any = {
        **configs.minimal(),
        "Linux": {"resources": {"cpu": {"shares": 5}, "CPU": {"Cpus": "0", "MEMS": None}}},
    }
    found: list[SpecError] = []
    checker.check(table.CONFIG, document, "", found)
    assert not found
    assert document["linux"] == {"resources": {"cpu": {"shares": 5, "cpus": "0"}}}
    document = {**configs.minimal(), "LINUX": {"resources": {"CPU": {"cpus": 1}}}, "x" * 1000: 1, "Vendor": 1}
    checker.check(table.CONFIG, document, "", found)
    assert [str(one) for one in found] == ["linux.resources.cpu.cpus: expected a string, got 1"]
    assert "Vendor" in document


def test_names_are_those_of_the_schemas() -> None:
    linux: Any = table.LINUX[1]
    config: Any = table.CONFIG[1]
    rlimit: Any = table.RLIMIT[1]
    assert set(names.NAMESPACES) == set(linux["namespaces"][1][1]["type"][1])
    assert set(names.RLIMITS) == set(rlimit["type"][1])
    assert set(names.SECCOMP_ACTIONS) == set(table.ACTION[1])
    assert set(names.SECCOMP_OPERATORS) == set(table.OPERATOR[1])
    assert set(names.SECCOMP_ARCHITECTURES) == set(table.ARCHITECTURE[1])
    assert set(names.SECCOMP_FLAGS) == set(table.FLAG[1])
    assert set(names.MEMORY_POLICY_MODES) == set(linux["memoryPolicy"][1]["mode"][1])
    assert set(names.MEMORY_POLICY_FLAGS) == set(linux["memoryPolicy"][1]["flags"][1][1])
    assert set(names.HOOKS) == set(config["hooks"][1])
