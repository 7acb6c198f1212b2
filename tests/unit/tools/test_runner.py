"""The test run itself: what it says of a test in this process that misbehaves."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "pytest_timeout")


def run_victim(name: str, **environment: str) -> tuple[int, str]:
    """Run one test of victims.py; return exit status and output."""
    done = subprocess.run(
        [*PYTEST, f"tests/unit/tools/victims.py::{name}"],
        cwd=ROOT,
        env=os.environ | {"REQUIRE_ALL": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


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
    status, output = run_victim(victim)

    assert status == 1
    assert complaint in output


def test_an_expected_warning_passes():
    status, output = run_victim("test_logs_an_expected_warning")

    assert status == 0, output


@pytest.mark.parametrize(("required", "status"), [("", 0), ("1", 1)])
def test_a_skip_is_a_failure_only_where_all_is_required(required: str, status: int):
    got, output = run_victim("test_is_skipped", REQUIRE_ALL=required)

    assert got == status
    assert "no tea" in output


def test_an_expected_failure_stays_one_where_all_is_required():
    status, output = run_victim("test_fails_as_expected", REQUIRE_ALL="1")

    assert status == 0, output
