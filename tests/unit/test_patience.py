"""How long a call may wait: less than its caller does, who is to hear why it was refused."""

import time

import pytest

from csi_fluid.errors import Withdrawn
from csi_fluid.rpc import node


class Caller:
    """Waits for an answer as long as it says."""

    def __init__(self, left_s: float) -> None:
        self.left_s = left_s
        self.waits = True

    def time_remaining(self) -> float:
        return self.left_s

    def is_active(self) -> bool:
        return self.waits


@pytest.mark.parametrize(
    ("left_s", "wait_s"),
    [(0.6, 0.3), (1.0, 0.5), (2.0, 1.0), (15.0, 14.0), (120.0, 110.0), (3_000.0, 110.0)],
)
def test_time_is_left_to_answer_before_the_deadline(left_s: float, wait_s: float):
    before = time.monotonic()
    patience = node._patience(Caller(left_s))

    assert before + wait_s <= patience.until <= time.monotonic() + wait_s


def test_a_caller_without_a_deadline_is_not_kept_for_ages():
    assert node._patience(Caller(1e18)).until <= time.monotonic() + 30


def test_nobody_waits_for_a_caller_who_gave_up():
    caller = Caller(15.0)
    patience = node._patience(caller)
    assert patience.left_s > 0

    caller.waits = False

    with pytest.raises(Withdrawn):
        _ = patience.left_s
