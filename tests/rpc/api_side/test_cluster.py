"""What is asked of the API server, and what comes of one that is not well."""

import http.server
import threading
import time

import pytest

from csi_fluid.errors import NotFound, Unavailable
from csi_fluid.kube import Volume, calls
from csi_fluid.kube.cluster import Cluster
from tests.harness.apiserver import ACCOUNT, FLUID_PATH, KUBELET, NODE
from tests.rpc.api_side.world import World, soon


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
    world.cluster.label_node("c/d", soon())  # which starts the helper
    world.server.stop()
    started = time.monotonic()

    with pytest.raises(Unavailable, match="refused"):
        world.cluster.label_node("a/b", soon())
    assert time.monotonic() - started < 8

    world.server.start()
    world.cluster.label_node("a/b", soon())
    assert world.server.labels == {"a/b": "true", "c/d": "true"}


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
    world.cluster.label_node("a/b", soon())  # which starts the helper
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
