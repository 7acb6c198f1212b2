"""Stats and health, as far as a plain directory goes."""

import os

import grpc
import pytest

from csi_fluid._pb import csi_pb2
from tests.rpc.node.world import World
from tests.rpc.serving import refusal


@pytest.mark.expects_log("NodeGetVolumeStats")
@pytest.mark.parametrize(
    ("volume_id", "path", "code"),
    [
        ("", "some/path", grpc.StatusCode.INVALID_ARGUMENT),
        ("vol-1", "", grpc.StatusCode.INVALID_ARGUMENT),
        ("vol-1", "some/path", grpc.StatusCode.NOT_FOUND),
        ("vol-1", "/nowhere/mount", grpc.StatusCode.NOT_FOUND),
        ("vol-2", "{target}", grpc.StatusCode.NOT_FOUND),
    ],
)
def test_stats_of_what_is_not_there(world: World, volume_id: str, path: str, code: grpc.StatusCode):
    world.publish()
    with refusal(code):
        world.node.NodeGetVolumeStats(
            csi_pb2.NodeGetVolumeStatsRequest(
                volume_id=volume_id, volume_path=path.format(target=world.target)
            )
        )


def test_stats_of_a_link_are_those_of_its_source(world: World):
    world.publish()
    answer = world.node.NodeGetVolumeStats(
        csi_pb2.NodeGetVolumeStatsRequest(volume_id="vol-1", volume_path=str(world.target))
    )
    found = os.statvfs(world.source)

    in_bytes, in_inodes = answer.usage
    assert (in_bytes.unit, in_inodes.unit) == (1, 2)
    assert in_bytes.total == found.f_blocks * found.f_frsize
    assert in_inodes.total == found.f_files
    assert 0 < in_bytes.used <= in_bytes.total


@pytest.mark.expects_log("NodeGetVolumeHealth INVALID_ARGUMENT")
def test_health_of_what_was_never_published_is_not_found_and_no_warning(world: World):
    with refusal(grpc.StatusCode.NOT_FOUND):
        world.node.NodeGetVolumeHealth(csi_pb2.NodeGetVolumeHealthRequest(volume_id="vol-1"))
    with refusal(grpc.StatusCode.INVALID_ARGUMENT):
        world.node.NodeGetVolumeHealth(csi_pb2.NodeGetVolumeHealthRequest())


def test_health_of_a_well_volume_is_empty(world: World):
    world.publish()
    answer = world.node.NodeGetVolumeHealth(csi_pb2.NodeGetVolumeHealthRequest(volume_id="vol-1"))

    assert answer.volume_health.volume_id == "vol-1"
    assert list(answer.volume_health.health_statuses) == []
