"""Sends events, whose kinds `telling` has: taken at once, sent by a thread, kept if need be.

What is told comes from the healing path, so `record` only puts it into a queue.  The thread looks
up the objects, makes an event for each, and counts up the one it made before where the same happens
again.  While the API server cannot be asked the queue waits, longer each time; what a full queue
drops, and what the server will never take, is counted and logged.
"""

import hashlib
import logging
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from csi_fluid.errors import Unavailable
from csi_fluid.kube.cluster import Api, is_missing, refusal, succeeded
from csi_fluid.kube.queue import Queue, Rates, Waiting
from csi_fluid.kube.subjects import Subject, Subjects
from csi_fluid.kube.wire import STRATEGIC, Request, Response
from csi_fluid.telling import Reason
from recover.rows import Publication

COMPONENT = "FuseRecover"
LIMIT = 1_000
_FIRST_RETRY_S = 1.0
_LAST_RETRY_S = 60.0
_TICK_S = 1.0
_CALL_S = 10.0
_SENT_AT_MOST = 2_048
_SERIES_S = 3_000.0  # the API server forgets an event after an hour
_MESSAGE = 1_024  # bytes: validation of core/v1 Event
_CONFLICT = 409
_HOPELESS = frozenset({400, 404, 405, 413, 422})  # the same event will be refused again

_log = logging.getLogger(__name__)

Count = Callable[[str], None]
"""Is told what became of an event: sent, merged, dropped or refused."""


@dataclass(slots=True)
class _Sent:
    """An event that the API server has."""

    name: str
    count: int
    first: float
    at: float  # monotonic


