"""Shorten kubelet's back-off: delete a FUSE pod that waits too long to be started again.

kubelet waits 10, 20, 40 ... 300 s before it restarts a container that crashed, and healing waits
with it.  A fresh pod begins at zero.  Calls are made only while a FUSE mount is broken, by a thread
of its own; a dataset's pod is deleted at most once in an interval, so that a daemon that cannot run
is left to kubelet's patience.
"""

import logging
import threading
import time
from urllib.parse import quote

from csi_fluid import telling
from csi_fluid.errors import Error
from csi_fluid.kube import objects
from csi_fluid.kube.cluster import Api, place, refusal, succeeded
from csi_fluid.kube.crashloop import waiting_since
from csi_fluid.kube.objects import Name, Object
from csi_fluid.kube.wire import Request
from csi_fluid.telling import EventSink
from recover import events
from recover.events import Event
from recover.store import Store

_CALL_S = 10.0
_LOOK_S = 5.0
_STOP_S = 0.5
_CHANGED = (404, 409)  # the pod is gone, or is not as it was seen

_log = logging.getLogger(__name__)


class BackoffReset:
    """Watches broken sources, and deletes the FUSE pods that wait; an observer of recovery."""

    def __init__(
        self, api: Api, store: Store, sink: EventSink, node: str, after_s: float, interval_s: float
    ) -> None:
        """Take the calls, the publications, who takes events, this node, and the two times."""
        self._api = api
        self._store = store
        self._sink = sink
        self._node = node
        self._after_s = after_s
        self._interval_s = interval_s
        self._changed = threading.Condition()
        self._due: dict[str, float] = {}  # by broken source: when to look, monotonic
        self._reset: dict[Name, float] = {}  # by dataset: when last, monotonic
        self._problem = ""
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="backoff", daemon=True)

    def start(self) -> None:
        """Watch from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; a call under way is left behind."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(_STOP_S)

    def tell(self, event: Event) -> None:
        """Take note of a source that broke, or that answers again."""
        with self._changed:
            match event:
                case events.Broken(source=source):
                    self._due.setdefault(source, time.monotonic() + self._after_s)
                case (
                    events.Healed(source=source)
                    | events.Answering(source=source)
                    | events.Skipped(source=source)
                    | events.HealFailed(source=source)
                ):
                    self._due.pop(source, None)
                case (
                    events.Hung()
                    | events.Aborted()
                    | events.AbortFailed()
                    | events.Stacked()
                    | events.Adopted()
                    | events.Dropped()
                    | events.StateTrouble()
                    | events.Woken()
                ):
                    return
            self._changed.notify()

    def _run(self) -> None:
        while (source := self._next()) is not None:
            try:
                wait_s = self._look(source)
                self._problem = ""
            except Error as error:
                if not self._problem:
                    _log.warning("cannot look after the FUSE pod of %s: %s", source, error)
                self._problem = str(error)
                wait_s = _LOOK_S
            with self._changed:
                if source in self._due:
                    self._due[source] = time.monotonic() + wait_s

    def _next(self) -> str | None:
        """Wait for a source that is due; None when stopping."""
        with self._changed:
            while not self._stopping:
                source = min(self._due, key=self._due.__getitem__, default=None)
                left_s = None if source is None else self._due[source] - time.monotonic()
                if source is not None and left_s is not None and left_s <= 0:
                    return source
                self._changed.wait(left_s)
            return None

    def _look(self, source: str) -> float:
        """Look at a source's FUSE pods, delete one that waits; return when to look again."""
        publications = [p for p in self._store.publications() if p.source == source]
        names = {Name(p.runtime_namespace, p.runtime_name) for p in publications}
        if not publications:
            with self._changed:
                self._due.pop(source, None)
        wait_s = _LOOK_S
        for dataset in (name for name in names if name.namespace and name.name):
            last = self._reset.get(dataset)
            if last is not None and (left_s := last + self._interval_s - time.monotonic()) > 0:
                wait_s = left_s
                continue
            for pod in self._pods(dataset):
                since = waiting_since(pod, dataset, self._node)
                if since is None:
                    continue
                left_s = since + self._after_s - time.time()
                if left_s > 0:
                    wait_s = min(wait_s, left_s)
                elif self._delete(pod, dataset):
                    self._tell(source, pod, time.time() - since)
        return max(wait_s, 0.2)

    def _pods(self, dataset: Name) -> list[Object]:
        labels = quote(f"release={dataset.name},fluid.io/managed-by=fluid", safe="")
        fields = quote(f"spec.nodeName={self._node}", safe="")
        path = f"/api/v1/namespaces/{place(dataset.namespace, 'pods')}"
        request = Request("account", "GET", f"{path}?labelSelector={labels}&fieldSelector={fields}")
        answer = self._api.ask(request, time.monotonic() + _CALL_S)
        if not succeeded(answer):
            raise refusal(request, answer)
        return list(objects.items(answer.body, "items"))

    def _delete(self, pod: Object, dataset: Name) -> bool:
        """Delete exactly the pod that was seen, in the state in which it was seen."""
        seen = {key: objects.text(pod, "metadata", key) for key in ("uid", "resourceVersion")}
        if not all(seen.values()):
            return False
        name = objects.text(pod, "metadata", "name")
        path = f"/api/v1/namespaces/{place(dataset.namespace, 'pods', name)}"
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": seen}
        request = Request("account", "DELETE", path, options)
        answer = self._api.ask(request, time.monotonic() + _CALL_S)
        if answer.status in _CHANGED:
            return False
        if not succeeded(answer):
            raise refusal(request, answer)
        self._reset[dataset] = time.monotonic()
        return True

    def _tell(self, source: str, pod: Object, waited_s: float) -> None:
        name = objects.text(pod, "metadata", "name")
        message = telling.RESET.message.format(pod=name, source=source, waited_s=waited_s)
        for publication in self._store.publications():
            if publication.source == source:
                self._sink.record(telling.RESET, publication, message)
