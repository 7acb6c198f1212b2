"""Stage and unstage: the node's label."""

from pathlib import Path
from typing import Any

import grpc
import pytest

from csi_fluid._pb import csi_pb2
from csi_fluid.kube import Fuse, Volume
from csi_fluid.rpc.client import Client
from tests.rpc.node.world import World
from tests.rpc.serving import capability, refusal, serving


class FakeKube:
    """Remembers the node's labels; knows one volume."""

    def __init__(self, *, on_demand: bool) -> None:
        self.labels: set[str] = set()
        self._on_demand = on_demand

    def label_of(self, volume: Volume, until: float) -> str:
        return "fluid.io/f-looked-up" if volume.volume_id == "vol-1" else ""

    def fuse_of(self, volume_id: str, until: float) -> Fuse | None:
        policy = "OnDemand" if self._on_demand else "OnRuntimeDeleted"
        return Fuse("fluid.io/f-looked-up", policy) if volume_id == "vol-1" else None

    def label_node(self, key: str, until: float) -> None:
        self.labels.add(key)

    def unlabel_node(self, key: str, until: float) -> None:
        self.labels.discard(key)


def stage(client: Client, volume_id: str = "vol-1", **changes: Any) -> None:
    fields: dict[str, Any] = {
        "volume_id": volume_id,
        "staging_target_path": "/staging",
        "volume_capability": capability(),
    } | changes
    client.node.NodeStageVolume(csi_pb2.NodeStageVolumeRequest(**fields))


def unstage(client: Client, **changes: Any) -> None:
    fields = {"volume_id": "vol-1", "staging_target_path": "/staging"} | changes
    client.node.NodeUnstageVolume(csi_pb2.NodeUnstageVolumeRequest(**fields))


@pytest.mark.parametrize(
    ("context", "volume_id", "labels"),
    [
        ({"mount_pod_node_selector_key": "fluid.io/f-a"}, "vol-1", {"fluid.io/f-a"}),
        ({}, "vol-1", {"fluid.io/f-looked-up"}),
        ({}, "vol-2", set()),
    ],
    ids=["attribute", "looked up", "unknown"],
)
def test_stage_labels_the_node(
    tmp_path: Path, context: dict[str, str], volume_id: str, labels: set[str]
):
    kube = FakeKube(on_demand=True)
    with serving(tmp_path, kube=kube) as (_, client):
        stage(client, volume_id, volume_context=context)
        stage(client, volume_id, volume_context=context)

    assert kube.labels == labels


@pytest.mark.parametrize(("on_demand", "left"), [(True, set()), (False, {"fluid.io/f-looked-up"})])
def test_unstage_removes_the_label_if_the_clean_policy_says_so(
    tmp_path: Path, on_demand: bool, left: set[str]
):
    kube = FakeKube(on_demand=on_demand)
    with serving(tmp_path, kube=kube) as (_, client):
        stage(client)
        unstage(client)
        unstage(client)

    assert kube.labels == left


@pytest.mark.expects_log("NodeUnstageVolume FAILED_PRECONDITION: volume vol-1 is still published")
def test_unstage_keeps_the_label_of_a_volume_in_use(tmp_path: Path):
    kube = FakeKube(on_demand=True)
    with serving(tmp_path, kube=kube) as (plugin, client):
        stage(client)
        World(tmp_path, plugin, client).publish()
        with refusal(grpc.StatusCode.FAILED_PRECONDITION):
            unstage(client)

    assert kube.labels == {"fluid.io/f-looked-up"}


def test_without_kubernetes_stage_says_once_that_it_labels_nothing(
    world: World, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    for _ in range(3):
        stage(world.client, volume_context={"mount_pod_node_selector_key": "fluid.io/f-a"})
        unstage(world.client)

    told = [message for message in caplog.messages if "without an API server" in message]
    assert len(told) == 1
    assert "fluid.io/f-a" in told[0]


@pytest.mark.expects_log("INVALID_ARGUMENT")
def test_stage_and_unstage_check_their_arguments(world: World):
    for changes in ({"volume_id": ""}, {"staging_target_path": ""}, {"volume_capability": None}):
        with refusal(grpc.StatusCode.INVALID_ARGUMENT):
            stage(world.client, **changes)
    for changes in ({"volume_id": ""}, {"staging_target_path": "relative"}):
        with refusal(grpc.StatusCode.INVALID_ARGUMENT):
            unstage(world.client, **changes)
