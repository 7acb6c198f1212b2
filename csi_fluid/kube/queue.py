"""The events that wait to be sent: bounded, equal ones merged, each object at its own rate.

Pure; not safe for several threads by itself.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from csi_fluid.telling import Reason
from recover.rows import Publication

BURST = 256  # two events for each of the 110 pods that a node may have, and some
REFILL_PER_S = 1.0
_OBJECTS = 1_024

Key = tuple[str, str, str]


@dataclass(slots=True)
class Waiting:
    """Something that happened to a publication, count times; times are in Unix seconds."""

    reason: Reason
    publication: Publication
    message: str
    first: float
    last: float
    count: int = 1
    done: set[str] = field(default_factory=set)  # UIDs of the objects that have the event

    @property
    def key(self) -> Key:
        """Return what equal events have in common."""
        return self.reason.name, self.publication.target, self.message


class Queue:
    """Events in the order in which they came."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: OrderedDict[Key, Waiting] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(list(self._waiting.values()))

    def put(self, new: Waiting) -> tuple[bool, Waiting | None]:
        """Add an event; return whether it was merged into an equal one, and which was dropped."""
        known = self._waiting.get(new.key)
        if known is not None and not known.done:
            known.count += new.count
            known.last = max(known.last, new.last)
            return True, None
        dropped = None
        if known is None and len(self._waiting) >= self._limit:
            _, dropped = self._waiting.popitem(last=False)
        self._waiting[new.key] = new  # one that is half sent gives way: its rest is told by the new
        return known is not None, dropped

    def remove(self, waiting: Waiting) -> None:
        """Take an event out, unless an equal one has taken its place."""
        if self._waiting.get(waiting.key) is waiting:
            del self._waiting[waiting.key]


class Rates:
    """A token bucket for each object."""

    def __init__(self, burst: float = BURST, refill_per_s: float = REFILL_PER_S) -> None:
        self._burst = burst
        self._refill_per_s = refill_per_s
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, when

    def take(self, uid: str, now: float) -> bool:
        """Take a token of an object; False if it has none now."""
        tokens, then = self._buckets.pop(uid, (self._burst, now))
        tokens = min(self._burst, tokens + (now - then) * self._refill_per_s)
        taken = tokens >= 1
        self._buckets[uid] = (tokens - 1 if taken else tokens), now
        while len(self._buckets) > _OBJECTS:
            self._buckets.popitem(last=False)
        return taken
