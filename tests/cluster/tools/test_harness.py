"""The cluster itself does what the tests rely on; no plugin is needed here."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_fluid.testbed.objectstore import ACCESS_KEY, SECRET_KEY, ObjectStore
from tests import sandbox
from tests.cluster import objects
from tests.cluster.cluster import Cluster
from tests.cluster.fluid import Fluid
from tests.cluster.fluidobjects import Spec
from tests.cluster.settings import NODE_NAME, KubeletSettings
from tests.cluster.traces import Traces
from tests.cluster.waiting import ClusterError, wait_for

FUSE_FOLDER = "/runtime-mnt/harness"
DEAD = "endpoint is not connected"


def fuse_daemonset(folder: str, dead: str = "unmount") -> objects.Object:
    client = objects.fuse_container("fuse", "/jfs/fuse", {"FUSE_DEAD": dead})
    client["volumeMounts"] = [
        objects.mount("data", "/source"),
        objects.mount("jfs", "/jfs", "Bidirectional"),
    ]
    volumes = [
        objects.host_path("data", f"/var/lib/data{folder}"),
        objects.host_path("jfs", folder),
    ]
    spec = {"containers": [client], "volumes": volumes, "terminationGracePeriodSeconds": 1}
    return objects.daemonset("fuse", {"app": "fuse"}, spec)


def reader(folder: str) -> objects.Object:
    """Return a pod that sees the directory which the FUSE client mounts in."""
    return objects.pod(
        "reader",
        volumes=[objects.host_path("jfs", folder)],
        mounts=[objects.mount("jfs", "/jfs", "HostToContainer")],
    )


def start_fuse(cluster: Cluster, namespace: str, dead: str = "unmount") -> tuple[str, str]:
    """Start client and reader and return the client's pod and its directory on the node."""
    folder = f"{FUSE_FOLDER}/{namespace}"
    cluster.enter("mkdir", "-p", f"/var/lib/data{folder}")
    cluster.write(f"/var/lib/data{folder}/hello", "hello\n")
    cluster.apply(fuse_daemonset(folder, dead), reader(folder), namespace=namespace)
    cluster.wait_ready("reader", namespace)
    (client,) = wait_for(lambda: cluster.list("pods", namespace, "app=fuse"), "the DaemonSet's pod")
    cluster.wait_ready(name := client["metadata"]["name"], namespace)
    wait_for(lambda: "hello" in listing(cluster, namespace), "the FUSE mount in the reader")
    return name, folder


def listing(cluster: Cluster, namespace: str) -> str:
    command = ("sh", "-c", "ls /jfs/fuse 2>&1 || true")
    return str(cluster.execute("reader", *command, namespace=namespace))


def test_a_pod_runs_and_can_be_entered_and_read(cluster: Cluster, namespace: str):
    cluster.apply(objects.pod("demo", "echo it runs; sleep infinity"), namespace=namespace)
    cluster.wait_ready("demo", namespace)

    assert cluster.execute("demo", "hostname", namespace=namespace) == "demo\n"
    logs = ("logs", "demo", "-n", namespace)
    wait_for(lambda: cluster.kubectl(*logs) == "it runs\n", "what it says")


@pytest.mark.parametrize("dead", ["unmount", "stack"])
def test_a_killed_fuse_client_leaves_a_dead_mount_and_comes_back(
    cluster: Cluster, namespace: str, dead: str
):
    """Kill it where it takes a while to come back, and see the error in another pod."""
    client, folder = start_fuse(cluster, namespace, dead)
    cluster.stop_kubelet()  # nobody restarts the client before the error was seen
    cluster.kill_container(client, "fuse", namespace=namespace)
    wait_for(lambda: not cluster.enter("ls", f"{folder}/fuse", check=False), "the daemon's end")
    assert f"{folder}/fuse" in str(cluster.mounts(folder))
    cluster.restart_kubelet()

    wait_for(lambda: listing(cluster, namespace) == "hello\n", "the client's return", 60)

    wait_for(
        lambda: cluster.container_status(client, "fuse", namespace)["restartCount"] == 1,
        "word of the restart",
    )
    layers = [line for line in cluster.mounts(f"{folder}/fuse") if "/dev/fuse " in line]
    assert len(layers) == {"unmount": 1, "stack": 2}[dead]


def test_a_dead_fuse_mount_is_seen_in_another_pod(cluster: Cluster, namespace: str):
    client, _ = start_fuse(cluster, namespace, "refuse")

    cluster.kill_container(client, "fuse", namespace=namespace)

    wait_for(lambda: DEAD in listing(cluster, namespace), "ENOTCONN in the reader")


def test_a_client_that_refuses_a_dead_mount_starts_when_that_is_gone(
    cluster: Cluster, namespace: str
):
    client, folder = start_fuse(cluster, namespace, "refuse")
    cluster.kill_container(client, "fuse", namespace=namespace)
    wait_for(
        lambda: cluster.container_status(client, "fuse", namespace)["restartCount"] >= 2,
        "two attempts",
    )
    assert DEAD in listing(cluster, namespace)

    cluster.enter("umount", "-l", f"{folder}/fuse")

    wait_for(lambda: listing(cluster, namespace) == "hello\n", "the client's return", 60)


