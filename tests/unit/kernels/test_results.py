"""What the tests on other kernels write down, and the table that is made of it."""

import json
from dataclasses import asdict
from pathlib import Path

from tests.kernels import machine, matrix, results
from tests.kernels.results import Result

FILE = "tests/privileged/test_publish.py"


def result(name: str, outcome: str = "passed") -> Result:
    return Result(name, outcome, 1.0)


def test_a_part_has_its_counts_and_a_kernel_its_column():
    old = (result(f"{FILE}::a"), result(f"{FILE}::b", "failed"), result(f"{FILE}::c", "skipped"))
    new = (result(f"{FILE}::a"), result("tests/privileged/test_unheard.py::x"))

    assert matrix.table({"5.10": old, "6.1": new}).splitlines() == [
        "|  | 5.10 | 6.1 |",
        "| --- | --- | --- |",
        "| publish, unpublish | 1 passed, 1 failed, 1 skipped | 1 passed |",
        "| the rest |  | 1 passed |",
    ]
    assert matrix.failures({"5.10": old, "6.1": new}) == ["5.10: privileged/test_publish.py::b"]


def test_what_a_test_recorded_has_a_row_of_its_own():
    many = Result("tests/privileged/test_layers.py::x", "passed", 1.0, {"layers subPath": 1})

    assert "| layers subPath | 1 |" in matrix.table({"6.1": [many]})


def test_every_part_names_files_that_are_there():
    here = {
        path.stem.removeprefix("test_")
        for folder in ("privileged", "sanity")
        for path in (machine.PROJECT / "tests" / folder).rglob("test_*.py")
    }

    assert {file for files in matrix.PARTS.values() for file in files} <= here
    for test in matrix.QUICK:
        assert (machine.PROJECT / test.partition("::")[0]).exists()


def test_the_last_result_of_a_test_counts(tmp_path: Path):
    kept = tmp_path / "results"
    assert results.read(kept) == ()

    lines = [
        json.dumps(asdict(result(name, outcome)))
        for name, outcome in (("a", "failed"), ("b", "passed"), ("a", "passed"))
    ]
    kept.write_text("\n".join(lines) + "\n", "utf-8")

    assert results.read(kept) == (result("a"), result("b"))
