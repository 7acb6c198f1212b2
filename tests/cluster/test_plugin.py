"""The plugin is deployed, killed, replaced and upgraded as the other tests rely on."""

from tests.cluster.cluster import Cluster
from tests.cluster.fluid import Datasets, application
from tests.cluster.plugin import Plugin
from tests.images import product


def test_a_pod_lists_the_data_of_a_dataset(
    cluster: Cluster, plugin: Plugin, namespace: str, dataset: Datasets
):
    spec = dataset()
    cluster.apply(application("app", spec.name), namespace=namespace)
    cluster.wait_ready("app", namespace)

    assert cluster.execute("app", "cat", "/data/hello", namespace=namespace) == "hello of demo\n"
    assert plugin.status()[f"{namespace}/demo"]["state"] == "healthy"
    assert plugin.metrics("csi_fluid_publications", state="healthy") == 1
    assert "patch nodes" in plugin.calls()
    assert 0 < plugin.resident_mib()["plugin"] < 64


def test_a_pod_starts_whatever_happened_to_the_plugin_before(
    cluster: Cluster, plugin: Plugin, namespace: str, dataset: Datasets
):
    spec = dataset()
    for number, disturb in enumerate((plugin.kill, plugin.replace, lambda: plugin.upgrade("next"))):
        disturb()
        plugin.await_rollout()
        cluster.apply(application(f"app{number}", spec.name), namespace=namespace)
        cluster.wait_ready(f"app{number}", namespace)

    plugin.deploy()

    containers = cluster.get("pod", plugin.pod(), "fluid-system")["spec"]["containers"]
    assert containers[0]["image"] == product.NAME
