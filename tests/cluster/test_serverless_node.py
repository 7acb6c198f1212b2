"""Serverless pods on a node with the node plugin: it heals them, and their agents stand back."""

from tests.cluster.cluster import Cluster
from tests.cluster.fluidobjects import Spec
from tests.cluster.plugin import Plugin
from tests.cluster.serverlesspods import AGENT, SIDECAR, Serverless
from tests.cluster.waiting import wait_for

HEALED = "healed source="


def heals(plugin: Plugin) -> float:
    return plugin.metrics("csi_fluid_heals_total", result="healed")


def await_claim(cluster: Cluster, spec: Spec) -> None:
    """Return when the plugin holds the lock that keeps the agent from healing."""
    lock = f"{spec.fluid_path.removesuffix(spec.kind.leaf)}.csi-fluid/{spec.kind.leaf}.node"
    script = 'inode=$(stat -c %i "$0") && grep -q ":$inode " /proc/locks && echo held'
    held = ("sh", "-c", script, lock)
    wait_for(lambda: cluster.enter(*held, check=False), "the plugin's claim")


def test_the_plugin_heals_in_the_place_of_the_agent_and_the_agent_without_it(
    cluster: Cluster, serverless: Serverless, image: Plugin
):
    spec = serverless.dataset()
    image.deploy()
    pod = serverless.start("app", "demo")
    first = pod.see()
    await_claim(cluster, spec)

    pod.crash(SIDECAR)
    second = pod.await_heal(first, layers=1)
    wait_for(lambda: heals(image) == 1, "the plugin's count of its heal")
    wait_for(lambda: "the node plugin heals" in pod.log(AGENT), "the agent's word of it")
    assert HEALED not in pod.log(AGENT)
    assert "strategy=namespace" in image.log()

    image.remove()
    pod.crash(SIDECAR)
    third = pod.await_heal(second)
    wait_for(lambda: HEALED in pod.log(AGENT), "the agent's own heal")
    assert "this agent heals again" in pod.log(AGENT)

    image.deploy()
    await_claim(cluster, spec)
    by_agent = pod.log(AGENT).count(HEALED)
    pod.crash(SIDECAR)
    pod.await_heal(third, layers=1)
    assert pod.log(AGENT).count(HEALED) == by_agent
    assert pod.restarts("main") == 0
