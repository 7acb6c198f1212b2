"""What Kubernetes and Prometheus learn of a volume: health, statistics, metrics."""

import json
import shutil
from collections.abc import Iterator

import pytest

from tests import sandbox
from tests.cluster.cluster import Cluster, Object, scratch
from tests.cluster.fluid import Datasets, Fluid, application
from tests.cluster.fluidobjects import Spec
from tests.cluster.plugin import Plugin
from tests.cluster.prometheus import Prometheus
from tests.cluster.settings import NODE_NAME
from tests.cluster.waiting import wait_for

NODE = f"/api/v1/nodes/{NODE_NAME}/proxy"


@pytest.fixture
def demo(cluster: Cluster, namespace: str, dataset: Datasets) -> Spec:
    """Return a dataset that pod ``app`` reads; its client needs ``repair`` to come back."""
    spec = dataset(environment={"FUSE_DEAD": "refuse"})
    cluster.apply(application("app", spec.name), namespace=namespace)
    cluster.wait_ready("app", namespace)
    return spec


def crash(cluster: Cluster, fluid: Fluid, spec: Spec) -> None:
    """Kill the FUSE daemon; it does not come back before ``repair``."""
    container = fluid.fuse_container(spec)
    cluster.kill_container(fluid.fuse_pod(spec), container, namespace=spec.namespace)


def repair(cluster: Cluster, spec: Spec) -> None:
    cluster.enter("umount", "-l", spec.fluid_path)


def test_kubelet_says_that_a_volume_is_inaccessible_until_it_is_healed(
    cluster: Cluster, fluid: Fluid, demo: Spec
):
    def conditions() -> list[Object]:
        status = cluster.get("pod", "app", demo.namespace)["status"]
        volumes = status.get("volumeHealth", [])
        return [condition for volume in volumes for condition in volume.get("healthConditions", [])]

    assert conditions() == []
    crash(cluster, fluid, demo)

    (condition,) = wait_for(conditions, "kubelet's word", 60)
    repair(cluster, demo)
    assert condition["status"].casefold() == "inaccessible"
    assert condition["reason"] == "FuseNotConnected"
    assert demo.fluid_path in condition["message"]
    wait_for(lambda: not conditions(), "the end of the condition", 60)
    assert cluster.execute("app", "ls", "/data", namespace=demo.namespace) == "hello\nsub\n"


def test_kubelet_has_the_statistics_of_a_volume(cluster: Cluster, demo: Spec):
    def volume() -> Object:
        summary = json.loads(cluster.kubectl("get", f"--raw={NODE}/stats/summary"))
        for pod in summary["pods"]:
            if pod["podRef"]["namespace"] == demo.namespace and pod["podRef"]["name"] == "app":
                found = [v for v in pod.get("volume", []) if v["name"] == "data-vol"]
                return dict(found[0]) if found else {}
        return {}

    stats = wait_for(volume, "the volume in kubelet's summary", 60)
    text = cluster.kubectl("get", f"--raw={NODE}/metrics")

    assert stats["pvcRef"] == {"name": "demo", "namespace": demo.namespace}
    assert 0 < stats["usedBytes"] <= stats["capacityBytes"]
    labels = f'{{namespace="{demo.namespace}",persistentvolumeclaim="demo"}}'
    assert f"kubelet_volume_stats_capacity_bytes{labels}" in text
    assert f"kubelet_volume_stats_inodes{labels}" in text


@pytest.fixture
def prometheus(cluster: Cluster, plugin: Plugin) -> Iterator[Prometheus]:
    sandbox.require("prometheus")
    folder = scratch()
    address = cluster.get("pod", plugin.pod(), "fluid-system")["status"]["podIP"]
    made = Prometheus(cluster, folder, {"csi-nodeplugin-fluid": f"{address}:8080"})
    yield made
    made.stop()
    shutil.rmtree(folder)


def test_prometheus_reads_the_metrics_and_sees_the_crash_and_its_end(
    cluster: Cluster, fluid: Fluid, demo: Spec, prometheus: Prometheus
):
    healthy = 'csi_fluid_publications{state="healthy"}'
    broken = "time() - csi_fluid_broken_since_timestamp_seconds"
    wait_for(lambda: prometheus.value(healthy) == 1, "the publication in Prometheus", 60)
    heals = prometheus.value('csi_fluid_heals_total{result="healed"}') or 0
    assert prometheus.value('up{job="csi-nodeplugin-fluid"}') == 1
    assert prometheus.value(broken) is None

    crash(cluster, fluid, demo)
    wait_for(lambda: (prometheus.value(broken) or 0) > 0, "the outage in Prometheus")
    assert prometheus.ask(broken)[0]["metric"]["source"] == demo.fluid_path
    repair(cluster, demo)

    wait_for(
        lambda: prometheus.value('csi_fluid_heals_total{result="healed"}') == heals + 1,
        "the heal in Prometheus",
        60,
    )
    wait_for(lambda: prometheus.value(healthy) == 1, "the volume's health in Prometheus")
    assert prometheus.value('ALERTS{alertname="CsiFluidPluginDown"}') is None
