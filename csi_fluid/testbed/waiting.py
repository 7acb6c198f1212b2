"""Wait for a condition, with an end."""

import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PACE = float(os.environ.get("CSI_FLUID_PACE", "1"))  # how many times slower this machine is

_ROUNDS = 20  # the least number of looks: between two of them the machine may have stood still

_never = threading.Event()


def pause(seconds: float) -> None:
    """Do nothing for a time, as a person or kubelet's back-off does."""
    _never.wait(seconds)


def until(
    look: Callable[[], T | None], what: str, *, timeout_s: float = 10.0, every_s: float = 0.005
) -> T:
    """Return the first true answer of look(), asked again and again.

    Raises TimeoutError, which names what was waited for and the last answer.
    """
    left_s, before = PACE * timeout_s, time.monotonic()
    most_s = left_s / _ROUNDS
    while not (answer := look()):
        if left_s <= 0:
            raise TimeoutError(f"waited {timeout_s:g} s for {what}; at the end: {answer!r}")
        pause(every_s)
        now = time.monotonic()
        left_s, before = left_s - min(now - before, most_s), now
    return answer
