"""One outage of a source: how it is, since when, and what was told of it already.

Each change is told once, however often it is looked at.
"""

import enum
import time
from collections.abc import Iterable, Mapping

from recover import events
from recover.events import Observer
from recover.rows import Publication

Complaint = events.HealFailed | events.Skipped


class State(enum.Enum):
    """How a source was when it was last looked at."""

    UNKNOWN = "not looked at yet"
    HEALTHY = "healthy"
    BROKEN = "broken"
    HUNG = "hung"


class Outage:
    """What a healer knows of the present outage of its source, if there is one."""

    def __init__(self, source: str, observer: Observer) -> None:
        self.state = State.UNKNOWN
        self.since: float | None = None  # monotonic seconds
        self._source = source
        self._observer = observer
        self._complaints: dict[str, str] = {}

    def breaks(self, publications: tuple[Publication, ...]) -> None:
        """Take note that somebody meets a dead mount."""
        if self.state is not State.BROKEN:
            self.state = State.BROKEN
            self.since = self.since or time.monotonic()
            self._observer.tell(events.Broken(self._source, publications, time.time()))

    def hangs(self, publications: tuple[Publication, ...]) -> None:
        """Take note that the daemon does not answer in time."""
        if self.state is not State.HUNG:
            self.state = State.HUNG
            self._observer.tell(events.Hung(self._source, publications, time.time()))

    def answers(self, publications: tuple[Publication, ...]) -> None:
        """Take note that all is well although nothing was healed here."""
        if self.state in {State.BROKEN, State.HUNG}:
            self._observer.tell(events.Answering(self._source, publications))
        self.ends()

    def ends(self) -> None:
        """Take note that all is well."""
        self.state = State.HEALTHY
        self.since = None

    def lasted_s(self, until: float) -> float | None:
        """Return how long it was until a monotonic time, None if it was not seen to begin."""
        return None if self.since is None else until - self.since

    def complain(self, complaints: Mapping[str, Complaint]) -> None:
        """Tell all that is wrong now, by place, as far as it is not what was told before."""
        for where, complaint in complaints.items():
            self.complain_of(where, complaint)
        self.settle(self._complaints.keys() - complaints.keys())

    def complain_of(self, where: str, complaint: Complaint) -> None:
        """Tell what is wrong at one place, if it is not what was told before."""
        text = _text(complaint)
        if self._complaints.get(where) != text:
            self._complaints[where] = text
            self._observer.tell(complaint)

    def settle(self, places: Iterable[str]) -> None:
        """Take note that nothing is wrong at these places: what will be is told again."""
        for where in places:
            self._complaints.pop(where, None)


def _text(complaint: Complaint) -> str:
    match complaint:
        case events.HealFailed(error=text) | events.Skipped(reason=text):
            return text
