"""All visits of one run, by as many threads as there are, and what became of each step.

Steps are packed in loads, before threads go from stop to stop with them (`trip`).  What they healed
is asked afterwards, many paths in one message.
"""

import contextlib
import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from recover.batch import Done, Failed, Result, failed
from recover.errors import Covered, Error, Unanswered, Unverified
from recover.linux import mountinfo
from recover.linux.probe import Prober, Reply
from recover.visits import stop
from recover.visits.plan import Act, Swap
from recover.visits.stop import Packer, Prepared, Stop
from recover.visits.trip import Arrived, Trip, key_of

_AT_ONCE = 32  # steps that are packed at a time, each of which has descriptors until it ends
_MANY = 8  # steps in one namespace that make it likely to be that of the host

_Group = list[Act]  # in one namespace
_Results = list[Result[Act]]


class Tour:
    """Steps of one source whose live superblock is known; each thread that visits does its part."""

    def __init__(
        self, prober: Prober, live: str, steps: Sequence[Act], stopping: Callable[[], bool]
    ) -> None:
        self._prober = prober
        self._live = live
        self._stopping = stopping
        self._loads = deque(_loads(steps))
        self._stops: deque[Stop] = deque()  # packed

    @property
    def is_short(self) -> bool:
        """Tell whether it is not worth a second thread."""
        return len(self._loads) == 1

    @property
    def has_more(self) -> bool:
        """Tell whether something is left that nobody has begun."""
        return bool(self._loads or self._stops) and not self._stopping()

    def close(self) -> None:
        """Release what was packed and not visited."""
        for left in self._stops:
            left.close()

    def visit(self) -> Iterator[Result[Act]]:
        """Pack and visit until nothing is left, yielding a result for each step."""
        while self.has_more:
            if not self._stops:
                with contextlib.suppress(IndexError):  # another thread was faster
                    yield from self._pack(self._loads.popleft())
            if self._stops:
                yield from self._travel()

    def _pack(self, load: list[_Group]) -> _Results:
        """Make the copies for a load; return the steps for which that was impossible."""
        problems: _Results = []
        with contextlib.closing(Packer(self._prober, self._live)) as packer:
            for group in load:
                packed = list(self._packed(packer, group, problems))
                if packed:
                    self._stops.append(Stop(group[0].namespace, packed))
        return problems

    def _packed(self, packer: Packer, group: _Group, problems: _Results) -> Iterator[Prepared]:
        for step in _still_there(group) if len(group) > _MANY else group:
            refusal = self._refusal(step)
            try:
                if refusal is not None:
                    raise refusal
                yield packer.pack(step)
            except (Error, OSError) as error:  # a place that the new mount lacks is no change here
                problems.append(Failed(step, error, isinstance(error, Covered)))

    def _refusal(self, step: Act) -> Exception | None:
        """Return what is wrong if an earlier try of a step, or as many of its pod as may, hang."""
        return self._prober.refusal(key_of(step), step.namespace.inode)

    def _travel(self) -> _Results:
        """Visit some of the stops; what was left behind one that hangs is packed anew."""
        within_s = self._prober.timeout_s / 4
        trip = Trip(self._stops, _AT_ONCE, within_s, self._stopping, self._refusal)
        problem: Exception | None = None
        try:
            self._prober.run(trip.key, trip.go, payer=trip.payer)
        except (Error, OSError) as error:
            problem = error
        outcomes, left = trip.end()
        results = self._verified([o for o in outcomes if isinstance(o, Arrived)])
        results += [o for o in outcomes if not isinstance(o, Arrived)]
        if isinstance(problem, Unanswered):
            results += [failed(step, problem) for step in left[:1]]
            if left[1:]:
                self._loads.appendleft([left[1:]])
        elif problem is not None:  # it did not begin
            results += self._abandoned(problem)
        return results

    def _abandoned(self, problem: Exception) -> _Results:
        results: _Results = []
        with contextlib.suppress(IndexError):
            while True:
                with contextlib.closing(self._stops.popleft()) as left:
                    results += [failed(each.step, problem) for each in left.prepared]
        return results

    def _verified(self, arrived: list[Arrived]) -> _Results:
        """Force a request to the server through each healed path."""
        try:
            replies = self._prober.ask_all(("visited", self._live), [a.fd for a in arrived])
        except (Error, OSError) as error:
            return [failed(a.step, error) for a in arrived]
        finally:
            for each in arrived:
                os.close(each.fd)
        return [judged(a, reply, self._live) for a, reply in zip(arrived, replies, strict=True)]


def judged(arrived: Arrived, reply: Reply, live: str) -> Result[Act]:
    """Return what became of a step, by the answer through the path that it healed."""
    path = arrived.step.path
    if not reply.alive:
        reason = os.strerror(reply.errno) if reply.errno else reply.answer.value
        problem = Unverified(f"{path} was replaced but {reply.answer.value} ({reason})")
        return failed(arrived.step, problem)
    if reply.dev != live:
        problem = Unverified(f"{path} shows superblock {reply.dev} after the swap, not {live}")
        return failed(arrived.step, problem)
    return Done(arrived.step, arrived.layers, time.monotonic())


def _loads(steps: Sequence[Act]) -> list[list[_Group]]:
    """Return the steps as they are packed together; who has very many of them comes last.

    Who asks a daemon for copies is packed alone, and so keeps nobody else waiting.
    """
    groups = [list(g) for _, g in itertools.groupby(steps, key=lambda s: s.namespace.inode)]
    loads: list[list[_Group]] = []
    room = 0  # in the last one
    for group in sorted(groups, key=len):
        for part in (group[at : at + _AT_ONCE] for at in range(0, len(group), _AT_ONCE)):
            is_alone = stop.asks(part)
            if is_alone or len(part) > room:
                loads.append([])
                room = _AT_ONCE
            loads[-1].append(part)
            room = 0 if is_alone else room - len(part)
    return loads


def _still_there(steps: _Group) -> _Group:
    """Return the steps whose mount is still there.

    Where a namespace shares the host's directories, the swaps made at home have reached it already.
    """
    try:
        here = mountinfo.ids(mountinfo.read_bytes(steps[0].namespace.pid))
    except OSError:  # it ended; the visit will say so
        return steps
    return [
        step for step in steps if not isinstance(step, Swap) or step.copy.stack[-1].mnt_id in here
    ]
