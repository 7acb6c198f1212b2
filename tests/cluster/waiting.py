"""Wait for what the cluster is to do; the one place of the harness that polls."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class ClusterError(Exception):
    """The cluster did not do what was asked; the text tells what, and what it said."""


def wait_for(
    condition: Callable[[], T], what: str, timeout_s: float = 30.0, every_s: float = 0.1
) -> T:
    """Return the first true answer of a condition; raise ClusterError when none comes in time."""
    deadline = time.monotonic() + timeout_s
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise ClusterError(f"waited {timeout_s:g} s in vain: {what}")
        time.sleep(every_s)  # noqa: TID251 -- most of what is awaited has no event
    return answer
