"""Who is told what recovery does: the log and Kubernetes' events (metrics.observer: the metrics).

An event has a reason, a type, an object and a message; Fluid's reasons keep their messages, so that
what watches for them goes on working.  Where events go is an EventSink: standalone the log.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from recover import events
from recover.events import Event
from recover.rows import Publication

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an event is made: its name and type in Kubernetes, and the form of its message."""

    name: str
    type: Literal["Normal", "Warning"]
    message: str


SUCCEEDED = Reason("FuseRecoverSucceed", "Normal", "Fuse recover {target} succeed")
FAILED = Reason(
    "FuseRecoverFailed",
    "Warning",
    "Fuse recover {target} failed: {where}: {error}; next try in {retry_s:g} s",
)
STACKED = Reason(
    "UnmountDuplicateMountpoint",
    "Warning",
    "Mountpoint {target} has been mounted {layers} times: restart its pod to unmount duplicate "
    "mountpoint; with hostPID=true a heal leaves one",
)
BROKEN = Reason(
    "FuseBroken",
    "Warning",
    "Fuse mount {source} is broken: {target} answers errors until its FUSE daemon mounts again",
)
HUNG = Reason(
    "FuseHung",
    "Warning",
    "Fuse mount {source} does not answer: accesses to {target} wait; look at its FUSE pod",
)
ABORTED = Reason(
    "FuseAborted",
    "Warning",
    "Fuse mount {source} was ended: its daemon had not answered for {silent_s:.0f} s; {target} "
    "answers errors until its FUSE daemon mounts again; restart its FUSE pod",
)
ABORT_FAILED = Reason(
    "FuseAbortFailed",
    "Warning",
    "Fuse mount {source} does not answer and could not be ended: {error}; restart its FUSE pod",
)
SKIPPED = Reason(
    "FuseRecoverSkipped", "Warning", "Fuse recover {target} skipped: {where}: {reason}"
)
RESET = Reason(
    "FuseBackoffReset",
    "Normal",
    "Fuse pod {pod} was deleted: it had waited {waited_s:.0f} s to be started again; its DaemonSet "
    "makes a fresh one, which mounts {source}",
)
REASONS: tuple[Reason, ...] = (
    *(SUCCEEDED, FAILED, STACKED, BROKEN, HUNG, SKIPPED),
    *(ABORTED, ABORT_FAILED, RESET),
)


class EventSink(Protocol):
    """Somebody who takes events; returns at once and never raises."""

    def record(self, reason: Reason, publication: Publication, message: str) -> None:
        """Take an event about a publication."""


class LogSink:
    """Writes events to the log."""

    def record(self, reason: Reason, publication: Publication, message: str) -> None:
        """Log an event: Normal at INFO, Warning at WARNING."""
        level = logging.INFO if reason.type == "Normal" else logging.WARNING
        _log.log(level, message, extra={"reason": reason.name, **_about(publication)})


class Sinks:
    """Passes events on to several sinks."""

    def __init__(self, *sinks: EventSink) -> None:
        self._sinks = sinks

    def record(self, reason: Reason, publication: Publication, message: str) -> None:
        """Pass an event on."""
        for sink in self._sinks:
            sink.record(reason, publication, message)


class EventObserver:
    """Makes events of what it is told, one for each publication."""

    def __init__(self, sink: EventSink) -> None:
        self._sink = sink

    def tell(self, event: Event) -> None:
        """Pass an event on to the sink, if it is worth one."""
        match event:
            case events.Healed():
                self._record(SUCCEEDED, event.publications)
            case events.HealFailed(where=where, error=error, retry_s=retry_s):
                self._record(FAILED, event.publications, where=where, error=error, retry_s=retry_s)
            case events.Skipped(where=where, reason=why):
                self._record(SKIPPED, event.publications, where=where, reason=why)
            case events.Broken() | events.Hung():
                reason = BROKEN if isinstance(event, events.Broken) else HUNG
                self._record(reason, event.publications)
            case events.Aborted() | events.AbortFailed():
                self._tell_of_abort(event)
            case events.Stacked(publication=publication, layers=layers):
                self._record(STACKED, (publication,), layers=layers)
            case (
                events.Answering()
                | events.Adopted()
                | events.Dropped()
                | events.StateTrouble()
                | events.Woken()
            ):
                pass

    def _tell_of_abort(self, event: events.Aborted | events.AbortFailed) -> None:
        if isinstance(event, events.Aborted):
            self._record(ABORTED, event.publications, silent_s=event.silent_s)
        else:
            self._record(ABORT_FAILED, event.publications, error=event.error)

    def _record(self, why: Reason, publications: Iterable[Publication], /, **facts: object) -> None:
        for publication in publications:
            names = {"target": publication.target, "source": publication.source}
            self._sink.record(why, publication, why.message.format(**names, **facts))


class LogObserver:
    """Logs what is no event of a publication, once for each change."""

    def tell(self, event: Event) -> None:
        """Log an event."""
        match event:
            case events.Healed():
                _log.info("healed", extra=_numbers(event))
            case events.Answering(source=source):
                _log.info("Fuse mount %s answers again", source)
            case events.Adopted(publications=publications):
                _list("adopted a mount that was here", publications)
            case events.Dropped(publications=publications, why=why):
                _list(f"forgot a publication: {why}", publications)
            case events.StateTrouble(problem=""):
                _log.info("the state file works again")
            case events.StateTrouble(problem=problem):
                _log.warning("%s", problem)
            case (
                events.Broken()
                | events.Hung()
                | events.Aborted()
                | events.AbortFailed()
                | events.HealFailed()
                | events.Skipped()
                | events.Stacked()
                | events.Woken()
            ):
                pass


class FanOut:
    """Tells several observers; one that fails keeps nothing from the others or from healing."""

    def __init__(self, *observers: events.Observer) -> None:
        self._observers = observers

    def tell(self, event: Event) -> None:
        """Tell everybody."""
        for each in self._observers:
            try:
                each.tell(event)
            except Exception:  # noqa: BLE001  observers must not raise
                _log.exception("%s failed; please report this", type(each).__name__)


def _list(what: str, publications: Iterable[Publication]) -> None:
    for publication in publications:
        _log.info(what, extra=_about(publication))


def _about(publication: Publication) -> dict[str, object]:
    facts = {
        "target": publication.target,
        "source": publication.source,
        "volume": publication.volume_id,
        "dataset": f"{publication.runtime_namespace}/{publication.runtime_name}".strip("/"),
        "pod": f"{publication.pod_namespace}/{publication.pod_name}".strip("/"),
    }
    return {name: fact for name, fact in facts.items() if fact}


def _numbers(event: events.Healed) -> dict[str, object]:
    return {
        "source": event.source,
        "strategy": event.strategy,
        "volumes": len(event.publications),
        "copies": event.copies,
        "layers": event.layers,
        "latency_ms": round(event.latency_s * 1000, 2),
        "outage_s": "unknown" if event.outage_s is None else round(event.outage_s, 3),
    }
