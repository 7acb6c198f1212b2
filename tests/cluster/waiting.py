"""Wait for what the cluster is to do."""

from collections.abc import Callable
from typing import TypeVar

from csi_fluid.testbed.waiting import until

T = TypeVar("T")


class ClusterError(Exception):
    """The cluster did not do what was asked; the text tells what, and what it said."""


def wait_for(
    condition: Callable[[], T | None], what: str, timeout_s: float = 30.0, every_s: float = 0.1
) -> T:
    """Do what ``until`` does, with the patience that a cluster needs; raises ClusterError."""
    try:
        return until(condition, what, timeout_s=timeout_s, every_s=every_s)
    except TimeoutError as error:
        raise ClusterError(str(error)) from error
