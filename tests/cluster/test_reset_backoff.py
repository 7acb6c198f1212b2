"""--reset-backoff on a kubelet that backs off as it does by default: 10, 20, 40 ... 300 s."""

import time
from collections.abc import Iterator

import pytest

from tests.cluster import objects
from tests.cluster.cluster import Cluster
from tests.cluster.fluidobjects import pod_labels
from tests.cluster.plugin import Plugin
from tests.cluster.scene import Scene
from tests.cluster.waiting import wait_for

AFTER_S = 3
FIRST_BACKOFF_S = 10


@pytest.fixture
def patient_kubelet(cluster: Cluster) -> Iterator[None]:
    """Have kubelet's own back-off, and kubelet's own time between two looks at a pod."""
    settings = cluster.kubelet_settings
    cluster.restart_kubelet(max_restart_period=None, sync_frequency="1m")
    yield
    cluster.restart_kubelet(
        max_restart_period=settings.max_restart_period, sync_frequency=settings.sync_frequency
    )


@pytest.fixture
def resetting(cluster: Cluster, plugin: Plugin) -> Iterator[Plugin]:
    """Deploy the overlay reset-backoff, as patient as it comes."""
    plugin.deploy("overlays/reset-backoff")
    yield plugin
    rights = "clusterrole,clusterrolebinding"
    cluster.kubectl("delete", rights, "fluid-csi-reset-backoff")


def bystander(scene: Scene) -> objects.Object:
    """Return a DaemonSet beside the dataset that crashes all the time and is no FUSE daemon."""
    labels = pod_labels(scene.spec) | {"role": "jindofs-worker"}
    (container,) = objects.pod("worker", "exit 1")["spec"]["containers"]
    spec = {"containers": [container], "terminationGracePeriodSeconds": 1}
    return objects.daemonset("worker", labels, spec)


def bystanders(scene: Scene) -> list[str]:
    """Return the names of their pods, each of which crashed by now."""
    where = (scene.spec.namespace, "role=jindofs-worker")

    def crashed() -> list[str]:
        return [
            pod["metadata"]["name"]
            for pod in scene.cluster.list("pods", *where)
            if pod["status"].get("containerStatuses", [{}])[0].get("restartCount")
        ]

    return wait_for(crashed, "the crashes of another pod")


def test_a_fuse_pod_that_waits_for_kubelets_back_off_is_replaced_once_in_an_interval(
    resetting: Plugin, scene: Scene, patient_kubelet: None
):
    scene.cluster.apply(bystander(scene), namespace=scene.spec.namespace)
    scene.start()
    first = scene.daemon_pod
    workers = bystanders(scene)
    scene.crash_and_heal("app")
    assert scene.daemon_pod == first

    resetting.add_arguments(f"--reset-backoff={AFTER_S}s")
    scene.crash_and_heal("app")

    second = scene.daemon_pod
    assert second != first  # kubelet, which would have started the first one again, still waits
    (message,) = scene.told("FuseBackoffReset")
    assert first in message

    scene.crash_and_heal("app")
    began = time.monotonic()
    scene.crash_and_heal("app")

    assert time.monotonic() - began > FIRST_BACKOFF_S
    assert scene.daemon_pod == second
    assert len(scene.told("FuseBackoffReset")) == 1
    assert len(scene.told("FuseBackoffReset", "Pod")) == 1
    assert bystanders(scene) == workers
    assert scene.restarts("app") == 0
