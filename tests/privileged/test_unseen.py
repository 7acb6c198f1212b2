"""A target where no pod would see a volume is refused, and nothing is made there."""

from pathlib import Path

import pytest

from csi_fluid.errors import Unseen
from csi_fluid.testbed import programs
from csi_fluid.volumes.targets import Pods
from tests.harness import Node


@pytest.fixture
def target(node: Node) -> Path:
    return node.machine.target("uid", "volume")


def check(kubelet: Path, target: Path, *, is_mount: bool = True) -> None:
    Pods(str(kubelet)).check(str(target), is_mount=is_mount)


def test_a_target_in_a_pods_folder_is_seen(node: Node, target: Path):
    check(node.machine.kubelet, target)


def test_kubelets_directory_may_be_a_link(node: Node, target: Path):
    link = node.machine.root / "link"
    link.symlink_to(node.machine.kubelet)

    check(link, target)


@pytest.mark.parametrize("place", ["elsewhere/pods/uid/mount", "kubelet/pods/uid", "kubelet/pods"])
def test_a_target_outside_of_every_pod_is_not(node: Node, target: Path, place: str):
    with pytest.raises(Unseen, match=r"KUBELET_ROOTDIR \(.*/kubelet\) must name"):
        check(node.machine.kubelet, node.machine.root / place)


def test_a_pod_that_kubelet_did_not_make_is_told_and_not_made(node: Node):
    missing = node.machine.kubelet / "pods" / "other"
    with pytest.raises(Unseen, match="other is not there"):
        check(node.machine.kubelet, missing / "volumes" / "kubernetes.io~csi" / "volume" / "mount")

    assert not missing.exists()


def test_mounts_must_be_passed_on_to_the_node_but_a_link_need_not(node: Node, target: Path):
    pods = Pods(str(node.machine.kubelet))
    programs.run("mount", "--make-private", node.machine.kubelet)
    with pytest.raises(Unseen, match=r"not passed on to the node.*Bidirectional"):
        pods.check(str(target), is_mount=True)
    pods.check(str(target), is_mount=False)

    programs.run("mount", "--make-shared", node.machine.kubelet)
    pods.check(str(target), is_mount=True)
