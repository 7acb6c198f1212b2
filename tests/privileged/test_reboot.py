"""A state file that outlived its mounts: the node was started anew, or it is another node's.

kubelet publishes again what its pods still want; until it does, nothing is mounted for them.
"""

import contextlib
import dataclasses
import uuid
from pathlib import Path

import pytest

from csi_fluid.testbed import plugin as plugins, programs
from recover.anchors import anchor
from recover.linux import mountinfo
from recover.store import Store
from tests.harness import Dataset, Node, Plugin, Pod, Propagation, until

BOOT_ID = "/proc/sys/kernel/random/boot_id"
AFTER = ("unshare", "--mount", "--propagation", "unchanged", "sh", "-ec")


def shut_down(node: Node) -> None:
    """End the plugin, and every FUSE mount with it."""
    if node.running is not None and node.running.alive:
        node.running.stop()
    while left := [mount.mount_point for mount in mountinfo.read() if mount.is_fuse]:
        programs.run("umount", "-l", left[-1])


def start_up(node: Node) -> Plugin:
    """Start the plugin as after a boot of the machine, which then has another id."""
    text = node.machine.folder("boot") / "id"
    text.write_text(f"{uuid.uuid4()}\n")
    begin = f'mount --bind "$0" {BOOT_ID}; exec "$@"'
    return node.plugin(command=(*AFTER, begin, str(text), *plugins.COMMAND))


def is_bare(node: Node, target: Path) -> bool:
    return target.is_dir() and not node.sees.layers(target)


def crashed(data: Dataset) -> None:
    data.daemon.kill()
    data.daemon.restart()


def published(node: Node, pod: Pod, data: Dataset) -> Path:
    """Publish as kubelet does, and leave the end of it to nobody."""
    target = pod.target(data.volume.volume_id)
    node.client.publish(data.volume, target)
    return target


@pytest.mark.parametrize("stays", [True, False], ids=["with", "without the plugin's folder"])
def test_after_a_reboot_nothing_is_mounted_unasked_and_all_works_again(node: Node, stays: bool):
    data, pod = node.dataset("demo"), node.pod()
    node.plugin()
    target = published(node, pod, data)
    for _ in range(3):
        crashed(data)
        until(lambda: node.sees.error(target) == 0, "it is healed")
    data.daemon.kill()

    shut_down(node)
    if not stays:
        programs.run("rm", "-r", node.machine.socket.parent)
        node.machine.socket.parent.mkdir()
    plugin = start_up(node)
    data.daemon.restart()
    until(lambda: "was started anew" in plugin.log.read_text(), "the rows are settled in words")

    assert str(target) in plugin.log.read_text()
    assert is_bare(node, target)
    assert Store.read(node.machine.state).publications() == ()
    assert published(node, pod, data) == target
    other = node.pod()
    second = published(node, other, data)
    kinds = (Propagation.HOST_TO_CONTAINER, Propagation.BIDIRECTIONAL)
    mains = [pod.container(f"main{kind.value}", {"/data": target}, kind) for kind in kinds]
    plugin.client.unpublish(data.volume, second)
    for _ in range(2):
        crashed(data)
        for main in mains:
            until(lambda main=main: main.sees.error("/data") == 0, "it heals as ever")  # type: ignore[misc]
            assert len(main.sees.layers("/data")) <= 2
    plugin.client.unpublish(data.volume, target)
    assert not [m for m in mountinfo.read() if anchor.is_anchor(m.mount_point)]


def test_numbers_that_are_given_away_again_mean_nothing_after_a_reboot(node: Node):
    """What was the dead mount of one dataset is, by its number, the live one of another."""
    data, pod = node.dataset("demo"), node.pod()
    node.plugin()
    target = published(node, pod, data)
    data.daemon.kill()
    shut_down(node)
    others = [node.dataset(f"other{number}", files={"o": b"o"}) for number in range(3)]
    with contextlib.closing(Store.open(node.machine.state)) as store:
        (row,) = store.generations()
        for other in others:
            dev = node.sees.layers(other.volume.source)[-1].dev
            store.put_generation(dataclasses.replace(row, dev=dev, dead_at=1.0))

    plugin = start_up(node)
    targets = [published(node, node.pod(), other) for other in others]
    data.daemon.restart()
    published(node, pod, data)
    crashed(data)

    until(lambda: node.sees.names(target) == {"a.txt"}, "its own content")
    for place in targets:
        assert node.sees.names(place) == {"o"}
        assert len(node.sees.layers(place)) == 1
    for place in (target, *targets):
        plugin.client.unpublish(data.volume, place)


def test_another_nodes_state_file_mounts_nothing_here(node: Node):
    """The disk was copied, with pods' folders and all, or the file alone."""
    data, pod = node.dataset("demo"), node.pod()
    node.plugin()
    target = published(node, pod, data)
    row, *_ = Store.read(node.machine.state).publications()
    gone = str(target).replace(pod.uid, str(uuid.uuid4()))
    shut_down(node)
    with contextlib.closing(Store.open(node.machine.state)) as store:
        store.put_publication(dataclasses.replace(row, target=gone))

    plugin = start_up(node)
    crashed(data)
    until(lambda: "was started anew" in plugin.log.read_text(), "the rows are settled in words")

    assert f"its pod is gone target={gone}" in plugin.log.read_text()
    assert is_bare(node, target)
    assert Store.read(node.machine.state).publications() == ()
    plugin.client.unpublish(data.volume, target)
    assert not target.exists()
