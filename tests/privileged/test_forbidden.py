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
    until(lambda: "a seccomp profile may forbid it" in plugin.words, "its reason")
    assert "csi-fluid doctor" in plugin.words
    assert alone.sees.error("/data") == errno.ENOTCONN
