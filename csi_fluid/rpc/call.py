"""A call as its handler sees it: whether somebody still waits, and how long."""

import math
import threading
import time
from typing import Protocol


class Call(Protocol):
    """What a handler may ask of the call it answers, as of every context of gRPC's."""

    def time_remaining(self) -> float:
        """Return the seconds that the caller still waits, ages where it did not say."""

    def is_active(self) -> bool:
        """Return whether the caller still waits."""


class PooledCall:
    """A call that a thread answers while the event loop goes on."""

    def __init__(self, left_s: float | None) -> None:
        """Take the seconds that the caller waits from now on, None where it did not say."""
        self._until = math.inf if left_s is None else time.monotonic() + left_s
        self._gone = threading.Event()

    def time_remaining(self) -> float:
        """Return the seconds that the caller still waits, infinity where it did not say."""
        return max(self._until - time.monotonic(), 0.0)

    def is_active(self) -> bool:
        """Return whether the caller still waits."""
        return not self._gone.is_set()

    def end(self) -> None:
        """Note that nobody waits any longer."""
        self._gone.set()
