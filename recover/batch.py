"""Steps done one after the other in our own mount namespace, and what became of each.

A step's path may lead over the mount of another daemon, which hangs: the step is then given up, and
those behind it are for another visit.
"""

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from recover.errors import Covered, Error, Unanswered
from recover.linux import namespaces
from recover.linux.probe import Prober

_STALE = (Covered, ProcessLookupError, FileNotFoundError)


class _Step(Protocol):
    @property
    def path(self) -> str: ...


S = TypeVar("S", bound=_Step)


@dataclass(frozen=True, slots=True)
class Done(Generic[S]):
    """A step that was done; layers that stand there, monotonic time in s."""

    step: S
    layers: int
    at: float


@dataclass(frozen=True, slots=True)
class Failed(Generic[S]):
    """A step that did not succeed; stale if only because the world had changed since detection."""

    step: S
    error: Exception
    stale: bool


Result = Done[S] | Failed[S]


class Batch(Generic[S]):
    """Does steps; key names each among the calls that may hang."""

    def __init__(self, prober: Prober, key: Callable[[S], Hashable]) -> None:
        self._prober = prober
        self._key = key

    def split(self, steps: Sequence[S]) -> tuple[list[Failed[S]], list[S]]:
        """Return what cannot be tried, because an earlier try of it still hangs, and the rest."""
        asleep: list[Failed[S]] = []
        rest: list[S] = []
        for step in steps:
            if self._prober.sleeps(self._key(step)):
                asleep.append(
                    Failed(step, Unanswered(step.path, self._prober.timeout_s), stale=False)
                )
            else:
                rest.append(step)
        return asleep, rest

    def run(
        self,
        steps: Sequence[S],
        act: Callable[[S, int], int],
        *,
        stopping: Callable[[], bool],
    ) -> list[Result[S]]:
        """Do steps in one visit; return their results, up to one that hung if one did.

        act(step, root_fd) returns how many layers it leaves; stopping() is asked before each.
        """
        results: list[Result[S]] = []
        given_up = threading.Event()

        def visit(root_fd: int) -> None:
            for step in steps:
                if given_up.is_set() or stopping():
                    return
                results.append(_tried(step, root_fd, act))

        def key() -> Hashable:
            return self._key(steps[min(len(results), len(steps) - 1)])

        try:
            namespaces.visit(namespaces.home(), visit, self._prober, key=key)
        except (Error, OSError) as error:
            given_up.set()
            finished = results[:]
            failing = steps[len(finished) :][: 1 if isinstance(error, Unanswered) else None]
            return finished + [failed(step, error) for step in failing]
        return results


def _tried(step: S, root_fd: int, act: Callable[[S, int], int]) -> Result[S]:
    try:
        layers = act(step, root_fd)
    except (Error, OSError) as error:
        return failed(step, error)
    return Done(step, layers, time.monotonic())


def failed(step: S, error: Exception) -> Failed[S]:
    """Return a step that did not succeed, stale if that is what its error means."""
    return Failed(step, error, isinstance(error, _STALE))