def test_kill_1_in_the_client_ends_and_restarts_it(cluster: Cluster, namespace: str):
    client, _ = start_fuse(cluster, namespace)

    cluster.execute(client, "kill", "1", namespace=namespace, check=False)  # it may end with it

    wait_for(
        lambda: cluster.container_status(client, "fuse", namespace)["restartCount"] == 1,
        "the restart",
    )
    wait_for(lambda: listing(cluster, namespace) == "hello\n", "the client's return", 60)


def test_rbac_decides_what_a_service_account_may_do(cluster: Cluster, namespace: str):
    account = f"--as=system:serviceaccount:{namespace}:default"
    question = ("get", "pods", "-n", namespace, account)
    with pytest.raises(ClusterError, match="Forbidden"):
        cluster.kubectl(*question)

    binding = ("create", "rolebinding", "view", "--clusterrole=view")
    cluster.kubectl(*binding, f"--serviceaccount={namespace}:default", "-n", namespace)

    wait_for(
        lambda: (
            "No resources" not in cluster.kubectl(*question, check=False)
            and cluster.kubectl("auth", "can-i", "list", "pods", "-n", namespace, account)
            == "yes\n"
        ),
        "the binding",
    )


def test_the_kubelet_credential_may_label_its_own_node_only(cluster: Cluster, namespace: str):
    kubectl = ("kubectl", "--kubeconfig=/etc/kubernetes/kubelet.conf")
    label = "fluid.io/f-harness"

    cluster.enter(*kubectl, "label", "node", "node1", f"{label}=true")

    assert cluster.get("node", "node1")["metadata"]["labels"][label] == "true"
    with pytest.raises(ClusterError, match=r"[Ff]orbidden"):
        cluster.enter(*kubectl, "get", "pods", "-A")
    cluster.enter(*kubectl, "label", "node", "node1", f"{label}-")


def test_containers_outlive_a_restart_of_the_kubelet(cluster: Cluster, namespace: str):
    cluster.apply(objects.pod("demo"), namespace=namespace)
    cluster.wait_ready("demo", namespace)

    cluster.restart_kubelet(volume_stats_period="6s")

    assert cluster.container_status("demo", "main", namespace)["restartCount"] == 0
    assert cluster.kubelet_settings == KubeletSettings(volume_stats_period="6s")
    cluster.restart_kubelet(volume_stats_period="5s")


def test_the_api_server_can_be_killed_and_frozen_and_comes_back(cluster: Cluster, namespace: str):
    cluster.stop_apiserver()
    with pytest.raises(ClusterError):
        cluster.kubectl("get", "namespace", namespace)
    cluster.start_apiserver()
    cluster.freeze_apiserver()
    with pytest.raises(ClusterError):
        cluster.kubectl("get", "namespace", namespace, "--request-timeout=1s")
    cluster.thaw_apiserver()

    assert cluster.get("namespace", namespace)["status"]["phase"] == "Active"


def test_the_audit_log_tells_who_asked_what(cluster: Cluster, namespace: str):
    cluster.kubectl("get", "namespace", namespace, "--as=somebody", check=False)

    def asked() -> bool:
        return any(
            entry["verb"] == "get"
            and entry["objectRef"].get("name") == namespace
            and entry.get("impersonatedUser", {}).get("username") == "somebody"
            for entry in cluster.audit_entries()
            if "objectRef" in entry
        )

    wait_for(asked, "the entry")


def test_a_dataset_is_bound_and_its_client_runs_where_the_label_is(
    cluster: Cluster, namespace: str, folder: Path
):
    """Do the plugin's part, the label, by hand, and read an object of the bucket on the node."""
    fluid = Fluid(cluster)
    store = ObjectStore(folder, "bucket", cluster.node.host_ip)
    with contextlib.closing(store):
        store.put("dir/", b"")
        store.put("dir/hello", b"hello\n")
        told = {"FUSE_KIND": "s3fs", "FUSE_SOURCE": "bucket:/dir", "FUSE_ENDPOINT": store.url}
        keys = {"fs.oss.accessKeyId": ACCESS_KEY, "fs.oss.accessKeySecret": SECRET_KEY}
        cluster.apply(objects.secret("keys", keys), namespace=namespace)
        spec = fluid.dataset(Spec(namespace, "demo", secret="keys", environment=told))

        cluster.kubectl("label", "node", NODE_NAME, f"{spec.fuse_label}=true")
        cluster.wait_ready(fluid.fuse_pod(spec), namespace)

        path = f"{spec.fluid_path}/hello"
        wait_for(lambda: cluster.enter("cat", path, check=False) == "hello\n", "the object")
        wait_for(
            lambda: all(
                cluster.get(kind, "demo", namespace)["status"]["phase"] == "Bound"
                for kind in ("dataset", "pvc")
            ),
            "both bound",
        )
        fluid.remove(spec)


@pytest.fixture
def traces() -> Iterator[Traces]:
    with Traces() as made:
        yield made


def test_a_cluster_that_was_taken_down_leaves_nothing(traces: Traces):
    """Bring a second cluster up beside the first, with a pod and a dead FUSE mount, and end it."""
    second = Cluster("test-second")
    second.down()
    second.up()
    traces.follow(second)
    start_fuse(second, "default")
    (client,) = second.list("pods", "default", "app=fuse")
    second.stop_kubelet()
    second.kill_container(client["metadata"]["name"], "fuse", signal.SIGKILL, namespace="default")
    kinds = {entry.split()[0] for entry in traces.found()}
    assert kinds == {"process", "interface", "route", "cgroup", "file"}  # it would find them

    second.down()

    assert sandbox.settle(traces.found) == []
