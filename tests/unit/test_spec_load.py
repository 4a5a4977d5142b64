"""Loading bundles from files, the report for people, and what the loader costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import configs

from pyruntime.errors import RuntimeFailure, SpecError
from pyruntime.spec import checker, jsontext, load, validate

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bundle(tmp_path: Path) -> Callable[[object], str]:
    def write(document: object) -> str:
        text = document if isinstance(document, str) else json.dumps(document)
        (tmp_path / "config.json").write_text(text, encoding="utf-8")
        return str(tmp_path)

    return write


@pytest.mark.parametrize("make", configs.ALL, ids=lambda make: make.__name__)
def test_a_bundle_is_loaded_as_it_is(bundle: Callable[[object], str], make: Callable[[], Any]) -> None:
    assert load.load_bundle(bundle(make())) == make()


def test_a_missing_configuration_has_the_words_that_engines_know(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure) as caught:
        load.load_bundle(str(tmp_path))
    assert str(caught.value) == "JSON specification file config.json not found"
    with pytest.raises(RuntimeFailure) as caught:
        load.load_bundle(str(tmp_path / "no" / "bundle"))
    assert str(caught.value) == f"chdir {tmp_path}/no/bundle: no such file or directory"
    (tmp_path / "file").touch()
    with pytest.raises(RuntimeFailure) as caught:
        load.load_bundle(str(tmp_path / "file"))
    assert str(caught.value) == f"chdir {tmp_path}/file: not a directory"


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(RuntimeFailure, match=r"config.json: not a regular file"):
        load.load_bundle(str(tmp_path))
    with pytest.raises(RuntimeFailure, match="embedded null byte"):
        load.load_bundle(str(tmp_path) + "\0")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "expected an object, got an array"),
        (None, "expected an object, got null"),
        ({}, "ociVersion: required, but missing"),
        ({"ociVersion": "1.0.0"}, "root: required, but missing"),
        ({"ociVersion": "0.1.0", "root": {"path": "r"}},
         'ociVersion: expected a SemVer 2.0.0 version with major number 1, got "0.1.0"'),
        ({"ociVersion": "1.0.0", "root": {"path": "r"}, "hooks": {"poststop": [{"path": "true"}]}},
         'hooks.poststop[0].path: expected an absolute path, got "true"'),
        ({"ociVersion": "1.0.0", "root": {"path": "r"}, "hooks": {"poststop": [{"path": "/t", "timeout": 0}]}},
         "hooks.poststop[0].timeout: expected an integer from 1 to 9223372036854775807, got 0"),
        ({"ociVersion": "1.0.0", "root": {"path": "r"}, "process": {"cwd": "/", "args": []}},
         "process.args: needs at least one entry"),
        ({"ociVersion": "1.0.0", "root": {"path": "r"}, "mounts": [{}, {"type": "a"}]},
         "mounts[0].destination: required, but missing"),
        ({"ociVersion": "1.0.0", "root": {"path": "r"}, "annotations": {"a.b": 5}},
         'annotations["a.b"]: expected a string, got 5'),
        ({"ociVersion": "1.0.0", "root": {"path": "r"}, "linux": {"uidMappings": [{"hostID": 2**32 - 1}]}},
         "linux.uidMappings[0].hostID: expected an integer from 0 to 4294967294, got 4294967295"),
        ('{"ociVersion": "1.0.0", "root": {"path": "a\\u0000b"}}', "root.path: a NUL character in a string"),
        ('{"ociVersion": "1.0.0", "root": {}, "root": {"path": "s"}}', "root: the name appears twice in its object"),
        ('{"ociVersion": "1.0.0"', "config.json: expecting ',' delimiter at line 1, column 23"),
    ],
)  # fmt: skip
def test_the_first_problem_is_raised(bundle: Callable[[object], str], document: object, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        load.load_bundle(bundle(document))
    assert str(caught.value) == message


def test_null_is_unset(bundle: Callable[[object], str]) -> None:
    document: dict[str, Any] = configs.minimal()
    directory = bundle({**document, "process": None, "mounts": None, "hooks": {"prestart": None}, "linux": None})
    assert load.load_bundle(directory) == {**document, "hooks": {}}
    with pytest.raises(SpecError, match=r"^root.path: required, but missing$"):
        load.load_bundle(bundle({**document, "root": {"path": None}}))


def test_a_configuration_of_another_name(tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text('{"ociVersion": "1.0.0", "root": {"path": "r"}, "mounts": null}')
    assert load.load_file(str(file)) == {"ociVersion": "1.0.0", "root": {"path": "r"}}
    file.write_text("{}")
    with pytest.raises(SpecError, match=r"^ociVersion: required, but missing$"):
        load.load_file(str(file))
    with pytest.raises(RuntimeFailure, match=r"^open /.*/missing\.json: no such file or directory$"):
        load.load_file(str(tmp_path / "missing.json"))


def test_process_and_resources_files(tmp_path: Path) -> None:
    file = tmp_path / "process.json"
    file.write_text('{"cwd": "/", "args": ["sh"], "env": null}')
    assert load.load_process(str(file)) == {"cwd": "/", "args": ["sh"]}
    file.write_text('{"cwd": "tmp", "args": ["sh"]}')
    with pytest.raises(SpecError, match=r'^process.cwd: expected an absolute path, got "tmp"$'):
        load.load_process(str(file))
    with pytest.raises(RuntimeFailure, match=r"^open /.*missing\.json: no such file or directory$"):
        load.load_process(str(tmp_path / "missing.json"))
    assert load.parse_resources(b'{"memory": {"limit": 5}, "cpu": null}') == {"memory": {"limit": 5}}
    with pytest.raises(SpecError, match=r"^resources.memory.limit: expected an integer, got true$"):
        load.parse_resources(b'{"memory": {"limit": true}}')
    with pytest.raises(SpecError, match=r"^standard input: the text is empty$"):
        load.parse_resources(b"", "standard input")


def test_the_report_lists_schema_and_rules(bundle: Callable[[object], str]) -> None:
    document = configs.complete()
    document["process"]["cwd"] = "tmp"
    document["process"]["rlimits"][1]["type"] = "RLIMIT_CPU"
    document["linux"]["resources"]["memory"]["limit"] = "512m"
    document["linux"]["seccomp"]["syscalls"][0]["args"][0]["op"] = "SCMP_CMP_XX"
    document["linux"]["resources"]["blockIO"]["weight"] = 5
    document["annotations"][""] = "x"
    del document["linux"]["personality"]["domain"]
    found = [str(problem) for problem in validate.report(bundle(document))]
    assert sorted(found) == [
        'annotations: expected a string that is not empty, got ""',
        "linux.personality.domain: required, but missing",
        "linux.resources.blockIO.weight: expected an integer from 10 to 1000, got 5",
        'linux.resources.memory.limit: expected an integer, got "512m"',
        "linux.seccomp.syscalls[0].args[0].op: expected one of SCMP_CMP_NE, SCMP_CMP_LT, SCMP_CMP_LE, SCMP_CMP_EQ,"
        ' SCMP_CMP_GE, SCMP_CMP_GT, SCMP_CMP_MASKED_EQ, got "SCMP_CMP_XX"',
        'process.cwd: expected an absolute path, got "tmp"',
        "process.rlimits[1]: RLIMIT_CPU is limited twice",
    ]


def test_a_reference_elsewhere_is_not_followed() -> None:
    import referencing.exceptions

    with pytest.raises(Exception, match=r"http://127\.0\.0\.1:9/schema\.json") as caught:
        list(validate.validator("http://127.0.0.1:9/schema.json").iter_errors({}))
    assert isinstance(caught.value, referencing.exceptions.Unresolvable)


@pytest.mark.parametrize("schema", sorted(file.name for file in (ROOT / "schemas").glob("*.json")))
def test_schemas_are_schemas(schema: str) -> None:
    import jsonschema

    contents = json.loads((ROOT / "schemas" / schema).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(contents)
    list(validate.validator(schema).iter_errors({}))  # every reference leads somewhere


@pytest.mark.parametrize(
    ("schema", "document", "places"),
    [
        ("state.json", {"ociVersion": "1.3.0", "id": "a", "status": "stopped", "bundle": "/b"}, []),
        ("state.json", {"ociVersion": "1.3.0", "id": "a", "status": "running", "bundle": "/b", "pid": 5, "x": 1}, []),
        ("state.json", {"ociVersion": "1.3.0", "id": "a", "status": "running", "bundle": "/b"}, ["pid"]),
        ("state.json", {"ociVersion": "1.3.0", "id": "a", "status": "created", "bundle": "/b", "pid": 0}, ["pid"]),
        ("state.json", {"ociVersion": "1.3.0", "id": "", "status": "gone", "bundle": "b", "annotations": {"": ""}},
         ["annotations", "bundle", "id", "status"]),
        ("container-process-state.json", {"ociVersion": "1.3.0", "fds": ["seccompFd"], "pid": 5, "metadata": "",
         "state": {"ociVersion": "1.3.0", "id": "a", "status": "creating", "bundle": "/b"}}, []),
        ("container-process-state.json", {"ociVersion": "1.3.0", "pid": 5, "state": {}},
         ["state.bundle", "state.id", "state.ociVersion", "state.status"]),
        ("features.json", {"ociVersionMin": "1.0.0", "ociVersionMax": "1.3.0", "hooks": None, "linux": None}, []),
        ("features.json", {"ociVersionMin": None, "hooks": ["a", "a"], "linux": {"cgroup": {"v1": 1}}},
         ["hooks", "linux.cgroup.v1", "ociVersionMax", "ociVersionMin"]),
    ],
)  # fmt: skip
def test_the_other_schemas(schema: str, document: object, places: list[str]) -> None:
    assert sorted({problem.path for problem in validate.schema_problems(document, schema)}) == places


def loaded_modules(code: str) -> set[str]:
    """The modules that `code` adds to those of a bare interpreter."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); before = set(sys.modules); {code}; "
    program += "print(*set(sys.modules) - before)"
    run = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_loading_imports_next_to_nothing(bundle: Callable[[object], str]) -> None:
    directory = bundle(configs.podman_like())
    loaded = loaded_modules(f"from pyruntime.spec import load; load.load_bundle({directory!r})")
    assert loaded - {"_stat"} == {
        "__future__",
        "_json",
        "pyruntime",
        "pyruntime.errors",
        *(
            f"pyruntime.spec{name}"
            for name in (
                "",
                ".checker",
                ".jsontext",
                ".load",
                ".predicates",
                ".quoting",
                ".rules",
                ".rules_linux",
                ".table",
            )
        ),
    }


def test_an_engine_configuration_is_checked_in_a_moment() -> None:
    data = json.dumps(configs.podman_like()).encode()
    best = 1.0
    for _ in range(20):
        start = time.perf_counter()
        load.check(jsontext.loads(data))
        best = min(best, time.perf_counter() - start)
    assert best < 0.002  # it is 0.15 ms on a quiet machine


def test_checking_does_not_depend_on_the_size_of_what_is_refused() -> None:
    huge = {"x" * 1_000_000: "y" * 1_000_000}
    for document in (
        {**configs.minimal(), "linux": {"sysctl": huge}},
        {**configs.minimal(), "linux": {"netDevices": {"x" * 1_000_000: {"name": "y" * 1_000_000}}}},
        {**configs.minimal(), "ociVersion": "1" * 1_000_000},
        {**configs.minimal(), "process": {"cwd": "x" * 1_000_000, "args": ["a"]}},
        {**configs.minimal(), "linux": {"intelRdt": {"closID": "/" * 1_000_000}}},
    ):
        for problem in load.problems(document):
            assert len(str(problem)) < 300
    assert checker.LIMIT == 1000
