"""Many are asked at once: bounded, nobody waited for too long, nobody counted twice."""

import threading

import pytest

from csi_fluid.cli import usage
from csi_fluid.kubectl import fleet
from csi_fluid.kubectl.fleet import Limits


def test_no_more_are_asked_at_a_time_than_the_limit():
    lock, gate = threading.Lock(), threading.Barrier(3, timeout=10)
    running, most = 0, 0

    def question(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        gate.wait()  # three are here, or the test fails
        with lock:
            running -= 1
        return number

    replies = list(fleet.ask(range(9), question, Limits(at_once=3, each_s=20)))

    assert sorted(reply.answer for reply in replies if reply.answer is not None) == list(range(9))
    assert most == 3


def test_an_answer_that_comes_too_late_is_not_a_second_reply():
    """The slow one answers while the last one is still being asked."""
    late, told = threading.Event(), threading.Event()

    def question(name: str) -> str:
        if name == "slow":
            late.wait(10)
            told.set()
        elif name == "last":
            late.set()
            told.wait(10)
        return name

    replies = list(fleet.ask(["slow", "last"], question, Limits(at_once=1, each_s=1)))

    assert [(reply.asked, reply.error) for reply in replies] == [
        ("slow", "no answer within 1 s"),
        ("last", ""),
    ]


def test_what_cannot_be_answered_is_the_error_of_its_reply():
    def question(number: int) -> int:
        if number == 1:
            raise usage.Failure("not this one")
        return number

    replies = {r.asked: (r.answer, r.error) for r in fleet.ask([1, 2], question, Limits())}

    assert replies == {1: (None, "not this one"), 2: (2, "")}


def test_a_mistake_of_ours_is_raised():
    with pytest.raises(ZeroDivisionError):
        list(fleet.ask([0], lambda number: 1 // number, Limits()))
