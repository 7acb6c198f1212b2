"""In which loads steps are packed, and what of them is not tried."""

import os
import threading
from collections import deque
from collections.abc import Iterator

import pytest

from recover.batch import Failed
from recover.errors import Crowded
from recover.linux.mountinfo import Mount
from recover.linux.mounts import Attributes
from recover.linux.namespaces import Namespace
from recover.linux.probe import Prober
from recover.visits import tour
from recover.visits.plan import Act, Swap
from recover.visits.stop import Prepared, Stop
from recover.visits.tour import Tour
from recover.visits.trip import Trip
from tests.unit.handmade import LIVE, copy, mount

NEVER_S = 600.0


def swap(inode: int, number: int = 0, inner: str = "") -> Act:
    place: Mount = mount(10**9 + number)
    namespace = Namespace(inode, os.getpid())
    return Swap(copy(place, at=namespace, path=f"/p{number}"), "/no/anchor", inner, Attributes())


def sizes(*steps: Act) -> list[list[int]]:
    return [[len(group) for group in load] for load in tour._loads(steps)]


def test_many_namespaces_are_packed_together_but_not_all_at_once():
    assert sizes(*(swap(n) for n in range(70))) == [[1] * 32, [1] * 32, [1] * 6]


def test_a_namespace_with_very_many_steps_comes_last_and_in_parts():
    steps = [*(swap(1, n) for n in range(40)), swap(2), swap(3)]

    assert sizes(*steps) == [[1, 1], [32], [8]]


def test_who_asks_a_daemon_for_a_copy_keeps_nobody_waiting():
    assert sizes(swap(1), swap(2, inner="sub"), swap(3), swap(4)) == [[1], [1], [1, 1]]


class _Stuck(Prober):
    """One in which as many calls of a pod hang as may."""

    def refusal(self, _key: object, payer: int | None) -> Crowded | None:
        return Crowded(2) if payer == 1 else None


@pytest.fixture
def results() -> Iterator[dict[int, Exception]]:
    steps = [swap(1), swap(2)]
    outing = Tour(_Stuck(timeout_s=1), LIVE, steps, lambda: False)
    yield {r.step.namespace.inode: r.error for r in outing.visit() if isinstance(r, Failed)}
    outing.close()


def test_a_pod_in_which_others_hang_is_not_visited_but_the_next_one_is(
    results: dict[int, Exception],
):
    assert isinstance(results[1], Crowded)
    assert isinstance(results[2], FileNotFoundError)  # it got as far as to the anchor


def test_a_pod_in_which_others_hang_since_it_was_packed_is_not_visited():
    trip = Trip(_stops(1), 1, NEVER_S, lambda: False, _crowded)
    _go(trip)

    (failure,), left = trip.end()
    assert isinstance(failure, Failed)
    assert isinstance(failure.error, Crowded)
    assert not left


@pytest.mark.parametrize(("within_s", "left"), [(0.0, 2), (NEVER_S, 0)])
def test_a_slow_trip_ends_after_a_stop_and_leaves_the_others_to_the_next(
    within_s: float, left: int
):
    stops = _stops(1, 2, 3)
    _go(Trip(stops, 3, within_s, lambda: False, _crowded))

    assert len(stops) == left


def _stops(*inodes: int) -> deque[Stop]:
    steps = [swap(inode) for inode in inodes]
    return deque(Stop(step.namespace, [Prepared(step)]) for step in steps)


def _go(trip: Trip) -> None:
    """Go on a thread: it shares nothing with others afterwards."""
    thread = threading.Thread(target=trip.go)
    thread.start()
    thread.join()


def _crowded(_: Act) -> Crowded:
    return Crowded(2)


def test_nothing_is_begun_when_all_is_stopping():
    assert not list(Tour(Prober(), LIVE, [swap(1)], lambda: True).visit())
