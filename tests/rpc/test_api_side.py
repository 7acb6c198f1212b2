"""The API side over real TLS: what it asks, and what comes of a server that is not well."""

import contextlib
import http.server
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from csi_fluid import telling
from csi_fluid.errors import NotFound, Unavailable
from csi_fluid.kube import Volume, calls, helper
from csi_fluid.kube.access import Access
from csi_fluid.kube.cluster import Cluster
from csi_fluid.kube.events import EventSender
from csi_fluid.kube.helper import Helper
from csi_fluid.kube.subjects import Subjects
from csi_fluid.kube.wire import Answer, Request
from recover import observer
from recover.rows import Publication
from recover.store import Store
from tests import sandbox
from tests.harness import apiserver
from tests.harness.apiserver import ACCOUNT, FLUID_PATH, KUBELET, NODE, ApiServer
from tests.unit.test_kube import fuse_pod

TARGET = "/var/lib/kubelet/pods/u-app/volumes/kubernetes.io~csi/ns-demo/mount"
ROW = Publication(
    target=TARGET,
    volume_id="ns-demo",
    source="/runtime-mnt/jindo/ns/demo/jindofs-fuse",
    runtime_namespace="ns",
    runtime_name="demo",
    pod_namespace="apps",
    pod_name="app",
    pod_uid="u-app",
)


