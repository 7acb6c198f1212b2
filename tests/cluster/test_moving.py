"""From Fluid's own plugin to ours and back, under running pods."""

from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.fluidplugin import FluidPlugin
from tests.cluster.plugin import Plugin
from tests.cluster.scene import Scene
from tests.cluster.waiting import wait_for

CRASHES = 2
NAMES = ("app", "partial")


@pytest.fixture
def fluids(cluster: Cluster, plugin: Plugin, scene: Scene) -> Iterator[FluidPlugin]:
    """Have Fluid's own plugin serve in the place of ours; ours comes back in the end."""
    plugin.remove()
    fluids = FluidPlugin(cluster)
    fluids.start()
    yield fluids
    fluids.stop()
    plugin.deploy()


def start_under_fluid(scene: Scene) -> None:
    """Start pods, and stack mounts on them as Fluid's recovery does."""
    scene.bring_back()
    scene.start("app", propagation="HostToContainer")
    scene.start("partial", sub_path="sub", propagation="HostToContainer")
    for _ in range(CRASHES):
        scene.crash_and_heal(*NAMES)
    inside, at_target = scene.layers("app")
    assert inside >= 1 + CRASHES
    assert at_target == 1 + CRASHES


def test_pods_go_on_and_heal_when_ours_takes_the_place_of_fluids_and_gives_it_back(
    plugin: Plugin, scene: Scene, fluids: FluidPlugin
):
    start_under_fluid(scene)
    before = [(scene.uid(name), scene.generation(name)) for name in NAMES]

    fluids.stop()
    plugin.deploy()

    assert [(scene.uid(name), scene.generation(name)) for name in NAMES] == before
    for _ in range(CRASHES):
        scene.crash_and_heal(*NAMES)
        assert scene.is_flat("app", "partial")  # Fluid's stack went with the first crash
    scene.start("new")
    under_ours = (*NAMES, "new")
    folders = [scene.folder(scene.uid(name)) for name in under_ours]

    plugin.remove()
    # With recovery Fluid's plugin lays a mount on each subPath that kubelet is about to clean up,
    # also on its own: it takes no lock that kubelet's clean-up would know of.
    fluids.start(recovery=False)

    scene.start("newest")
    for name in under_ours:
        assert scene.reads(name)
        assert scene.restarts(name) == 0
        scene.delete(name)
    wait_for(lambda: all(scene.gone(name) for name in under_ours), "the end of the pods", 60)
    assert [scene.cluster.mounts(folder) for folder in folders] == [[], [], []]


def test_pods_that_fluids_plugin_started_and_stacked_end_under_ours(
    plugin: Plugin, scene: Scene, fluids: FluidPlugin
):
    start_under_fluid(scene)
    folders = [scene.folder(scene.uid(name)) for name in NAMES]
    scene.take_down()
    fluids.stop()
    plugin.deploy()

    for name in NAMES:
        scene.delete(name)

    wait_for(lambda: all(scene.gone(name) for name in NAMES), "the end of the pods", 60)
    assert [scene.cluster.mounts(folder) for folder in folders] == [[], []]
