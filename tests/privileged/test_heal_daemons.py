"""Daemons that nobody here wrote, at the ends that they take: s3fs, rclone, gocryptfs."""

import os
import signal

import pytest

from tests import sandbox
from tests.harness import Daemon, Filesystem, Gocryptfs, Node, Propagation, Rclone, S3fs, until
from tests.privileged.healing import Healing, healing, shown, whole

FILESYSTEMS = [S3fs, Rclone, Gocryptfs]
FILES = {"a.txt": b"1", "c.txt": b"1"}
# The way of each: libfuse 2, go-fuse and cgofuse; gocryptfs goes on serving after SIGTERM (below).
ENDS = [
    *((made, signal.SIGKILL, stack) for made in FILESYSTEMS for stack in (False, True)),
    *((made, signal.SIGTERM, False) for made in (S3fs, Rclone)),
]


@pytest.mark.usefixtures("visits")
@pytest.mark.parametrize(("filesystem", "number", "stack"), ENDS)
def test_all_copies_show_the_changed_content(
    node: Node, heal: Healing, filesystem: type[Filesystem], number: signal.Signals, *, stack: bool
):
    sandbox.require(filesystem.name)
    data = node.dataset("demo", filesystem, files=FILES)
    pod = node.pod()
    target = heal.publish(pod, data)
    slave = pod.container("slave", {"/data": target})
    private = pod.container("private", {"/data": target}, Propagation.NONE)

    data.daemon.kill(number)
    data.put("b.txt", b"2")
    data.daemon.restart(stack=stack)
    heal.healed(data)

    for view, path in ((node.sees, target), (slave.sees, "/data"), (private.sees, "/data")):
        assert shown(view, path).read_only
        assert view.names(path) == {"a.txt", "b.txt", "c.txt"}
        assert view.read(f"{path}/b.txt") == b"2"


@pytest.mark.parametrize("filesystem", FILESYSTEMS, ids=lambda filesystem: filesystem.name)
def test_the_kernel_passes_a_mount_on(node: Node, filesystem: type[Filesystem]):
    sandbox.require(filesystem.name)
    with healing(node, strategy="propagation") as heal:
        data = node.dataset("demo", filesystem, files=FILES)
        main = node.pod().container("main", {"/data": heal.publish(node.pod(), data)})

        event = heal.crash(data)

        assert event.layers == 2
        assert main.sees.names("/data") == {"a.txt", "c.txt"}


def test_a_daemon_that_serves_on_after_its_unmount_is_left_alone_until_it_ends(
    node: Node, heal: Healing
):
    sandbox.require("gocryptfs", "fanotify_mnt")
    data = node.dataset("demo", Gocryptfs, files=FILES)
    pod = node.pod()
    target = heal.publish(pod, data)
    main = pod.container("main", {"/data": target})
    before = shown(node.sees, target), shown(main.sees, "/data")

    os.kill(data.daemon.pid, signal.SIGTERM)  # it unmounts, and serves the copies on
    until(lambda: not node.sees.layers(data.volume.source), "the source is unmounted")
    after = Daemon(data.daemon.filesystem, data.volume.source, node.machine.folder("second"))
    after.start()
    heal.await_looked(data)
    untouched = shown(node.sees, target), shown(main.sees, "/data")
    data.daemon.kill()
    heal.healed(data)

    assert untouched == before
    assert whole(node, node.sees, target, data)
    assert whole(node, main.sees, "/data", data)
    after.close()


def test_a_daemon_whose_mount_was_covered_before_the_first_look_is_watched_too(node: Node):
    """The target shows it, and no row of a generation says so."""
    data = node.dataset("demo", files=FILES)
    with healing(node, period_s=0.1) as heal:
        target = heal.publish(node.pod(), data)
        old = shown(node.sees, target).dev
        after = Daemon(data.daemon.filesystem, data.volume.source, node.machine.folder("second"))
        after.start()
        heal.await_looked(data)
        heal.store.remove_generation(str(data.volume.source), old)
        heal.await_ticks(2)

        data.daemon.kill()
        heal.healed(data)

        assert whole(node, node.sees, target, data)
        after.close()
