"""A target where no pod would see a volume is refused, and nothing is made there."""

from pathlib import Path

import grpc
import pytest

from csi_fluid.errors import Unseen
from csi_fluid.kubelet import Kubelet
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


def test_a_target_that_is_not_as_kubelets_are_is_its_callers_business(node: Node):
    check(node.machine.kubelet, node.machine.root / "elsewhere" / "mount")


def test_a_publish_that_no_pod_would_see_is_refused_and_makes_nothing(node: Node):
    """kubelet has its directory at a path where this container has none, or one of its own."""
    data = node.dataset()
    plugin = node.plugin()
    elsewhere = node.machine.root / "data" / "kubelet"
    target = Path(Kubelet(str(elsewhere)).target("uid", data.volume.volume_id))

    with pytest.raises(grpc.RpcError, match=r"no pod would see.*KUBELET_ROOTDIR") as refused:
        plugin.client.publish(data.volume, target)

    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert not elsewhere.exists()


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
