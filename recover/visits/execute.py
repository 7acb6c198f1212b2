"""Do what is planned inside other mount namespaces, and look whether each step worked.

A step that fails, or finds that what it should touch has changed, leaves what was there; all steps
may be done again.  Nothing here touches a FUSE path but what packs a part of a volume (`stop`), and
the forced look through each healed path (`tour`), both with a time limit.
"""

import contextlib
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from recover.batch import Result
from recover.linux.probe import Prober
from recover.visits.plan import Act
from recover.visits.tour import Tour

_VISITORS = 2  # at a time
_MOST_VISITORS = 64
_HURRY_S = 0.1  # after so long without a result another one begins beside those

_News = Result[Act] | Literal["ended", "nothing"]


class Executor:
    """Executes steps for one source whose live superblock is known."""

    def __init__(self, prober: Prober, live: str) -> None:
        self._prober = prober
        self._live = live

    def run(self, steps: Sequence[Act], stopping: Callable[[], bool]) -> Iterator[Result[Act]]:
        """Execute steps, those of one namespace in one visit, yielding a result for each.

        Before each, stopping() is asked; what was not begun is then left for the next start.
        """
        with contextlib.closing(Tour(self._prober, self._live, steps, stopping)) as tour:
            yield from tour.visit() if tour.is_short else _by_visitors(tour)


def _by_visitors(tour: Tour) -> Iterator[Result[Act]]:
    """Yield what several threads do of a tour; those that hang do not hold up the others."""
    news: queue.SimpleQueue[_News] = queue.SimpleQueue()

    def visit() -> None:
        try:
            for result in tour.visit():
                news.put(result)
        finally:
            news.put("ended")

    with ThreadPoolExecutor(_MOST_VISITORS, "visits") as pool:
        visitors = [pool.submit(visit) for _ in range(_VISITORS)]
        ended = 0
        while ended < len(visitors):
            match _next(news):
                case "ended":
                    ended += 1
                case "nothing":  # all visitors are held up
                    if tour.has_more and len(visitors) - ended < _MOST_VISITORS:
                        visitors.append(pool.submit(visit))
                case result:
                    yield result
    for visitor in visitors:
        visitor.result()  # raises what went wrong in it


def _next(news: "queue.SimpleQueue[_News]") -> _News:
    try:
        return news.get(timeout=_HURRY_S)
    except queue.Empty:
        return "nothing"