class World:
    """A server, and the API side in front of it."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.calls: list[tuple[str, int]] = []
        self.starts = 0
        self.results: Counter[str] = Counter()
        self.access = Access(str(server.kubelet_config()), str(server.account_config()))
        self.helper = Helper(self.access, self._told, self._started, idle_s=0.5)
        self.cluster = Cluster(self.helper, NODE)
        subjects = Subjects(self.helper, self.cluster, NODE)
        self.sender = EventSender(
            self.helper, subjects, NODE, lambda result: self.results.update([result]), limit=5
        )

    def _told(self, request: Request, answer: Answer) -> None:
        self.calls.append((request.method, answer.status))

    def _started(self) -> None:
        self.starts += 1

    @property
    def pid(self) -> int:
        pid = self.helper.pid
        assert pid is not None
        return pid


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with apiserver.running(tmp_path) as server:
        found = World(server)
        server.dataset("ns", "demo")
        try:
            yield found
        finally:
            found.sender.stop(2)
            found.helper.close()


def soon(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


# ---- Labels and clean policies


def test_a_node_is_labelled_with_kubelets_credential(world: World):
    world.cluster.label_node("fluid.io/f-ns-demo", soon())
    world.cluster.label_node("fluid.io/f-ns-demo", soon())

    assert world.server.labels == {"fluid.io/f-ns-demo": "true"}
    assert world.server.asked == [(KUBELET, "PATCH", f"/api/v1/nodes/{NODE}")] * 2

    world.cluster.unlabel_node("fluid.io/f-ns-demo", soon())
    world.cluster.unlabel_node("fluid.io/f-ns-demo", soon())

    assert world.server.labels == {}


def test_a_node_is_read_first_where_that_is_wanted(world: World):
    Cluster(world.helper, NODE, look_first=True).label_node("fluid.io/f-ns-demo", soon())

    assert [method for _, method, _ in world.server.asked] == ["GET", "PATCH"]


def test_a_label_that_the_request_tells_by_the_runtimes_name_costs_no_call(world: World):
    label = world.cluster.label_of(Volume("ns-demo", "ns", "demo"), soon())

    assert label == "fluid.io/f-ns-demo"
    assert world.server.asked == []


def test_the_label_of_a_dataset_with_a_long_name_is_made_of_its_uid(world: World):
    name = "d" * 60
    world.server.dataset("ns", name)

    label = world.cluster.label_of(Volume("v", "ns", name), soon())

    assert label == f"fluid.io/f-uid-{name}"
    assert world.server.asked[0][0] == ACCOUNT


def test_an_old_volume_is_followed_by_its_claim(world: World):
    volume = world.server.objects["/api/v1/persistentvolumes/ns-demo"]
    volume["spec"]["csi"]["volumeAttributes"] = {}

    assert world.cluster.label_of(Volume("ns-demo"), soon()) == "fluid.io/f-ns-demo"


def test_a_volume_of_a_claim_that_is_not_fluids_is_refused(world: World):
    world.server.objects["/api/v1/persistentvolumes/ns-demo"]["spec"]["csi"] = {}
    claim = world.server.objects["/api/v1/namespaces/ns/persistentvolumeclaims/demo"]
    claim["metadata"]["labels"] = {"app": "db"}

    with pytest.raises(NotFound, match="no claim of a Fluid dataset"):
        world.cluster.label_of(Volume("ns-demo"), soon())
    assert world.cluster.fuse_of("ns-demo", soon()) is None


def test_a_volume_that_is_gone_is_told_at_stage_and_is_nothing_at_unstage(world: World):
    with pytest.raises(NotFound, match="no PersistentVolume"):
        world.cluster.label_of(Volume("gone"), soon())
    assert world.cluster.fuse_of("gone", soon()) is None


@pytest.mark.parametrize("kind", calls.RUNTIMES)
def test_the_clean_policy_of_every_kind_of_runtime_is_found(world: World, kind: str):
    world.server.dataset("ns", kind, kind=kind, policy="OnDemand")

    fuse = world.cluster.fuse_of(f"ns-{kind}", soon())

    assert fuse is not None
    assert (fuse.label, fuse.policy) == (f"fluid.io/f-ns-{kind}", "OnDemand")
    assert fuse.runtime == (kind, "ns", kind)
    assert fuse.source.startswith("/runtime-mnt/")


def test_on_fuse_changed_goes_by_the_claims_generation(world: World):
    world.server.dataset("ns", "j", kind="juicefs", policy="OnFuseChanged")
    claim = world.server.objects["/api/v1/namespaces/ns/persistentvolumeclaims/j"]
    claim["metadata"]["labels"]["fuse.runtime.fluid.io/generation"] = "3"

    fuse = world.cluster.fuse_of("ns-j", soon())

    assert fuse is not None
    assert (fuse.policy, fuse.generation) == ("OnFuseChanged", "3")


@pytest.mark.parametrize("gone", ["datasets", "jindoruntimes", "persistentvolumes"])
def test_a_dataset_or_runtime_that_is_gone_leaves_nothing_to_be_cleaned(world: World, gone: str):
    for path in [path for path in world.server.objects if f"/{gone}/" in path]:
        del world.server.objects[path]

    assert world.cluster.fuse_of("ns-demo", soon()) is None


def test_a_runtime_of_an_unknown_type_is_told(world: World):
    dataset = world.server.objects[f"{FLUID_PATH}/namespaces/ns/datasets/demo"]
    dataset["status"]["runtimes"][0]["type"] = "goosefs"

    with pytest.raises(Unavailable, match="'goosefs'"):
        world.cluster.fuse_of("ns-demo", soon())


# ---- A server that is not well


def test_a_server_that_is_down_is_told_at_once(world: World):
    world.server.stop()
    started = time.monotonic()

    with pytest.raises(Unavailable, match="refused"):
        world.cluster.label_node("a/b", soon())
    assert time.monotonic() - started < 8

    world.server.start()
    world.cluster.label_node("a/b", soon())
    assert world.server.labels == {"a/b": "true"}


def test_a_slow_server_delays_no_other_call(world: World):
    gate = threading.Event()

    def slow(handler: http.server.BaseHTTPRequestHandler) -> bool:
        return "nodes" in handler.path and not gate.wait(10)

    world.server.fault = slow
    thread = threading.Thread(target=world.cluster.label_node, args=("a/b", soon()))
    thread.start()
    try:
        assert world.cluster.fuse_of("ns-demo", soon()) is not None
        assert thread.is_alive()
    finally:
        gate.set()
        thread.join()
    assert world.starts == 1


def test_a_server_that_does_not_answer_in_time_is_told(world: World):
    gate = threading.Event()
    world.server.fault = lambda _: not gate.wait(20)
    started = time.monotonic()
    try:
        with pytest.raises(Unavailable, match=r"[Tt]imed? ?out"):
            world.cluster.label_node("a/b", soon(1.5))
        assert time.monotonic() - started < 6
    finally:
        gate.set()


def test_a_refusal_is_told_with_what_the_server_says(world: World):
    world.server.rules[ACCOUNT] = ()

    with pytest.raises(Unavailable, match=r"answered 403 .*cannot get this.*RBAC") as caught:
        world.cluster.fuse_of("ns-demo", soon())
    assert caught.value.status == 403


@pytest.mark.parametrize("body", [b"<html>gateway</html>", b"[1]", b'{"kind": "Pod"}', b"\xff\x00"])
@pytest.mark.parametrize("status", [200, 404, 502])
def test_garbage_is_no_answer(world: World, body: bytes, status: int):
    def garbage(handler: http.server.BaseHTTPRequestHandler) -> bool:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
        return True

    world.server.fault = garbage

    with pytest.raises(Unavailable, match=f"answered {status}"):
        world.cluster.fuse_of("ns-demo", soon())


def test_a_connection_that_was_closed_meanwhile_is_made_again(world: World):
    world.cluster.label_node("a/b", soon())
    broken = threading.Event()

    def reset(handler: http.server.BaseHTTPRequestHandler) -> bool:
        if broken.is_set():
            return False
        broken.set()
        handler.close_connection = True
        return True

    world.server.fault = reset
    world.cluster.label_node("c/d", soon())

    assert world.server.labels == {"a/b": "true", "c/d": "true"}


# ---- Credentials


def test_a_token_that_was_rotated_is_read_again(world: World):
    world.cluster.volume("ns-demo", soon())
    world.server.token = "second-token"
    world.server.account_config()

    assert world.cluster.volume("ns-demo", soon()) is not None
    assert world.starts == 1


def test_a_token_that_the_server_takes_no_more_is_read_again(world: World):
    config, token = world.server.token_file_config()
    own = Helper(Access(account=str(config)), lambda *_: None, lambda: None)
    try:
        assert Cluster(own, NODE).volume("ns-demo", soon()) is not None
        world.server.token = "second-token"
        token.write_text(world.server.token)
        assert Cluster(own, NODE).volume("ns-demo", soon()) is not None
    finally:
        own.close()


def test_a_certificate_that_was_rotated_is_used(world: World):
    world.cluster.label_node("a/b", soon())
    new = world.server.authority.issue("system:node:other", world.server.folder / "new.pem")
    link = world.server.folder / "current.new"
    link.symlink_to(new)
    link.rename(world.server.folder / "kubelet-client-current.pem")

    with pytest.raises(Unavailable, match="403"):
        world.cluster.label_node("c/d", soon())
    assert world.server.asked[-1][0] == "system:node:other"


def test_a_credential_given_inline_leaves_no_file_behind(world: World, tmp_path: Path):
    inline = world.server.inline_config()
    own = Helper(Access(str(inline)), lambda *_: None, lambda: None)
    try:
        Cluster(own, NODE).label_node("a/b", soon())
        (folder,) = {Path(path).parent for path in _open_folders(own)}
        assert list(folder.iterdir())
    finally:
        own.close()
    assert not folder.exists()


def _open_folders(own: Helper) -> list[str]:
    words = Path(f"/proc/{own.pid}/cmdline").read_text(encoding="utf-8").split("\0")
    return [f"{words[-2]}/x"]


def test_a_credential_that_cannot_be_used_is_named(world: World, tmp_path: Path):
    broken = tmp_path / "broken.conf"
    broken.write_text("current-context: nothing\n")
    own = Helper(Access(str(broken)), lambda *_: None, lambda: None)
    try:
        with pytest.raises(Unavailable, match=r"cannot use the credential .*broken\.conf"):
            Cluster(own, NODE).label_node("a/b", soon())
    finally:
        own.close()


def test_a_credential_made_by_a_command_that_is_not_here_is_told(world: World):
    config = world.server.exec_config("no-such-command")
    own = Helper(Access(str(config)), lambda *_: None, lambda: None)
    try:
        with pytest.raises(Unavailable, match="no-such-command"):
            Cluster(own, NODE).label_node("a/b", soon())
    finally:
        own.close()


# ---- The helper process


def test_the_helper_ends_when_it_is_idle_and_is_started_again(world: World):
    world.cluster.label_node("a/b", soon())
    pid = world.pid
    sandbox.wait_until(lambda: world.helper.pid is None, "the helper ends")
    sandbox.wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the process is gone")

    world.cluster.label_node("a/b", soon())

    assert world.starts == 2


def test_a_helper_that_is_killed_is_replaced_and_its_call_made_again(world: World):
    gate = threading.Event()

    def wait_once(_: http.server.BaseHTTPRequestHandler) -> bool:
        return world.starts == 1 and not gate.wait(10)

    world.server.fault = wait_once
    thread = threading.Thread(target=world.cluster.label_node, args=("a/b", soon()))
    thread.start()
    try:
        sandbox.wait_until(lambda: bool(world.server.asked), "the call arrives")
        os.kill(world.pid, signal.SIGKILL)
        sandbox.wait_until(lambda: world.starts == 2, "another helper starts")
    finally:
        gate.set()
        thread.join()

    assert world.server.labels == {"a/b": "true"}


@pytest.mark.expects_log("it keeps no time limit")
def test_a_helper_that_hangs_is_killed(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(helper, "_GRACE_S", 0.2)
    world.cluster.label_node("a/b", soon())
    pid = world.pid
    os.kill(pid, signal.SIGSTOP)

    with pytest.raises(Unavailable, match="no answer within"):
        world.cluster.label_node("c/d", soon(0.5))
    sandbox.wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the process is gone")
    world.cluster.label_node("e/f", soon())

    assert set(world.server.labels) >= {"a/b", "e/f"}


# ---- Events


def test_an_event_is_told_of_the_dataset_and_of_the_pod(world: World):
    world.sender.start()
    world.sender.record(telling.BROKEN, ROW, "it broke")
    sandbox.wait_until(lambda: len(world.server.events) == 2, "both events are there")

    by_kind = {event["involvedObject"]["kind"]: event for event in world.server.events}
    assert by_kind["Dataset"]["involvedObject"] == {
        "apiVersion": "data.fluid.io/v1alpha1",
        "kind": "Dataset",
        "namespace": "ns",
        "name": "demo",
        "uid": "uid-demo",
    }
    assert by_kind["Pod"]["involvedObject"]["uid"] == "u-app"
    assert by_kind["Pod"]["metadata"]["namespace"] == "apps"
    for event in by_kind.values():
        assert (event["reason"], event["type"]) == ("FuseBroken", "Warning")
        assert event["source"] == {"component": "FuseRecover", "host": NODE}
        assert event["count"] == 1


def test_about_the_mount_of_a_sidecar_no_volume_is_asked_for(world: World):
    source = "/runtime-mnt/jindo/ns/app/jindofs-fuse"
    row = Publication(target=source, volume_id="", source=source, method="sidecar")

    assert Subjects(world.helper, world.cluster, NODE).of(row, soon()) == ()
    assert world.server.asked == []


def _has_sent(world: World, number: int) -> bool:
    return world.results["sent"] == number


def test_the_same_again_counts_the_first_one_up(world: World):
    world.sender.start()
    for number in (2, 4, 6):
        world.sender.record(telling.BROKEN, ROW, "it broke")
        sandbox.wait_until(partial(_has_sent, world, number), "it is sent")

    assert [event["count"] for event in world.server.events] == [3, 3]


def test_a_reference_dataset_and_a_pod_of_an_earlier_plugin_are_looked_up(world: World):
    world.server.dataset("team", "ref", shows=("ns", "demo"))
    world.server.pod("apps", "app", uid="u-app")
    row = Publication(
        target=TARGET.replace("ns-demo", "team-ref"),
        volume_id="ns-demo",
        source=ROW.source,
        adopted=True,
    )
    world.sender.start()
    world.sender.record(telling.HUNG, row, "it hangs")
    sandbox.wait_until(lambda: len(world.server.events) == 3, "all events are there")

    told = {
        (e["involvedObject"]["namespace"], e["involvedObject"]["name"]) for e in world.server.events
    }
    assert told == {("ns", "demo"), ("team", "ref"), ("apps", "app")}
    assert (
        KUBELET,
        "GET",
        f"/api/v1/pods?fieldSelector=spec.nodeName%3D{NODE}",
    ) in world.server.asked


@pytest.mark.expects_log("events are kept and sent later")
@pytest.mark.parametrize("how", ["down", "forbidden"])
def test_events_wait_for_a_server_that_does_not_take_them(world: World, how: str):
    rules = world.server.rules[ACCOUNT]
    if how == "down":
        world.server.stop()
    else:
        world.server.rules[ACCOUNT] = ()
    world.sender.start()
    world.sender.record(telling.BROKEN, ROW, "it broke")
    sandbox.wait_until(lambda: len(world.calls) > 0, "it was tried")
    assert world.sender.waiting == 1

    world.server.rules[ACCOUNT] = rules
    if how == "down":
        world.server.start()

    sandbox.wait_until(lambda: len(world.server.events) == 2, "both events are there")
    sandbox.wait_until(lambda: world.sender.waiting == 0, "nothing waits")


@pytest.mark.expects_log("the oldest are dropped", "were not sent")
def test_what_is_dropped_is_counted_and_told_once(world: World):
    world.server.stop()
    for number in range(9):
        world.sender.record(telling.BROKEN, ROW, f"message {number}")
    world.sender.record(telling.BROKEN, ROW, "message 8")

    assert (world.results["dropped"], world.results["merged"], world.sender.waiting) == (4, 1, 5)
    world.sender.stop(0)


@pytest.mark.expects_log("is given up: .*422")
def test_an_event_that_the_server_will_never_take_keeps_no_other(world: World):
    def invalid(handler: http.server.BaseHTTPRequestHandler) -> bool:
        if handler.command != "POST" or "/ns/" not in handler.path:
            return False
        handler.answer(*apiserver._status(422, "Invalid", "no"))  # type: ignore[attr-defined]
        return True

    world.server.fault = invalid
    world.sender.start()
    world.sender.record(telling.BROKEN, ROW, "it broke")
    sandbox.wait_until(lambda: world.sender.waiting == 0, "nothing waits")

    assert [event["involvedObject"]["kind"] for event in world.server.events] == ["Pod"]
    assert world.results == {"refused": 1, "sent": 1}


def test_recording_never_waits_for_the_server(world: World):
    gate = threading.Event()
    world.server.fault = lambda _: not gate.wait(10)
    world.sender.start()
    started = time.monotonic()
    for number in range(5):
        world.sender.record(telling.BROKEN, ROW, f"message {number}")
    took = time.monotonic() - started
    gate.set()
    sandbox.wait_until(lambda: world.sender.waiting == 0, "nothing waits")

    assert took < 0.5


def test_a_stop_sends_what_waits(world: World):
    world.sender.record(telling.BROKEN, ROW, "it broke")
    world.sender.start()
    world.sender.stop(10)

    assert len(world.server.events) == 2


def test_an_event_that_arrived_twice_is_one(world: World):
    """The answer to the first try was lost: the second finds its own event there."""
    lost = threading.Event()

    def lose(handler: http.server.BaseHTTPRequestHandler) -> bool:
        if handler.command != "POST" or lost.is_set():
            return False
        lost.set()
        with contextlib.suppress(OSError):
            handler.connection.shutdown(2)
        return False

    world.server.fault = lose
    world.sender.start()
    world.sender.record(telling.BROKEN, ROW, "it broke")
    sandbox.wait_until(lambda: world.sender.waiting == 0, "nothing waits")

    assert len(world.server.events) == 2


# ---- Back-off


class Listener:
    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def record(self, reason: telling.Reason, publication: Publication, message: str) -> None:
        self.told.append((reason.name, message))


@contextlib.contextmanager
def watching(world: World, interval_s: float = 600) -> Iterator[tuple[observer.Observer, Listener]]:
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


def broken() -> observer.Broken:
    return observer.Broken(ROW.source, (ROW,), time.time())


def crashing_pod(world: World) -> str:
    path = "/api/v1/namespaces/ns/pods/demo-jindofs-fuse-x"
    world.server.objects[path] = dict(fuse_pod())
    return path


def test_a_fuse_pod_that_waits_too_long_is_deleted_once(world: World):
    path = crashing_pod(world)
    with watching(world) as (watcher, listener):
        watcher.tell(broken())
        sandbox.wait_until(lambda: bool(listener.told), "it is told")
        assert path not in world.server.objects
        crashing_pod(world)
        watcher.tell(observer.Answering(ROW.source, (ROW,)))
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
        sandbox.wait_until(
            lambda: any(method == "DELETE" for _, method, _ in world.server.asked), "it is tried"
        )
        assert not threading.Event().wait(0.3)

    assert path in world.server.objects
    assert listener.told == []


def test_while_nothing_is_broken_no_call_is_made(world: World):
    crashing_pod(world)
    with watching(world) as (watcher, _):
        watcher.tell(broken())
        watcher.tell(observer.Answering(ROW.source, (ROW,)))
        assert not threading.Event().wait(0.8)

    assert world.server.asked == []
    assert world.starts == 0
