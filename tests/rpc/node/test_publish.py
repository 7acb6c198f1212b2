"""Publish and unpublish over the wire: what is made, what stands in the way."""

import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from recover.rows import Method
from tests.rpc.node.world import Mode, World
from tests.rpc.serving import capability, refusal, serving


def test_a_published_volume_is_recorded_with_its_pod(world: World):
    world.publish(
        attributes={
            "fluid_sub_path": "sub/",
            "mount_type": "fuse.demo",
            "runtime_namespace": "default",
            "runtime_name": "demo",
            "csi.storage.k8s.io/pod.name": "app",
            "csi.storage.k8s.io/pod.namespace": "shop",
            "csi.storage.k8s.io/pod.uid": "u-1",
            "fuse.csi.fluid.io/recover-writable": "true",
        }
    )

    (row,) = world.plugin.store.publications()
    assert world.target.readlink() == world.source / "sub"
    assert (row.target, row.source) == (str(world.target), str(world.source))
    assert (row.sub_path, row.mount_type, row.method) == ("sub", "fuse.demo", "symlink")
    assert (row.runtime_namespace, row.runtime_name) == ("default", "demo")
    assert (row.pod_namespace, row.pod_name, row.pod_uid) == ("shop", "app", "u-1")
    assert (row.read_only, row.recover_writable, row.adopted) == (True, True, False)
    assert abs(row.published_at - time.time()) < 60
    assert world.plugin.changed == [str(world.source)]


def test_publishing_the_same_again_changes_nothing(world: World):
    world.publish(attributes={"csi.storage.k8s.io/pod.name": "app"})
    before = world.target.lstat(), world.plugin.store.publications()
    for _ in range(10):
        world.publish(attributes={"csi.storage.k8s.io/pod.name": "app"})

    assert (world.target.lstat(), world.plugin.store.publications()) == before
    assert len(world.plugin.changed) == 1


@pytest.mark.expects_log("NodePublishVolume ALREADY_EXISTS")
@pytest.mark.parametrize(
    "changes",
    [
        {"volume_id": "vol-2"},
        {"attributes": {"fluid_sub_path": "sub"}},
        {"volume_capability": capability(Mode.MULTI_NODE_MULTI_WRITER)},
    ],
    ids=["volume", "sub path", "writable"],
)
def test_a_live_target_is_not_given_to_something_else(world: World, changes: dict[str, Any]):
    world.publish()
    with refusal(grpc.StatusCode.ALREADY_EXISTS) as refused:
        world.publish(**changes)

    assert "unpublish it first" in refused.message
    assert world.target.readlink() == world.source


def test_reader_modes_and_flags_all_mean_read_only(world: World):
    writer = capability(Mode.SINGLE_NODE_WRITER)
    flagged = capability(Mode.SINGLE_NODE_WRITER)
    flagged.mount.mount_flags.append("ro")
    cases: dict[str, tuple[dict[str, Any], bool]] = {
        "reader": ({"volume_capability": capability(Mode.SINGLE_NODE_READER_ONLY)}, True),
        "readers": ({"volume_capability": capability(Mode.MULTI_NODE_READER_ONLY)}, True),
        "readonly": ({"volume_capability": writer, "readonly": True}, True),
        "flag": ({"volume_capability": flagged}, True),
        "writer": ({"volume_capability": writer}, False),
    }
    for name, (changes, _) in cases.items():
        world.publish(target_path=str(world.pods / name), **changes)

    found = {Path(row.target).name: row.read_only for row in world.plugin.store.publications()}
    assert found == {name: expected for name, (_, expected) in cases.items()}


# ---- Symbolic links


@pytest.mark.parametrize("standing", ["nothing", "link", "dangling", "directory", "file"])
def test_a_link_takes_the_place_of_what_holds_no_data(world: World, standing: str):
    if standing == "link":
        world.target.symlink_to("/tmp")
    elif standing == "dangling":
        world.target.symlink_to("/nowhere")
    elif standing == "directory":
        world.target.mkdir()
    elif standing == "file":
        world.target.touch()
    world.publish()

    assert world.target.readlink() == world.source
    assert world.everything() == [str(world.target)]


@pytest.mark.expects_log("mount options 'noexec,size=1' have no effect")
def test_mount_options_that_do_nothing_are_told(world: World):
    flagged = capability()
    flagged.mount.mount_flags.extend(["rw,noexec", "size=1"])
    world.publish(volume_capability=flagged)

    assert world.target.readlink() == world.source


@pytest.mark.expects_log("NodePublishVolume FAILED_PRECONDITION.*move them away|remove it by hand")
@pytest.mark.parametrize("standing", ["directory", "file"])
def test_data_is_never_replaced(world: World, standing: str):
    if standing == "directory":
        world.target.mkdir()
        (world.target / "precious").write_text("1")
    else:
        world.target.write_text("1")
    before = world.everything()
    with refusal(grpc.StatusCode.FAILED_PRECONDITION):
        world.publish()

    assert world.everything() == before
    assert world.plugin.store.publications() == ()


def test_the_log_has_the_words_that_fluids_own_test_looks_for(
    world: World, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    world.publish()

    assert any("Creating symlink" in message for message in caplog.messages)


def test_the_environment_can_ask_for_links(tmp_path: Path):
    with serving(tmp_path, method=Method.SYMLINK) as (plugin, client):
        world = World(tmp_path, plugin, client)
        world.publish(attributes={"node_publish_method": ""})

        assert world.target.is_symlink()


@pytest.mark.parametrize("standing", ["link", "dangling", "directory", "file", "nothing"])
def test_unpublish_removes_what_holds_no_data(world: World, standing: str):
    if standing in {"link", "dangling"}:
        world.publish()
    elif standing == "directory":
        world.target.mkdir()
    elif standing == "file":
        world.target.touch()
    if standing == "dangling":
        (world.source / "sub").rmdir()
        world.source.rmdir()
    for _ in range(3):
        world.unpublish()

    assert world.everything() == []
    assert world.plugin.store.publications() == ()


def test_unpublish_without_even_a_parent_succeeds(world: World):
    world.unpublish(world.pods / "gone" / "mount")


@pytest.mark.expects_log("NodeUnpublishVolume FAILED_PRECONDITION: .*'precious'")
def test_unpublish_never_deletes_files(world: World):
    world.target.mkdir()
    (world.target / "precious").write_text("1")
    with refusal(grpc.StatusCode.FAILED_PRECONDITION) as refused:
        world.unpublish()

    assert "'precious'" in refused.message
    assert (world.target / "precious").read_text() == "1"
