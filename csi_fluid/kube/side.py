"""The API side as one part of the plugin: credentials, helper process, labels, events, back-off."""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass

from csi_fluid.kube import Kube
from csi_fluid.kube.access import Access
from csi_fluid.kube.backoff import BackoffReset
from csi_fluid.kube.cluster import Cluster
from csi_fluid.kube.eventsender import EventSender
from csi_fluid.kube.helper import Helper
from csi_fluid.kube.none import NoKube
from csi_fluid.kube.subjects import Subjects
from csi_fluid.kube.wire import Request, Response
from csi_fluid.telling import EventSink
from recover.events import Observer
from recover.store import Store

_RESOURCE = re.compile(r"/(?:api|apis/[^/]+)/v[^/]+/(?:namespaces/[^/]+/)?([a-z]+)")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Counts:
    """Who counts: calls by verb, resource and code; events by what became of them; helpers."""

    call: Callable[[str, str, str], None]
    event: Callable[[str], None]
    start: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Reset:
    """When FUSE pods that wait for kubelet's back-off are deleted, and how often; seconds."""

    after_s: float
    interval_s: float


class ApiSide:
    """All parts of the API side, wired; without a credential it labels and sends nothing."""

    def __init__(
        self,
        access: Access,
        node: str,
        counts: Counts,
        *,
        look_first: bool = False,
    ) -> None:
        """Take the credentials, this node's name and who counts; nothing runs yet."""
        self._access = access
        self._node = node
        self._helper: Helper | None = None
        self._reset: BackoffReset | None = None
        self.kube: Kube = NoKube()
        self.events: EventSender | None = None
        if access:
            helper = Helper(access, teller(counts.call), counts.start)
            cluster = Cluster(helper, node, look_first=look_first)
            self._helper, self.kube = helper, cluster
            subjects = Subjects(helper, cluster, node)
            self.events = EventSender(helper, subjects, node, counts.event)

    @property
    def waiting(self) -> int:
        """Return how many events wait to be sent."""
        return self.events.waiting if self.events else 0

    def reset_backoff(self, store: Store, sink: EventSink, reset: Reset) -> Observer | None:
        """Have waiting FUSE pods deleted; return who must be told of what breaks and heals."""
        if self._helper is None:
            _log.warning("--reset-backoff has no effect: no credential for the API server")
            return None
        self._reset = BackoffReset(
            self._helper, store, sink, self._node, reset.after_s, reset.interval_s
        )
        return self._reset

    def start(self) -> None:
        """Begin; no call is made before something is to be said or asked."""
        _log.info("API server: %s", self._access.described())
        if self.events is not None:
            self.events.start()
        if self._reset is not None:
            self._reset.start()

    def stop(self, grace_s: float) -> None:
        """Send what waits within grace_s, and end."""
        if self._reset is not None:
            self._reset.stop()
        if self.events is not None:
            self.events.stop(grace_s)
        if self._helper is not None:
            self._helper.close()


def teller(count: Callable[[str, str, str], None]) -> Callable[[Request, Response], None]:
    """Return who is told of calls: they are counted by verb, resource and code."""

    def tell(request: Request, answer: Response) -> None:
        found = _RESOURCE.match(request.path)
        count(request.method, found[1] if found else "other", str(answer.status or "none"))

    return tell
