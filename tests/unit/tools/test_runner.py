"""The test run itself: what it says of a test in this process that misbehaves."""

import pytest

from tests import nested

VICTIMS = "tests/unit/tools/victims.py"


@pytest.mark.parametrize(
    ("victim", "complaint"),
    [
        ("test_leaks_a_descriptor", "-> /\n"),
        ("test_leaks_a_thread", "thread forgotten"),
        ("test_logs_a_warning", "not declared with expects_log: ['the cup is empty']"),
        ("test_logs_less_than_expected", "not logged: ['cup .* empty']"),
    ],
)
def test_misbehaviour_is_a_failure_that_names_the_cause(victim: str, complaint: str):
    status, output = nested.run(f"{VICTIMS}::{victim}")

    assert status == 1
    assert complaint in output


def test_an_expected_warning_passes():
    status, output = nested.run(f"{VICTIMS}::test_logs_an_expected_warning")

    assert status == 0, output


@pytest.mark.parametrize(("required", "status"), [("", 0), ("1", 1)])
def test_a_skip_is_a_failure_only_where_all_is_required(required: str, status: int):
    got, output = nested.run(f"{VICTIMS}::test_is_skipped", REQUIRE_ALL=required)

    assert got == status
    assert "no tea" in output


def test_an_expected_failure_stays_one_where_all_is_required():
    status, output = nested.run(f"{VICTIMS}::test_fails_as_expected", REQUIRE_ALL="1")

    assert status == 0, output
