"""When the FUSE daemon may leave the node: clean policies under kubelet's own stage and unstage.

The label on the node is what the plugin decides about; that the daemon's pod goes with it or stays
is the DaemonSet's part and seen here too.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.fluid import Datasets, Fluid, application
from tests.cluster.fluidobjects import Spec
from tests.cluster.settings import NODE_NAME
from tests.cluster.waiting import wait_for

_UNSTAGE = """
import sys
from pathlib import Path
import grpc
from csi_fluid._pb import csi_pb2
from csi_fluid.rpc.client import Client

node = Client(Path("/var/lib/kubelet/csi-plugins/fuse.csi.fluid.io/csi.sock")).node
asked = csi_pb2.NodeUnstageVolumeRequest(volume_id=sys.argv[1], staging_target_path="/unused")
try:
    node.NodeUnstageVolume(asked, timeout=30)
except grpc.RpcError as error:
    print(error.code(), error.details())
"""
_GLOBAL_MOUNTS = "/var/lib/kubelet/plugins/kubernetes.io/csi/fuse.csi.fluid.io"


class Node:
    """The node as a dataset's owner looks at it: who reads there, and whether the daemon stays."""

    def __init__(self, cluster: Cluster, fluid: Fluid, namespace: str) -> None:
        self.cluster = cluster
        self.fluid = fluid
        self.namespace = namespace

    def start(self, name: str, claim: str) -> None:
        """Start an application and return when it reads."""
        self.cluster.apply(application(name, claim), namespace=self.namespace)
        self.cluster.wait_ready(name, self.namespace)
        command = ("cat", "/data/hello")
        assert self.cluster.execute(name, *command, namespace=self.namespace).startswith("hello of")

    def end(self, name: str) -> None:
        """Delete an application; return when kubelet has given its volume back."""
        self.cluster.kubectl("delete", "pod", name, "-n", self.namespace, "--timeout=60s")

    def await_unstaged(self) -> None:
        """Return when kubelet has been told that NodeUnstageVolume succeeded, of all volumes."""
        wait_for(lambda: not self._staged(), "the end of every stage", 60)

    def _staged(self) -> str:
        find = ("find", _GLOBAL_MOUNTS, "-name", "vol_data.json")
        return str(self.cluster.enter(*find, check=False))

    def unstage(self, spec: Spec) -> str:
        """Call NodeUnstageVolume on the node; return the refusal, "" when there is none."""
        return str(self.cluster.enter(sys.executable, "-c", _UNSTAGE, spec.identity)).strip()

    def is_labelled(self, spec: Spec) -> bool:
        """Say whether the daemon of a dataset is wanted here."""
        return spec.fuse_label in self.cluster.get("node", NODE_NAME)["metadata"]["labels"]

    def daemons(self, spec: Spec) -> list[str]:
        """Return the names of the dataset's FUSE pods, also of one that is about to end."""
        selector = f"release={spec.name}"
        pods = self.cluster.list("pods", self.namespace, selector)
        return [str(pod["metadata"]["name"]) for pod in pods]

    def await_gone(self, spec: Spec) -> None:
        """Return when neither the label nor the daemon is here."""
        wait_for(lambda: not self.is_labelled(spec), "the label's end", 60)
        wait_for(lambda: not self.daemons(spec), "the FUSE pod's end", 60)


@pytest.fixture
def node(cluster: Cluster, fluid: Fluid, namespace: str) -> Node:
    return Node(cluster, fluid, namespace)


def test_on_demand_the_daemon_goes_after_the_last_pod(node: Node, dataset: Datasets):
    spec = dataset(clean_policy="OnDemand")
    node.start("first", spec.name)
    node.start("second", spec.name)

    node.end("first")
    assert node.is_labelled(spec)
    node.end("second")

    node.await_gone(spec)
    node.await_unstaged()


@pytest.mark.parametrize("policy", ["OnRuntimeDeleted", ""])
def test_the_daemon_stays_until_its_runtime_goes(node: Node, dataset: Datasets, policy: str):
    spec = dataset(clean_policy=policy)
    node.start("app", spec.name)
    before = node.daemons(spec)

    node.end("app")
    node.await_unstaged()

    assert node.is_labelled(spec)
    assert node.daemons(spec) == before


def test_on_fuse_changed_a_daemon_goes_only_when_it_is_older_than_its_runtime(
    node: Node, dataset: Datasets
):
    spec = dataset(runtime="juicefs", clean_policy="OnFuseChanged")
    node.start("app", spec.name)
    before = node.daemons(spec)
    node.end("app")
    node.await_unstaged()
    assert node.is_labelled(spec)
    assert node.daemons(spec) == before

    node.fluid.change_client(spec, "2")
    node.start("next", spec.name)
    node.end("next")

    node.await_gone(spec)


def the_dataset_itself(_: Node, spec: Spec) -> Spec:
    return spec


def a_reference(node: Node, spec: Spec) -> Spec:
    return node.fluid.refer(spec, Spec(node.namespace, "alias"))


@pytest.mark.parametrize(
    ("fields", "other"),
    [
        ({"runtime": "thin"}, the_dataset_itself),
        ({"runtime": "alluxio"}, a_reference),
        ({"runtime": "cache", "symlink": True}, the_dataset_itself),
    ],
    ids=["second pod", "reference", "symlink"],
)
def test_a_daemon_stays_while_anything_reads_from_it(
    node: Node, dataset: Datasets, fields: dict[str, Any], other: Callable[[Node, Spec], Spec]
):
    """An unstage too early is asked for here: kubelet counts readers itself and makes no such."""
    spec = dataset(clean_policy="OnDemand", **fields)
    read = other(node, spec)
    node.start("app", spec.name)
    node.start("reader", read.name)
    uid = node.cluster.get("pod", "reader", node.namespace)["metadata"]["uid"]
    target = f"/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~csi/{read.identity}/mount"
    linked_to = node.cluster.enter("readlink", target, check=False).strip()
    assert linked_to == (spec.fluid_path if spec.symlink else "")

    node.end("app")
    refusal = node.unstage(spec)

    assert "FAILED_PRECONDITION" in refusal
    assert target in refusal
    assert node.is_labelled(spec)
    node.end("reader")
    node.await_gone(spec)
    if read != spec:
        node.fluid.remove(read)


def test_a_volume_that_does_not_name_its_label_gets_and_loses_it(
    cluster: Cluster, node: Node, dataset: Datasets
):
    spec = dataset(clean_policy="OnDemand", names_label=False)
    volume = cluster.get("pv", spec.identity)
    assert "mount_pod_node_selector_key" not in json.dumps(volume)
    node.start("app", spec.name)
    assert node.is_labelled(spec)

    node.end("app")

    node.await_gone(spec)
