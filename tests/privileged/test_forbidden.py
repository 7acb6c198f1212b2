"""Calls that a profile or a security module forbids: told as such, and nothing half made is left.

SELinux answers EACCES, AppArmor and seccomp EPERM; a seccomp filter plays all of them.
"""

import errno

import grpc
import pytest

from csi_fluid.testbed import plugin as plugins
from recover.anchors import anchor
from recover.linux import mountinfo
from tests.harness import Dataset, Node, Propagation, confined, until

MOUNTING = ("mount", "move_mount", "open_tree", "mount_setattr", "fsopen")


@pytest.fixture
def data(node: Node) -> Dataset:
    return node.dataset("demo")


@pytest.mark.parametrize("answer", ["EACCES", "EPERM"])
def test_a_publish_that_is_forbidden_says_by_what_and_leaves_nothing(
    node: Node, data: Dataset, answer: str
):
    forbidden = ",".join(f"{call}={answer}" for call in MOUNTING)
    plugin = node.plugin(command=(*confined.command(forbidden), *plugins.COMMAND))
    target = node.machine.target("uid", data.volume.volume_id)

    with pytest.raises(grpc.RpcError) as refused:
        plugin.client.publish(data.volume, target)

    assert "a seccomp profile may forbid it" in (refused.value.details() or "")
    assert not node.sees.layers(target)
    assert not target.exists()
    assert not [m for m in mountinfo.read() if anchor.is_anchor(m.mount_point)]


@pytest.mark.usefixtures("visits")
def test_a_heal_that_cannot_enter_containers_heals_the_rest_and_says_why(node: Node, data: Dataset):
    forbidden = confined.command("setns=EACCES")
    plugin = node.plugin(command=(*forbidden, *plugins.COMMAND))
    pod = node.pod()
    target = pod.publish(data)
    follows = pod.container("follows", {"/data": target}, Propagation.HOST_TO_CONTAINER)
    alone = pod.container("alone", {"/data": target}, Propagation.NONE)

    data.daemon.kill()
    data.daemon.restart()

    until(lambda: follows.sees.error("/data") == node.sees.error(target) == 0, "what hangs off it")
    until(lambda: "a seccomp profile may forbid it" in plugin.log.read_text(), "its reason")
    assert "csi-fluid doctor" in plugin.log.read_text()
    assert alone.sees.error("/data") == errno.ENOTCONN


def test_without_the_right_to_enter_what_hangs_off_anchors_heals_and_nothing_is_tried_in_vain(
    node: Node, data: Dataset
):
    powerless = ("setpriv", "--bounding-set=-sys_chroot", "--inh-caps=-sys_chroot")
    plugin = node.plugin(command=(*powerless, *plugins.COMMAND))
    pod = node.pod()
    main = pod.container("main", {"/data": pod.publish(data)}, Propagation.HOST_TO_CONTAINER)

    data.daemon.kill()
    data.daemon.restart()

    until(lambda: main.sees.error("/data") == 0, "it heals")
    until(lambda: "FuseRecoverSucceed" in plugin.log.read_text(), "the heal is told")
    assert "CAP_SYS_CHROOT nothing can be mounted inside a container" in plugin.log.read_text()
    assert "FuseRecoverFailed" not in plugin.log.read_text()