class EventSender:
    """Sends events to the API server; an EventSink."""

    def __init__(
        self, api: Api, subjects: Subjects, node: str, count: Count, *, limit: int = LIMIT
    ) -> None:
        """Take the calls, who knows the objects, this node's name, and who counts."""
        self._api = api
        self._subjects = subjects
        self._node = node or socket.gethostname()
        self._count = count
        self._changed = threading.Condition()
        self._queue = Queue(limit)
        self._rates = Rates()
        self._sent: OrderedDict[tuple[str, str, str], _Sent] = OrderedDict()
        self._deadline: float | None = None  # monotonic, once the sender is to stop
        self._dropping = False
        self._problem = ""
        self._retry_s = _FIRST_RETRY_S
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)

    @property
    def waiting(self) -> int:
        """Return how many events wait to be sent."""
        with self._changed:
            return len(self._queue)

    def start(self) -> None:
        """Send from now on."""
        self._thread.start()

    def record(self, reason: Reason, publication: Publication, message: str) -> None:
        """Take an event about a publication."""
        now = time.time()
        waiting = Waiting(reason, publication, _short(message), now, now)
        with self._changed:
            merged, dropped = self._queue.put(waiting)
            self._changed.notify()
        if merged:
            self._count("merged")
        if dropped is not None:
            self._drop(dropped)

    def stop(self, grace_s: float) -> None:
        """Send what waits within grace_s, and log how much had to be left."""
        with self._changed:
            self._deadline = time.monotonic() + grace_s
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(grace_s)
        left = self.waiting
        if left:
            _log.warning("%d events were not sent: %s", left, self._problem or "no time was left")

    def _run(self) -> None:
        while self._wait():
            self._send_all()

    def _wait(self) -> bool:
        """Wait until there is something to send; False when the sender is to stop."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._queue) or self._deadline is not None)
            return bool(len(self._queue)) and not self._is_over()

    def _is_over(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _send_all(self) -> None:
        """Send what can be sent now, then pause if something is left."""
        with self._changed:
            batch = tuple(self._queue)
        for waiting in batch:
            if self._is_over():
                return
            try:
                done = self._send(waiting)
            except Unavailable as error:
                self._trouble(str(error))
                self._pause(self._retry_s)
                self._retry_s = min(2 * self._retry_s, _LAST_RETRY_S)
                return
            except Exception:  # noqa: BLE001  one event that cannot be made must not keep the others
                _log.exception("an event could not be made; please report this")
                self._count("refused")
                done = True
            if done:
                with self._changed:
                    self._queue.remove(waiting)
        self._dropping = False
        self._trouble("")
        self._retry_s = _FIRST_RETRY_S
        if self.waiting:
            self._pause(_TICK_S)

    def _pause(self, seconds: float) -> None:
        """Wait; a stop makes it short, and once more is tried before the deadline."""
        with self._changed:
            stopping = self._deadline is not None
            if stopping:
                self._changed.wait(min(seconds, 0.2))
            else:
                self._changed.wait_for(lambda: self._deadline is not None, seconds)

    def _send(self, waiting: Waiting) -> bool:
        """Send an event to all objects; False if one of them has had too many for now."""
        until = time.monotonic() + _CALL_S
        if self._deadline is not None:
            until = min(until, self._deadline)
        complete = True
        subjects = self._subjects.of(waiting.publication, until)
        if not subjects:
            self._count("unaddressed")
        for subject in subjects:
            if subject.uid in waiting.done:
                continue
            if not self._rates.take(subject.uid, time.monotonic()):
                complete = False
                continue
            self._tell(subject, waiting, until)
            with self._changed:
                waiting.done.add(subject.uid)
        return complete

    def _tell(self, subject: Subject, waiting: Waiting, until: float) -> None:
        key = subject.uid, waiting.reason.name, waiting.message
        sent = self._sent.pop(key, None)
        if sent is not None and time.monotonic() - sent.at < _SERIES_S:
            count = sent.count + waiting.count
            changes = {"count": count, "lastTimestamp": _time(waiting.last)}
            request = Request(
                "account", "PATCH", f"{_events(subject)}/{sent.name}", changes, STRATEGIC
            )
            answer = self._api.ask(request, until)
            if succeeded(answer):
                self._keep(key, _Sent(sent.name, count, sent.first, time.monotonic()))
                self._count("sent")
                return
            if not is_missing(answer):
                self._refused(request, answer)
                return
        event = _event(subject, waiting, self._node)
        request = Request("account", "POST", _events(subject), event)
        answer = self._api.ask(request, until)
        # 409: an earlier try of the same event had arrived, though its answer had not.
        if succeeded(answer) or answer.status == _CONFLICT:
            name = event["metadata"]["name"]
            self._keep(key, _Sent(name, waiting.count, waiting.first, time.monotonic()))
            self._count("sent")
        else:
            self._refused(request, answer)

    def _refused(self, request: Request, answer: Response) -> None:
        """Give up an event that the server will never take; raises Unavailable for another try."""
        error = refusal(request, answer)
        is_ending = "being terminated" in str(error)  # of the object's namespace
        if answer.status not in _HOPELESS and not is_ending:
            raise error
        self._count("refused")
        _log.warning("an event is given up: %s", error)

    def _keep(self, key: tuple[str, str, str], sent: _Sent) -> None:
        self._sent[key] = sent
        while len(self._sent) > _SENT_AT_MOST:
            self._sent.popitem(last=False)

    def _drop(self, dropped: Waiting) -> None:
        self._count("dropped")
        if not self._dropping:
            self._dropping = True
            _log.warning(
                "too many events wait for the API server: the oldest are dropped, first %s of %s",
                *(dropped.reason.name, dropped.publication.target),
            )

    def _trouble(self, problem: str) -> None:
        """Tell when events stop or begin to be taken."""
        if bool(problem) != bool(self._problem):
            if problem:
                _log.warning("events are kept and sent later: %s", problem)
            else:
                _log.info("events are sent again")
        self._problem = problem


def _events(subject: Subject) -> str:
    return f"/api/v1/namespaces/{subject.namespace}/events"


def _event(subject: Subject, waiting: Waiting, node: str) -> dict[str, Any]:
    """Return a core/v1 Event, named by us so that making it twice makes one."""
    identity = f"{subject.uid} {waiting.key} {waiting.first}"
    digest = hashlib.sha256(identity.encode("utf-8", "replace")).hexdigest()
    name = f"{subject.name[:200]}.{digest[:16]}"
    about: Mapping[str, str] = {
        "apiVersion": subject.api_version,
        "kind": subject.kind,
        "namespace": subject.namespace,
        "name": subject.name,
        "uid": subject.uid,
    }
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": subject.namespace},
        "involvedObject": about,
        "reason": waiting.reason.name,
        "message": waiting.message,
        "type": waiting.reason.type,
        "source": {"component": COMPONENT, "host": node},
        "reportingComponent": COMPONENT,
        "reportingInstance": node,
        "firstTimestamp": _time(waiting.first),
        "lastTimestamp": _time(waiting.last),
        "count": waiting.count,
    }


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _short(message: str) -> str:
    data = message.encode("utf-8", "replace")
    return (
        data[: _MESSAGE - 3].decode("utf-8", "ignore") + "..."
        if len(data) > _MESSAGE
        else data.decode()
    )
