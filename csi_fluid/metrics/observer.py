"""What recovery tells, as numbers."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol

from csi_fluid.metrics import catalogue, held
from csi_fluid.metrics.values import Gauges, Values
from recover import events
from recover.events import Event
from recover.linux.probe import Prober
from recover.rows import Publication
from recover.seamless.client import Status

_RESULTS = ("healed", "failed", "skipped")


class Publications(Protocol):
    """What the gauges are computed from: the store, or what an agent guards."""

    @property
    def problem(self) -> str:
        """Return what keeps the state file from being used, "" for nothing."""

    def publications(self) -> tuple[Publication, ...]:
        """Return what is published now."""


class MetricsObserver:
    """Counts what happens, and remembers the state of each publication for the gauges."""

    def __init__(self, store: Publications, prober: Prober) -> None:
        """Take what the gauges are computed from."""
        self.values = Values(self.gauges)
        self._store = store
        self._prober = prober
        self._lock = threading.Lock()
        self._ill: dict[str, tuple[str, float]] = {}  # by target: state and since when
        self._layers: dict[str, int] = {}  # by source
        self.registered: Callable[[], bool] | None = None  # where the plugin registers itself
        self.events_waiting: Callable[[], int] = lambda: 0
        self.held: Callable[[], Status] | None = None  # where connections are held
        self._strategy = ""

    @property
    def strategy(self) -> str:
        """Return how this plugin heals, "" as long as that is not known."""
        return self._strategy

    @strategy.setter
    def strategy(self, name: str) -> None:
        self._strategy = name
        for result in _RESULTS:
            self.values.begin(catalogue.HEALS, result, name)
        for metric in (catalogue.COPIES, catalogue.HEAL_SECONDS, catalogue.OUTAGE_SECONDS):
            self.values.begin(metric, name)

    def tell(self, event: Event) -> None:
        """Take note of an event."""
        match event:
            case events.Healed():
                self._healed(event)
            case events.HealFailed() | events.Skipped():
                failed = isinstance(event, events.HealFailed)
                self.values.count(catalogue.HEALS, "failed" if failed else "skipped", self.strategy)
                self._become("failing" if failed else "skipped", event.publications)
            case events.Broken() | events.Hung():
                state = "broken" if isinstance(event, events.Broken) else "hung"
                self._become(state, event.publications, event.since)
            case events.Answering(publications=publications):
                self._end(publications)
            case events.Aborted() | events.AbortFailed():
                done = isinstance(event, events.Aborted)
                self.values.count(catalogue.ABORTS, "aborted" if done else "failed")
            case events.Woken(by=by):
                self.values.count(catalogue.WAKEUPS, by)
            case events.Stacked() | events.Adopted() | events.Dropped() | events.StateTrouble():
                pass

    def gauges(self) -> Gauges:
        """Return the gauges as of now: from memory, without touching a mount."""
        publications = self._store.publications()
        sources = {publication.source for publication in publications}
        with self._lock:
            ill = {p: self._ill[p.target] for p in publications if p.target in self._ill}
            self._ill = {p.target: state for p, state in ill.items()}
            self._layers = {s: n for s, n in self._layers.items() if s in sources}
            layers: dict[tuple[str, ...], float] = {
                (source,): float(count) for source, count in self._layers.items()
            }
        states = Counter(state for state, _ in ill.values())
        states["healthy"] = len(publications) - len(ill)
        since: dict[tuple[str, ...], float] = {}
        for publication, (_, at) in ill.items():
            since[publication.source,] = min(at, since.get((publication.source,), at))
        return {
            **held.gauges(self.held),
            catalogue.PUBLICATIONS: {(state,): float(states[state]) for state in catalogue.STATES},
            catalogue.BROKEN_SINCE: since,
            catalogue.LAYERS: layers,
            catalogue.EVENTS_WAITING: {(): float(self.events_waiting())},
            catalogue.ABANDONED_PROBES: {(): float(self._prober.abandoned)},
            catalogue.STATE_PROBLEM: {(): float(bool(self._store.problem))},
            catalogue.REGISTERED: {(): float(self.registered())} if self.registered else {},
        }

    def _healed(self, event: events.Healed) -> None:
        self.values.count(catalogue.HEALS, "healed", event.strategy)
        self.values.count(catalogue.COPIES, event.strategy, amount=event.copies)
        self.values.observe(catalogue.HEAL_SECONDS, event.latency_s, event.strategy)
        if event.outage_s is not None:
            self.values.observe(catalogue.OUTAGE_SECONDS, event.outage_s, event.strategy)
        with self._lock:
            self._layers[event.source] = event.layers
        self._end(event.publications)

    def _become(
        self, state: str, publications: Iterable[Publication], since: float | None = None
    ) -> None:
        now = time.time() if since is None else since
        with self._lock:
            for publication in publications:
                _, at = self._ill.get(publication.target, (state, now))
                self._ill[publication.target] = state, at

    def _end(self, publications: Iterable[Publication]) -> None:
        with self._lock:
            for publication in publications:
                self._ill.pop(publication.target, None)
