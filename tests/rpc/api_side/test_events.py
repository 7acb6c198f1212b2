"""Events: of what they are told, how they wait, what is dropped."""

import contextlib
import http.server
import threading
import time
from functools import partial

import pytest

from csi_fluid import telling
from csi_fluid.kube.subjects import Subjects
from csi_fluid.testbed.waiting import until
from recover.rows import Method, Publication
from tests.harness import apiserver
from tests.harness.apiserver import ACCOUNT, KUBELET, NODE
from tests.rpc.api_side.world import ROW, TARGET, World, soon


def test_an_event_is_told_of_the_dataset_and_of_the_pod(world: World):
    world.sender.start()
    world.sender.record(telling.BROKEN, ROW, "it broke")
    until(lambda: len(world.server.events) == 2, "both events are there")

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
    row = Publication(target=source, volume_id="", source=source, method=Method.SIDECAR)

    assert Subjects(world.helper, world.cluster, NODE).of(row, soon()) == ()
    assert world.server.asked == []


def _has_sent(world: World, number: int) -> bool:
    return world.results["sent"] == number


def test_the_same_again_counts_the_first_one_up(world: World):
    world.sender.start()
    for number in (2, 4, 6):
        world.sender.record(telling.BROKEN, ROW, "it broke")
        until(partial(_has_sent, world, number), "it is sent")

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
    until(lambda: len(world.server.events) == 3, "all events are there")

    told = {
        (e["involvedObject"]["namespace"], e["involvedObject"]["name"]) for e in world.server.events
    }
    assert told == {("ns", "demo"), ("team", "ref"), ("apps", "app")}
    assert (
        KUBELET,
        "GET",
        f"/api/v1/pods?fieldSelector=spec.nodeName%3D{NODE}",
    ) in world.server.asked


def test_a_cluster_without_fluids_kinds_keeps_no_event(world: World):
    """`helm test` tells of a dataset that nobody knows, also before Fluid is installed."""

    def unserved(handler: http.server.BaseHTTPRequestHandler) -> bool:
        if not handler.path.startswith(apiserver.FLUID_PATH):
            return False
        handler.send_error(404)  # in no form of Kubernetes'
        return True

    world.server.fault = unserved
    world.sender.start()
    world.sender.record(telling.BROKEN, ROW, "it broke")
    until(lambda: world.results["sent"] > 0, "it is told of the pod")
    world.server.fault = None
    world.sender.record(telling.SUCCEEDED, ROW, "it healed")
    until(lambda: world.results["sent"] > 2, "it is told of the dataset, too")

    assert [event["involvedObject"]["kind"] for event in world.server.events].count("Pod") == 2
    assert world.sender.waiting == 0


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
    until(lambda: len(world.calls) > 0, "it was tried")
    assert world.sender.waiting == 1

    world.server.rules[ACCOUNT] = rules
    if how == "down":
        world.server.start()

    until(lambda: len(world.server.events) == 2, "both events are there")
    until(lambda: world.sender.waiting == 0, "nothing waits")


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
    until(lambda: world.sender.waiting == 0, "nothing waits")

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
    until(lambda: world.sender.waiting == 0, "nothing waits")

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
    until(lambda: world.sender.waiting == 0, "nothing waits")

    assert len(world.server.events) == 2
