"""What is refused leaves nothing behind, and what is only strange is taken."""

import os
from pathlib import Path
from typing import Any

import grpc
import pytest

from csi_fluid._pb import csi_pb2
from tests.rpc.node.world import SKIP_CHECK, Mode, World
from tests.rpc.serving import capability, refusal

LONG = "x" * 256
BAD = {
    "no id": {"volume_id": ""},
    "no target": {"target_path": ""},
    "relative target": {"target_path": "pods/mount"},
    "target above": {"target_path": "/tmp/../etc/mount"},
    "target is root": {"target_path": "//"},
    "NUL": {"target_path": "/tmp/a\0b"},
    "long name": {"target_path": f"/tmp/{LONG}"},
    "long path": {"target_path": "/a" * 2048},
    "long unicode path": {"target_path": "/\N{SNOWMAN}" * 1024},
    "long id": {"volume_id": "v" * 4097},
    "relative staging": {"staging_target_path": "staging"},
    "no capability": {"volume_capability": None},
    "block": {
        "volume_capability": csi_pb2.VolumeCapability(
            block=csi_pb2.VolumeCapability.BlockVolume(),
            access_mode=Mode(mode=Mode.SINGLE_NODE_WRITER),
        )
    },
    "no access type": {
        "volume_capability": csi_pb2.VolumeCapability(
            access_mode=Mode(mode=Mode.SINGLE_NODE_WRITER)
        )
    },
    "mode unknown": {"volume_capability": capability(Mode.UNKNOWN)},
    "mode of a later version": {"volume_capability": capability(99)},
    "no fluid_path": {"attributes": {"fluid_path": ""}},
    "relative fluid_path": {"attributes": {"fluid_path": "runtime-mnt"}},
    "fluid_path above": {"attributes": {"fluid_path": "/runtime-mnt/.."}},
    "absolute sub path": {"attributes": {"fluid_sub_path": "/etc"}},
    "sub path above": {"attributes": {"fluid_sub_path": "a/../../etc"}},
    "method": {"attributes": {"node_publish_method": "teleport"}},
    "skipped check": {"attributes": {SKIP_CHECK: "Everything"}},
    "recover-writable": {"attributes": {"fuse.csi.fluid.io/recover-writable": "perhaps"}},
    "huge map": {"attributes": {"x": "y" * 65_536}},
}


@pytest.mark.expects_log("NodePublishVolume INVALID_ARGUMENT")
@pytest.mark.parametrize("changes", BAD.values(), ids=BAD)
def test_a_bad_request_is_refused_and_leaves_nothing(world: World, changes: dict[str, Any]):
    with refusal(grpc.StatusCode.INVALID_ARGUMENT) as refused:
        world.publish(**changes)

    assert len(refused.message) < 1100
    assert world.everything() == []
    assert (world.plugin.store.publications(), world.plugin.changed) == ((), [])


@pytest.mark.expects_log("NodePublishVolume INVALID_ARGUMENT")
@pytest.mark.parametrize("inner", ["", "/sub", "/sub/mount"])
def test_a_target_within_its_own_source_is_refused(world: World, inner: str):
    with refusal(grpc.StatusCode.INVALID_ARGUMENT) as refused:
        world.publish(target_path=f"{world.source}{inner}")

    assert "lie within each other" in refused.message
    assert sorted(world.source.rglob("*")) == [world.source / "sub"]


NAMES = {
    "spaces": " a  b ",
    "newlines": "a\nb\n",
    "unicode": "\N{SNOWMAN} é \N{PILE OF POO}",
    "shell": "$(reboot);`id`'\"\\040 && | > <",
    "dots": "...",
    "255 bytes": "n" * 255,
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_any_name_that_linux_takes_is_taken(world: World, name: str):
    target = world.pods / name / name
    (world.source / name).mkdir()
    world.publish(
        volume_id=name, target_path=str(target), attributes={"fluid_sub_path": f"{name}/./"}
    )

    assert target.readlink() == world.source / name
    world.unpublish(target, volume_id=name)
    assert not os.path.lexists(target)


def test_a_path_as_long_as_linux_takes_is_taken(world: World):
    room = 4_095 - len(str(world.pods)) - len("/mount")
    deep = Path(*[("d" * 200)] * (room // 201))
    target = world.pods / deep / "mount"
    target.parent.mkdir(parents=True)
    world.publish(target_path=str(target))

    assert target.is_symlink()
    world.unpublish(target)
    assert not os.path.lexists(target)


def test_one_target_has_one_record_however_it_is_spelt(world: World):
    (world.pods / "real").mkdir()
    (world.pods / "alias").symlink_to("real")
    world.publish(target_path=f"{world.pods}//real/./mount")
    world.publish(target_path=f"{world.pods}/alias/mount/")

    assert [row.target for row in world.plugin.store.publications()] == [f"{world.pods}/real/mount"]


def test_missing_parents_are_made(world: World):
    world.publish(target_path=str(world.pods / "a" / "b" / "mount"))

    assert (world.pods / "a" / "b" / "mount").is_symlink()
