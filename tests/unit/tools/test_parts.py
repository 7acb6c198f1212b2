"""A whole run: its parts hold every test once, and what went wrong in one cannot be missed."""

import asyncio
from pathlib import Path

import pytest

from tests import parts
from tests.parts import Heard, Part, Run

VICTIMS = "tests/unit/tools/victims.py"

PASSED = """\
collected 2 items

tests/a.py::test_one PASSED                                            [ 1/2]
tests/a.py::test_two[a b] PASSED                                       [ 2/2]

=========================== 2 passed in 0.02s ===========================
"""
FAILED = """\
tests/a.py::test_one FAILED                                            [ 1/3]
tests/a.py::test_two PASSED                                            [ 2/3]
tests/a.py::test_two ERROR                                             [ 2/3]
tests/a.py::test_three PASSED                                          [ 3/3]

================================= ERRORS =================================
the test left behind: 3 failed cups
=========================== short test summary info ======================
FAILED tests/a.py::test_one
==================== 1 failed, 2 passed, 1 error in 0.02s ====================
"""


def test_every_test_module_belongs_to_one_part():
    """Those of other kernels are run by `make kernels`, emulated, once these are over."""
    folder = parts.ROOT / "tests"
    modules = set(folder.rglob("test_*.py")) - set((folder / "kernels").rglob("test_*.py"))
    every = [part for lane in parts.LANES for part in lane]
    found = [file for part in every if not part.environ for file in part.files()]

    assert sorted(found) == sorted(modules)


def test_what_runs_once_more_in_another_environment_is_there():
    (part,) = (part for lane in parts.LANES for part in lane if part.environ)

    assert len(part.files()) == len(part.paths)


def test_counts_and_failures_are_those_of_pytest():
    assert Heard.of(PASSED) == Heard("2/2", (), PASSED, passed=2, failed=0)

    heard = Heard.of(FAILED)

    assert (heard.done, heard.passed, heard.failed) == ("3/3", 2, 2)
    assert heard.failures == ("tests/a.py::test_one FAILED", "tests/a.py::test_two ERROR")
    assert heard.report.startswith("==")
    assert "left behind" in heard.report
    assert " in 0.02s" not in heard.report


def test_what_is_not_over_has_no_counts():
    heard = [Heard.of(FAILED[:end]) for end in range(len(FAILED) - 1)]

    assert {(h.passed, h.failed) for h in heard} == {(0, 0)}


def test_the_last_line_is_the_sum_of_all_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    lanes = (
        (Part("one", (f"{VICTIMS}::test_logs_an_expected_warning",)),),
        (Part("two", (f"{VICTIMS}::test_leaks_a_thread",)), Part("three", (), needs=("nothing",))),
    )

    status = parts.main(lanes, tmp_path)

    said = capsys.readouterr().out
    assert status == 1
    assert said.splitlines()[-1] == "2 passed, 2 failed"
    assert f"two: {VICTIMS}::test_leaks_a_thread ERROR\n" in said
    assert "thread forgotten" in said
    assert "usage: .ci/setup" in said


def test_an_interrupted_part_may_clean_up(tmp_path: Path):
    run = Run(Part("waits", (f"{VICTIMS}::test_waits",)), tmp_path)

    asyncio.run(interrupt_once_it_waits(run))

    said = run.log.read_text()
    assert "test_waits cleaned up" in said
    assert "left behind" not in said


async def interrupt_once_it_waits(run: Run) -> None:
    going = asyncio.create_task(run.go())
    while not (run.log.exists() and "test_waits waits" in run.log.read_text()):
        await asyncio.sleep(0.02)
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
