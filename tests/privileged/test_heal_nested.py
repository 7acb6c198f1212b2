"""Mounts that stand inside a volume go into the new one, or their copy is left and reported."""

import errno
from pathlib import Path

import pytest

from recover import events
from tests.harness import Dataset, Node, Propagation, until
from tests.privileged.healing import Healing, healing, shown, whole

pytestmark = pytest.mark.usefixtures("visits")  # without, what is nested is covered

FILES = {"a.txt": b"1", "cache/c.txt": b"1", "deep/er/d.txt": b"1"}


@pytest.fixture
def data(node: Node) -> Dataset:
    return node.dataset("demo", files=FILES)


def volume_of_the_pod(node: Node) -> Path:
    """Make what an emptyDir is: a directory of the node, on another file system than the data."""
    folder = node.machine.folder("empty-dir")
    (folder / "kept").write_bytes(b"kept")
    return folder


@pytest.mark.parametrize("propagation", [Propagation.HOST_TO_CONTAINER, Propagation.NONE])
def test_a_volume_of_the_pod_inside_the_dead_one_stands_inside_the_new_one(
    node: Node, heal: Healing, data: Dataset, propagation: Propagation
):
    pod = node.pod()
    target = heal.publish(pod, data)
    volumes = {"/data": target, "/data/cache": volume_of_the_pod(node)}
    main = pod.container("main", volumes, propagation)
    before = shown(main.sees, "/data/cache")

    for _ in range(2):
        heal.crash(data)

    assert whole(node, main.sees, "/data", data)
    assert main.sees.names("/data") == {"a.txt", "cache", "deep"}
    assert main.sees.names("/data/cache") == {"kept"}
    after = shown(main.sees, "/data/cache")
    assert (after.dev, after.options) == (before.dev, before.options)
    assert main.sees.write("/data/cache/new", b"2") == 0


def test_several_nested_mounts_keep_their_places(node: Node, heal: Healing, data: Dataset):
    folder = volume_of_the_pod(node)
    (folder / "part").mkdir()
    volumes = {
        "/data": heal.publish(node.pod(), data),
        "/data/cache": folder,
        "/data/deep/er": folder / "part",
    }
    main = node.pod().container("main", volumes)

    heal.crash(data)

    assert main.sees.names("/data/cache") == {"kept", "part"}
    assert main.sees.names("/data/deep/er") == set()
    assert whole(node, main.sees, "/data", data)


def test_a_mount_nested_in_a_nested_one_is_kept(node: Node, heal: Healing, data: Dataset):
    folder = volume_of_the_pod(node)
    (folder / "part").mkdir()
    other = node.machine.folder("other")
    (other / "deepest").touch()
    volumes = {
        "/data": heal.publish(node.pod(), data),
        "/data/cache": folder,
        "/data/cache/part": other,
    }
    main = node.pod().container("main", volumes)

    heal.crash(data)

    assert main.sees.names("/data/cache/part") == {"deepest"}


def test_a_private_mount_that_cannot_be_rebuilt_leaves_its_copy_and_is_reported(
    node: Node, heal: Healing, data: Dataset
):
    pod = node.pod()
    target = heal.publish(pod, data)
    main = pod.container("main", {"/data": target})
    other = pod.container("other", {"/data": target})
    main.run("mount", "-t", "tmpfs", "scratch", "/data/cache")
    main.run("sh", "-c", "echo kept >/data/cache/kept")

    heal.crash(data)
    (skipped,) = until(lambda: heal.ear.of(events.Skipped), "the copy is reported")

    assert "/data/cache" in skipped.reason
    assert "restart the container" in skipped.reason
    assert main.sees.error("/data") == errno.ENOTCONN
    assert [m.fs_type for m in main.sees.layers("/data/cache")] == ["tmpfs"]
    assert whole(node, other.sees, "/data", data)


@pytest.mark.clock  # within a second the kernel walks over the dead mount without asking
def test_a_copy_that_was_left_heals_once_the_private_mount_is_gone(
    node: Node, heal: Healing, data: Dataset
):
    pod = node.pod()
    main = pod.container("main", {"/data": heal.publish(pod, data)})
    main.run("mount", "-t", "tmpfs", "scratch", "/data/cache")
    heal.crash(data)
    until(lambda: heal.ear.of(events.Skipped), "the copy is reported")

    main.run("sh", "-c", "cd /; umount -l /data/cache || umount -l /data")
    heal.crash(data)

    heal.await_whole(data, main.sees, "/data")


def test_a_nested_mount_whose_place_is_gone_from_the_new_data_leaves_the_copy(
    node: Node, heal: Healing, data: Dataset
):
    pod = node.pod()
    volumes = {"/data": heal.publish(pod, data), "/data/cache": volume_of_the_pod(node)}
    main = pod.container("main", volumes)
    place = node.machine.folder("data-demo") / "data" / "cache"

    data.daemon.kill()
    (place / "c.txt").unlink()
    place.rmdir()
    data.daemon.restart()
    until(lambda: heal.ear.of(events.HealFailed), "the failure is told")

    assert "cache" in heal.ear.of(events.HealFailed)[-1].error
    assert main.sees.error("/data") == errno.ENOTCONN
    assert [m.fs_type for m in main.sees.layers("/data/cache")] == ["tmpfs"]


def test_a_part_of_the_volume_inside_the_volume_heals(node: Node, heal: Healing, data: Dataset):
    pod = node.pod()
    target = heal.publish(pod, data)
    volumes = {"/data": target, "/data/cache": pod.subpath(target, "deep")}
    main = pod.container("main", volumes)

    for _ in range(2):
        heal.crash(data)
        heal.await_whole(data, main.sees, "/data")
        heal.await_whole(data, main.sees, "/data/cache")

    assert main.sees.names("/data") == {"a.txt", "cache", "deep"}
    assert main.sees.names("/data/cache") == {"er"}
    assert shown(main.sees, "/data/cache").read_only


@pytest.mark.parametrize("crashing", [("demo",), ("other",), ("demo", "other"), ("other", "demo")])
def test_a_dataset_inside_a_dataset_heals_whichever_crashed(
    node: Node, data: Dataset, crashing: tuple[str, ...]
):
    with healing(node, period_s=0.5) as heal:
        datasets = {"demo": data, "other": node.dataset("other", files={"o.txt": b"1"})}
        volumes = {
            "/data": heal.publish(node.pod(), data),
            "/data/cache": heal.publish(node.pod(), datasets["other"]),
        }
        main = node.pod().container("main", volumes)

        for name in crashing:
            datasets[name].daemon.kill()
        for name in crashing:
            datasets[name].daemon.restart()

        heal.await_whole(data, main.sees, "/data")
        heal.await_whole(datasets["other"], main.sees, "/data/cache")
        assert main.sees.names("/data/cache") == {"o.txt"}
