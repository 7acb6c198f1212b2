"""One thread's way through namespaces, which may be given up at any of its stops.

What was done before is known then, and the stops behind are for another thread: stops are taken
from a queue that all share.
"""

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from recover.batch import Done, Failed, failed
from recover.errors import Error
from recover.linux import mounts, namespaces
from recover.visits.plan import Act, MakePrivate
from recover.visits.stop import Prepared, Stop


@dataclass(frozen=True, slots=True)
class Arrived:
    """A step that was done, and a descriptor of what its path shows now, to be asked and closed."""

    step: Act
    layers: int
    fd: int


Outcome = Done[Act] | Failed[Act] | Arrived


class Trip:
    """A thread's way through some stops; `go` is for that thread, the rest for others.

    It visits so many at most, and after within_s no other one: however slow the machine, a time
    limit for all of them is none that one stop could miss for the others.
    key and payer name the step that is under way, as `Prober.run` wants them; refusal tells why a
    step must not be begun, if so.
    """

    def __init__(
        self,
        stops: deque[Stop],
        most: int,
        within_s: float,
        stopping: Callable[[], bool],
        refusal: Callable[[Act], Exception | None],
    ) -> None:
        self._stops = stops
        self._most = most
        self._within_s = within_s
        self._stopping = stopping
        self._refusal = refusal
        self._lock = threading.Lock()
        self._is_given_up = False
        self._outcomes: list[Outcome] = []
        self._left: list[Act] = []  # of the present stop, the one under way first

    def __str__(self) -> str:
        return "visits"  # as its thread is called

    def key(self) -> Hashable:
        """Return what names the step under way among the calls that may hang."""
        left = self._left
        return key_of(left[0]) if left else self

    def payer(self) -> int | None:
        """Return the namespace in which it is."""
        left = self._left
        return left[0].namespace.inode if left else None

    def go(self) -> None:
        """Visit one stop after the other; the thread comes back from none."""
        end = time.monotonic() + self._within_s
        with namespaces.Traveller() as traveller:
            for number in range(self._most):
                is_late = number > 0 and time.monotonic() >= end
                stop = None if is_late else self._next()
                if stop is None:
                    return
                with contextlib.closing(stop):
                    self._visit(traveller, stop)

    def _next(self) -> Stop | None:
        with self._lock:
            if self._is_given_up or self._stopping():
                return None
            try:
                stop = self._stops.popleft()
            except IndexError:
                return None
            self._left = [each.step for each in stop.prepared]
            return stop

    def _visit(self, traveller: namespaces.Traveller, stop: Stop) -> None:
        problem = self._refusal(stop.prepared[0].step)  # others may hang since it was packed
        try:
            if problem is None:
                with traveller.at(stop.namespace) as root_fd:
                    self._do(stop, root_fd)
        except OSError as error:  # its process ended
            problem = error
        if problem is not None:
            for step in tuple(self._left):
                self._note(failed(step, problem))

    def _do(self, stop: Stop, root_fd: int) -> None:
        for prepared in stop.prepared:
            if not self._note(_outcome(prepared, root_fd)) or self._stopping():
                return

    def _note(self, outcome: Outcome) -> bool:
        """Take note of a step that ended; False if the trip was given up meanwhile."""
        with self._lock:
            if self._is_given_up:
                if isinstance(outcome, Arrived):
                    os.close(outcome.fd)
                return False
            self._outcomes.append(outcome)
            self._left = self._left[1:]
            return True

    def end(self) -> tuple[list[Outcome], list[Act]]:
        """Give the trip up, unless it has ended; return what became of steps, and those left.

        Of these the first is the one that hangs, if one does.
        """
        with self._lock:
            self._is_given_up = True
            return self._outcomes, self._left


def key_of(step: Act) -> Hashable:
    """Name a step among the calls that may hang: one at a time for each path."""
    return "step", step.namespace.inode, step.path


def _outcome(prepared: Prepared, root_fd: int) -> Outcome:
    step = prepared.step
    try:
        layers = prepared.do(root_fd)
        if isinstance(step, MakePrivate):
            return Done(step, layers, time.monotonic())
        return Arrived(step, layers, mounts.open_path(step.path, root_fd))
    except (Error, OSError) as error:
        return failed(step, error)
