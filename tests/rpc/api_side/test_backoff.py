"""A FUSE pod in kubelet's back-off makes way for a fresh one."""

import contextlib
import http.server
import threading
import time
from collections.abc import Iterator

from csi_fluid import telling
from csi_fluid.kube import calls
from csi_fluid.testbed.waiting import until
from recover import events
from recover.rows import Publication
from recover.store import Store
from tests.harness.apiserver import ACCOUNT, NODE
from tests.rpc.api_side.world import ROW, World
from tests.unit.test_kube import fuse_pod


class Listener:
    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def record(self, reason: telling.Reason, publication: Publication, message: str) -> None:
        self.told.append((reason.name, message))


@contextlib.contextmanager
def watching(world: World, interval_s: float = 600) -> Iterator[tuple[events.Observer, Listener]]:
    from csi_fluid.kube.backoff import BackoffReset

    store, listener = Store(), Listener()
    store.put_publication(ROW)
    world.server.rules[ACCOUNT] += calls.RESET_BACKOFF
    watcher = BackoffReset(world.helper, store, listener, NODE, 0.3, interval_s)
    watcher.start()
    try:
        yield watcher, listener
    finally:
        watcher.stop()


def broken() -> events.Broken:
    return events.Broken(ROW.source, (ROW,), time.time())


def crashing_pod(world: World) -> str:
    path = "/api/v1/namespaces/ns/pods/demo-jindofs-fuse-x"
    world.server.objects[path] = dict(fuse_pod())
    return path


def test_a_fuse_pod_that_waits_too_long_is_deleted_once(world: World):
    path = crashing_pod(world)
    with watching(world) as (watcher, listener):
        watcher.tell(broken())
        until(lambda: bool(listener.told), "it is told")
        assert path not in world.server.objects
        crashing_pod(world)
        watcher.tell(events.Answering(ROW.source, (ROW,)))
        watcher.tell(broken())
        asked = len(world.server.asked)
        assert not threading.Event().wait(1.0)

    assert [reason for reason, _ in listener.told] == ["FuseBackoffReset"]
    assert path in world.server.objects
    assert len(world.server.asked) == asked


def test_a_pod_that_changed_since_it_was_seen_is_not_deleted(world: World):
    path = crashing_pod(world)

    def change(handler: http.server.BaseHTTPRequestHandler) -> bool:
        if handler.command == "DELETE":
            world.server.objects[path]["metadata"]["resourceVersion"] = "8"
            world.server.objects[path]["status"] = {}
        return False

    world.server.fault = change
    with watching(world) as (watcher, listener):
        watcher.tell(broken())
        until(lambda: any(method == "DELETE" for _, method, _ in world.server.asked), "it is tried")
        assert not threading.Event().wait(0.3)

    assert path in world.server.objects
    assert listener.told == []


def test_while_nothing_is_broken_no_call_is_made(world: World):
    crashing_pod(world)
    with watching(world) as (watcher, _):
        watcher.tell(broken())
        watcher.tell(events.Answering(ROW.source, (ROW,)))
        assert not threading.Event().wait(0.8)

    assert world.server.asked == []
    assert world.starts == 0
