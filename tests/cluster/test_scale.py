"""As many pods as Kubernetes puts on a node by default, one dataset, one crash."""

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.cluster import healwatch, objects
from tests.cluster.cluster import Cluster, Object
from tests.cluster.fluid import Datasets, Fluid
from tests.cluster.fluidobjects import Spec
from tests.cluster.plugin import Plugin
from tests.cluster.waiting import wait_for

PODS = 110
LARGEST_MIB = 50  # right after 440 events; Fluid's own plugin has 44-54, by how it was built


def deployment(name: str, claim: str, replicas: int, propagation: str) -> Object:
    """Return pods that cost as little as pods can: no network, no token, nothing that runs."""
    pod = objects.pod(
        name,
        volumes=[objects.claim("data-vol", claim)],
        mounts=[objects.mount("data-vol", "/data", propagation)],
    )
    spec = pod["spec"] | {"hostNetwork": True, "automountServiceAccountToken": False}
    template = {"metadata": {"labels": {"app": "many"}}, "spec": spec}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "many"}},
            "template": template,
        },
    }


@pytest.fixture
def demo(cluster: Cluster, namespace: str, dataset: Datasets) -> Spec:
    """Return a dataset that many pods read, half of them without mount propagation."""
    spec = dataset()
    halves = [
        deployment(name.lower(), spec.name, PODS // 2, name) for name in ("HostToContainer", "None")
    ]
    for half in halves:
        half["spec"]["selector"]["matchLabels"]["half"] = half["metadata"]["name"]
        half["spec"]["template"]["metadata"]["labels"]["half"] = half["metadata"]["name"]
    cluster.apply(*halves, namespace=namespace)
    for half in halves:
        name = f"deployment/{half['metadata']['name']}"
        waiting = ("rollout", "status", name, "-n", namespace, "--timeout=240s")
        cluster.kubectl(*waiting, timeout_s=250)
    return spec


def processes(cluster: Cluster, namespace: str) -> list[str]:
    """Return the first process of each of the pods, as the node numbers them."""
    wanted = {
        status["containerID"].removeprefix("containerd://")
        for pod in cluster.list("pods", namespace, "app=many")
        for status in pod["status"]["containerStatuses"]
    }
    lines = (
        line.split() for line in cluster.enter("ctr", "-n", "k8s.io", "tasks", "ls").splitlines()
    )
    return [fields[1] for fields in lines if fields[0] in wanted]


def await_two_rounds(plugin: Plugin) -> None:
    """Return when recovery and kubelet have looked at everything twice."""

    def looks() -> tuple[float, float]:
        ticks = plugin.metrics("csi_fluid_wakeups_total", source="tick")
        return ticks, plugin.metrics("csi_fluid_rpc_seconds_count", method="NodeGetVolumeHealth")

    ticks, asked = looks()
    wait_for(
        lambda: looks()[0] >= ticks + 2 and looks()[1] >= asked + 2 * PODS, "two rounds", 60, 1.0
    )


@pytest.mark.timeout(480)
def test_a_crash_under_110_pods_heals_all_of_them_and_asks_the_api_server_for_events_only(
    cluster: Cluster,
    plugin: Plugin,
    fluid: Fluid,
    demo: Spec,
    capsys: pytest.CaptureFixture[str],
):
    pids = processes(cluster, demo.namespace)
    assert len(pids) == PODS

    # Steady state: nothing is asked.
    before = plugin.calls()
    await_two_rounds(plugin)
    assert plugin.calls() == before
    idle = plugin.resident_mib()

    # The crash.
    log = cluster.place.logs / "healwatch.log"
    log.write_text("")
    watch = Path(healwatch.__file__)
    cluster.node.start(
        "healwatch", sys.executable, watch, f"{demo.fluid_path}/hello", "/data/hello", *pids
    )
    wait_for(lambda: "watching" in log.read_text(), "the watch of all pods", 30)
    cluster.kill_container(
        fluid.fuse_pod(demo), fluid.fuse_container(demo), namespace=demo.namespace
    )
    wait_for(lambda: "after_ms" in log.read_text(), "the heal of all pods", 100)
    seen = json.loads(log.read_text().splitlines()[-1])
    assert seen["broken"] == 0
    assert len(seen["after_ms"]) == PODS

    # What was told of it.
    sent = 2 * (PODS + PODS)  # broken and healed, to each pod and, for each pod, to the dataset
    wait_for(lambda: plugin.metrics("csi_fluid_api_events_waiting") == 0, "all events", 60)
    calls = Counter(plugin.calls()[len(before) :])
    busy = plugin.resident_mib()
    restarts = {
        status["restartCount"]
        for pod in cluster.list("pods", demo.namespace, "app=many")
        for status in pod["status"]["containerStatuses"]
    }
    first, last = min(seen["after_ms"]), max(seen["after_ms"])
    with capsys.disabled():
        sys.stdout.write(
            f"\n{PODS} pods: first healed {first:.0f} ms, last {last:.0f} ms after the new mount "
            f"answered; calls {dict(calls)}; MiB resident before {idle}, after {busy}\n"
        )
    assert restarts == {0}
    assert set(calls) <= {"create events", "patch events", "get datasets"}
    assert calls["get datasets"] <= 1
    assert calls.total() <= sent + 1
    assert busy["plugin"] < LARGEST_MIB
