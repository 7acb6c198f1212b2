"""Tests that misbehave on purpose; test_runner.py and test_parts.py run them, each by its name."""

import logging
import os
import threading

import pytest


def test_leaks_a_descriptor():
    os.open("/", os.O_PATH)


def test_leaks_a_thread():
    thread = threading.Thread(target=threading.Event().wait, name="forgotten", daemon=True)
    thread.start()


def test_logs_a_warning():
    logging.getLogger("victim").warning("the cup is empty")


@pytest.mark.expects_log("cup .* empty")
def test_logs_an_expected_warning():
    logging.getLogger("victim").warning("the cup is empty")


@pytest.mark.expects_log("cup .* empty")
def test_logs_less_than_expected():
    logging.getLogger("victim").info("the cup is empty")


def test_is_skipped():
    pytest.skip("no tea")


@pytest.mark.xfail(reason="a known defect")
def test_fails_as_expected():
    pytest.fail("as ever")


def test_waits(capsys: pytest.CaptureFixture[str]):
    with capsys.disabled():
        try:
            os.write(1, b"test_waits waits\n")
            threading.Event().wait()
        finally:
            os.write(1, b"test_waits cleaned up\n")
