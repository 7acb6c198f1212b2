"""The plugin's pod ends, is replaced or upgraded, and kubelet restarts, while pods go on."""

from collections.abc import Callable

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.fluid import Datasets, Fluid
from tests.cluster.plugin import Plugin
from tests.cluster.scene import Scene
from tests.cluster.waiting import wait_for

DISTURBANCES: dict[str, Callable[[Plugin], object]] = {
    "killed": lambda plugin: plugin.kill(),
    "replaced": lambda plugin: plugin.replace(),
    "upgraded": lambda plugin: plugin.upgrade("next"),
}


def publications(plugin: Plugin, scene: Scene) -> int:
    """Return how many volumes of the dataset the plugin knows of."""
    plugin.await_rollout()
    return len(plugin.status()[f"{scene.spec.namespace}/{scene.spec.name}"]["publications"])


@pytest.mark.parametrize("how", DISTURBANCES)
def test_pods_go_on_and_heal_after_the_plugin_was(plugin: Plugin, scene: Scene, how: str):
    """Let it happen first while the daemon is well, then while it is down."""
    names = ("app", "partial")
    scene.start("app")
    scene.start("partial", sub_path="sub")
    before = [(scene.uid(name), scene.generation(name)) for name in names]

    DISTURBANCES[how](plugin)

    assert publications(plugin, scene) == len(names)
    assert [(scene.uid(name), scene.generation(name)) for name in names] == before
    scene.crash_and_heal(*names)

    scene.take_down()
    DISTURBANCES[how](plugin)

    assert publications(plugin, scene) == len(names)
    assert not scene.reads("app")
    scene.bring_back()
    for name in names:
        scene.await_heal(name)
        assert scene.is_flat(name)
        assert scene.restarts(name) == 0
    assert not any("not connected" in line for line in since_heal(scene))


def since_heal(scene: Scene) -> list[str]:
    """Return what the application's loop writes from its next listing to the third."""

    def said() -> list[str]:
        return list(scene.cluster.kubectl("logs", "app", "-n", scene.spec.namespace).splitlines())

    def three() -> list[str] | None:
        lines = said()
        found = [n for n, line in enumerate(lines) if "hello" in line and n >= before]
        return lines[found[0] :] if len(found) > 2 else None

    before = len(said())
    return wait_for(three, "three listings")


def test_a_daemon_that_comes_back_while_the_plugin_is_away_is_healed_when_that_is_back(
    cluster: Cluster, plugin: Plugin, scene: Scene
):
    """Nobody wakes the plugin for this crash: it must look when it starts."""
    scene.start()
    before = scene.generation()
    plugin.remove()
    scene.crash()
    wait_for(lambda: scene.daemon_restarts() == 1, "the daemon's return")
    assert not scene.reads()

    plugin.deploy()

    scene.await_heal("app", before)
    assert scene.is_flat("app")
    assert scene.restarts("app") == 0


def test_pods_go_on_when_kubelet_restarts_with_live_mounts(
    cluster: Cluster, plugin: Plugin, scene: Scene
):
    scene.start("app")
    scene.start("partial", sub_path="sub")
    before = scene.generation("app"), scene.generation("partial")
    calls = published(plugin)

    cluster.restart_kubelet()

    wait_for(lambda: published(plugin) >= calls + 2, "kubelet's repeated calls to publish")
    assert (scene.generation("app"), scene.generation("partial")) == before
    assert scene.is_flat("app", "partial")
    scene.crash_and_heal("app", "partial")
    assert scene.restarts("app") == scene.restarts("partial") == 0


def test_pods_heal_when_kubelet_restarts_with_dead_mounts(
    cluster: Cluster, fluid: Fluid, dataset: Datasets
):
    """Have a daemon that waits until the dead mount is gone: kubelet stages, which calls for it."""
    scene = Scene(cluster, fluid, dataset(environment={"FUSE_DEAD": "refuse"}))
    scene.start("app")
    scene.start("partial", sub_path="sub")
    uids = scene.uid("app"), scene.uid("partial")
    scene.crash()
    wait_for(lambda: not scene.reads("app"), "the dead mount")

    cluster.restart_kubelet()

    assert not scene.reads("app")
    assert not scene.reads("partial")
    cluster.enter("umount", "-l", scene.spec.fluid_path)
    for name in ("app", "partial"):
        scene.await_heal(name)
        assert scene.is_flat(name)
        assert scene.restarts(name) == 0
    assert (scene.uid("app"), scene.uid("partial")) == uids
    scene.delete("app")
    wait_for(lambda: scene.gone("app"), "the end of a pod")


def published(plugin: Plugin) -> float:
    """Return how many calls to publish the plugin answered."""
    return plugin.metrics("csi_fluid_rpc_seconds_count", method="NodePublishVolume")
